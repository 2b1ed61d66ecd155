//! Disks that are sound: what is read from them, and how they get into a store.

use std::path::{Path, PathBuf};

use crate::info::{Content, inspect};
use crate::{DiskBus, Error, Origin, Sidecar, Store, fixture, injection};

const BY_UUID: &str = "UUID=0b9b9b9e-1111-4222-8333-444455556666 / ext4 defaults 0 1\n";
const BY_NAME: &str =
    "# from a wks file\n/dev/sda2 / ext4 defaults 0 1\n/dev/sda1  /boot/efi  vfat umask=0077 0 2\n";

fn disk(dir: &Path, fstab: &str) -> PathBuf {
    let path = dir.join("own.wic");
    fixture::disk(&path, fstab);
    path
}

#[test]
fn info_reads_table_esp_and_root() {
    let dir = tempfile::tempdir().unwrap();
    let info = inspect(&disk(dir.path(), BY_UUID)).unwrap();
    assert_eq!(info.warnings, [] as [&str; 0]);
    assert_eq!(info.bytes, fixture::DISK);
    let [esp, root] = &info.partitions[..] else { panic!("{info:?}") };
    assert_eq!(esp.partition.kind_name, Some("EFI system"));
    let Content::Vfat { files, problem: None, .. } = &esp.content else { panic!("{esp:?}") };
    let mut names: Vec<(&str, u64)> = files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            ("EFI/BOOT/BOOTX64.EFI", 8),
            ("loader/entries/own.conf", 83),
            ("own-initrd.img", 100_000),
            ("vmlinuz", 8)
        ]
    );
    let Content::Ext4 { label, os, kernels, systemd, packages, space, .. } = &root.content else {
        panic!("{root:?}")
    };
    assert_eq!((label.as_str(), os.as_deref()), ("rootfs", Some("Own Linux 1")));
    assert_eq!((kernels.as_slice(), *systemd, *packages), (["6.1.0".to_owned()].as_slice(), Some(252), 1));
    let (bytes, free) = space.unwrap();
    assert!(bytes == fixture::ROOT.1 && free > bytes / 2 && free < bytes, "{free} of {bytes}");
    let text = info.to_string();
    for part in ["GPT", "EFI/BOOT/BOOTX64.EFI", "Own Linux 1", "systemd   252", "PARTUUID="] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    serde_json::to_string(&info).unwrap();
}

#[test]
fn an_fstab_by_device_name_is_warned_of_with_the_bus_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let info = inspect(&disk(dir.path(), BY_NAME)).unwrap();
    assert_eq!(info.warnings.len(), 2, "{:?}", info.warnings);
    assert!(info.warnings[0].contains("/dev/sda2") && info.warnings[0].contains("bus = \"virtio-scsi\""));
    assert!(info.warnings[0].contains("emergency mode"));
}

#[test]
fn an_image_by_path_boots_directly_with_its_own_kernel_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = disk(dir.path(), BY_NAME);
    let store = Store::open(dir.path().join("cache")).unwrap().with_override("server", &path);
    let image = store.image("server").unwrap();
    assert_eq!(image.disk, path.canonicalize().unwrap());
    assert_eq!(std::fs::read(image.kernel.as_ref().unwrap()).unwrap(), b"a kernel");
    assert_eq!(std::fs::read(image.initrd.as_ref().unwrap()).unwrap().len(), 100_000);
    assert_eq!(image.cmdline, "root=LABEL=rootfs rw quiet console=ttyS0");
    assert_eq!((image.bus, image.firmware, image.systemd), (DiskBus::VirtioBlk, true, Some(252)));
    assert!(matches!(&image.origin, Origin::Override(by) if by.contains("--image")), "{:?}", image.origin);

    let toml = "bus = \"virtio-scsi\"\nway_in = \"shell\"\n[login]\nuser = \"root\"\npassword = \"x\"\n[boot]\nfirmware = false\n";
    std::fs::write(dir.path().join("own.toml"), toml).unwrap();
    let image = store.image("server").unwrap();
    assert_eq!((image.bus, image.firmware), (DiskBus::VirtioScsi, false));
    assert_eq!(image.login.unwrap().password, "x");
    assert!(inspect(&path).is_ok(), "the disk is as it was");
}

#[test]
fn a_digest_follows_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = disk(dir.path(), BY_UUID);
    let store = Store::open(dir.path().join("cache")).unwrap().with_override("server", &path);
    let first = store.image("server").unwrap().digest;
    assert_eq!(store.image("server").unwrap().digest, first);
    fixture::disk(&path, BY_NAME);
    assert_ne!(store.image("server").unwrap().digest, first);
}

