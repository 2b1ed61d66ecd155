//! Copies and digests that know holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::error::{At, Error};

const CHUNK: usize = 1 << 20;

/// The ranges of a file that hold data, in order. A file system without holes gives one range.
fn data(file: &File, len: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    let offset = |at: u64| i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    while at < len {
        let start = match lseek(file, offset(at)?, Whence::SeekData) {
            Ok(start) => start.unsigned_abs(),
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => at,
            Err(errno) => return Err(errno.into()),
        };
        let end = match lseek(file, offset(start)?, Whence::SeekHole) {
            Ok(end) => end.unsigned_abs(),
            Err(Errno::EINVAL) => len,
            Err(errno) => return Err(errno.into()),
        };
        ranges.push(start..end.min(len));
        at = end.max(start + 1);
    }
    Ok(ranges)
}

/// Copies a file and keeps its holes; the target is made anew.
///
/// # Errors
/// When one can't be read or the other can't be written; what was written of it stays.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = File::open(from).at("open", from)?;
    let len = source.metadata().at("read", from)?.len();
    let mut target = File::create(to).at("create", to)?;
    target.set_len(len).at("size", to)?;
    let mut buffer = vec![0; CHUNK];
    for range in data(&source, len).at("read", from)? {
        source.seek(SeekFrom::Start(range.start)).at("read", from)?;
        target.seek(SeekFrom::Start(range.start)).at("write", to)?;
        let mut left = range.end - range.start;
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let got = source.read(&mut buffer[..want]).at("read", from)?;
            if got == 0 {
                break;
            }
            target.write_all(&buffer[..got]).at("write", to)?;
            left -= got as u64;
        }
    }
    Ok(())
}

/// The BLAKE3 digest of a file's bytes, holes read as zeros: what `b3sum` prints.
///
/// # Errors
/// When the file can't be read.
pub fn digest(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).at("open", path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = file.read(&mut buffer).at("read", path)?;
        if got == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..got]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[7; 5000], 12_345).unwrap();
        file.write_all_at(&[9; 10], (64 << 20) - 10).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(digest(&from).unwrap(), digest(&to).unwrap());
        let meta = std::fs::metadata(&to).unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "{} bytes are allocated", meta.blocks() * 512);
    }
}
