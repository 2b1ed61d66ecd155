//! Files that are no sound disk: each is told what it is, and nothing panics.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use crate::info::{Content, inspect};
use crate::{Error, fixture};

fn said(content: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.wic");
    std::fs::write(&path, content).unwrap();
    match inspect(&path).unwrap_err() {
        Error::NotADisk { found, .. } => found,
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_that_is_no_disk_is_told_what_it_is() {
    assert_eq!(said(b"hello, I am\na text\n"), "it is a text file that starts with \"hello, I am\"");
    assert_eq!(said(b""), "it is empty");
    assert!(said(b"QFI\xfb\0\0\0\x03 and so on").contains("qemu-img convert -O raw"));
    assert!(said(b"\x1f\x8b\x08\0rest").contains("gzip"));
    assert!(said(&[0; 100_000]).contains("zeros"));
    assert!(said(&[0x90, 1, 2, 3].repeat(1000)).contains("neither a GPT nor an MBR"));
    let error = inspect(Path::new("/etc")).unwrap_err().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = inspect(Path::new("/no/such.wic")).unwrap_err().to_string();
    assert!(error.contains("could not open /no/such.wic"), "{error}");
}

#[test]
fn file_systems_without_a_table_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.wic");
    fixture::disk(&path, "");
    let bytes = std::fs::read(&path).unwrap();
    let part = |(start, bytes_of): (u64, u64)| {
        let start = usize::try_from(start).unwrap();
        said(&bytes[start..start + usize::try_from(bytes_of).unwrap()])
    };
    assert!(part(fixture::ROOT).contains("ext4 file system without a partition table"));
    assert!(part(fixture::ESP).contains("FAT file system without a partition table"));
}

#[test]
fn a_disk_cut_in_half_says_how_much_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.wic");
    fixture::disk(&path, "");
    for left in [fixture::DISK / 2, fixture::DISK - 512, fixture::ROOT.0 + 512] {
        File::options().write(true).open(&path).unwrap().set_len(left).unwrap();
        match inspect(&path).unwrap_err() {
            Error::Truncated { expected, actual, .. } => {
                assert_eq!((expected, actual), (fixture::DISK, left))
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_damaged_backup_table_is_a_warning_and_a_damaged_table_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.wic");
    fixture::disk(&path, "");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 8], fixture::DISK - 512).unwrap();
    let info = inspect(&path).unwrap();
    assert!(info.warnings[0].contains("backup partition table"), "{:?}", info.warnings);
    file.write_all_at(&[0xff; 4], 2 * 512 + 32).unwrap();
    let error = inspect(&path).unwrap_err();
    assert!(matches!(&error, Error::Table { problem, .. } if problem.contains("CRC32")), "{error}");
}

#[test]
fn an_mbr_is_read_and_checked_against_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mbr.wic");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    let mut sector = [0_u8; 512];
    sector[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
    sector[446 + 4] = 0x83;
    sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    sector[458..462].copy_from_slice(&2048_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&sector, 0).unwrap();
    let info = inspect(&path).unwrap();
    let partition = &info.partitions[0].partition;
    assert_eq!((partition.start, partition.bytes, partition.kind_name), (1 << 20, 1 << 20, Some("Linux")));
    assert_eq!(partition.partuuid, "1234abcd-01");
    file.set_len(1 << 20).unwrap();
    assert!(matches!(inspect(&path), Err(Error::Truncated { .. })));
}

/// The regions whose bytes are interpreted: tables, boot sector and FATs, directories, superblock and inodes.
const REGIONS: [(u64, u64); 5] = [
    (0, 34 * 512),
    (fixture::DISK - 33 * 512, 33 * 512),
    (fixture::ESP.0, 1024),
    (fixture::ESP.0, 192 << 10),
    (fixture::ROOT.0 + 1024, 256 << 10),
];

/// Makes the header's and the entries' checksums right again, so that changes to them are read at all.
fn mend_checksums(file: &File) {
    let mut header = [0; 92];
    file.read_exact_at(&mut header, 512).unwrap();
    let mut entries = vec![0; 128 * 128];
    file.read_exact_at(&mut entries, 1024).unwrap();
    header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 512).unwrap();
}

#[test]
fn changed_bytes_never_panic_nor_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.wic");
    fixture::disk(&path, "/dev/sda1 / ext4 defaults 0 0\n");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let change =
        (0..REGIONS.len(), any::<u64>(), proptest::collection::vec(any::<u8>(), 1..9), any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    runner
        .run(&(proptest::collection::vec(change, 1..6), any::<bool>()), |(changes, mend)| {
            let mut before: Vec<(u64, Vec<u8>)> = vec![(512, read(&file, 512, 92))];
            for (region, at, bytes, low) in &changes {
                let (start, len) = REGIONS[*region];
                // Most of what is interpreted lies at the beginning of a region.
                let at = start + at % if *low { len.min(512) } else { len };
                let at = at.min(fixture::DISK - bytes.len() as u64);
                before.push((at, read(&file, at, bytes.len())));
                file.write_all_at(bytes, at).unwrap();
            }
            if mend {
                mend_checksums(&file);
            }
            let started = std::time::Instant::now();
            if let Ok(info) = inspect(&path) {
                let _ = info.to_string();
            }
            let _ = crate::foreign::look(&path);
            prop_assert!(started.elapsed().as_secs() < 60);
            for (at, bytes) in before.iter().rev() {
                file.write_all_at(bytes, *at).unwrap();
            }
            Ok(())
        })
        .unwrap();
    // The last change was undone, so the test did look at a disk that differs by its changes only.
    let info = inspect(&path).unwrap();
    assert!(matches!(info.partitions[1].content, Content::Ext4 { .. }));
}

fn read(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}
