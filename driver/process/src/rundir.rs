//! A directory for each run: sockets, the children's pids, and a lock that says whether the owner lives.
//!
//! `$XDG_RUNTIME_DIR/rackless-runs/<run>/`, or `/tmp/rackless-runs-<uid>/<run>/` where there is no such directory of our own:
//!
//! ```text
//! lock        held (flock) by the owner; the kernel frees it when the owner ends, however it ends
//! owner.json  pid, start time and boot of the owner
//! pids/NAME   pid, start time and command of each child
//! owned/N     a path elsewhere (disk overlays) that goes with the run
//! *.sock      sockets
//! ```

use std::fs::{DirBuilder, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::error::Error;
use crate::identity::Identity;

/// The longest path of a Unix socket in bytes: `sun_path` has 108, one of them for the terminating zero.
pub const SOCKET_PATH_MAX: usize = 107;

const LOCK: &str = "lock";
const OWNER: &str = "owner.json";
const PIDS: &str = "pids";
const OWNED: &str = "owned";

/// The directory of this run. Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory of a run. `run` is a name of its own, made of time and pid, say; keep it short, for
    /// sockets live below it.
    ///
    /// # Errors
    /// [`Error::RunExists`], [`Error::BadName`], [`Error::NotOurs`], or [`Error::File`].
    pub fn create(run: &str) -> Result<RunDir, Error> {
        RunDir::create_in(&preferred_base()?, run)
    }

    pub(crate) fn create_in(base: &Path, run: &str) -> Result<RunDir, Error> {
        check_name("run", run)?;
        // The reaper must not see the directory before its lock is held.
        let _base = lock_base(base)?;
        let path = base.join(run);
        match private_dir().create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::RunExists { run: run.into(), path });
            }
            Err(source) => return Err(file_error("create", &path, source)),
        }
        let made = || {
            let lock = open_lock(&path.join(LOCK))?;
            lock.lock().map_err(|source| file_error("lock", &path.join(LOCK), source))?;
            private_dir()
                .create(path.join(PIDS))
                .map_err(|source| file_error("create", &path.join(PIDS), source))?;
            let identity = Identity::of_self()
                .map_err(|source| file_error("read", "/proc/self/stat".as_ref(), source))?;
            write_json(&path.join(OWNER), &Owner { identity, boot: boot_id()? })?;
            Ok(lock)
        };
        match made() {
            Ok(lock) => Ok(RunDir { path, _lock: lock }),
            Err(error) => {
                let _ = fs_err::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down a child, so that what it started is found if this process is killed. `name` is the machine's
    /// or the tool's; an older record of that name is replaced.
    ///
    /// # Errors
    /// [`Error::BadName`] or [`Error::File`].
    pub fn record(&self, name: &str, child: &Child) -> Result<(), Error> {
        check_name("process", name)?;
        let record = Record { identity: child.identity(), command: child.line().to_string() };
        write_json(&self.path.join(PIDS).join(name), &record)
    }

    /// Takes a record away, once the child is known to have ended. It is no error if there is none.
    ///
    /// # Errors
    /// [`Error::BadName`] or [`Error::File`].
    pub fn forget(&self, name: &str) -> Result<(), Error> {
        check_name("process", name)?;
        let path = self.path.join(PIDS).join(name);
        match fs_err::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(file_error("remove", &path, source)),
            _ => Ok(()),
        }
    }

    /// Writes down a file or folder elsewhere that belongs to this run, such as a folder of disk overlays: if this
    /// process is killed, the next start removes it. Dropping the directory does not.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn own(&self, path: &Path) -> Result<(), Error> {
        let path = std::path::absolute(path).map_err(|source| file_error("find", path, source))?;
        let folder = self.path.join(OWNED);
        fs_err::create_dir_all(&folder).map_err(|source| file_error("create", &folder, source))?;
        let count = fs_err::read_dir(&folder).map_err(|source| file_error("list", &folder, source))?.count();
        write_json(&folder.join(count.to_string()), &path)
    }

    /// The path for a socket of that name, short enough for the kernel.
    ///
    /// # Errors
    /// [`Error::SocketPathTooLong`] or [`Error::BadName`].
    pub fn socket(&self, name: &str) -> Result<PathBuf, Error> {
        check_name("socket", name)?;
        let path = self.path.join(name);
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Error::SocketPathTooLong { path });
        }
        Ok(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The lock is still held here: fields are dropped after.
        if let Err(error) = fs_err::remove_dir_all(&self.path) {
            tracing::warn!("could not remove the run directory: {error}");
        }
    }
}

