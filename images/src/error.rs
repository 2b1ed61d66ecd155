//! What can go wrong with an image, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of this crate. Each names the file and says what to do next where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe, or the TOML beside an image, is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// No recipe, import or override has this name.
    #[error("there is no image {name:?}; known are {}: see `rackless image list`, or bring your own with `rackless image import PATH` or {env}=PATH", .known.join(", "))]
    UnknownImage {
        /// The name as it was asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
        /// The variable that would override it.
        env: String,
    },
    /// A name that can't be part of a file name or of a variable's name.
    #[error(
        "{name:?} can't be the name of an image: use lower-case letters, digits and `-`, starting with a letter"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// A program of the host is missing.
    #[error(
        "{program} is not installed, which {purpose} needs: `sudo apt-get install {package}`, or `cargo xtask setup`, which does that and the rest"
    )]
    MissingTool {
        /// The program.
        program: String,
        /// Debian's package of it.
        package: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The user has no subordinate ids, so that no root can be built without privileges.
    #[error(
        "the user {user} has no line in {file}, which building an image without root needs: `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`"
    )]
    NoSubordinateIds {
        /// The user.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// A program of the host failed.
    #[error("{operation} of image {image} failed after {:.0} s: {problem}{}", .elapsed.as_secs_f64(), LogHint(.log.as_deref()))]
    Tool {
        /// The image.
        image: String,
        /// What was being done.
        operation: &'static str,
        /// How long it ran.
        elapsed: Duration,
        /// What the program said last.
        problem: String,
        /// All that it said.
        log: Option<PathBuf>,
    },
    /// A build's run directory could not be made.
    #[error("a build can't be written down, so that its remains would not be found: {0}")]
    Run(#[from] process::Error),
    /// The file system that holds `path` is full.
    #[error("no space left for {}, while {operation}: free some, or point {knob} at a larger file system", .path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// What was being done.
        operation: String,
        /// The variable that moves it elsewhere.
        knob: &'static str,
    },
    /// A file could not be read or written.
    #[error("could not {operation} {}: {source}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the host is not the one that a recipe means.
    #[error("{} is another file than the recipe means: its SHA-256 is {found}, and the recipe has {wanted}", .path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What the recipe has.
        wanted: String,
        /// What the file has.
        found: String,
    },
    /// A file is no raw disk image.
    #[error("{} is no raw disk image: {found}", .path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// What it is instead, and how it becomes one.
        found: String,
    },
    /// A disk image ends before its partition table says.
    #[error("{} is cut off: {what} ends at byte {expected}, the file has {actual}: copy or download it again", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What lies past the end.
        what: String,
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that there are.
        actual: u64,
    },
    /// A partition table is damaged.
    #[error("the partition table of {} can't be read: {problem}", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file system in an image can't be read or written.
    #[error("{filesystem} of {}: {problem}", .path.display())]
    Filesystem {
        /// The image.
        path: PathBuf,
        /// Which file system.
        filesystem: String,
        /// What is wrong.
        problem: String,
    },
    /// A root lacks what a bootable image needs.
    #[error("the root of image {image} has no {missing}: {hint}")]
    Unbootable {
        /// The image.
        image: String,
        /// What was looked for.
        missing: String,
        /// What to change.
        hint: &'static str,
    },
    /// An entry of the cache is not what its manifest says.
    #[error("the cached image {} is damaged: {problem}; remove it with `rackless image rm {name}`, the next use builds it anew", .entry.display())]
    Corrupt {
        /// The image's name.
        name: String,
        /// The entry's directory.
        entry: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An image that was asked for by path is not there.
    #[error("{} does not exist; {set_by} names it", .path.display())]
    OverrideMissing {
        /// The path.
        path: PathBuf,
        /// What named it.
        set_by: String,
    },
    /// The credentials would be lost: above 64 KiB of SMBIOS strings firmware and kernel drop every one silently.
    #[error("the credentials of a machine are too big: {bytes} bytes with base64, at most {limit} fit into SMBIOS; the largest: {}", List(.largest))]
    CredentialsTooBig {
        /// Their size.
        bytes: usize,
        /// The most that is safe.
        limit: usize,
        /// The largest ones, with their sizes.
        largest: Vec<(String, usize)>,
    },
    /// A name that can't be a credential's, or a unit's file name.
    #[error("{name:?} can't be handed to the guest: {problem}")]
    BadCredential {
        /// The name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
}

/// What is wrong in a TOML file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {}{problem}", .file.display(), Line(*.line), Key(.key.as_deref()))]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The key, as `table.key`, where it is known.
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub problem: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

struct Key<'a>(Option<&'a str>);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, "`{key}`: "))
    }
}

struct LogHint<'a>(Option<&'a Path>);

impl fmt::Display for LogHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |log| write!(f, "\nall that it printed is in {}", log.display()))
    }
}

struct List<'a>(&'a [(String, usize)]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, bytes)) in self.0.iter().enumerate() {
            write!(f, "{}{name} ({bytes})", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Turns an I/O error into ours, with what was tried on which file.
pub(crate) trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| cache::Error { operation, path: path.to_owned(), source }.into())
    }
}

impl From<cache::Error> for Error {
    fn from(cache::Error { operation, path, source }: cache::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path,
                operation: format!("trying to {operation} it"),
                knob: "RACKLESS_CACHE",
            },
            _ => Self::File { operation, path, source },
        }
    }
}
