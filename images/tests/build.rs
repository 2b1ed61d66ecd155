//! The real thing: the server image from packages, and what must be true of it. It takes a minute and a mirror, so it
//! runs only when asked for: `cargo test -p images --test build -- --ignored`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use images::info::{Content, inspect};
use images::{Origin, Phase, Store};

/// Runs one command of debugfs on the root and gives what it prints.
fn debugfs(disk: &Path, offset: u64, command: &str) -> String {
    let command = process::Command::new("debugfs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-R", command])
        .arg(format!("{}?offset={offset}", disk.display()));
    let output = process::run_blocking(command, Duration::from_secs(60)).unwrap();
    output.stdout_text().into_owned() + &output.stderr_text()
}

#[test]
#[ignore = "builds an image from packages: a minute, and a mirror"]
fn the_server_image_is_what_tests_need_and_holds_no_machines_content() {
    let dir = tempfile::tempdir().unwrap();
    let phases = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let seen = phases.clone();
    let store = Store::open(dir.path()).unwrap().on_progress(move |progress| {
        seen.lock().unwrap().insert(progress.phase);
    });
    let recipe = store.recipe("server").unwrap();
    let manifest = store.build(&recipe, false).unwrap();
    let begun = Instant::now();
    let image = store.cached("server").unwrap().expect("it was built");
    assert!(begun.elapsed() < Duration::from_secs(1), "a cached image is there at once");
    assert_eq!((&image.origin, &image.digest), (&Origin::Recipe, &manifest.digest));
    for phase in [Phase::Download, Phase::Install, Phase::Pack, Phase::Filesystem, Phase::Esp, Phase::Done] {
        assert!(phases.lock().unwrap().contains(&phase), "{phase} was not told");
    }
    for package in ["etcd-server", "iputils-ping", "iperf3", "tcpdump", "systemd"] {
        assert!(manifest.packages.contains_key(package), "{package} is missing");
    }
    for package in ["systemd-timesyncd", "unattended-upgrades", "openssh-server", "man-db"] {
        assert!(!manifest.packages.contains_key(package), "{package} is there");
    }
    assert!(image.systemd.unwrap() >= images::injection::CREDENTIALS_SINCE);
    assert!(image.cmdline.starts_with("root=PARTUUID=") && image.cmdline.ends_with("console=ttyS0"));

    let info = inspect(&image.disk).unwrap();
    assert!(info.warnings.is_empty(), "{:?}", info.warnings);
    assert!(info.allocated < info.bytes / 2, "the disk is sparse");
    let root = &info.partitions[1];
    let Content::Ext4 { space: Some((_, free)), .. } = root.content else { panic!("{root:?}") };
    assert!(free > 400 << 20, "{free} bytes are free");

    let at = root.partition.start;
    for path in ["/etc/hostname", "/etc/resolv.conf", "/var/lib/dbus/machine-id", "/etc/ssh/ssh_host_rsa_key"]
    {
        let said = debugfs(&image.disk, at, &format!("stat {path}"));
        assert!(said.contains("File not found"), "{path} is in the image: {said}");
    }
    assert!(debugfs(&image.disk, at, "stat /etc/machine-id").contains("Size: 0"));
    // Owners, setuid and modes as the packages want them.
    let shadow = debugfs(&image.disk, at, "stat /etc/shadow");
    assert!(shadow.contains("Group:    42") && shadow.contains("Mode:  0640"), "{shadow}");
    assert!(debugfs(&image.disk, at, "stat /usr/bin/su").contains("Mode:  04755"));
    let wanted = debugfs(&image.disk, at, "ls -p /etc/systemd/system/multi-user.target.wants");
    assert!(wanted.contains("systemd-networkd.service") && !wanted.contains("etcd"), "{wanted}");
    assert!(!debugfs(&image.disk, at, "ls -p /etc/systemd/system/timers.target.wants").contains("apt"));

    let derived = store.recipe("stranger").unwrap();
    store.build(&derived, false).unwrap();
    let stranger = store.cached("stranger").unwrap().unwrap();
    let warnings = inspect(&stranger.disk).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("/dev/sda1")), "{warnings:?}");
    assert!(stranger.provides.contains("etcd"));
    for name in ["server", "stranger"] {
        store.verify(name).unwrap();
    }
}
