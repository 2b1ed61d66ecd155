//! Partition tables and the file systems in partitions.

pub(crate) mod esp;
pub(crate) mod ext4;
pub(crate) mod guid;
pub(crate) mod table;

/// Bytes of a sector. Images for disks of 4096-byte sectors are not supported.
pub(crate) const SECTOR: u64 = 512;
