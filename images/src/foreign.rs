//! Disks that were not built here: how one boots, found by looking into it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::build::{INITRD, KERNEL};
use crate::disk::esp::Esp;
use crate::disk::ext4::Root;
use crate::disk::{guid, table};
use crate::error::{At, Error};
use crate::image::{Image, Origin};
use crate::manifest::{FORMAT, Facts, Manifest};
use crate::progress::Reporter;
use crate::sidecar::Sidecar;
use crate::store::{self, Store};
use cache::sparse;

/// What was found in a disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    kernel: Option<Vec<u8>>,
    initrd: Option<Vec<u8>>,
    /// The loader's command line, or one made for the root partition.
    cmdline: Option<String>,
    /// Whether there is a UEFI loader in the place where firmware looks by itself.
    loader: bool,
    facts: Facts,
}

/// The image of a disk that is named by path. Kernel and initrd are taken out of it into the cache, once for each
/// state of the file.
pub(crate) fn image(store: &Store, name: &str, path: &Path, set_by: String) -> Result<Image, Error> {
    let Ok(disk) = path.canonicalize() else {
        return Err(Error::OverrideMissing { path: path.to_owned(), set_by });
    };
    let sidecar_path = Sidecar::path_beside(path);
    let sidecar = Sidecar::beside(path)?;
    // Damage is told each time, also when the entry is there.
    table::read(&mut File::open(&disk).at("open", &disk)?, &disk)?;
    let entry = store.root().join("foreign").join(state(&disk, sidecar_path.as_deref())?);
    let manifest = {
        let _held = store.lock(&entry, &Reporter::new(name, None))?;
        if entry.is_dir() {
            let manifest = Manifest::load(name, &entry)?;
            manifest.check(&entry, false)?;
            manifest
        } else {
            let work = store.work_dir(&entry);
            std::fs::create_dir_all(&work).at("make", &work)?;
            let manifest = describe(name, &disk, &disk, &sidecar, &work)?;
            manifest.save(&work)?;
            store.put(&work, &entry)?;
            manifest
        }
    };
    let mut image = store::image(&manifest, &entry, Origin::Override(set_by));
    name.clone_into(&mut image.name);
    image.disk = disk;
    Ok(image)
}