#[test]
fn an_import_goes_before_the_recipe_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = disk(dir.path(), BY_UUID);
    let store = Store::open(dir.path().join("cache")).unwrap();
    assert!(store.cached("server").unwrap().is_none());
    store.import("server", &path, &Sidecar { bus: Some(DiskBus::Sata), ..Sidecar::default() }).unwrap();
    std::fs::remove_file(&path).unwrap();
    let image = store.image("server").unwrap();
    assert_eq!((&image.origin, image.bus), (&Origin::Import, DiskBus::Sata));
    assert!(image.disk.starts_with(store.root()) && image.direct());
    store.verify("server").unwrap();
    assert_eq!(store.remove("server").unwrap().len(), 1);
    assert!(store.cached("server").unwrap().is_none());
}

#[test]
fn what_an_override_names_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("cache")).unwrap().with_override("server", "/no/such.wic");
    let text = store.image("server").unwrap_err().to_string();
    assert_eq!(text, "/no/such.wic does not exist; --image server=… names it");
    let error = store.image("sever").unwrap_err();
    assert!(
        matches!(&error, Error::UnknownImage { known, .. } if known.contains(&"server".to_owned())),
        "{error}"
    );
    assert!(error.to_string().contains("RACKLESS_IMAGE_SEVER"), "{error}");
    assert!(matches!(store.image("../x"), Err(Error::BadName { .. })));
}

#[test]
fn an_agent_is_written_into_a_copy_for_an_old_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let path = disk(dir.path(), BY_UUID);
    let before = cache::sparse::digest(&path).unwrap();
    let agent = dir.path().join("agent");
    std::fs::write(&agent, vec![9; 300_000]).unwrap();
    let injection = injection::Injection {
        agent: true,
        hostname: Some("server-1".into()),
        networkd: vec![("20-a.network".into(), "[Match]\nName=eth1\n".into())],
        udev: vec![("05-names.rules".into(), "# a rule\n".into())],
        ..injection::Injection::default()
    };
    let copy = dir.path().join("copy.wic");
    injection::by_debugfs(&path, &copy, &agent, &injection).unwrap();
    assert_eq!(cache::sparse::digest(&path).unwrap(), before, "the image is as it was");

    let file = std::sync::Arc::new(std::fs::File::open(&copy).unwrap());
    let root = crate::disk::ext4::Root::at(file, fixture::ROOT.0, fixture::ROOT.1).unwrap();
    assert_eq!(root.text("/etc/hostname").unwrap(), "server-1\n");
    assert_eq!(root.text("/etc/systemd/network/20-a.network").unwrap(), "[Match]\nName=eth1\n");
    assert_eq!(root.text("/etc/udev/rules.d/05-names.rules").unwrap(), "# a rule\n");
    assert_eq!(root.ownership("/usr/local/lib/rackless/rackless-agent"), Some((0, 0, 0o755)));
    let unit = root.text("/etc/systemd/system/sysinit.target.wants/rackless-agent.service").unwrap();
    assert!(unit.contains("ExecStart=/usr/local/lib/rackless/rackless-agent\n"), "{unit}");
}

#[test]
fn an_agent_disk_is_made_once_for_each_binary() {
    let dir = tempfile::tempdir().unwrap();
    let agent = dir.path().join("agent");
    std::fs::write(&agent, vec![1; 3_000_000]).unwrap();
    let store = Store::open(dir.path().join("cache")).unwrap();
    let disk = store.agent_disk(&agent).unwrap();
    let made = disk.metadata().unwrap().modified().unwrap();
    assert_eq!(store.agent_disk(&agent).unwrap(), disk);
    assert_eq!(disk.metadata().unwrap().modified().unwrap(), made);
    let bytes = disk.metadata().unwrap().len();
    let root =
        crate::disk::ext4::Root::at(std::sync::Arc::new(std::fs::File::open(&disk).unwrap()), 0, bytes)
            .unwrap();
    assert!(root.read("/rackless-agent").unwrap() == vec![1; 3_000_000]);
    assert_eq!(root.ownership("/rackless-agent"), Some((0, 0, 0o755)));
    std::fs::write(&agent, [2; 10]).unwrap();
    assert_ne!(store.agent_disk(&agent).unwrap(), disk);
}
