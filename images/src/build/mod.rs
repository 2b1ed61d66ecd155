//! Building an image from a recipe, in a directory that becomes an entry of the cache.

pub(crate) mod cpio;
mod customize;
pub(crate) mod filesystem;
mod initrd;
pub(crate) mod root;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{esp, ext4::Root, guid, table};
use crate::error::{At, Error};
use crate::ext4_edit::Edit;
use crate::manifest::{FORMAT, Facts, Manifest};
use crate::progress::{Phase, Reporter};
use crate::recipe::{DiskOptions, Initrd, Packages, Recipe};
use crate::tools::{MKE2FS, MMDEBSTRAP, Tool};
use cache::sparse;

/// Part of every key: raised when the builder makes something else of the same recipe.
pub(crate) const BUILDER: &str = "1";
/// Time stamps in an image, in seconds since 1970: 2025-08-09, the release of Debian 13. A fixed one makes the same
/// packages give the same disk.
pub(crate) const EPOCH: u64 = 1_754_697_600;

/// File names in an entry.
pub(crate) const DISK: &str = "disk.wic";
pub(crate) const KERNEL: &str = "vmlinuz";
pub(crate) const INITRD: &str = "initrd.img";
pub(crate) const LOG: &str = "build.log";

const MIB: u64 = 1 << 20;

/// Where the partitions lie, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    esp: (u64, u64),
    root: (u64, u64),
    disk: u64,
}

impl Layout {
    /// For a root whose tar has `tar` bytes: file systems need more than the sum of the files.
    fn of(disk: &DiskOptions, tar: u64) -> Layout {
        let esp = (MIB, u64::from(disk.esp_mib) * MIB);
        let content = (tar + tar / 12).next_multiple_of(MIB) + 32 * MIB;
        let root = (esp.0 + esp.1, content + u64::from(disk.free_mib) * MIB);
        // The backup table takes 33 sectors at the end.
        Layout { esp, root, disk: root.0 + root.1 + MIB }
    }
}

/// Where a build works.
pub(crate) struct Site<'a> {
    /// Becomes the entry.
    pub(crate) entry: &'a Path,
    /// For temporary files; every user of the host can enter it.
    pub(crate) scratch: &'a Path,
    /// The recipe's key, from which the disk's GUIDs follow.
    pub(crate) key: &'a str,
    pub(crate) mirror: Option<&'a str>,
}