/// Identifies a file in its present state without reading it.
pub(crate) fn state(disk: &Path, sidecar: Option<&Path>) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    for path in [Some(disk), sidecar].into_iter().flatten() {
        let meta = path.metadata().at("read", path)?;
        let facts = [
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime().unsigned_abs(),
            meta.mtime_nsec().unsigned_abs(),
        ];
        hasher.update(path.as_os_str().as_encoded_bytes()).update(&[0]);
        for fact in facts {
            hasher.update(&fact.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// Describes the disk at `disk`, and puts its kernel and initrd into `work`. `named` is the path that people know.
pub(crate) fn describe(
    name: &str,
    named: &Path,
    disk: &Path,
    sidecar: &Sidecar,
    work: &Path,
) -> Result<Manifest, Error> {
    let mut found = look(disk)?;
    if let Some(kernel) = &sidecar.kernel {
        found.kernel = Some(std::fs::read(kernel).at("read", kernel)?);
        found.initrd = match &sidecar.initrd {
            Some(initrd) => Some(std::fs::read(initrd).at("read", initrd)?),
            None => None,
        };
    }
    let mut files = Vec::new();
    for (role, file, content) in [("kernel", KERNEL, &found.kernel), ("initrd", INITRD, &found.initrd)] {
        if let Some(content) = content {
            let path = work.join(file);
            std::fs::write(&path, content).at("write", &path)?;
            files.push((role, file));
        }
    }
    let mut manifest = Manifest {
        format: FORMAT,
        name: name.to_owned(),
        digest: String::new(),
        source: named.display().to_string(),
        files: BTreeMap::new(),
        cmdline: sidecar.cmdline.clone().or(found.cmdline).unwrap_or_default(),
        bus: sidecar.bus.unwrap_or_default(),
        firmware: sidecar.firmware.unwrap_or(found.loader),
        way_in: sidecar.way_in.unwrap_or_default(),
        login: sidecar.login.clone(),
        provides: sidecar.provides.clone(),
        os: found.facts.os,
        kernel: found.facts.kernels.last().cloned(),
        systemd: found.facts.systemd,
        packages: found.facts.packages,
        tools: BTreeMap::new(),
    };
    manifest.seal(work, &files)?;
    let whole = [manifest.digest.as_bytes(), sparse::digest(disk)?.as_bytes()].concat();
    manifest.digest = blake3::hash(&whole).to_hex().to_string();
    Ok(manifest)
}

pub(crate) fn look(disk: &Path) -> Result<Found, Error> {
    let mut file = File::open(disk).at("open", disk)?;
    let table = table::read(&mut file, disk)?;
    let file = Arc::new(file);
    let mut found = Found::default();
    let mut roots = Vec::new();
    for partition in &table.partitions {
        if let Ok(esp) = Esp::open(file.clone(), partition) {
            let names: Vec<String> =
                esp.files().unwrap_or_default().into_iter().map(|(path, _)| path).collect();
            found.loader |= names.iter().any(|path| path.eq_ignore_ascii_case("EFI/BOOT/BOOTX64.EFI"));
            if found.kernel.is_none() {
                from_loader_entry(&esp, &names, &mut found);
            }
        } else if let Ok(root) = Root::open(file.clone(), partition) {
            roots.push((partition, root));
        }
    }
    let system = roots.iter().find(|(partition, _)| partition.kind == guid::ROOT_X86_64).or_else(|| {
        roots.iter().find(|(_, root)| root.exists("/etc/os-release") || root.exists("/usr/lib/os-release"))
    });
    if let Some((partition, root)) = system {
        found.facts = Facts::of(root);
        if !found.cmdline.as_deref().is_some_and(|line| line.split(' ').any(|word| word.starts_with("root=")))
        {
            let rest = found.cmdline.take().unwrap_or_default();
            found.cmdline =
                Some(format!("root=PARTUUID={} rw {rest}", partition.partuuid).trim_end().to_owned());
        }
    }
    for (_, root) in &roots {
        if found.kernel.is_none() {
            from_boot_directory(root, &mut found);
        }
    }
    // A direct boot has no loader's console setting: ours is the serial line.
    if let Some(line) = &mut found.cmdline
        && !line.contains("console=")
    {
        line.push_str(" console=ttyS0");
    }
    Ok(found)
}

/// Kernel, initrd and command line of a boot loader entry (UAPI group, Boot Loader Specification, type 1).
fn from_loader_entry(esp: &Esp, names: &[String], found: &mut Found) {
    let mut entries: Vec<&String> = names
        .iter()
        .filter(|path| {
            let path = path.to_ascii_lowercase();
            path.starts_with("loader/entries/") && path.ends_with(".conf")
        })
        .collect();
    entries.sort_by(|one, other| natural(other, one));
    for path in entries {
        let Some(text) = esp.read(path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
            continue;
        };
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.trim().split_once(char::is_whitespace)?;
                (name == key).then(|| value.trim().to_owned())
            })
        };
        let Some(kernel) = value("linux").and_then(|path| esp.read(&path).ok()) else { continue };
        found.kernel = Some(kernel);
        found.initrd = value("initrd").and_then(|path| esp.read(&path).ok());
        found.cmdline = value("options");
        return;
    }
}

/// The newest kernel in `/boot`, or at the top of a boot partition, with the initrd of its version.
fn from_boot_directory(root: &Root, found: &mut Found) {
    for directory in ["/boot", "/"] {
        let names = root.names(directory);
        let mut kernels: Vec<&String> = names
            .iter()
            .filter(|name| ["vmlinuz", "bzImage"].iter().any(|known| name.starts_with(known)))
            .collect();
        kernels.sort_by(|one, other| natural(other, one));
        for name in kernels {
            let Ok(kernel) = root.read(&format!("{directory}/{name}")) else { continue };
            let version = name.trim_start_matches(char::is_alphabetic);
            let initrd = [
                format!("initrd.img{version}"),
                format!("initramfs{version}.img"),
                format!("initrd{version}"),
            ]
            .iter()
            .find_map(|name| root.read(&format!("{directory}/{name}")).ok());
            found.kernel = Some(kernel);
            found.initrd = initrd;
            return;
        }
    }
}

/// Compares names as people count: `6.12.9` before `6.12.10`.
pub(crate) fn natural(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(String, u64)> {
        let mut parts = vec![(String::new(), 0_u64)];
        let mut in_number = false;
        for c in text.chars() {
            if let Some(digit) = c.to_digit(10) {
                in_number = true;
                if let Some((_, number)) = parts.last_mut() {
                    *number = number.saturating_mul(10).saturating_add(u64::from(digit));
                }
            } else {
                if std::mem::take(&mut in_number) {
                    parts.push((String::new(), 0));
                }
                if let Some((word, _)) = parts.last_mut() {
                    word.push(c);
                }
            }
        }
        parts
    };
    parts(one).cmp(&parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_ordered_as_people_count() {
        let mut names = ["vmlinuz-6.12.10-amd64", "vmlinuz-6.12.9-amd64", "vmlinuz-6.1.0-amd64"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["vmlinuz-6.1.0-amd64", "vmlinuz-6.12.9-amd64", "vmlinuz-6.12.10-amd64"]);
    }
}
