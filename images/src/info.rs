//! What a disk image holds, read without mounting it.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::disk::esp::Esp;
use crate::disk::ext4::Root;
use crate::disk::table::{self, Partition, TableKind};
use crate::error::{At, Error};
use crate::image::DiskBus;
use crate::manifest::Facts;

/// A disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What it takes of the host's disk, in bytes.
    pub allocated: u64,
    /// GPT or MBR.
    pub table: TableKind,
    /// Its partitions.
    pub partitions: Vec<PartitionInfo>,
    /// What will or may go wrong, and what to do about it.
    pub warnings: Vec<String>,
}

/// A partition and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionInfo {
    /// Its entry in the table.
    #[serde(flatten)]
    pub partition: Partition,
    /// The file system.
    pub content: Content,
}

/// What is in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "filesystem", rename_all = "lowercase")]
pub enum Content {
    /// FAT, as EFI system partitions have it.
    Vfat {
        /// Its label.
        label: String,
        /// Every file.
        files: Vec<FileInfo>,
        /// Why the list of files is not complete.
        problem: Option<String>,
    },
    /// ext2, ext3 or ext4.
    Ext4 {
        /// Its label.
        label: String,
        /// Its UUID.
        uuid: String,
        /// Bytes that it has, and that are free.
        space: Option<(u64, u64)>,
        /// `PRETTY_NAME` of os-release.
        os: Option<String>,
        /// Versions of the kernels whose modules are there, oldest first.
        kernels: Vec<String>,
        /// The major version of systemd.
        systemd: Option<u32>,
        /// The number of packages that dpkg has installed.
        packages: usize,
        /// Lines of `/etc/fstab` that are no comments.
        fstab: Vec<String>,
    },
    /// Swap space.
    Swap,
    /// Something else, or a file system that can't be read.
    Unknown {
        /// What was found or what is wrong, if anything was recognised.
        problem: Option<String>,
    },
}

/// A file in an EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    /// Its path, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// Reads a disk image.
///
/// # Errors
/// [`Error::NotADisk`] with what the file is instead, [`Error::Truncated`] when it was cut, [`Error::Table`] when its
/// partition table is damaged, [`Error::File`] when it can't be read. What is wrong inside a partition is no error but
/// stands in its [`Content`].
pub fn inspect(path: &Path) -> Result<DiskInfo, Error> {
    let mut file = File::open(path).at("open", path)?;
    let table = table::read(&mut file, path)?;
    let meta = file.metadata().at("read", path)?;
    let file = Arc::new(file);
    let mut warnings = table.warnings;
    let partitions: Vec<PartitionInfo> = table
        .partitions
        .into_iter()
        .map(|partition| PartitionInfo { content: content(&file, &partition), partition })
        .collect();
    for info in &partitions {
        if let Content::Ext4 { fstab, .. } = &info.content {
            warnings.extend(fstab.iter().filter_map(|line| bus_warning(line)));
        }
    }
    Ok(DiskInfo {
        path: path.to_owned(),
        bytes: meta.len(),
        allocated: meta.blocks() * 512,
        table: table.kind,
        partitions,
        warnings,
    })
}

