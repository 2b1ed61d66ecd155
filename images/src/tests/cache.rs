//! The cache: damage, remains, waiting.

use std::sync::mpsc;

use crate::{Error, Phase, Sidecar, Store, fixture};

#[test]
fn damage_is_found_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.wic");
    fixture::disk(&own, "");
    let store = Store::open(dir.path().join("cache")).unwrap();
    store.import("own", &own, &Sidecar::default()).unwrap();
    let disk = store.image("own").unwrap().disk;
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 3 << 20).unwrap();
    assert!(store.image("own").is_ok(), "each use looks at sizes only");
    let text = store.verify("own").unwrap_err().to_string();
    assert!(text.contains("disk.wic has digest") && text.contains("rackless image rm own"), "{text}");
    file.set_len(1 << 20).unwrap();
    let error = store.image("own").unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { problem, .. } if problem.contains("1048576 bytes instead of")),
        "{error}"
    );
    std::fs::write(disk.with_file_name("manifest.json"), "{").unwrap();
    assert!(matches!(store.image("own"), Err(Error::Corrupt { .. })));
    store.remove("own").unwrap();
}

#[test]
fn remains_are_swept_unless_their_lock_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cache");
    let store = Store::open(&root).unwrap();
    for name in ["dead-0000", "alive-0000"] {
        std::fs::create_dir_all(root.join("tmp").join(name)).unwrap();
        std::fs::write(root.join("tmp").join(name).join("disk.wic"), "half").unwrap();
    }
    let report = crate::progress::Reporter::new("alive", None);
    let held = store.lock(&root.join("entries/alive-0000"), &report).unwrap();
    Store::open(&root).unwrap();
    let left = || -> Vec<_> {
        std::fs::read_dir(root.join("tmp")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(left(), ["alive-0000"]);
    drop(held);
    Store::open(&root).unwrap();
    assert!(left().is_empty());
}

#[test]
fn who_comes_second_waits_and_takes_the_first_ones_image() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.wic");
    fixture::disk(&own, "");
    let root = dir.path().join("cache");
    let first = Store::open(&root).unwrap();
    let (told, hears) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let second = Store::open(&root).unwrap().on_progress(move |progress| {
        if progress.phase == Phase::Waiting {
            told.lock().unwrap().send(progress.to_string()).unwrap();
        }
    });
    let report = crate::progress::Reporter::new("own", None);
    let held = first.lock(&first.import_dir("own"), &report).unwrap();
    std::thread::scope(|scope| {
        let import = scope.spawn(|| second.import("own", &own, &Sidecar::default()).unwrap());
        let line = hears.recv().unwrap();
        assert!(line.contains(&format!("waiting: process {} is at it", std::process::id())), "{line}");
        assert!(!import.is_finished());
        drop(held);
        import.join().unwrap();
    });
    assert!(first.image("own").is_ok());
}
