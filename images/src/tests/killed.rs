//! A build whose process is killed: a copy of this test program builds with an mmdebstrap that never ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use process::{Command, Signal};

use crate::Store;

const CACHE: &str = "RACKLESS_TEST_KILLED_CACHE";

/// Not a test of its own: what the killed process does.
#[test]
#[ignore = "started by `a_killed_build_leaves_no_half_entry`"]
fn build_until_killed() {
    let Some(cache) = std::env::var_os(CACHE) else { return };
    let store = Store::open(cache).unwrap();
    let recipe = store.recipe("server").unwrap();
    panic!("{:?}", store.build(&recipe, false));
}

fn fake(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_killed_build_leaves_no_half_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (tools, cache) = (dir.path().join("bin"), dir.path().join("cache"));
    std::fs::create_dir(&tools).unwrap();
    fake(&tools, "mmdebstrap", "echo half a tar; echo 'I: downloading packages' >&2; exec sleep 600");
    fake(&tools, "newuidmap", "exit 0");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let builder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "tests::killed::build_until_killed"])
        .env(CACHE, &cache)
        .env("TMPDIR", dir.path())
        .env("PATH", path)
        .stdout(process::Stdio::Null)
        .stderr(process::Stdio::Null);
    let child = process::spawn(builder).unwrap();
    let begun = Instant::now();
    let half = || {
        let tmp = std::fs::read_dir(cache.join("tmp")).ok()?;
        tmp.flatten()
            .map(|entry| entry.path().join("root.tar"))
            .find(|tar| tar.metadata().is_ok_and(|m| m.len() > 0))
    };
    while half().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the build did not begin");
        assert!(child.try_status().is_none(), "the build ended by itself");
        std::thread::yield_now();
    }
    child.signal_group(Signal::KILL).unwrap();
    assert!(child.wait_blocking(Duration::from_secs(20)).is_some());

    assert!(half().is_some(), "the kill left its remains");
    let store = Store::open(&cache).unwrap();
    assert!(half().is_none(), "they are swept");
    assert!(store.cached("server").unwrap().is_none());
    assert_eq!(std::fs::read_dir(cache.join("entries")).unwrap().count(), 0);
}