/// Builds an image from packages.
pub(crate) fn from_packages(
    recipe: &Recipe,
    packages: &Packages,
    site: &Site<'_>,
    report: &Reporter,
) -> Result<Manifest, Error> {
    root::check_host()?;
    // Known before minutes of work: another file than the recipe means is refused.
    recipe.files.iter().try_for_each(|file| file.bytes().map(drop))?;
    let way = filesystem::way(site.entry)?;
    let (tar, log, disk) = (site.entry.join("root.tar"), site.entry.join(LOG), site.entry.join(DISK));
    let root_guid = guid::derived(site.key, "root");
    let root_partuuid = guid::text(root_guid);
    let fstab = format!("PARTUUID={root_partuuid} / ext4 defaults 0 1\n");
    let order = root::Order {
        packages,
        mirror: site.mirror,
        hook: &customize::script(recipe, &fstab),
        initrd: recipe.initrd,
        scratch: site.scratch,
    };
    root::build(&order, &tar, &log, report)?;

    report.phase(Phase::Filesystem);
    let layout = Layout::of(&recipe.disk, tar.metadata().at("read", &tar)?.len());
    let mut file = File::options().read(true).write(true).create_new(true).open(&disk).at("create", &disk)?;
    file.set_len(layout.disk).at("size", &disk)?;
    let target = filesystem::Target {
        disk: &disk,
        offset: layout.root.0,
        bytes: layout.root.1,
        label: "root",
        uuid: &guid::text(guid::derived(site.key, "root file system")),
    };
    filesystem::make(way, &tar, site.entry, &target, &log, report)?;
    std::fs::remove_file(&tar).at("remove", &tar)?;
    let partitions = [
        table::NewPartition {
            kind: guid::ESP,
            guid: guid::derived(site.key, "esp"),
            label: "esp",
            start: layout.esp.0,
            bytes: layout.esp.1,
        },
        table::NewPartition {
            kind: guid::ROOT_X86_64,
            guid: root_guid,
            label: "root",
            start: layout.root.0,
            bytes: layout.root.1,
        },
    ];
    table::write(&mut file, &disk, guid::derived(site.key, "disk"), &partitions)?;

    report.phase(Phase::Initrd);
    let reader = Arc::new(File::open(&disk).at("open", &disk)?);
    let root = Root::at(reader, layout.root.0, layout.root.1).map_err(|problem| Error::Filesystem {
        path: disk.clone(),
        filesystem: "the root file system".into(),
        problem,
    })?;
    let facts = Facts::of(&root);
    let missing =
        |missing: &str, hint| Error::Unbootable { image: recipe.name.clone(), missing: missing.into(), hint };
    let version = facts
        .kernels
        .last()
        .ok_or_else(|| missing("kernel", "add a package such as linux-image-cloud-amd64 to the recipe"))?;
    let kernel = root
        .read(&format!("/boot/vmlinuz-{version}"))
        .map_err(|_| missing(&format!("/boot/vmlinuz-{version}"), "its kernel package did not set it up"))?;
    let initrd = match recipe.initrd {
        Initrd::Small => initrd::make(&recipe.name, &root, version)?,
        Initrd::Distribution => {
            let path = format!("/boot/initrd.img-{version}");
            root.read(&path).map_err(|_| missing(&path, "add the package initramfs-tools to the recipe"))?
        }
    };
    let loader = root
        .read("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
        .map_err(|_| missing("systemd-bootx64.efi", "add the package systemd-boot-efi to the recipe"))?;
    for (name, content) in [(KERNEL, &kernel), (INITRD, &initrd)] {
        let path = site.entry.join(name);
        std::fs::write(&path, content).at("write", &path)?;
    }

    report.phase(Phase::Esp);
    let cmdline = [&[format!("root=PARTUUID={root_partuuid}"), "rw".into()], recipe.cmdline.as_slice()]
        .concat()
        .join(" ");
    let os = facts.os.clone().unwrap_or_else(|| recipe.name.clone());
    let entry = format!("title {os}\nlinux /{KERNEL}\ninitrd /{INITRD}\noptions {cmdline}\n");
    let entry_name = format!("loader/entries/{}.conf", recipe.name);
    let volume = guid::derived(site.key, "esp file system");
    esp::write(
        &file,
        &disk,
        layout.esp,
        u32::from_le_bytes([volume[0], volume[1], volume[2], volume[3]]),
        &[
            ("EFI/BOOT/BOOTX64.EFI", &loader),
            ("loader/loader.conf", b"timeout 0\neditor no\n"),
            (&entry_name, entry.as_bytes()),
            (KERNEL, &kernel),
            (INITRD, &initrd),
        ],
    )?;

    report.phase(Phase::Seal);
    let mut manifest = Manifest {
        format: FORMAT,
        name: recipe.name.clone(),
        digest: String::new(),
        source: site.key.to_owned(),
        files: BTreeMap::new(),
        cmdline,
        bus: recipe.disk.bus,
        firmware: true,
        way_in: recipe.way_in.unwrap_or_default(),
        login: recipe.login.clone(),
        provides: recipe.provides.clone(),
        os: facts.os,
        kernel: Some(version.clone()),
        systemd: facts.systemd,
        packages: facts.packages,
        tools: [MMDEBSTRAP, MKE2FS].into_iter().filter_map(version_of).collect(),
    };
    manifest.seal(site.entry, &[("disk", DISK), ("kernel", KERNEL), ("initrd", INITRD)])?;
    manifest.save(site.entry)?;
    Ok(manifest)
}

/// Makes an image from another one by writing files into a copy of its root.
pub(crate) fn from_base(
    recipe: &Recipe,
    base: (&Manifest, &Path),
    site: &Site<'_>,
    report: &Reporter,
) -> Result<Manifest, Error> {
    report.phase(Phase::Derive);
    let (base, from) = base;
    let disk = site.entry.join(DISK);
    sparse::copy(&from.join(DISK), &disk)?;
    for name in [KERNEL, INITRD] {
        let (from, to) = (from.join(name), site.entry.join(name));
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop)).at("copy", &from)?;
    }
    let table = table::read(&mut File::open(&disk).at("open", &disk)?, &disk)?;
    let root = table.partitions.iter().find(|partition| partition.kind == guid::ROOT_X86_64);
    let root = root
        .ok_or_else(|| Error::Table { path: disk.clone(), problem: "there is no root partition".into() })?;
    let mut edit = Edit::default();
    for file in &recipe.files {
        edit.file(&file.path, file.mode, file.bytes()?);
    }
    edit.apply(&recipe.name, &disk, root.start, root.bytes)?;

    report.phase(Phase::Seal);
    let mut manifest = Manifest {
        name: recipe.name.clone(),
        source: site.key.to_owned(),
        files: BTreeMap::new(),
        bus: recipe.disk.bus,
        way_in: recipe.way_in.unwrap_or(base.way_in),
        login: recipe.login.clone().or_else(|| base.login.clone()),
        provides: base.provides.union(&recipe.provides).cloned().collect(),
        ..base.clone()
    };
    manifest.seal(site.entry, &[("disk", DISK), ("kernel", KERNEL), ("initrd", INITRD)])?;
    manifest.save(site.entry)?;
    Ok(manifest)
}

/// What a tool says of its version: mke2fs on stderr, with `-V`.
fn version_of(tool: Tool) -> Option<(String, String)> {
    let flag = if tool.name() == "mke2fs" { "-V" } else { "--version" };
    let output = process::run_blocking(tool.command().ok()?.arg(flag), Duration::from_secs(20)).ok()?;
    let said = [output.stdout_text(), output.stderr_text()].concat();
    Some((tool.name().to_owned(), said.lines().next()?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::DiskBus;

    #[test]
    fn partitions_lie_on_whole_mebibytes_and_do_not_touch() {
        let options = DiskOptions { esp_mib: 96, free_mib: 512, bus: DiskBus::VirtioBlk };
        let layout = Layout::of(&options, 243_904_001);
        for at in [layout.esp.0, layout.esp.1, layout.root.0, layout.root.1, layout.disk] {
            assert_eq!(at % MIB, 0);
        }
        assert_eq!(layout.esp.0 + layout.esp.1, layout.root.0);
        assert!(layout.root.1 >= 243_904_001 + 512 * MIB);
        assert!(layout.disk >= layout.root.0 + layout.root.1 + 34 * 512);
    }
}
