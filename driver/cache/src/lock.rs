//! One builder per entry, across processes: a lock that the kernel gives back when its holder dies.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::{At, Error};

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct EntryLock {
    _file: File,
}

impl EntryLock {
    /// Takes the lock at `path`. If another process holds it, `waiting` is told its pid, once, before the wait.
    ///
    /// # Errors
    /// When the file can't be made or locked.
    pub fn take(path: &Path, waiting: impl FnOnce(Option<u32>)) -> Result<EntryLock, Error> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting(holder(&file));
                file.lock().at("lock", path)?;
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error { operation: "lock", path: path.to_owned(), source });
            }
        }
        sign(&file).at("write", path)?;
        Ok(EntryLock { _file: file })
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// When the file can't be made or locked.
    pub fn try_take(path: &Path) -> Result<Option<EntryLock>, Error> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {
                sign(&file).at("write", path)?;
                Ok(Some(EntryLock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => {
                Err(Error { operation: "lock", path: path.to_owned(), source })
            }
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::options().read(true).write(true).create(true).truncate(false).open(path).at("open", path)
}

fn sign(mut file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_second_waits_and_is_told_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = EntryLock::take(&path, |_| panic!("nobody has it")).unwrap();
        assert!(EntryLock::try_take(&path).unwrap().is_none());
        let (told, hears) = mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| EntryLock::take(&path, |pid| told.send(pid).unwrap()).unwrap());
            assert_eq!(hears.recv().unwrap(), Some(std::process::id()));
            assert!(!second.is_finished());
            drop(first);
            drop(second.join().unwrap());
        });
        assert!(EntryLock::try_take(&path).unwrap().is_some());
    }
}
