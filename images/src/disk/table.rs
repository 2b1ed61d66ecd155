//! Partition tables: GPT read and written, MBR read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use gptman::{GPT, GPTHeader, GPTPartitionEntry};
use serde::Serialize;

use super::{SECTOR, guid};
use crate::error::{At, Error};

/// Most entries of a GPT that are read; 128 is the rule.
const ENTRIES_MAX: u32 = 1024;

/// Which kind of table a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// DOS partition table.
    Mbr,
}

/// A partition. Offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Counted from 1.
    pub number: u32,
    /// Where it starts.
    pub start: u64,
    /// Its size.
    pub bytes: u64,
    /// A GUID, or `0x83` in an MBR.
    pub kind: String,
    /// What that type is called, if it is well known.
    pub kind_name: Option<&'static str>,
    /// What `PARTUUID=` calls it.
    pub partuuid: String,
    /// Its name in a GPT.
    pub label: String,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// GPT or MBR.
    pub kind: TableKind,
    /// In order of their numbers.
    pub partitions: Vec<Partition>,
    /// Damage that does not keep the disk from booting.
    pub warnings: Vec<String>,
}

/// Reads the table of a disk image and checks that the file is as long as the table says.
pub(crate) fn read(file: &mut File, path: &Path) -> Result<Table, Error> {
    let meta = file.metadata().at("read", path)?;
    if meta.is_dir() {
        return Err(not_a_disk(path, "it is a directory"));
    }
    let len = meta.len();
    let mut head = vec![0; usize::try_from(len.min(4096)).unwrap_or(4096)];
    file.seek(SeekFrom::Start(0)).at("read", path)?;
    file.read_exact(&mut head).at("read", path)?;
    if head.is_empty() {
        return Err(not_a_disk(path, "it is empty"));
    }
    if head.get(512..520) == Some(b"EFI PART") {
        return gpt(file, path, len);
    }
    if head.get(510..512) == Some(&[0x55, 0xaa]) && !is_fat(&head) {
        return mbr(&head, path, len);
    }
    Err(Error::NotADisk { path: path.to_owned(), found: what_is(&head, file) })
}

fn gpt(file: &mut File, path: &Path, len: u64) -> Result<Table, Error> {
    let broken = |problem: String| Error::Table { path: path.to_owned(), problem };
    file.seek(SeekFrom::Start(SECTOR)).at("read", path)?;
    let header = GPTHeader::read_from(file).map_err(|error| broken(format!("GPT header: {error}")))?;
    if header.number_of_partition_entries > ENTRIES_MAX || header.size_of_partition_entry < 128 {
        return Err(broken(format!(
            "GPT header: {} entries of {} bytes",
            header.number_of_partition_entries, header.size_of_partition_entry
        )));
    }
    let end = header.backup_lba.saturating_add(1).saturating_mul(SECTOR);
    if end > len {
        return Err(truncated(path, "the backup partition table", end, len));
    }
    if header.partition_entry_lba > len / SECTOR {
        return Err(broken("GPT header: the entries lie past the end of the disk".into()));
    }
    let entries =
        header.read_partitions(file, SECTOR).map_err(|error| broken(format!("GPT entries: {error}")))?;
    let mut table = Table { kind: TableKind::Gpt, partitions: Vec::new(), warnings: Vec::new() };
    for (number, entry) in (1u32..).zip(&entries).filter(|(_, entry)| entry.is_used()) {
        let Some(sectors) =
            entry.ending_lba.checked_sub(entry.starting_lba).and_then(|last| last.checked_add(1))
        else {
            return Err(broken(format!("partition {number} ends before it starts")));
        };
        let kind = guid::text(entry.partition_type_guid);
        table.partitions.push(Partition {
            number,
            start: entry.starting_lba.saturating_mul(SECTOR),
            bytes: sectors.saturating_mul(SECTOR),
            kind_name: guid::type_name(&kind),
            kind,
            partuuid: guid::text(entry.unique_partition_guid),
            label: entry.partition_name.as_str().to_owned(),
        });
    }
    inside(&table, path, len)?;
    let backup = file
        .seek(SeekFrom::Start(header.backup_lba.saturating_mul(SECTOR)))
        .map_err(gptman::Error::from)
        .and_then(|_| GPTHeader::read_from(file));
    if let Err(error) = backup {
        table
            .warnings
            .push(format!("the backup partition table is damaged ({error}); `sgdisk -e` writes it anew"));
    }
    Ok(table)
}

