//! A file that could not be made, read or written.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("can't {operation} {}: {source}", path.display())]
pub struct Error {
    /// What was being done: "open", "write".
    pub operation: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Says of an I/O error which file it was about.
pub trait At<T> {
    /// The same with an error that names operation and path.
    ///
    /// # Errors
    /// The error that there was.
    fn at(self, operation: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error { operation, path: path.to_owned(), source })
    }
}
