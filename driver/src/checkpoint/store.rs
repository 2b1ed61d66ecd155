//! The cache of checkpoints, shared by processes and users' runs.
//!
//! ```text
//! <cache>/entries/<key>/   a checkpoint
//! <cache>/tmp/<key>/       one that is being made; its remains, if nobody holds the lock
//! <cache>/locks/<key>      held by who makes or removes the entry
//! ```
//!
//! An entry is made under `tmp` and renamed, so that a kill leaves no half entry. Running machines hold what they were
//! restored from by descriptors and mappings: an entry that is removed under them goes on being theirs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cache::{At as _, EntryLock};

use super::{Checkpoint, CheckpointError, manifest};

/// What all checkpoints together may take on disk, in GiB, unless `RACKLESS_CHECKPOINTS_GIB` says otherwise.
const LIMIT_GIB: u64 = 8;

/// The cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    limit: u64,
}

/// A checkpoint of the cache, for lists.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Where it lies.
    pub directory: PathBuf,
    /// What it is, unless it can't be read.
    pub manifest: Option<manifest::Manifest>,
    /// What it takes on disk, in bytes; holes take nothing.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// A place in the cache that is this process's to fill.
#[derive(Debug)]
pub struct Entry {
    store: Store,
    key: String,
    _lock: EntryLock,
}

impl Store {
    /// Where the cache is: the folder `checkpoints` of [`cache::root`].
    #[must_use]
    pub fn default_root() -> PathBuf {
        cache::root().join("checkpoints")
    }

    /// Opens the cache at `root`, makes it if it is not there, and removes what killed processes left. It takes
    /// 8 GiB at most, or as many as `RACKLESS_CHECKPOINTS_GIB` says.
    ///
    /// # Errors
    /// [`CheckpointError::File`] when its directories can't be made, [`CheckpointError::Limit`] when the variable makes
    /// no sense.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let asked = std::env::var("RACKLESS_CHECKPOINTS_GIB").unwrap_or_default();
        let gib = match asked.as_str() {
            "" => LIMIT_GIB,
            text => text.parse::<u32>().map_err(|_| CheckpointError::Limit { asked: asked.clone() })?.into(),
        };
        Self::with_limit(root, gib << 30)
    }

    /// The same with a limit of its own.
    ///
    /// # Errors
    /// [`CheckpointError::File`] when its directories can't be made.
    pub fn with_limit(root: impl Into<PathBuf>, limit: u64) -> Result<Self, CheckpointError> {
        let store = Self { root: root.into(), limit };
        for directory in ["entries", "tmp", "locks"] {
            let directory = store.root.join(directory);
            fs::create_dir_all(&directory).at("make", &directory)?;
        }
        for (key, path) in names(&store.root.join("tmp"))? {
            if let Some(_held) = EntryLock::try_take(&store.lock_path(&key))? {
                fs::remove_dir_all(&path).at("remove", &path)?;
            }
        }
        Ok(store)
    }

    /// The checkpoint of a key, whole and checked; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointError::Foreign`], [`CheckpointError::Damaged`], [`CheckpointError::File`].
    pub fn get(&self, key: &str) -> Result<Option<Checkpoint>, CheckpointError> {
        let directory = self.entry_path(key);
        if !directory.is_dir() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(&directory)?;
        // The time of last use, by which old ones go first; a cache that can't be written is still good to read.
        let _ = fs::File::open(&directory).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(checkpoint))
    }

    /// The right to make the checkpoint of a key. If another process is at it, `waiting` is told its pid, once, before
    /// the wait; look with [`Store::get`] again afterwards. Blocks.
    ///
    /// # Errors
    /// [`CheckpointError::File`] when the lock can't be made.
    pub fn make(&self, key: &str, waiting: impl FnOnce(Option<u32>)) -> Result<Entry, CheckpointError> {
        let lock = EntryLock::take(&self.lock_path(key), waiting)?;
        Ok(Entry { store: self.clone(), key: key.to_owned(), _lock: lock })
    }

    /// All checkpoints, the one that was used last first.
    ///
    /// # Errors
    /// [`CheckpointError::File`] when the cache can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, CheckpointError> {
        let listed = |(key, directory): (String, PathBuf)| {
            let used = fs::metadata(&directory).and_then(|meta| meta.modified()).at("read", &directory)?;
            let manifest = manifest::read(&directory).ok();
            Ok(Listed { bytes: allocated(&directory)?, key, directory, manifest, used })
        };
        let all = names(&self.root.join("entries"))?.into_iter().map(listed);
        let mut all = all.collect::<Result<Vec<Listed>, CheckpointError>>()?;
        all.sort_by_key(|listed| std::cmp::Reverse(listed.used));
        Ok(all)
    }

    /// Removes the checkpoint of a key; false when there is none. One that is being made is left alone.
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn remove(&self, key: &str) -> Result<bool, CheckpointError> {
        let directory = self.entry_path(key);
        let Some(_held) = EntryLock::try_take(&self.lock_path(key))? else { return Ok(false) };
        if !directory.is_dir() {
            return Ok(false);
        }
        // Out of the way first: whoever looks now finds nothing rather than a half.
        let away = self.root.join("tmp").join(key);
        let _ = fs::remove_dir_all(&away);
        fs::rename(&directory, &away).at("move", &directory)?;
        fs::remove_dir_all(&away).at("remove", &away)?;
        Ok(true)
    }

    /// Removes those that were used longest ago until the rest fits the limit; `keep` stays in any case.
    fn evict(&self, keep: &str) -> Result<(), CheckpointError> {
        let mut all = self.list()?;
        let mut sum: u64 = all.iter().map(|listed| listed.bytes).sum();
        while sum > self.limit {
            let Some(oldest) = all.pop() else { break };
            if oldest.key != keep && self.remove(&oldest.key)? {
                sum -= oldest.bytes;
            }
        }
        Ok(())
    }

    fn entry_path(&self, key: &str) -> PathBuf {
        self.root.join("entries").join(key)
    }

    fn lock_path(&self, key: &str) -> PathBuf {
        self.root.join("locks").join(key)
    }
}

