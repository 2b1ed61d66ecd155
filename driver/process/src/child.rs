//! A running child: a handle that many may hold, wait on and signal.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::command::CommandLine;
use crate::error::Error;
use crate::identity::Identity;
use crate::latch::Latch;

/// A child process. Clones are handles to the same child; when the last is dropped, the child's process group is
/// killed (a backstop: end it yourself and wait, so that errors are seen).
///
/// The child is reaped as soon as it ends, whether somebody waits or not. What is left of its process group is
/// killed then.
#[derive(Clone)]
pub struct Child {
    handle: Arc<Handle>,
}

/// Dropped with the last [`Child`]; the waiting thread holds only what is inside.
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    line: CommandLine,
    identity: Identity,
    pid: Pid,
    own_group: bool,
    started: Instant,
    pipes: Mutex<Pipes>,
    /// Held while signalling and while reaping, so that no signal goes to a pid that was handed out again.
    reaped: Mutex<bool>,
    status: Latch<ExitStatus>,
}

#[derive(Default)]
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Child {
    pub(crate) fn adopt(
        mut child: process::Child,
        line: CommandLine,
        own_group: bool,
    ) -> Result<Child, Error> {
        let started = Instant::now();
        let fail = |mut child: process::Child, operation, source: std::io::Error| {
            let _ = child.kill();
            let _ = child.wait();
            Err(Error::File { operation, path: format!("/proc/{}/stat", child.id()).into(), source })
        };
        // It is not reaped yet, so its entry in /proc is there even if it has ended.
        let identity = match Identity::of(child.id()) {
            Ok(Some(identity)) => identity,
            Ok(None) => return fail(child, "find", std::io::ErrorKind::NotFound.into()),
            Err(source) => return fail(child, "read", source),
        };
        let pipes =
            Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        let shared = Arc::new(Shared {
            line,
            identity,
            pid: Pid::from_child(&child),
            own_group,
            started,
            pipes: Mutex::new(pipes),
            reaped: Mutex::new(false),
            status: Latch::new(),
        });
        let handle = Child { handle: Arc::new(Handle { shared: shared.clone() }) };
        let waiter = thread::Builder::new()
            .name(format!("wait-{}", identity.pid))
            .stack_size(128 << 10)
            .spawn(move || shared.wait_and_reap(child));
        match waiter {
            Ok(_) => Ok(handle),
            // The handle's drop kills the group. The zombie stays until this process ends.
            Err(source) => Err(Error::Spawn { command: handle.line().clone(), source }),
        }
    }

    /// The process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.shared().identity.pid
    }

    /// Process id and start time.
    pub fn identity(&self) -> Identity {
        self.shared().identity
    }

    /// What runs.
    pub fn line(&self) -> &CommandLine {
        &self.shared().line
    }

    /// Since when.
    pub fn started(&self) -> Instant {
        self.shared().started
    }

    /// Waits for the end. Works on any async runtime, and any number may wait.
    pub async fn wait(&self) -> ExitStatus {
        self.shared().status.wait().await
    }

    /// Waits for the end on a plain thread, at most `limit`. `None` if it still runs.
    pub fn wait_blocking(&self, limit: Duration) -> Option<ExitStatus> {
        self.shared().status.wait_until(Instant::now().checked_add(limit))
    }

    /// How it ended, or `None` while it runs.
    pub fn try_status(&self) -> Option<ExitStatus> {
        self.shared().status.get()
    }

    /// Signals the whole process group. False if the child had ended; the signal goes to nobody then.
    ///
    /// # Errors
    /// [`Error::Signal`] when not permitted (a setuid program, say).
    pub fn signal_group(&self, signal: Signal) -> Result<bool, Error> {
        self.shared().signal(signal)
    }

    /// Kills the whole process group with SIGKILL. Does not wait: see [`Child::wait`].
    pub fn kill_group(&self) {
        if let Err(error) = self.shared().signal(Signal::KILL) {
            tracing::warn!("{error}");
        }
    }

    /// The pipe to its standard input, once.
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.shared().pipes().stdin.take()
    }

    /// The pipe from its standard output, once. For async reading give it to
    /// `tokio::process::ChildStdout::from_std`.
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.shared().pipes().stdout.take()
    }

    /// The pipe from its standard error, once.
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.shared().pipes().stderr.take()
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("pid", &self.pid())
            .field("command", &self.line().to_string())
            .field("status", &self.try_status())
            .finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.shared.signal(Signal::KILL) {
            tracing::warn!("{error}");
        }
    }
}

impl Shared {
    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) -> Result<bool, Error> {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *reaped {
            return Ok(false);
        }
        let sent = if self.own_group {
            kill_process_group(self.pid, signal)
        } else {
            kill_process(self.pid, signal)
        };
        match sent {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(errno) => Err(Error::Signal {
                command: self.line.clone(),
                pid: self.identity.pid,
                source: errno.into(),
            }),
        }
    }

    /// Sees the end without reaping, so that the zombie keeps the group's number taken while its rest is killed.
    fn wait_and_reap(&self, mut child: process::Child) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(self.pid), options) {}
        let status = {
            let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
            if self.own_group {
                let _ = kill_process_group(self.pid, Signal::KILL);
            }
            *reaped = true;
            child.wait()
        };
        self.status.set(status.unwrap_or_else(|error| {
            // Only code that waits for *any* child can do this; the end is sure, its status is not.
            tracing::error!(
                "the exit status of `{}` was taken by other code in this process: {error}",
                self.line
            );
            ExitStatus::from_raw(255 << 8)
        }));
    }
}
