//! FAT file systems: written for an EFI system partition, read from any.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::table::Partition;
use crate::error::{At, Error};
use crate::window::Window;

/// Most entries that are listed; an ESP has a handful.
const ENTRIES_MAX: usize = 4096;
/// Directories deeper than this are not entered.
const DEPTH_MAX: usize = 8;
/// Most bytes that one call reads: a file and its chain, or all directories. A chain that runs in a circle has no end.
const READ_MAX: u64 = 512 << 20;
/// What a read costs at least, so that many small ones end too.
const READ_COST: u64 = 128;

/// Makes a FAT file system in a partition and puts files into it. Directories are made as needed.
pub(crate) fn write(
    file: &File,
    path: &Path,
    (start, bytes): (u64, u64),
    volume_id: u32,
    files: &[(&str, &[u8])],
) -> Result<(), Error> {
    let file = Arc::new(file.try_clone().at("open", path)?);
    let mut window = Window::new(file, start, bytes);
    let make = || -> std::io::Result<()> {
        let options = FormatVolumeOptions::new().volume_id(volume_id).volume_label(*b"ESP        ");
        fatfs::format_volume(&mut window, options)?;
        let filesystem = FileSystem::new(window, FsOptions::new())?;
        for (name, content) in files {
            let mut directory = filesystem.root_dir();
            let mut parts: Vec<&str> = name.split('/').collect();
            let leaf = parts.pop().unwrap_or_default();
            for part in parts {
                directory = directory.create_dir(part)?;
            }
            let mut target = directory.create_file(leaf)?;
            target.write_all(content)?;
            target.flush()?;
        }
        filesystem.unmount()
    };
    let result = make();
    match result {
        // The partition, not the host's disk: the window says so with the same kind of error.
        Err(error)
            if error.kind() == std::io::ErrorKind::StorageFull && error.raw_os_error().is_none()
                || error.kind() == std::io::ErrorKind::Other =>
        {
            Err(Error::Filesystem {
                path: path.to_owned(),
                filesystem: "the EFI system partition".into(),
                problem: format!("{error}: its size is `disk.esp_mib` in the recipe"),
            })
        }
        other => other.at("write the EFI system partition of", path),
    }
}

/// A FAT file system that is read.
pub(crate) struct Esp {
    filesystem: FileSystem<ReadOnly>,
    left: Rc<Cell<u64>>,
}

/// A file in it: path with `/`, and bytes.
pub(crate) type Entry = (String, u64);

impl Esp {
    /// Opens the partition, or says why that is not possible.
    pub(crate) fn open(file: Arc<File>, partition: &Partition) -> Result<Esp, String> {
        let window = Window::new(file, partition.start, partition.bytes);
        boot_sector(&window)?;
        let left = Rc::new(Cell::new(READ_MAX));
        let disk = ReadOnly { window, left: left.clone() };
        guarded(|| FileSystem::new(disk, FsOptions::new()).map(|filesystem| Esp { filesystem, left }))
    }

    pub(crate) fn label(&self) -> String {
        self.filesystem.volume_label().trim().to_owned()
    }

    /// Every file, in the order in which they lie there.
    pub(crate) fn files(&self) -> Result<Vec<Entry>, String> {
        self.left.set(READ_MAX);
        guarded(|| {
            let mut found = Vec::new();
            let mut seen = 0;
            let mut left = vec![(self.filesystem.root_dir(), String::new(), 0)];
            while let Some((directory, prefix, depth)) = left.pop() {
                for entry in directory.iter() {
                    let entry = entry?;
                    seen += 1;
                    if seen > ENTRIES_MAX {
                        return Ok(found);
                    }
                    let name = entry.file_name();
                    if name == "." || name == ".." {
                        continue;
                    }
                    let path = format!("{prefix}{name}");
                    if entry.is_dir() && depth < DEPTH_MAX {
                        left.push((entry.to_dir(), format!("{path}/"), depth + 1));
                    } else if entry.is_file() {
                        found.push((path, entry.len()));
                    }
                }
            }
            Ok(found)
        })
    }

    /// A file's content; names are compared as FAT does, without case.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.left.set(READ_MAX);
        guarded(|| {
            let mut file = self.filesystem.root_dir().open_file(path.trim_start_matches('/'))?;
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            Ok(content)
        })
    }
}

/// fatfs 0.3 does arithmetic on what it reads: should damage make it panic, that is an error of
/// the image, not of us.
fn guarded<T>(work: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the FAT structures are damaged".into()),
    }
}

/// Checks what the geometry is computed from (Microsoft's FAT specification, section 3.1), so that damage is told
/// here and not by a panic.
fn boot_sector(window: &Window) -> Result<(), String> {
    let mut sector = [0; 512];
    window.read_at(0, &mut sector).map_err(|error| error.to_string())?;
    let half = |at: usize| u32::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    let word = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    let bytes_per_sector = half(11);
    let sectors_per_cluster = u32::from(sector[13]);
    let reserved = half(14);
    let fats = u32::from(sector[16]);
    let total = if half(19) == 0 { word(32) } else { half(19) };
    let per_fat = if half(22) == 0 { word(36) } else { half(22) };
    let root = (half(17) * 32).div_ceil(bytes_per_sector.max(1));
    let used = u64::from(reserved) + u64::from(fats) * u64::from(per_fat) + u64::from(root);
    let sound = sector[510..] == [0x55, 0xaa]
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && sectors_per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&fats)
        && per_fat > 0
        && used < u64::from(total);
    if sound { Ok(()) } else { Err("no FAT file system".into()) }
}

/// fatfs wants `Write` even to read.
struct ReadOnly {
    window: Window,
    left: Rc<Cell<u64>>,
}

impl Read for ReadOnly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let cost = READ_COST.max(buffer.len() as u64);
        let left = self.left.get().checked_sub(cost);
        self.left.set(left.ok_or_else(|| std::io::Error::other("a chain of clusters has no end"))?);
        self.window.read(buffer)
    }
}

impl Write for ReadOnly {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for ReadOnly {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.window.seek(to)
    }
}