impl Entry {
    /// An empty directory for [`crate::Lab::checkpoint`].
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn directory(&self) -> Result<PathBuf, CheckpointError> {
        let directory = self.store.root.join("tmp").join(&self.key);
        if directory.exists() {
            fs::remove_dir_all(&directory).at("remove", &directory)?;
        }
        fs::create_dir_all(&directory).at("make", &directory)?;
        Ok(directory)
    }

    /// Puts what is in that directory into the cache, in place of what there was, and makes room for it.
    ///
    /// # Errors
    /// [`CheckpointError::File`], or as [`Checkpoint::open`].
    pub fn put(self) -> Result<Checkpoint, CheckpointError> {
        let (made, entry) = (self.store.root.join("tmp").join(&self.key), self.store.entry_path(&self.key));
        if entry.exists() {
            fs::remove_dir_all(&entry).at("remove", &entry)?;
        }
        fs::rename(&made, &entry).at("move", &made)?;
        self.store.evict(&self.key)?;
        Checkpoint::open(entry)
    }
}

impl Drop for Entry {
    /// What was not put there is of no use to anybody; a killed process's is swept by the next.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.store.root.join("tmp").join(&self.key));
    }
}

/// The entries of a directory, by name.
fn names(directory: &Path) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).at("read", directory)? {
        let entry = entry.at("read", directory)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// What the files of a directory take on disk.
fn allocated(directory: &Path) -> Result<u64, CheckpointError> {
    let mut sum = 0;
    for (_, path) in names(directory)? {
        // 512 bytes, whatever the file system's blocks are (stat(2)).
        sum += fs::metadata(&path).at("read", &path)?.blocks() * 512;
    }
    Ok(sum)
}
