//! A small disk for tests: an EFI system partition with a loader entry and an ext4 root, made in a moment.

use std::fs::File;
use std::path::Path;

use crate::disk::{esp, guid, table};
use crate::ext4_edit::{Edit, make_empty};

pub(crate) const MIB: u64 = 1 << 20;
/// Offsets and sizes of the two partitions.
pub(crate) const ESP: (u64, u64) = (MIB, 36 * MIB);
pub(crate) const ROOT: (u64, u64) = (37 * MIB, 8 * MIB);
pub(crate) const DISK: u64 = 46 * MIB;

pub(crate) const STATUS: &str = "Package: systemd\nStatus: install ok installed\nVersion: 252.39-1~deb12u1\n";

/// Writes the disk to `path`, its root with this fstab.
pub(crate) fn disk(path: &Path, fstab: &str) {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(DISK).unwrap();
    let root = path.with_extension("root");
    make_empty("fixture", &root, ROOT.1 / MIB, "rootfs", "0b9b9b9e-1111-4222-8333-444455556666").unwrap();
    let mut edit = Edit::default();
    edit.file("/etc/os-release", 0o644, "NAME=x\nPRETTY_NAME=\"Own Linux 1\"\n")
        .file("/etc/fstab", 0o644, fstab)
        .file("/var/lib/dpkg/status", 0o644, STATUS)
        .file("/usr/lib/systemd/systemd", 0o755, "an ELF")
        .file("/usr/lib/modules/6.1.0/modules.dep", 0o644, "");
    edit.apply("fixture", &root, 0, ROOT.1).unwrap();
    let content = std::fs::read(&root).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &content, ROOT.0).unwrap();
    std::fs::remove_file(&root).unwrap();
    esp::write(
        &file,
        path,
        ESP,
        0x1234_5678,
        &[
            ("EFI/BOOT/BOOTX64.EFI", b"a loader"),
            (
                "loader/entries/own.conf",
                b"title Own\nlinux /vmlinuz\ninitrd /own-initrd.img\noptions root=LABEL=rootfs rw quiet\n",
            ),
            ("vmlinuz", b"a kernel"),
            ("own-initrd.img", &[7; 100_000]),
        ],
    )
    .unwrap();
    let partition = |kind, what: &'static str, (start, bytes)| table::NewPartition {
        kind,
        guid: guid::derived("fixture", what),
        label: what,
        start,
        bytes,
    };
    let partitions = [partition(guid::ESP, "esp", ESP), partition(guid::ROOT_X86_64, "root", ROOT)];
    table::write(&mut file, path, guid::derived("fixture", "disk"), &partitions).unwrap();
}