/// A run that left a directory, living or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// Its name.
    pub run: String,
    /// Its directory.
    pub path: PathBuf,
    /// Whether its owner lives.
    pub state: RunState,
    /// The process that made it, if it came to write that down.
    pub owner: Option<Identity>,
    /// The children that were recorded, by name.
    pub children: Vec<Recorded>,
}

/// Whether a run's owner lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// The lock is held.
    Alive,
    /// The lock is free: [`reap_stale`](crate::reap_stale) clears it.
    Stale,
}

/// A child that was written down with [`RunDir::record`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The name it was recorded by.
    pub name: String,
    /// Its pid and start time.
    pub identity: Identity,
    /// Its command, shortened.
    pub command: String,
    /// Whether it runs now.
    pub alive: bool,
}

/// The paths elsewhere that belong to a run. A record that was cut by a kill names nothing.
pub(crate) fn owned(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(run.join(OWNED)) else { return Vec::new() };
    let texts = entries.flatten().filter_map(|entry| fs_err::read(entry.path()).ok());
    texts
        .filter_map(|text| serde_json::from_slice::<PathBuf>(&text).ok())
        .filter(|p| p.is_absolute())
        .collect()
}

/// All runs of this user on this machine, by name.
///
/// # Errors
/// [`Error::File`] if a directory can't be read.
pub fn runs() -> Result<Vec<RunInfo>, Error> {
    let mut runs = Vec::new();
    for base in existing_bases() {
        runs.extend(runs_in(&base)?);
    }
    runs.sort_by(|a, b| a.run.cmp(&b.run));
    Ok(runs)
}

pub(crate) fn runs_in(base: &Path) -> Result<Vec<RunInfo>, Error> {
    let _base = lock_base(base)?;
    let mut runs = Vec::new();
    for (run, path) in run_dirs(base)? {
        let lock = path.join(LOCK);
        // A shared lock, so that two who look at the same time don't take each other for the owner.
        let state = match File::open(&lock).map(|lock| lock.try_lock_shared()) {
            Ok(Err(TryLockError::WouldBlock)) => RunState::Alive,
            Ok(Ok(())) => RunState::Stale,
            Ok(Err(TryLockError::Error(source))) => return Err(file_error("lock", &lock, source)),
            Err(error) if error.kind() == ErrorKind::NotFound => RunState::Stale,
            Err(source) => return Err(file_error("open", &lock, source)),
        };
        let owner = Owner::read(&path).map(|owner| owner.identity);
        let children = records(&path)?;
        runs.push(RunInfo { run, path, state, owner, children });
    }
    Ok(runs)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) identity: Identity,
    pub(crate) boot: String,
}

impl Owner {
    /// `None` also for a file that was cut by a kill.
    pub(crate) fn read(run: &Path) -> Option<Owner> {
        read_json(&run.join(OWNER))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    identity: Identity,
    command: String,
}

pub(crate) fn records(run: &Path) -> Result<Vec<Recorded>, Error> {
    let mut recorded = Vec::new();
    for (name, path) in entries(&run.join(PIDS))? {
        if let Some(Record { identity, command }) = read_json::<Record>(&path) {
            recorded.push(Recorded { name, identity, command, alive: identity.is_alive() });
        }
    }
    recorded.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(recorded)
}

/// The directories below a base, the lock file of the base left out.
pub(crate) fn run_dirs(base: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut dirs = entries(base)?;
    dirs.retain(|(_, path)| path.is_dir());
    Ok(dirs)
}

/// Takes the lock of a run whose owner is gone. `None` if the owner lives, or another process is reaping it.
pub(crate) fn claim(base: &Path, run: &Path) -> Result<Option<File>, Error> {
    let _base = lock_base(base)?;
    if !run.is_dir() {
        return Ok(None);
    }
    let path = run.join(LOCK);
    let lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(file_error("lock", &path, source)),
    }
}

pub(crate) fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs_err::read_to_string(path).map_err(|source| file_error("read", path.as_ref(), source))?;
    Ok(id.trim().to_owned())
}

/// The bases that exist. A run may have been made with another environment than ours, so both are looked at.
pub(crate) fn existing_bases() -> Vec<PathBuf> {
    let bases = [runtime_dir().map(|dir| dir.join("rackless-runs")), Some(fallback_base())];
    bases.into_iter().flatten().filter(|base| check_base(base).is_ok()).collect()
}

fn preferred_base() -> Result<PathBuf, Error> {
    let base = runtime_dir().map_or_else(fallback_base, |dir| dir.join("rackless-runs"));
    make_base(&base)?;
    Ok(base)
}

