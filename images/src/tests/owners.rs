//! From a tar to an ext4 file system: owners, modes, links and extended attributes survive.

use std::fmt::Write as _;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::build::filesystem::{self, Target};
use crate::disk::ext4::Root;
use crate::progress::Reporter;

/// `cap_net_raw+ep` as the kernel stores it: `struct vfs_cap_data`, revision 2 with the effective bit.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A member of a tar: ustar header (POSIX.1-2017, pax), content, padding.
fn member(name: &str, kind: u8, mode: u32, (uid, gid): (u32, u32), target: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, &format!("{uid:07o}"));
    put(116, &format!("{gid:07o}"));
    put(124, &format!("{:011o}", content.len()));
    put(136, &format!("{:011o}", 1_000_000_000));
    put(148, "        ");
    put(157, target);
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A pax header that gives the next member a file capability.
fn capability() -> Vec<u8> {
    let mut record = b" SCHILY.xattr.security.capability=".to_vec();
    record.extend(CAPABILITY);
    record.push(b'\n');
    let mut text = String::new();
    let _ = write!(text, "{}", record.len() + 2);
    let mut bytes = text.into_bytes();
    bytes.extend(record);
    member("pax", b'x', 0o644, (0, 0), "", &bytes)
}

#[test]
fn owners_modes_links_and_capabilities_survive() {
    let dir = tempfile::tempdir().unwrap();
    let archive = [
        member("./", b'5', 0o755, (0, 0), "", b""),
        member("./usr/", b'5', 0o755, (0, 0), "", b""),
        capability(),
        member("./usr/ping", b'0', 0o755, (0, 0), "", b"ping"),
        member("./usr/su", b'0', 0o4755, (0, 0), "", b"su"),
        member("./usr/wall", b'0', 0o2755, (0, 5), "", b"wall"),
        member("./etc/", b'5', 0o755, (0, 0), "", b""),
        member("./etc/shadow", b'0', 0o640, (0, 42), "", b"secret"),
        member("./mail/", b'5', 0o2775, (8, 12), "", b""),
        member("./link", b'2', 0o777, (0, 0), "usr/ping", b""),
        vec![0; 1024],
    ]
    .concat();
    let tar = dir.path().join("root.tar");
    std::fs::write(&tar, archive).unwrap();
    let disk = dir.path().join("disk");
    let (offset, bytes) = (1 << 20, 8 << 20);
    File::create(&disk).unwrap().set_len(offset + bytes).unwrap();

    let way = filesystem::way(dir.path()).unwrap();
    let target =
        Target { disk: &disk, offset, bytes, label: "root", uuid: "0b9b9b9e-1111-4222-8333-444455556666" };
    let log = dir.path().join("log");
    filesystem::make(way, &tar, dir.path(), &target, &log, &Reporter::new("test", None)).unwrap();
    assert!(!dir.path().join("root").exists(), "the unpacked root is gone");

    let root = Root::at(Arc::new(File::open(&disk).unwrap()), offset, bytes).unwrap();
    for (path, expected) in [
        ("/usr/ping", (0, 0, 0o755)),
        ("/usr/su", (0, 0, 0o4755)),
        ("/usr/wall", (0, 5, 0o2755)),
        ("/etc/shadow", (0, 42, 0o640)),
        ("/mail", (8, 12, 0o2775)),
        ("/", (0, 0, 0o755)),
    ] {
        assert_eq!(root.ownership(path), Some(expected), "{path} by way of {way:?}");
    }
    assert_eq!(root.read("/link").unwrap(), b"ping");
    // debugfs prints an attribute as text where it is text; `-x` is hexadecimal.
    let command = crate::tools::DEBUGFS
        .command()
        .unwrap()
        .args(["-R", "ea_get -x /usr/ping security.capability"])
        .arg(format!("{}?offset={offset}", disk.display()));
    let said = process::run_blocking(command, Duration::from_secs(20)).unwrap().checked().unwrap();
    let hex = CAPABILITY.iter().fold(String::new(), |hex, byte| format!("{hex} {byte:02x}"));
    assert!(said.stdout_text().contains(hex.trim()), "{}", said.stdout_text());
}
