//! Checkpoints as files: what is refused, what is kept, what goes first.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::manifest::{SavedFile, SavedMachine};
use super::{Checkpoint, CheckpointError, Store};

/// A checkpoint of one machine in `directory`, with `kib` KiB of memory.
fn make(directory: &Path, kib: usize) {
    fs::create_dir_all(directory).unwrap();
    for (name, content) in
        [("a.state", vec![1; 300]), ("a.qcow2", vec![2; 300]), ("a.ram", vec![3; kib << 10])]
    {
        fs::write(directory.join(name), content).unwrap();
    }
    let file = |name: &str| SavedFile::of(directory, name.into()).unwrap();
    let machine = SavedMachine {
        name: "a".into(),
        named_memory: true,
        state: file("a.state"),
        ram: Some(file("a.ram")),
        disk: file("a.qcow2"),
        data: Vec::new(),
        vars: None,
        nics: Vec::new(),
        paused: false,
    };
    Checkpoint::write(directory, ("lab", "formed 1"), vec![machine], Vec::new()).unwrap();
}

fn refusal(directory: &Path) -> String {
    Checkpoint::open(directory).unwrap_err().to_string().replace(directory.to_str().unwrap(), "DIR")
}

fn edit_manifest(directory: &Path, from: &str, to: &str) {
    let path = directory.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn a_whole_checkpoint_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 4);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        (checkpoint.manifest().lab.as_str(), checkpoint.manifest().about.as_str()),
        ("lab", "formed 1")
    );
    let lengths: Vec<_> = checkpoint.manifest().machines[0].lengths().collect();
    assert_eq!(lengths, [("a.state", 300), ("a.qcow2", 300), ("a.ram", 4096)]);
}

#[test]
fn one_changed_byte_is_refused_also_after_it_was_found_in_order() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 4);
    Checkpoint::open(dir.path()).unwrap();
    let ram = dir.path().join("a.ram");
    let before = fs::metadata(&ram).unwrap().modified().unwrap();
    let mut content = fs::read(&ram).unwrap();
    content[2000] ^= 1;
    fs::write(&ram, content).unwrap();
    // Who hides a change sets the time back.
    fs::File::options().write(true).open(&ram).unwrap().set_modified(before).unwrap();
    let told = refusal(dir.path());
    assert!(told.starts_with("the checkpoint DIR is damaged: a.ram has the digest "), "{told}");
    assert!(told.ends_with("remove it with `rackless checkpoint rm`"), "{told}");
}

#[test]
fn a_file_that_is_cut_or_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 4);
    fs::File::options().write(true).open(dir.path().join("a.state")).unwrap().set_len(100).unwrap();
    assert!(refusal(dir.path()).contains("a.state has 100 bytes, not 300"));
    fs::remove_file(dir.path().join("a.state")).unwrap();
    assert!(refusal(dir.path()).contains("a.state: No such file or directory"));
}

#[test]
fn what_is_no_checkpoint_of_this_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("manifest.json: No such file"));
    make(dir.path(), 4);
    edit_manifest(dir.path(), "\"version\": 2", "\"version\": 1");
    assert_eq!(refusal(dir.path()), "DIR is no checkpoint: its layout has the version 1, not 2");
    fs::write(dir.path().join("manifest.json"), "{").unwrap();
    assert!(refusal(dir.path()).starts_with("DIR is no checkpoint: manifest.json: EOF"));
}

#[test]
fn a_manifest_does_not_reach_out_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 4);
    edit_manifest(dir.path(), "a.qcow2", "../a.qcow2");
    assert_eq!(refusal(dir.path()), "DIR is no checkpoint: \"../a.qcow2\" is no file of it");
}

#[test]
fn a_changed_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 4);
    edit_manifest(dir.path(), "\"paused\": false", "\"paused\": true");
    let told = refusal(dir.path());
    assert!(told.starts_with("the checkpoint DIR is damaged: manifest.json has the digest "), "{told}");
}

/// A store with room for `kib`.
fn store(root: &Path, kib: u64) -> Store {
    Store::with_limit(root, kib << 10).unwrap()
}

fn put(store: &Store, key: &str, kib: usize) {
    let entry = store.make(key, |_| panic!("nobody else is at it")).unwrap();
    make(&entry.directory().unwrap(), kib);
    entry.put().unwrap();
}

fn keys(store: &Store) -> Vec<String> {
    store.list().unwrap().into_iter().map(|listed| listed.key).collect()
}

#[test]
fn what_was_put_is_found_and_what_was_removed_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 20);
    assert!(store.get("k").unwrap().is_none());
    put(&store, "k", 64);
    assert_eq!(store.get("k").unwrap().unwrap().manifest().lab, "lab");
    let listed = &store.list().unwrap()[0];
    assert!((64 << 10..96 << 10).contains(&listed.bytes), "{}", listed.bytes);
    assert!(store.remove("k").unwrap() && !store.remove("k").unwrap());
    assert!(store.get("k").unwrap().is_none());
}

#[test]
fn the_one_used_longest_ago_goes_first_and_the_new_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 250);
    put(&store, "first", 100);
    put(&store, "second", 100);
    let then = SystemTime::now() - Duration::from_secs(60);
    fs::File::open(dir.path().join("entries/second")).unwrap().set_modified(then).unwrap();
    store.get("first").unwrap().unwrap();
    put(&store, "third", 100);
    assert_eq!(keys(&store), ["third", "first"]);
    put(&store, "larger than all", 400);
    assert_eq!(keys(&store), ["larger than all"]);
}

#[test]
fn what_a_killed_process_left_is_cleared_and_what_is_being_made_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path(), 1000);
    let entry = first.make("k", |_| panic!("nobody else is at it")).unwrap();
    let half = entry.directory().unwrap();
    fs::write(half.join("a.ram"), "half").unwrap();
    let second = store(dir.path(), 1000);
    assert!(half.exists() && second.get("k").unwrap().is_none() && !second.remove("k").unwrap());
    drop(entry);
    assert!(!half.exists(), "who gives up leaves nothing");
    // As when its process is killed: the kernel gives the lock back, and nothing more.
    fs::create_dir(&half).unwrap();
    fs::write(half.join("a.ram"), "half").unwrap();
    store(dir.path(), 1000);
    assert!(!half.exists());
}

#[test]
fn the_second_maker_waits_for_the_first_and_finds_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1000);
    let entry = store.make("k", |_| panic!("nobody else is at it")).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let held = store.make("k", |pid| told.send(pid).unwrap()).unwrap();
            (store.get("k").unwrap().is_some(), held)
        });
        assert_eq!(hears.recv().unwrap(), Some(std::process::id()));
        make(&entry.directory().unwrap(), 1);
        entry.put().unwrap();
        assert!(second.join().unwrap().0);
    });
}

#[test]
fn errors_are_the_hosts() {
    let error = crate::Error::from(CheckpointError::Unfit { machine: "server-1".into(), why: "it is off" });
    assert_eq!(error.kind(), crate::Kind::Infra);
    assert_eq!(error.to_string(), "server-1 can't be part of a checkpoint: it is off");
}
