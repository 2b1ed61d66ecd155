//! The small initrd: busybox, a script, and the drivers of the disk buses. Against the distribution's general one it
//! saves about four seconds of an emulated boot.

use std::collections::{BTreeMap, BTreeSet};

use super::cpio::Cpio;
use crate::disk::ext4::Root;
use crate::error::Error;

/// What [`INIT`] calls.
const APPLETS: [&str; 15] = [
    "cat",
    "cut",
    "dd",
    "findfs",
    "grep",
    "head",
    "modprobe",
    "mount",
    "sed",
    "sh",
    "sort",
    "switch_root",
    "tr",
    "usleep",
    "xxd",
];
const INIT: &str = include_str!("init.sh");

/// Drivers by the names that modules.dep knows them by; one that is built into the kernel is not there.
const DRIVERS: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ahci",
    "ata_piix",
    "nvme",
    "ext4",
    "crc32c_generic",
    "crc32c-intel",
];

/// Makes the initrd for the kernel `version` from the root's own files.
pub(crate) fn make(image: &str, root: &Root, version: &str) -> Result<Vec<u8>, Error> {
    let unbootable =
        |missing: &str, hint| Error::Unbootable { image: image.into(), missing: missing.into(), hint };
    let busybox = ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| root.read(path).ok())
        .ok_or_else(|| unbootable("/usr/bin/busybox", "add the package busybox-static to the recipe"))?;
    let base = ["/usr/lib/modules", "/lib/modules"]
        .iter()
        .map(|modules| format!("{modules}/{version}"))
        .find(|base| root.exists(&format!("{base}/modules.dep")))
        .ok_or_else(|| unbootable("modules.dep", "its kernel package did not set up its modules"))?;
    let dependencies = root.text(&format!("{base}/modules.dep")).unwrap_or_default();
    let aliases = root.text(&format!("{base}/modules.alias")).unwrap_or_default();
    let chosen = closure(&dependencies);

    let mut cpio = Cpio::new();
    for directory in ["bin", "dev", "proc", "root", "sys", "lib", "lib/modules"] {
        cpio.directory(directory);
    }
    cpio.character("dev/console", 5, 1);
    cpio.file("init", 0o755, INIT.as_bytes());
    cpio.file("bin/busybox", 0o755, &busybox);
    for applet in APPLETS {
        cpio.link(&format!("bin/{applet}"), "busybox");
    }
    let target = format!("lib/modules/{version}");
    cpio.directory(&target);
    let mut made = BTreeSet::new();
    for path in chosen.keys() {
        let mut directory = target.clone();
        for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
            directory = format!("{directory}/{part}");
            if made.insert(directory.clone()) {
                cpio.directory(&directory);
            }
        }
        let content = root.read(&format!("{base}/{path}")).map_err(|problem| Error::Filesystem {
            path: format!("{base}/{path}").into(),
            filesystem: format!("the root of image {image}"),
            problem,
        })?;
        cpio.file(&format!("{target}/{path}"), 0o644, &content);
    }
    let lines: String = chosen.iter().map(|(path, line)| format!("{path}:{line}\n")).collect();
    cpio.file(&format!("{target}/modules.dep"), 0o644, lines.as_bytes());
    cpio.file(&format!("{target}/modules.alias"), 0o644, needed_aliases(&aliases, &chosen).as_bytes());
    let archive = cpio.finish();
    Ok(zstd::bulk::compress(&archive, 12).expect("compressing in memory can't fail"))
}

/// The chosen drivers with all that they depend on: path to the rest of its line in modules.dep.
fn closure(dependencies: &str) -> BTreeMap<&str, &str> {
    let all: BTreeMap<&str, &str> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let mut left: Vec<&str> =
        all.keys().copied().filter(|path| DRIVERS.iter().any(|driver| same(name(path), driver))).collect();
    let mut chosen = BTreeMap::new();
    while let Some(path) = left.pop() {
        if let Some(line) = all.get(path)
            && chosen.insert(path, *line).is_none()
        {
            left.extend(line.split_whitespace());
        }
    }
    chosen
}

/// The lines of modules.alias for the chosen drivers: a device names its driver by such a pattern.
fn needed_aliases(aliases: &str, chosen: &BTreeMap<&str, &str>) -> String {
    let names: Vec<&str> = chosen.keys().map(|path| name(path)).collect();
    let is_needed = |line: &&str| {
        !line.contains(" block-major-")
            && line.rsplit_once(' ').is_some_and(|(_, module)| names.iter().any(|name| same(name, module)))
    };
    aliases.lines().filter(is_needed).flat_map(|line| [line, "\n"]).collect()
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is `virtio_blk`.
fn name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

/// Module names take `-` for `_`.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one
            .bytes()
            .zip(other.bytes())
            .all(|(a, b)| a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/scsi/sd_mod.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz kernel/drivers/scsi/scsi_common.ko.xz\n\
        kernel/drivers/scsi/scsi_mod.ko.xz: kernel/drivers/scsi/scsi_common.ko.xz\n\
        kernel/drivers/scsi/scsi_common.ko.xz:\n\
        kernel/drivers/net/dummy.ko.xz:\n";

    #[test]
    fn a_driver_brings_what_it_depends_on_and_nothing_else() {
        let chosen = closure(DEP);
        let names: Vec<&str> = chosen.keys().map(|path| name(path)).collect();
        assert_eq!(names, ["scsi_common", "scsi_mod", "sd_mod"]);
    }

    #[test]
    fn only_aliases_of_chosen_drivers_are_kept() {
        let aliases =
            "alias scsi:t-0x00* sd_mod\nalias block-major-8-* sd_mod\nalias rtnl-link-dummy dummy\n";
        assert_eq!(needed_aliases(aliases, &closure(DEP)), "alias scsi:t-0x00* sd_mod\n");
    }

    #[test]
    fn the_script_calls_only_applets_that_are_there() {
        for applet in APPLETS {
            assert!(INIT.contains(applet), "{applet} is not used");
        }
    }
}
