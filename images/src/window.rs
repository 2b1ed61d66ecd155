//! One partition of a disk image, seen as a file of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A range of bytes of a file. Reads and writes stay inside it.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    file: Arc<File>,
    start: u64,
    len: u64,
    at: u64,
}

impl Window {
    /// The range need not lie within the file: reads past its end fail as such.
    pub(crate) fn new(file: Arc<File>, start: u64, len: u64) -> Window {
        Window { file, start, len, at: 0 }
    }

    /// Fills `buffer` from `at`, or fails.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = buffer.len() as u64;
        if at.checked_add(wanted).is_none_or(|end| end > self.len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "past the end of the partition"));
        }
        self.file.read_exact_at(buffer, self.start.saturating_add(at))
    }

    fn clamp(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).map_or(wanted, |left| wanted.min(left))
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.clamp(buffer.len());
        let got = self.file.read_at(&mut buffer[..wanted], self.start.saturating_add(self.at))?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Write for Window {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let wanted = self.clamp(buffer.len());
        if wanted == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "past the end of the partition"));
        }
        let put = self.file.write_at(&buffer[..wanted], self.start.saturating_add(self.at))?;
        self.at += put as u64;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at =
            target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.at)
    }
}

impl ext4_view::Ext4Read for Window {
    fn read(
        &mut self,
        start_byte: u64,
        into: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_at(start_byte, into)?)
    }
}
