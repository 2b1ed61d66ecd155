//! Starting and reaping commands: the agent's only `unsafe`.
#![allow(
    unsafe_code,
    reason = "posix_spawn and wait4 are in no safe API that sets all that is set here; supplementary groups and the \
              controlling terminal are set between fork and exec"
)]

use crate::users::Account;
use crate::watched::watched;
use agent_proto::message::{Status, Usage};
use nix::libc;
use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use tokio::io::unix::AsyncFd;

/// What a command starts with.
pub(crate) struct Start<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a str,
    pub(crate) account: Option<&'a Account>,
    /// Stdin is a terminal that becomes the controlling one.
    pub(crate) terminal: bool,
    /// stdin, stdout and stderr; `/dev/null` where there is none.
    pub(crate) stdio: [Option<OwnedFd>; 3],
}

/// A command that runs, leading a process group. Dropped before it was reaped, the group is killed.
pub(crate) struct Process {
    pid: Pid,
    exit: Option<AsyncFd<OwnedFd>>,
}

/// Starts a command: without a copy of the agent's memory, unless it needs a terminal or another account.
pub(crate) fn spawn(start: Start<'_>) -> io::Result<Process> {
    let pid = if start.terminal || start.account.is_some() {
        forked(start)?
    } else {
        let program = find(&start.argv[0], start.env)?;
        match spawned(&program, start.argv, &start) {
            // A script without a first line that names its interpreter: execvp(3) gives it to a shell.
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                let script = [&["/bin/sh".to_owned(), program][..], &start.argv[1..]].concat();
                spawned("/bin/sh", &script, &start)?
            }
            spawned => spawned?,
        }
    };
    let exit = pidfd(pid).inspect_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = wait4(pid);
    })?;
    Ok(Process { pid, exit: Some(exit) })
}

/// Looks a program up in the PATH that it will have, as execvp(3) does; one with a slash is taken as it is.
fn find(program: &str, env: &[(String, String)]) -> io::Result<String> {
    if program.contains('/') {
        return Ok(program.to_owned());
    }
    let path = env.iter().rfind(|(key, _)| key == "PATH").map_or("", |(_, path)| path);
    let mut denied = false;
    for directory in path.split(':') {
        let found = if directory.is_empty() { program.to_owned() } else { format!("{directory}/{program}") };
        match access(Path::new(&found), AccessFlags::X_OK) {
            Ok(()) if Path::new(&found).is_file() => return Ok(found),
            Ok(()) => denied = true,
            Err(error) => denied |= error == nix::errno::Errno::EACCES,
        }
    }
    Err(io::Error::from_raw_os_error(if denied { libc::EACCES } else { libc::ENOENT }))
}

/// posix_spawn(3), in which the child borrows the agent's memory until it is another program.
fn spawned(program: &str, argv: &[String], start: &Start<'_>) -> io::Result<Pid> {
    let text = |text: &str| CString::new(text).map_err(io::Error::from);
    let program = text(program)?;
    let cwd = text(start.cwd)?;
    let argv = argv.iter().map(|argument| text(argument)).collect::<io::Result<Vec<_>>>()?;
    let env = start.env.iter().enumerate().filter(|(index, (key, _))| {
        // The last one counts.
        !start.env[index + 1..].iter().any(|(later, _)| later == key)
    });
    let env = env.map(|(_, (key, value))| text(&format!("{key}={value}"))).collect::<io::Result<Vec<_>>>()?;
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    let mut actions = Actions::new()?;
    for (fd, stdio) in (0..).zip(&start.stdio) {
        actions.stdio(fd, stdio.as_ref())?;
    }
    actions.chdir(&cwd)?;
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: all pointers are to what lives until the call is over; both lists of strings end with a null pointer.
    positive(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv_pointers.as_ptr(),
            env_pointers.as_ptr(),
        )
    })?;
    Ok(Pid::from_raw(pid))
}

