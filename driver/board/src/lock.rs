//! A board is one run's at a time: a locked file with the holder's name in it, which the kernel unlocks when the holder
//! dies.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{Board, Line};
use crate::error::Error;
use crate::wait::pause;

/// How long the longest pause between two tries is.
const PAUSE: Duration = Duration::from_millis(500);

/// Who has a board.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// The user's name.
    pub user: String,
    /// The process.
    pub pid: u32,
    /// What it runs: a test, a command.
    pub run: String,
    /// Since when, as RFC 3339 has it.
    pub since: String,
}

impl Holder {
    /// This process, which runs `run`, from now on.
    #[must_use]
    pub fn me(run: impl Into<String>) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        Self {
            user: user.unwrap_or_else(|_| format!("uid {uid}")),
            pid: std::process::id(),
            run: run.into(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }

    fn to_text(&self) -> String {
        let Self { user, pid, run, since } = self;
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        format!("user={}\npid={pid}\nrun={}\nsince={since}\n", one_line(user), one_line(run))
    }

    fn of_text(text: &str) -> Self {
        let mut holder = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "user" => value.clone_into(&mut holder.user),
                "pid" => holder.pid = value.parse().unwrap_or_default(),
                "run" => value.clone_into(&mut holder.run),
                "since" => value.clone_into(&mut holder.since),
                _ => {}
            }
        }
        holder
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, pid, run, since } = self;
        if *pid == 0 {
            return f.write_str("somebody has it who left no name");
        }
        write!(f, "{user} has it for {run} (pid {pid}) since {since}")
    }
}

/// A board that is this process's, until this is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the board, or waits for it. Who has it is told to `waiting` before the wait, and again when that changes.
    ///
    /// # Errors
    /// [`Error::Locked`] at the limit, with the holder; [`Error::LockFile`].
    pub async fn take(
        board: &Board,
        me: &Holder,
        limit: Duration,
        mut waiting: impl FnMut(&Holder),
    ) -> Result<Self, Error> {
        let path = board.lock_folder.join(file_name(&board.line));
        let lock_file = |source| Error::LockFile { board: board.name.clone(), lock: path.clone(), source };
        let file = open(&path).map_err(lock_file)?;
        let begun = Instant::now();
        let mut told = None;
        let mut between = Duration::from_millis(10);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(lock_file(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = read(&file).map_err(lock_file)?;
            if told.as_ref() != Some(&holder) {
                waiting(&holder);
                told = Some(holder.clone());
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let (board, waited) = (board.name.clone(), begun.elapsed());
                return Err(Error::Locked { board, holder, waited, lock: path });
            }
            pause(between.min(left)).await;
            between = (between * 2).min(PAUSE);
        }
        let mut signed = &file;
        let sign = || {
            signed.set_len(0)?;
            signed.rewind()?;
            signed.write_all(me.to_text().as_bytes())
        };
        let mut sign = sign;
        sign().map_err(lock_file)?;
        Ok(Self { file, path })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Who comes next reads no name of somebody who is gone. The lock goes with the file's descriptor.
        let _ = self.file.set_len(0);
    }
}

/// Where locks are unless a board's file says otherwise: a folder that all users of the host may write to.
pub(crate) fn default_folder() -> PathBuf {
    let shared = Path::new("/run/lock");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    base.join("rackless-boards")
}

/// By the line and not by the board's file, since two files may be about one board.
fn file_name(line: &Line) -> String {
    let line = match line {
        Line::Device(path) => {
            fs_err::canonicalize(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        Line::Rfc2217(address) | Line::Tcp(address) => address.clone(),
    };
    let plain = line.trim_start_matches('/').chars();
    let plain = plain.map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' });
    format!("{}.lock", plain.collect::<String>())
}

/// Opens the file for everybody. Another user's is opened without O_CREAT, which `fs.protected_regular` forbids there.
fn open(path: &Path) -> std::io::Result<File> {
    let existing = || File::options().read(true).write(true).open(path);
    let made = match existing() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
                fs_err::create_dir_all(folder)?;
                fs_err::set_permissions(folder, PermissionsExt::from_mode(0o1777))?;
            }
            File::options().read(true).write(true).create_new(true).mode(0o666).open(path)
        }
        opened => return opened,
    };
    match made {
        // Somebody was quicker.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => existing(),
        made => {
            let file = made?;
            file.set_permissions(PermissionsExt::from_mode(0o666))?;
            Ok(file)
        }
    }
}