fn content(file: &Arc<File>, partition: &Partition) -> Content {
    match Root::open(file.clone(), partition) {
        Ok(root) => return ext4(&root),
        Err(problem) if problem != "no ext4 file system" => {
            return Content::Unknown { problem: Some(format!("ext4 that can't be read: {problem}")) };
        }
        Err(_) => {}
    }
    if let Ok(esp) = Esp::open(file.clone(), partition) {
        let (files, problem) = match esp.files() {
            Ok(files) => (files, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let files = files.into_iter().map(|(path, bytes)| FileInfo { path, bytes }).collect();
        return Content::Vfat { label: esp.label(), files, problem };
    }
    let mut block = [0; 4096];
    let window = crate::window::Window::new(file.clone(), partition.start, partition.bytes);
    if window.read_at(0, &mut block).is_err() {
        return Content::Unknown { problem: None };
    }
    if block.ends_with(b"SWAPSPACE2") {
        return Content::Swap;
    }
    let magics: [(&[u8], &str); 4] =
        [(b"hsqs", "squashfs"), (b"XFSB", "xfs"), (b"LUKS\xba\xbe", "LUKS"), (b"\xe2\xe1\xf5\xe0", "erofs")];
    let known = magics.iter().find(|(magic, _)| block.starts_with(magic) || block[1024..].starts_with(magic));
    Content::Unknown { problem: known.map(|(_, name)| format!("{name}, which is not looked into")) }
}

fn ext4(root: &Root) -> Content {
    let facts = Facts::of(root);
    let fstab = root.text("/etc/fstab").unwrap_or_default();
    let fstab = fstab
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    Content::Ext4 {
        label: root.label(),
        uuid: root.uuid(),
        space: root.space(),
        os: facts.os,
        kernels: facts.kernels,
        systemd: facts.systemd,
        packages: facts.packages.len(),
        fstab,
    }
}

/// The buses that give a disk the name in this line of an fstab.
fn buses(line: &str) -> Option<(&str, &'static [DiskBus])> {
    let device = line.split_whitespace().next()?;
    let name = device.strip_prefix("/dev/")?;
    let buses: &[DiskBus] = if name.starts_with("sd") {
        &[DiskBus::VirtioScsi, DiskBus::Sata]
    } else if name.starts_with("vd") {
        &[DiskBus::VirtioBlk]
    } else if name.starts_with("nvme") {
        &[DiskBus::Nvme]
    } else {
        return None;
    };
    Some((device, buses))
}

fn bus_warning(line: &str) -> Option<String> {
    let (device, buses) = buses(line)?;
    let buses: Vec<String> = buses.iter().map(|bus| format!("bus = \"{bus}\"")).collect();
    Some(format!(
        "/etc/fstab names {device}: on a bus that calls the disk otherwise, the boot ends in emergency mode; \
         set {} in the TOML beside the image",
        buses.join(" or ")
    ))
}

impl fmt::Display for DiskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = match self.table {
            TableKind::Gpt => "GPT",
            TableKind::Mbr => "MBR",
        };
        writeln!(
            f,
            "{}: {} ({} on disk), {table}",
            self.path.display(),
            Size(self.bytes),
            Size(self.allocated)
        )?;
        for PartitionInfo { partition, content } in &self.partitions {
            let kind = partition.kind_name.unwrap_or(&partition.kind);
            write!(f, "\n  {}  {}  {kind}", partition.number, Size(partition.bytes))?;
            if !partition.label.is_empty() {
                write!(f, "  \"{}\"", partition.label)?;
            }
            writeln!(f, "\n     PARTUUID={}", partition.partuuid)?;
            content.write(f)?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl Content {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Vfat { label, files, problem } => {
                writeln!(f, "     vfat, label {label:?}")?;
                for file in files {
                    writeln!(f, "       {:>9}  {}", Size(file.bytes).to_string(), file.path)?;
                }
                problem.as_ref().map_or(Ok(()), |problem| writeln!(f, "       {problem}"))
            }
            Content::Ext4 { label, uuid, space, os, kernels, systemd, packages, fstab } => {
                write!(f, "     ext4, label {label:?}, UUID={uuid}")?;
                if let Some((bytes, free)) = space {
                    write!(f, ", {} with {} free", Size(*bytes), Size(*free))?;
                }
                writeln!(f)?;
                if let Some(os) = os {
                    writeln!(f, "     system    {os}")?;
                }
                if !kernels.is_empty() {
                    writeln!(f, "     kernel    {}", kernels.join(", "))?;
                }
                if let Some(systemd) = systemd {
                    writeln!(f, "     systemd   {systemd}")?;
                }
                if *packages > 0 {
                    writeln!(f, "     packages  {packages}")?;
                }
                for line in fstab {
                    writeln!(f, "     fstab     {line}")?;
                }
                Ok(())
            }
            Content::Swap => writeln!(f, "     swap"),
            Content::Unknown { problem } => {
                writeln!(f, "     {}", problem.as_deref().unwrap_or("no file system that is known here"))
            }
        }
    }
}

/// A size for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = usize::from(unit > 0 && value < 100.0);
        write!(f, "{value:.digits$} {}", units[unit])
    }
}