/// The result of a call that returns an error's number.
fn positive(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// What the child does before it is another program.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init writes a whole value where it returns 0, and only then is it taken as one.
        unsafe {
            positive(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn stdio(&mut self, fd: libc::c_int, from: Option<&OwnedFd>) -> io::Result<()> {
        let null = c"/dev/null".as_ptr();
        // SAFETY: the value is initialised; the path is a constant that is copied.
        positive(unsafe {
            match from {
                Some(from) => libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from.as_raw_fd(), fd),
                None => libc::posix_spawn_file_actions_addopen(&raw mut self.0, fd, null, libc::O_RDWR, 0),
            }
        })
    }

    fn chdir(&mut self, directory: &std::ffi::CStr) -> io::Result<()> {
        // SAFETY: the value is initialised; the path is copied.
        positive(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, directory.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: it is initialised, and not used after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// A process group of its own, no signal blocked, and SIGPIPE, which Rust ignores, as it is by default.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init writes a whole value where it returns 0, and only then is it taken as one.
        let mut attributes = unsafe {
            positive(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            Self(attributes.assume_init())
        };
        let attribute = &raw mut attributes.0;
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the attributes are initialised; sigemptyset makes a whole set of `signals` before it is used.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            positive(libc::posix_spawnattr_setsigmask(attribute, signals.as_ptr()))?;
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
            positive(libc::posix_spawnattr_setsigdefault(attribute, signals.as_ptr()))?;
            positive(libc::posix_spawnattr_setpgroup(attribute, 0))?;
            positive(libc::posix_spawnattr_setflags(attribute, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it is initialised, and not used after this.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// fork(2) and exec, with what posix_spawn can't do in between.
fn forked(start: Start<'_>) -> io::Result<Pid> {
    let mut command = Command::new(&start.argv[0]);
    command.args(&start.argv[1..]).env_clear().envs(start.env.iter().map(|(key, value)| (key, value)));
    let [stdin, stdout, stderr] = start.stdio.map(|stdio| stdio.map_or_else(Stdio::null, Stdio::from));
    command.current_dir(start.cwd).stdin(stdin).stdout(stdout).stderr(stderr);
    if !start.terminal {
        command.process_group(0);
    }
    let terminal = start.terminal;
    let ids = start.account.map(|account| (account.uid, account.gid, account.groups.clone()));
    // SAFETY: between fork and exec only async-signal-safe system calls are made, on memory made before.
    unsafe {
        command.pre_exec(move || {
            if terminal {
                check(libc::setsid())?;
                check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            }
            if let Some((uid, gid, groups)) = &ids {
                check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                check(libc::setgid(*gid))?;
                check(libc::setuid(*uid))?;
            }
            Ok(())
        });
    }
    #[expect(clippy::disallowed_methods, reason = "the agent can't use the host's process crate")]
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn pidfd(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    watched(fd, tokio::io::Interest::READABLE)
}

/// Reaps a child of ours that has exited.
fn wait4(pid: Pid) -> io::Result<(Status, Usage)> {
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right type.
    while unsafe { libc::wait4(pid.as_raw(), &raw mut status, 0, &raw mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let micros = |time: libc::timeval| time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_usec.cast_unsigned();
    let usage = Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss.cast_unsigned(),
    };
    let status = if libc::WIFSIGNALED(status) {
        Status::Signal(libc::WTERMSIG(status))
    } else {
        Status::Code(libc::WEXITSTATUS(status))
    };
    Ok((status, usage))
}

/// Tells a terminal its size; whoever runs on it gets SIGWINCH.
pub(crate) fn set_terminal_size(terminal: &OwnedFd, size: &Winsize) {
    // SAFETY: TIOCSWINSZ reads a Winsize, which the pointer is to.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) };
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Signals the whole process group. One that is gone is no error.
    pub(crate) fn signal_group(&self, signal: i32) {
        if self.exit.is_some() {
            let group = -self.pid.as_raw();
            // SAFETY: kill takes two integers; a number, since real-time signals have no name in `Signal`.
            unsafe { libc::kill(group, signal) };
        }
    }

    pub(crate) fn kill_group(&self) {
        self.signal_group(libc::SIGKILL);
    }

    /// Waits for the exit and reaps. Cancel-safe.
    pub(crate) async fn exited(&mut self) -> io::Result<(Status, Usage)> {
        let exit = self.exit.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let _ = exit.readable().await?;
        let result = wait4(self.pid);
        self.exit = None;
        result
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
        let Some(exit) = self.exit.take() else { return };
        let pid = self.pid;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = exit.readable().await;
                let _ = wait4(pid);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn start<'a>(argv: &'a [String], env: &'a [(String, String)]) -> Start<'a> {
        Start { argv, env, cwd: "/", account: None, terminal: false, stdio: [None, None, None] }
    }

    fn path(directory: &tempfile::TempDir) -> Vec<(String, String)> {
        // The last of two counts.
        [("PATH", "/nowhere".to_owned()), ("PATH", directory.path().display().to_string())]
            .map(|(key, value)| (key.to_owned(), value))
            .to_vec()
    }

    #[tokio::test]
    async fn a_script_without_an_interpreter_is_run_by_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        fs::write(&script, "exit $1\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let argv = ["script".to_owned(), "7".to_owned()];
        let mut process = spawn(start(&argv, &path(&directory))).unwrap();
        assert_eq!(process.exited().await.unwrap().0, Status::Code(7));
    }

    #[tokio::test]
    async fn it_leads_a_group_with_no_signal_blocked_and_with_sigpipe_as_usual() {
        // SIGPIPE is 13: the lowest bit of the 13th digit of 16. What else the caller ignores stays so. A shell would show
        // what it blocks itself while it waits.
        let signals = "/^SigBlk/ && $2 ~ /[^0]/ { bad = 1 } \
                       /^SigIgn/ && substr($2, 13, 1) ~ /[13579bdf]/ { bad = 1 } END { exit bad }";
        let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        for (script, file) in [(signals, "/proc/self/status"), ("{ exit $1 != $5 }", "/proc/self/stat")] {
            let argv = ["awk", script, file].map(str::to_owned);
            let mut process = spawn(start(&argv, &env)).unwrap();
            assert_eq!(process.exited().await.unwrap().0, Status::Code(0), "{file}");
        }
    }

    #[tokio::test]
    async fn what_is_no_program_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        for (name, error) in [("folder", libc::EACCES), ("missing", libc::ENOENT)] {
            let refused = spawn(start(&[name.to_owned()], &path(&directory))).err().unwrap();
            assert_eq!(refused.raw_os_error(), Some(error), "{name}");
        }
    }
}