/// The four entries of an MBR, at byte 446; an extended partition is listed, not followed.
fn mbr(head: &[u8], path: &Path, len: u64) -> Result<Table, Error> {
    let word = |bytes: &[u8], at: usize| -> u64 {
        bytes
            .get(at..at + 4)
            .map_or(0, |bytes| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
    };
    let signature = word(head, 440);
    let mut table = Table { kind: TableKind::Mbr, partitions: Vec::new(), warnings: Vec::new() };
    for (number, entry) in (1u32..).zip(head[446..510].chunks(16)) {
        let (kind, start, sectors) = (entry[4], word(entry, 8), word(entry, 12));
        if kind == 0 || sectors == 0 {
            continue;
        }
        let name = match kind {
            0x05 | 0x0f => Some("extended"),
            0x06 | 0x0b | 0x0c | 0x0e => Some("FAT"),
            0x82 => Some("swap"),
            0x83 => Some("Linux"),
            0xee => Some("protects a GPT"),
            0xef => Some("EFI system"),
            _ => None,
        };
        if kind == 0xee {
            return Err(Error::Table {
                path: path.to_owned(),
                problem: "the MBR says that there is a GPT, but its header is gone".into(),
            });
        }
        table.partitions.push(Partition {
            number,
            start: start * SECTOR,
            bytes: sectors * SECTOR,
            kind: format!("0x{kind:02x}"),
            kind_name: name,
            partuuid: format!("{signature:08x}-{number:02x}"),
            label: String::new(),
        });
    }
    if table.partitions.is_empty() {
        return Err(not_a_disk(path, "it has a boot sector, but no partition"));
    }
    inside(&table, path, len)?;
    Ok(table)
}

fn inside(table: &Table, path: &Path, len: u64) -> Result<(), Error> {
    for partition in &table.partitions {
        let end = partition.start.saturating_add(partition.bytes);
        if end > len {
            return Err(truncated(path, &format!("partition {}", partition.number), end, len));
        }
    }
    Ok(())
}

fn truncated(path: &Path, what: &str, expected: u64, actual: u64) -> Error {
    Error::Truncated { path: path.to_owned(), what: what.to_owned(), expected, actual }
}

fn not_a_disk(path: &Path, found: &str) -> Error {
    Error::NotADisk { path: path.to_owned(), found: found.to_owned() }
}

/// A FAT boot sector has the same mark as an MBR, and a file system's name where an MBR has code.
fn is_fat(head: &[u8]) -> bool {
    [head.get(54..59), head.get(82..87)].iter().flatten().any(|name| name.starts_with(b"FAT"))
}

/// Says what a file without a partition table is.
fn what_is(head: &[u8], file: &mut File) -> String {
    let magics: [(&[u8], &str); 9] = [
        (b"QFI\xfb", "it is a qcow2 image: `qemu-img convert -O raw IN OUT.wic` makes it raw"),
        (b"KDMV", "it is a VMDK image: `qemu-img convert -O raw IN OUT.wic` makes it raw"),
        (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first"),
        (b"\xfd7zXZ\0", "it is compressed with xz: unpack it first"),
        (b"BZh", "it is compressed with bzip2: unpack it first"),
        (b"PK\x03\x04", "it is a zip archive: unpack it first"),
        (b"\x7fELF", "it is a program"),
        (b"\x3a\xff\x26\xed", "it is an Android sparse image: `simg2img` makes it raw"),
    ];
    if let Some((_, what)) = magics.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*what).to_owned();
    }
    if head.get(1080..1082) == Some(&[0x53, 0xef]) {
        return "it is an ext4 file system without a partition table around it".into();
    }
    if is_fat(head) {
        return "it is a FAT file system without a partition table around it".into();
    }
    let mut iso = [0; 5];
    if file.seek(SeekFrom::Start(0x8001)).and_then(|_| file.read_exact(&mut iso)).is_ok() && &iso == b"CD001"
    {
        return "it is an ISO 9660 image, not a disk".into();
    }
    let first = &head[..head.len().min(512)];
    let printable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace() || *byte >= 0x80;
    if first.iter().all(printable)
        && std::str::from_utf8(first).map_or_else(|e| e.error_len().is_none(), |_| true)
    {
        let line = String::from_utf8_lossy(first);
        let line: String = line.lines().next().unwrap_or_default().chars().take(60).collect();
        return format!("it is a text file that starts with {line:?}");
    }
    if head.iter().all(|byte| *byte == 0) {
        return "it starts with zeros instead of a partition table".into();
    }
    "it has neither a GPT nor an MBR".into()
}

/// A partition to be made.
pub(crate) struct NewPartition {
    pub(crate) kind: &'static str,
    pub(crate) guid: [u8; 16],
    pub(crate) label: &'static str,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

/// Writes a protective MBR and both tables; the file must have its final size.
pub(crate) fn write(
    file: &mut File,
    path: &Path,
    disk: [u8; 16],
    partitions: &[NewPartition],
) -> Result<(), Error> {
    let failed = |error: gptman::Error| match error {
        gptman::Error::Io(source) => {
            std::io::Result::<()>::Err(source).at("write the partition table of", path).expect_err("an error")
        }
        other => Error::Table { path: path.to_owned(), problem: other.to_string() },
    };
    let mut gpt = GPT::new_from(file, SECTOR, disk).map_err(failed)?;
    for (number, partition) in (1..).zip(partitions) {
        gpt[number] = GPTPartitionEntry {
            partition_type_guid: guid::bytes(partition.kind).expect("types are constants of `guid`"),
            unique_partition_guid: partition.guid,
            starting_lba: partition.start / SECTOR,
            ending_lba: (partition.start + partition.bytes) / SECTOR - 1,
            attribute_bits: 0,
            partition_name: partition.label.into(),
        };
    }
    GPT::write_protective_mbr_into(file, SECTOR).map_err(failed)?;
    gpt.write_into(file).map_err(failed)?;
    Ok(())
}