/// `$XDG_RUNTIME_DIR` if it is what the XDG base directory specification asks for: absolute and the user's own.
/// Under sudo or su it often is another user's.
fn runtime_dir() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let ours = dir.is_absolute() && fs_err::metadata(&dir).is_ok_and(|meta| meta.is_dir() && is_ours(&meta));
    ours.then_some(dir)
}

fn fallback_base() -> PathBuf {
    // Not TMPDIR: that is often long (a build's or a CI job's), and socket paths are short.
    PathBuf::from(format!("/tmp/rackless-runs-{}", geteuid().as_raw()))
}

pub(crate) fn make_base(base: &Path) -> Result<(), Error> {
    match private_dir().create(base) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => Err(file_error("create", base, source)),
        _ => check_base(base),
    }
}

/// `/tmp` belongs to all: what stands at our name may be another user's directory or link.
fn check_base(base: &Path) -> Result<(), Error> {
    let meta = fs_err::symlink_metadata(base).map_err(|source| file_error("look at", base, source))?;
    let not_ours = |reason: String| Err(Error::NotOurs { path: base.to_owned(), reason });
    if !meta.is_dir() {
        return not_ours("it is not a directory".into());
    }
    if !is_ours(&meta) {
        return not_ours(format!("it belongs to uid {}, and this is uid {}", meta.uid(), geteuid().as_raw()));
    }
    if meta.mode() & 0o077 != 0 {
        fs_err::set_permissions(base, PermissionsExt::from_mode(0o700))
            .map_err(|source| file_error("set mode 0700 on", base, source))?;
    }
    Ok(())
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == geteuid().as_raw()
}

/// Held for moments only: while a run is made, claimed or listed.
fn lock_base(base: &Path) -> Result<File, Error> {
    let path = base.join(".lock");
    let lock = open_lock(&path)?;
    lock.lock().map_err(|source| file_error("lock", &path, source))?;
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, Error> {
    File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(|source| file_error("open", path, source))
}

fn private_dir() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::BadName { what, name: name.to_owned() });
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(file_error("list", dir, source)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|source| file_error("list", dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs_err::read(path).ok()?).ok()
}

/// Written beside and renamed, so that a kill leaves the old or the new content.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let mut file =
            tempfile::NamedTempFile::with_prefix_in(".", path.parent().expect("a file in a run directory"))?;
        serde_json::to_writer(&mut file, value)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| file_error("write", path, source))
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_alive_until_dropped_and_then_gone() {
        let base = tempfile::tempdir().unwrap();
        let run = RunDir::create_in(base.path(), "one").unwrap();
        let listed = runs_in(base.path()).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].run.as_str(), listed[0].state), ("one", RunState::Alive));
        assert_eq!(listed[0].owner, Some(Identity::of_self().unwrap()));
        assert_eq!(fs_err::metadata(run.path()).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(RunDir::create_in(base.path(), "one"), Err(Error::RunExists { .. })));
        drop(run);
        assert_eq!(runs_in(base.path()).unwrap(), []);
    }

    #[test]
    fn a_long_socket_path_is_an_error_that_says_so() {
        let base = tempfile::tempdir().unwrap();
        let run = RunDir::create_in(base.path(), "one").unwrap();
        assert_eq!(run.socket("server-1.qmp").unwrap(), run.path().join("server-1.qmp"));
        let error = run.socket(&"x".repeat(SOCKET_PATH_MAX)).unwrap_err().to_string();
        assert!(error.contains("at most 107 are allowed; set XDG_RUNTIME_DIR"), "{error}");
        let exact = "y".repeat(SOCKET_PATH_MAX - run.path().as_os_str().len() - 1);
        std::os::unix::net::UnixListener::bind(run.socket(&exact).unwrap()).unwrap();
    }

    #[test]
    fn names_can_not_leave_the_directory() {
        let base = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "a/b", ".hidden", "a b", "ä"] {
            assert!(matches!(RunDir::create_in(base.path(), name), Err(Error::BadName { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_base_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(make_base(&link), Err(Error::NotOurs { .. })));
        fs_err::set_permissions(&target, PermissionsExt::from_mode(0o755)).unwrap();
        make_base(&target).unwrap();
        assert_eq!(fs_err::metadata(&target).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_base_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        // Only root can make a directory another's; for any other user the root directory is one.
        let path = if std::os::unix::fs::chown(&theirs, Some(65534), None).is_ok() {
            &theirs
        } else {
            Path::new("/")
        };
        let error = check_base(path).unwrap_err().to_string();
        assert!(error.contains("it belongs to uid"), "{error}");
    }
}