fn read(mut file: &File) -> std::io::Result<Holder> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(Holder::of_text(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(folder: &Path, address: &str) -> Board {
        let folder = folder.join("locks");
        let text = format!(
            "[serial]\ntcp = {address:?}\n[power]\non = \"true\"\noff = \"true\"\n[lock]\nfolder = {:?}\n",
            folder.display().to_string()
        );
        Board::parse(&text, Path::new("orin.toml")).expect("a board")
    }

    fn named(run: &str) -> Holder {
        Holder { user: "ada".into(), ..Holder::me(run) }
    }

    #[tokio::test]
    async fn who_waits_is_told_who_has_it_and_gets_it_when_it_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let board = board(folder.path(), "serial:2001");
        let first = Lock::take(&board, &named("boot::boots"), Duration::ZERO, |_| panic!("free"))
            .await
            .expect("free");
        let mut told = Vec::new();
        let short = Duration::from_millis(30);
        let error = Lock::take(&board, &named("b"), short, |holder| told.push(holder.clone()))
            .await
            .expect_err("taken");
        let Error::Locked { holder, waited, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (holder.user.as_str(), holder.pid, holder.run.as_str()),
            ("ada", std::process::id(), "boot::boots")
        );
        assert!(*waited >= short && told == [holder.clone()], "{told:?}");
        let message = error.to_string();
        assert!(message.contains("orin is in use: ada has it for boot::boots (pid "), "{message}");
        let waits = async { Lock::take(&board, &named("b"), Duration::from_secs(30), |_| {}).await };
        let frees = async { drop(first) };
        let (second, ()) = tokio::join!(waits, frees);
        assert_eq!(
            Holder::of_text(&fs_err::read_to_string(second.expect("free now").path()).expect("read")).run,
            "b"
        );
    }

    #[tokio::test]
    async fn a_holder_that_is_killed_gives_it_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let board = board(folder.path(), "serial:2002");
        let lock = Lock::take(&board, &named("a"), Duration::ZERO, |_| {}).await.expect("free");
        let path = lock.path().to_owned();
        drop(lock);
        // flock(1) holds it as another process would.
        let script = format!("exec flock -x {} sleep 1000", path.display());
        let holder = process::spawn(process::Command::new("sh").args(["-c", &script])).expect("flock runs");
        let taken = || File::open(&path).expect("there").try_lock().is_err();
        let begun = Instant::now();
        while !taken() {
            assert!(begun.elapsed() < Duration::from_secs(10), "flock has not locked it");
            pause(Duration::from_millis(5)).await;
        }
        let error =
            Lock::take(&board, &named("b"), Duration::ZERO, |_| {}).await.expect_err("taken").to_string();
        assert!(error.contains("somebody has it who left no name"), "{error}");
        holder.kill_group();
        Lock::take(&board, &named("b"), Duration::from_secs(10), |_| {}).await.expect("its holder is dead");
    }

    #[tokio::test]
    async fn two_boards_are_two_locks_and_two_files_of_one_are_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (board(folder.path(), "serial:2001"), board(folder.path(), "serial:2002"));
        let _one = Lock::take(&one, &named("a"), Duration::ZERO, |_| {}).await.expect("free");
        Lock::take(&other, &named("b"), Duration::ZERO, |_| {}).await.expect("another board");
        let same = Board { name: "another name".into(), file: "other.toml".into(), ..one };
        Lock::take(&same, &named("c"), Duration::ZERO, |_| {}).await.expect_err("the same line");
    }
}
