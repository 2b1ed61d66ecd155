//! Reading an ext4 file system in a partition.

use std::fs::File;
use std::sync::Arc;

use ext4_view::Ext4;

use super::table::Partition;
use crate::window::Window;

/// Most bytes of one file that are read: a damaged inode can claim any size.
const FILE_MAX: u64 = 512 << 20;
/// Most bytes of one text file that are read from a foreign file system.
const TEXT_MAX: u64 = 8 << 20;
/// Most entries of one directory that are looked at.
const ENTRIES_MAX: usize = 4096;

/// An ext2, ext3 or ext4 file system that is read.
pub(crate) struct Root {
    filesystem: Ext4,
    window: Window,
}

impl Root {
    /// Opens the partition, or says why that is not possible.
    pub(crate) fn open(file: Arc<File>, partition: &Partition) -> Result<Root, String> {
        Root::at(file, partition.start, partition.bytes)
    }

    /// [`Root::open`] by offset and size, in bytes.
    pub(crate) fn at(file: Arc<File>, start: u64, bytes: u64) -> Result<Root, String> {
        let window = Window::new(file, start, bytes);
        let mut magic = [0; 2];
        window.read_at(1080, &mut magic).map_err(|error| error.to_string())?;
        if magic != [0x53, 0xef] {
            return Err("no ext4 file system".into());
        }
        let filesystem = Ext4::load(Box::new(window.clone())).map_err(|error| error.to_string())?;
        Ok(Root { filesystem, window })
    }

    pub(crate) fn label(&self) -> String {
        String::from_utf8_lossy(self.filesystem.label().as_bytes()).trim_end_matches('\0').to_owned()
    }

    pub(crate) fn uuid(&self) -> String {
        self.filesystem.uuid().to_string()
    }

    /// Bytes of the file system and of its free blocks, from the superblock (`s_blocks_count`,
    /// `s_free_blocks_count`, `s_log_block_size`).
    pub(crate) fn space(&self) -> Option<(u64, u64)> {
        let mut block = [0; 1024];
        self.window.read_at(1024, &mut block).ok()?;
        let word = |at: usize| {
            u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]))
        };
        let size = 1024_u64.checked_shl(u32::try_from(word(0x18)).ok()?).filter(|size| *size <= 1 << 16)?;
        // The high halves count only with the 64bit feature.
        let wide = word(0x60) & 0x80 != 0;
        let high = |at: usize| if wide { word(at) << 32 } else { 0 };
        let (all, free) = (word(0x4) | high(0x150), word(0xc) | high(0x158));
        Some((all.checked_mul(size)?, free.checked_mul(size)?))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.filesystem.exists(path).unwrap_or(false)
    }

    /// A file's content, links followed.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let bytes = self.filesystem.metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
        if bytes > FILE_MAX {
            return Err(format!("{path}: it claims to have {bytes} bytes"));
        }
        self.filesystem.read(path).map_err(|error| format!("{path}: {error}"))
    }

    /// A text file's content; `None` when there is none, or it is no text, or too big.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let meta = self.filesystem.metadata(path).ok()?;
        if meta.is_dir() || meta.len() > TEXT_MAX {
            return None;
        }
        String::from_utf8(self.filesystem.read(path).ok()?).ok()
    }

    /// The names in a directory, sorted; none when there is no such directory.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = self.filesystem.read_dir(path) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX)
            .map_while(Result::ok)
            .filter_map(|entry| entry.file_name().as_str().ok().map(ToOwned::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names
    }

    /// Owner, group and permission bits of a file, links not followed.
    pub(crate) fn ownership(&self, path: &str) -> Option<(u32, u32, u32)> {
        let meta = self.filesystem.symlink_metadata(path).ok()?;
        Some((meta.uid(), meta.gid(), u32::from(meta.mode())))
    }
}
