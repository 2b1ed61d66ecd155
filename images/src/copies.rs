//! Disks that something was written into: a copy of an image for one machine, kept so that the next run has the very same
//! file, on which a checkpoint's disk can stand.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cache::sparse;

use crate::build::filesystem;
use crate::error::{At, Error};
use crate::injection::{Injection, by_debugfs};
use crate::progress::Reporter;
use crate::store::Store;
use crate::{build, foreign};

/// How many stay beyond those that were used lately.
const KEPT: usize = 16;
/// What was used since then may be some running machine's.
const LATELY: Duration = Duration::from_secs(2 * 3600);

impl Store {
    /// The disk at `disk` with `injection` written into its root, as [`by_debugfs`] does: a file of the cache, made once
    /// for this state of the disk, this agent and this injection. It is not to be written to.
    ///
    /// # Errors
    /// As [`by_debugfs`]; [`Error::File`] when the cache can't be written.
    pub fn copy_with(&self, disk: &Path, agent: &Path, injection: &Injection) -> Result<PathBuf, Error> {
        let disk = &disk.canonicalize().at("find", disk)?;
        let mut hasher = blake3::Hasher::new_derive_key("rackless images 2026 copies");
        for part in
            [build::BUILDER, &foreign::state(disk, None)?, &sparse::digest(agent)?, &format!("{injection:?}")]
        {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let copies = self.root().join("copies");
        let entry = copies.join(format!("copy-{}", &hasher.finalize().to_hex()[..32]));
        let held = self.lock(&entry, &Reporter::new("copy", None))?;
        if !entry.is_dir() {
            let work = self.work_dir(&entry);
            filesystem::remove(&work)?;
            std::fs::create_dir_all(&work).at("make", &work)?;
            by_debugfs(disk, &work.join(build::DISK), agent, injection)?;
            self.put(&work, &entry)?;
        }
        // The time of last use, by which old ones go; a cache that can't be written is still good to read.
        let _ = std::fs::File::open(&entry).and_then(|file| file.set_modified(SystemTime::now()));
        drop(held);
        self.prune(&copies)?;
        Ok(entry.join(build::DISK))
    }

    /// Removes the copies that were used longest ago.
    fn prune(&self, copies: &Path) -> Result<(), Error> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(copies).at("read", copies)? {
            let entry = entry.at("read", copies)?;
            // Another process may prune at the same time.
            if let Ok(used) = entry.metadata().and_then(|meta| meta.modified()) {
                all.push((used, entry.path()));
            }
        }
        all.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        let old = |used: SystemTime| used.elapsed().is_ok_and(|age| age > LATELY);
        for (_, path) in all.into_iter().skip(KEPT).filter(|(used, _)| old(*used)) {
            filesystem::remove(&path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A cache, a disk and an agent.
    struct Bench {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().unwrap();
            fixture::disk(&dir.path().join("own.wic"), "");
            std::fs::write(dir.path().join("agent"), "an agent").unwrap();
            let store = Store::open(dir.path().join("cache")).unwrap();
            Bench { dir, store }
        }

        fn copy(&self, hostname: &str) -> PathBuf {
            let injection =
                Injection { agent: true, hostname: Some(hostname.into()), ..Injection::default() };
            let (disk, agent) = (self.dir.path().join("own.wic"), self.dir.path().join("agent"));
            self.store.copy_with(&disk, &agent, &injection).unwrap()
        }

        fn seen(&self, copy: &Path) -> (std::time::SystemTime, u64) {
            let meta = std::fs::metadata(copy).unwrap();
            (meta.modified().unwrap(), std::os::unix::fs::MetadataExt::ino(&meta))
        }
    }

    #[test]
    fn the_same_is_the_same_file_and_anything_else_another() {
        let bench = Bench::new();
        let first = bench.copy("server-1");
        let seen = bench.seen(&first);
        let again = Store::open(bench.dir.path().join("cache")).unwrap();
        let bench = Bench { store: again, ..bench };
        assert_eq!((bench.copy("server-1"), bench.seen(&first)), (first.clone(), seen));
        assert_ne!(bench.copy("server-2"), first);
        std::fs::write(bench.dir.path().join("agent"), "another").unwrap();
        assert_ne!(bench.copy("server-1"), first);
    }

    #[test]
    fn those_used_longest_ago_go_unless_it_was_lately() {
        let bench = Bench::new();
        let kept = bench.copy("server-1");
        let copies = bench.dir.path().join("cache/copies");
        for (number, hours) in (0..KEPT).map(|number| (number, 1)).chain([(KEPT, 3), (KEPT + 1, 4)]) {
            let old = copies.join(format!("copy-{number}"));
            std::fs::create_dir(&old).unwrap();
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            std::fs::File::open(&old).unwrap().set_modified(then).unwrap();
        }
        bench.copy("server-1");
        let left = std::fs::read_dir(&copies).unwrap().count();
        assert_eq!(
            (left, kept.exists()),
            (KEPT + 1, true),
            "those of the last two hours, and the one in use"
        );
    }
}
