//! The verbs that run a command in the guest: `execute`, `succeed`, `fail`, and the two that wait.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Machine, Timer};
use crate::Error;
use crate::error::last_lines;
use crate::guest::{Exec, Output};
use crate::poll::Backoff;

/// What one command may take, before scaling.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a condition is waited for, before scaling.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// An attempt at the very end of the limit still gets this long.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);
/// How many lines of output an error carries, of each stream.
pub(super) const EVIDENCE_LINES: usize = 10;

/// Runs a command and gives its [`Output`], however it ended.
#[derive(Debug)]
pub struct Execute;
/// Runs a command that must exit with 0, and gives its standard output.
#[derive(Debug)]
pub struct Succeed;
/// Runs a command that must not exit with 0, and gives its [`Output`].
#[derive(Debug)]
pub struct Fail;
/// Repeats a command until it exits with 0, and gives its standard output.
#[derive(Debug)]
pub struct WaitUntilSucceeds;
/// Repeats a command until it does not exit with 0, and gives its [`Output`].
#[derive(Debug)]
pub struct WaitUntilFails;

/// A command that is about to run in a guest. Awaiting it runs it.
#[must_use = "does nothing until it is awaited"]
pub struct Command<'m, Verb> {
    machine: &'m Machine,
    exec: Exec,
    shown: String,
    limit: Duration,
    verb: PhantomData<Verb>,
}

impl Machine {
    /// Runs `command` in a shell as root and gives its output, however it ended. The shell is
    /// `bash -euo pipefail -c`, or `sh -eu -c` where the guest has no bash.
    ///
    /// As all commands: 60 s before scaling, then it and all that it started are killed in the guest.
    pub fn execute(&self, command: impl Into<String>) -> Command<'_, Execute> {
        Command::new(self, command.into(), LIMIT)
    }

    /// Runs `command` and gives its standard output; any other end than exit code 0 is an error.
    pub fn succeed(&self, command: impl Into<String>) -> Command<'_, Succeed> {
        Command::new(self, command.into(), LIMIT)
    }

    /// Runs `command`, which must fail; exit code 0 is an error.
    pub fn fail(&self, command: impl Into<String>) -> Command<'_, Fail> {
        Command::new(self, command.into(), LIMIT)
    }

    /// Repeats `command` until it succeeds, from every 10 ms to every half second, in the guest.
    pub fn wait_until_succeeds(&self, command: impl Into<String>) -> Command<'_, WaitUntilSucceeds> {
        Command::new(self, command.into(), WAIT_LIMIT)
    }

    /// Repeats `command` until it fails.
    pub fn wait_until_fails(&self, command: impl Into<String>) -> Command<'_, WaitUntilFails> {
        Command::new(self, command.into(), WAIT_LIMIT)
    }
}

impl<'m, Verb> Command<'m, Verb> {
    fn new(machine: &'m Machine, command: String, limit: Duration) -> Self {
        Self { machine, exec: Exec::shell(command.clone()), shown: command, limit, verb: PhantomData }
    }

    /// Sets the limit, before scaling by the accelerator.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it as another user, with that user's groups and home.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.exec = self.exec.user(user);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.exec = self.exec.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.exec = self.exec.cwd(directory);
        self
    }

    /// Feeds `bytes` to its standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.exec = self.exec.stdin(bytes);
        self
    }

    async fn once(&self) -> Result<Output, Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        let output = machine.until_death(guest.run(self.exec.clone(), limit)).await?;
        let output = output.map_err(|e| machine.guest_error(e))?;
        let data = serde_json::json!({
            "command": self.shown,
            "status": output.status.to_string(),
            "ms": output.elapsed.as_millis(),
        });
        machine.event("command", self.shown.clone(), data);
        Ok(output)
    }

    /// Repeats the command until its success is `wanted`.
    async fn repeat(&self, wanted: bool) -> Result<Output, Error> {
        let machine = self.machine;
        let timer = Timer::start();
        let limit = machine.limit(self.limit);
        let mut attempts = 0;
        let mut last = None;
        let mut backoff = Backoff::new(limit);
        let output = loop {
            attempts += 1;
            let left = backoff.left().max(SHORTEST_ATTEMPT);
            let guest = machine.guest().await?;
            match machine.until_death(guest.run(self.exec.clone(), left)).await? {
                Ok(output) if output.status.success() == wanted => break output,
                Ok(output) => last = Some(output),
                // An attempt that was cut off by the limit is one that did not come true.
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(machine.guest_error(error)),
            }
            if !backoff.pause().await {
                return Err(self.not_so(wanted, attempts, &timer, last.as_ref()));
            }
        };
        let data = serde_json::json!({ "command": self.shown, "attempts": attempts, "ms": timer.elapsed().as_millis() });
        machine.event("command", self.shown.clone(), data);
        Ok(output)
    }

    fn not_so(&self, wanted: bool, attempts: u64, timer: &Timer, last: Option<&Output>) -> Error {
        let mut evidence = Vec::new();
        if let Some(last) = last {
            evidence.push(last.status.to_string());
            evidence.extend(last_lines(&last.stdout, EVIDENCE_LINES));
            evidence.extend(last_lines(&last.stderr, EVIDENCE_LINES));
        }
        let operation = format!("`{}` {}", self.shown, if wanted { "succeeds" } else { "fails" });
        self.machine.condition_error(operation, timer, attempts, evidence)
    }

    fn text(output: Output) -> String {
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl<'m> IntoFuture for Command<'m, Execute> {
    type Output = Result<Output, Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move { self.once().await }.boxed()
    }
}

impl<'m> IntoFuture for Command<'m, Succeed> {
    type Output = Result<String, Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let output = self.once().await?;
            if output.status.success() {
                return Ok(Self::text(output));
            }
            Err(Error::CommandFailed {
                machine: self.machine.name().to_owned(),
                command: self.shown,
                status: output.status.to_string(),
                elapsed: output.elapsed,
                stdout: last_lines(&output.stdout, EVIDENCE_LINES),
                stderr: last_lines(&output.stderr, EVIDENCE_LINES),
                artifacts: self.machine.artifacts().to_owned(),
            })
        }
        .boxed()
    }
}

impl<'m> IntoFuture for Command<'m, Fail> {
    type Output = Result<Output, Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let output = self.once().await?;
            if !output.status.success() {
                return Ok(output);
            }
            Err(Error::CommandSucceeded {
                machine: self.machine.name().to_owned(),
                command: self.shown,
                elapsed: output.elapsed,
                stdout: last_lines(&output.stdout, EVIDENCE_LINES),
                artifacts: self.machine.artifacts().to_owned(),
            })
        }
        .boxed()
    }
}

impl<'m> IntoFuture for Command<'m, WaitUntilSucceeds> {
    type Output = Result<String, Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move { self.repeat(true).await.map(Self::text) }.boxed()
    }
}

impl<'m> IntoFuture for Command<'m, WaitUntilFails> {
    type Output = Result<Output, Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move { self.repeat(false).await }.boxed()
    }
}
