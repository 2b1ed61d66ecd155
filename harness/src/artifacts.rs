//! Where a run leaves its artefacts, and for how long they stay.
//!
//! `target/rackless/<run>/<suite>/<test>/`, with `latest` pointing to the newest run. Every process of a run holds a
//! shared lock on the run's `run.lock`, so that a run that goes on is never cleaned away, and one whose processes
//! were killed is.

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err as fs;

use crate::{Error, Settings};

const LOCK: &str = "run.lock";

/// The directory of this process's run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    _lock: std::fs::File,
}

impl Run {
    /// Makes or joins the run's directory, points `latest` at it and removes the oldest runs.
    pub(crate) fn open(settings: &Settings) -> Result<Self, Error> {
        let root = match &settings.artifacts {
            Some(dir) => std::path::absolute(dir).map_err(Error::io("find", dir))?,
            None => target_dir().join("rackless"),
        };
        let name = run_name(settings);
        let dir = root.join(&name);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let path = dir.join(LOCK);
        let lock = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()).map(|()| file))
            .map_err(Error::io("create", &path))?;
        // Only retention takes this lock exclusively, and it leaves the newest run alone.
        lock.lock_shared().map_err(Error::io("lock", &path))?;
        point_latest(&root, &name);
        retain(&root, settings.keep_runs.max(1));
        Ok(Self { name, dir, _lock: lock })
    }

    /// The directory of a suite in this run.
    pub(crate) fn suite_dir(&self, suite: &str) -> PathBuf {
        self.dir.join(sanitise(suite))
    }

    /// A new directory for a test; `name~2` when the test already ran in this run.
    pub(crate) fn test_dir(&self, suite: &str, test: &str) -> Result<PathBuf, Error> {
        let parent = self.suite_dir(suite);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let name = sanitise(test);
        let mut attempt = 1;
        loop {
            let dir = parent.join(if attempt == 1 { name.clone() } else { format!("{name}~{attempt}") });
            match std::fs::create_dir(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => return Err(Error::io("create", dir)(error)),
            }
        }
    }
}

fn run_name(settings: &Settings) -> String {
    if let Some(name) = settings.run_name.as_deref().filter(|name| !name.is_empty()) {
        return sanitise(name);
    }
    // One process per test, all of one run.
    if let Ok(id) = std::env::var("NEXTEST_RUN_ID") {
        return sanitise(&format!("nextest-{id}"));
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("{now}-{}", std::process::id())
}

/// Cargo's target directory, found from where this binary lies: cargo marks it with `CACHEDIR.TAG`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let marked = exe.ancestors().skip(1).find(|dir| dir.join("CACHEDIR.TAG").is_file());
    marked.map(Path::to_path_buf).unwrap_or_else(|| {
        let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let beside = || {
            Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into())).join("target")
        };
        let dir = named.unwrap_or_else(beside);
        std::path::absolute(&dir).unwrap_or(dir)
    })
}

/// A name that is safe as a file name, short, and different for different names: `::` becomes a dot, and a name
/// that loses anything else gets a digest at its end.
pub(crate) fn sanitise(name: &str) -> String {
    const LONGEST: usize = 100;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let short: String = name.replace("::", ".").chars().take(LONGEST).collect();
    let lossless = short.len() == name.replace("::", ".").len()
        && !name.is_empty()
        && !name.starts_with(':')
        && name.replace("::", "").chars().all(plain);
    if lossless {
        return short;
    }
    let safe =
        short.chars().enumerate().map(|(at, c)| if plain(c) || (c == '.' && at > 0) { c } else { '_' });
    format!("{}-{:08x}", safe.collect::<String>(), fnv(name))
}

/// FNV-1a, folded to 32 bits: stable over releases of Rust, unlike the standard hasher.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Best effort: a missing `latest` only costs a look at the directory.
fn point_latest(root: &Path, name: &str) {
    let fresh = root.join(format!(".latest-{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    if std::os::unix::fs::symlink(name, &fresh).is_ok()
        && std::fs::rename(&fresh, root.join("latest")).is_err()
    {
        let _ = std::fs::remove_file(&fresh);
    }
}

/// Removes all but the newest `keep` runs. Only directories with our lock file are runs; a run with a living
/// process is left alone.
fn retain(root: &Path, keep: usize) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let mut runs: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let used = std::fs::metadata(entry.path().join(LOCK)).ok()?.modified().ok()?;
            Some((used, entry.path()))
        })
        .collect();
    runs.sort();
    runs.reverse();
    for (_, dir) in runs.into_iter().skip(keep) {
        let Ok(lock) = std::fs::File::open(dir.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                if let Err(error) = std::fs::remove_dir_all(&dir) {
                    eprintln!("rackless: an old run stays, {} cannot be removed: {error}", dir.display());
                }
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(dir: &Path, run: &str, keep_runs: usize) -> Settings {
        Settings {
            artifacts: Some(dir.to_path_buf()),
            run_name: Some(run.to_owned()),
            keep_runs,
            ..Settings::default()
        }
    }

    #[test]
    fn names_stay_readable() {
        assert_eq!(sanitise("forms::debian::firmware"), "forms.debian.firmware");
        assert_eq!(sanitise("server-1"), "server-1");
        assert_ne!(sanitise("a/b"), sanitise("a b"));
        assert_ne!(sanitise("a.b"), sanitise("a::b"));
        assert!(!sanitise("..").starts_with('.'));
    }

    proptest! {
        #[test]
        fn names_are_safe_and_distinct(a in "\\PC{0,150}", b in "\\PC{0,150}") {
            let safe = sanitise(&a);
            prop_assert!(!safe.is_empty() && safe.len() < 120 && !safe.starts_with('.'));
            prop_assert!(safe.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
            prop_assert_eq!(a == b, safe == sanitise(&b));
        }
    }

    #[test]
    fn old_runs_go_and_running_ones_stay() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let running = Run::open(&settings(root.path(), "first", 2)).expect("opens");
        fs::create_dir(root.path().join("not-ours")).expect("creates");
        for run in ["second", "third", "fourth"] {
            drop(Run::open(&settings(root.path(), run, 2)).expect("opens"));
        }
        let left = |name: &str| root.path().join(name).exists();
        assert!(left("first"), "its process lives");
        assert!(!left("second") && left("third") && left("fourth") && left("not-ours"));
        assert_eq!(fs::read_link(root.path().join("latest")).expect("a link"), Path::new("fourth"));
        drop(running);
        drop(Run::open(&settings(root.path(), "fifth", 1)).expect("opens"));
        assert!(!left("first") && !left("fourth") && left("fifth"));
    }

    #[test]
    fn a_repeated_test_gets_its_own_directory() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let run = Run::open(&settings(root.path(), "run", 2)).expect("opens");
        assert!(run.test_dir("suite", "t").expect("creates").ends_with("t"));
        assert!(run.test_dir("suite", "t").expect("creates").ends_with("t~2"));
    }
}
