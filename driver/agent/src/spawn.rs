//! Starting and reaping commands: the agent's only `unsafe`.
#![allow(
    unsafe_code,
    reason = "supplementary groups and the controlling terminal are set between fork and exec, and wait4 is in no safe API"
)]

use crate::users::Account;
use crate::watched::watched;
use agent_proto::message::{Status, Usage};
use nix::libc;
use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use tokio::io::unix::AsyncFd;

/// What a command starts with.
pub(crate) struct Start<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a str,
    pub(crate) account: Option<&'a Account>,
    /// Stdin is a terminal that becomes the controlling one.
    pub(crate) terminal: bool,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// A command that runs, leading a process group. Dropped before it was reaped, the group is killed.
pub(crate) struct Process {
    pid: Pid,
    exit: Option<AsyncFd<OwnedFd>>,
}

/// Starts a command.
pub(crate) fn spawn(start: Start<'_>) -> io::Result<Process> {
    let mut command = Command::new(&start.argv[0]);
    command.args(&start.argv[1..]).env_clear().envs(start.env.iter().map(|(key, value)| (key, value)));
    command.current_dir(start.cwd).stdin(start.stdin).stdout(start.stdout).stderr(start.stderr);
    if !start.terminal {
        command.process_group(0);
    }
    if start.terminal || start.account.is_some() {
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
    }
    #[expect(clippy::disallowed_methods, reason = "the agent can't use the host's process crate")]
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let exit = pidfd(pid).inspect_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = wait4(pid);
    })?;
    Ok(Process { pid, exit: Some(exit) })
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
