//! Commands in the guest.

use super::error::{GuestError, Lost};
use super::session::{CallSender, Event, Output as Pieces};
use super::{Guest, Operation, SILENCE};
use agent_proto::message::{ExecSpec, Exited, Program, Reply, Request, Status, TtySize, Usage};
use std::time::Duration;

/// How much of its output a command that was killed at its limit shows.
const EVIDENCE: usize = 4096;

/// A command to run in a guest.
///
/// It runs as the agent's user (root) in that user's home directory, with a plain environment: PATH, LANG, HOME, USER,
/// LOGNAME, SHELL; on a terminal also TERM. It leads a process group of its own. Its result comes when it has exited and its
/// output has ended, or 100 ms later if a child of it holds the output open: what such a child writes after that is
/// lost ([`Exit::lingering`]), so that daemons should have their output redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a description: `Guest::run` or `Guest::exec` runs it"]
pub struct Exec {
    spec: ExecSpec,
    input: Vec<u8>,
}

impl Exec {
    /// A script: `bash -euo pipefail -c` where the guest has bash, else `sh -eu -c`.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::program(Program::Shell(script.into()))
    }

    /// A program, looked up in the guest's PATH, and its arguments: one spawn, no shell.
    pub fn argv<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self::program(Program::Argv(argv.into_iter().map(Into::into).collect()))
    }

    fn program(program: Program) -> Self {
        let spec = ExecSpec {
            program,
            env: Vec::new(),
            cwd: None,
            user: None,
            tty: None,
            stdin: false,
            limit_ms: None,
        };
        Self { spec, input: Vec::new() }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.spec.cwd = Some(directory.into());
        self
    }

    /// Runs it as `name`, `uid`, or either with `:group`, as /etc/passwd and /etc/group of the guest have them.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.spec.user = Some(user.into());
        self
    }

    /// Runs it on a terminal: stdout and stderr come as one.
    pub fn tty(mut self, columns: u16, rows: u16) -> Self {
        self.spec.tty = Some(TtySize { columns, rows });
        self
    }

    /// Gives it these bytes on stdin, and then the end. Without any stdin is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self.spec.stdin = true;
        self
    }

    /// Leaves stdin open for [`Running::take_stdin`].
    pub fn stdin_streamed(mut self) -> Self {
        self.input = Vec::new();
        self.spec.stdin = true;
        self
    }

    /// Has the agent kill the process group after this time, on the guest's clock.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.spec.limit_ms = Some(millis(limit));
        self
    }

    pub(super) fn into_spec(self) -> ExecSpec {
        self.spec
    }

    /// The command, and what it is given on stdin.
    pub(super) fn into_parts(self) -> (ExecSpec, Vec<u8>) {
        (self.spec, self.input)
    }

    pub(super) fn from_spec(spec: ExecSpec) -> Self {
        Self { spec, input: Vec::new() }
    }
}

impl std::fmt::Display for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match &self.spec.program {
            Program::Argv(argv) => argv.join(" "),
            Program::Shell(script) => script.clone(),
        };
        let short: String = text.chars().take(200).collect();
        let more = if short.len() < text.len() { " …" } else { "" };
        write!(f, "`{short}{more}`")
    }
}

pub(super) fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub status: Status,
    /// From spawn to exit, on the guest's clock.
    pub elapsed: Duration,
    /// What it and its children used.
    pub usage: Usage,
    /// A child of it still held stdout or stderr 100 ms after its exit.
    pub lingering: bool,
}

impl From<Exited> for Exit {
    fn from(exited: Exited) -> Self {
        Self {
            status: exited.status,
            elapsed: Duration::from_micros(exited.elapsed_us),
            usage: exited.usage,
            lingering: exited.lingering,
        }
    }
}

/// A command's end and all of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Code or signal.
    pub status: Status,
    /// All of stdout; on a terminal, all there is.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// From spawn to exit, on the guest's clock.
    pub elapsed: Duration,
    /// What it and its children used; all zero over a shell, which can't tell.
    pub usage: Usage,
    /// A child of it still held stdout or stderr 100 ms after its exit; never known over a shell.
    pub lingering: bool,
}

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Of stdout.
    Stdout(Vec<u8>),
    /// Of stderr.
    Stderr(Vec<u8>),
}

impl Guest {
    /// Starts a command and returns when it runs. Dropping the [`Running`] kills its process group in the guest.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if there is no such program, user or directory; [`GuestError::Unsupported`] over a shell,
    /// where output comes at a command's end.
    pub async fn exec(&self, exec: Exec) -> Result<Running, GuestError> {
        let mut running = self.start(exec)?;
        match tokio::time::timeout(SILENCE, running.started()).await {
            Ok(started) => started.map(|()| running),
            Err(_) => Err(running.operation.silent()),
        }
    }

    /// Runs a command to its end, whatever that is, and collects its output.
    ///
    /// # Errors
    ///
    /// [`GuestError::CommandTimeout`] at the limit, when the process group has been killed in the guest;
    /// [`GuestError::Refused`] if it can't be started.
    pub async fn run(&self, exec: Exec, limit: Duration) -> Result<Output, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.run(exec, limit).await;
        }
        let mut running = self.start(exec.limit(limit))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let collected =
            tokio::time::timeout(limit + SILENCE, running.collect(&mut stdout, &mut stderr)).await;
        let operation = &running.operation;
        let exit = match collected {
            Ok(exit) => exit?,
            Err(_) => return Err(operation.silent()),
        };
        if exit.status == Status::TimedOut {
            let mut output =
                String::from_utf8_lossy(&stdout[stdout.len().saturating_sub(EVIDENCE)..]).into_owned();
            output.push_str(&String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(EVIDENCE)..]));
            let (machine, command) = (operation.machine.clone(), operation.operation.clone());
            return Err(GuestError::CommandTimeout { machine, command, limit, output });
        }
        let Exit { status, elapsed, usage, lingering } = exit;
        Ok(Output { status, stdout, stderr, elapsed, usage, lingering })
    }

    fn start(&self, exec: Exec) -> Result<Running, GuestError> {
        let operation = self.begin(exec.to_string(), Request::Exec(exec.spec.clone()))?;
        let stdin = exec.spec.stdin.then(|| Stdin { sender: operation.call.sender() });
        Ok(Running { operation, input: exec.input, stdin, pid: 0, exited: None })
    }
}

/// A command that runs. Dropped, its process group is killed in the guest.
pub struct Running {
    operation: Operation,
    /// What is fed to stdin before anything else.
    input: Vec<u8>,
    stdin: Option<Stdin>,
    pid: u32,
    exited: Option<Exit>,
}

impl Running {
    /// The process in the guest, which leads a process group of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its stdin, once, if [`Exec::stdin_streamed`] was asked for.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        if self.input.is_empty() { self.stdin.take() } else { None }
    }

    /// Its stdout, once. Bytes that nobody reads stall the command after 256 KiB, and nothing else.
    pub fn take_stdout(&mut self) -> Option<OutputStream> {
        self.operation.call.out.take().map(|pieces| self.stream(pieces))
    }

    /// Its stderr, once.
    pub fn take_stderr(&mut self) -> Option<OutputStream> {
        self.operation.call.err.take().map(|pieces| self.stream(pieces))
    }

    fn stream(&self, pieces: Pieces) -> OutputStream {
        let (machine, operation) = (self.operation.machine.clone(), self.operation.operation.clone());
        OutputStream { pieces, machine, operation, started: self.operation.started }
    }

    /// Sends a signal (by number) to the process group.
    pub fn signal(&self, signal: i32) {
        self.operation.call.signal(signal);
    }

    /// Tells its terminal a new size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.operation.call.resize(TtySize { columns, rows });
    }

    /// The next piece of stdout or stderr, as far as these weren't taken; `None` when both have ended. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the output was cut off by the end of the session.
    pub async fn next(&mut self) -> Result<Option<Chunk>, GuestError> {
        let call = &mut self.operation.call;
        let (out, err) = (&mut call.out, &mut call.err);
        let next = loop {
            let (over, piece) = tokio::select! {
                piece = next(out), if out.is_some() => (&mut *out, piece.map(|piece| piece.map(Chunk::Stdout))),
                piece = next(err), if err.is_some() => (&mut *err, piece.map(|piece| piece.map(Chunk::Stderr))),
                else => break Ok(None),
            };
            match piece {
                Ok(None) => *over = None,
                piece => break piece,
            }
        };
        next.map_err(|lost| self.operation.lost(lost))
    }

    /// Waits for the end. Output that wasn't taken is dropped, so that it can't stall the command.
    ///
    /// # Errors
    ///
    /// If the session ends first.
    pub async fn wait(&mut self) -> Result<Exit, GuestError> {
        self.collect(&mut Drain, &mut Drain).await
    }

    async fn started(&mut self) -> Result<(), GuestError> {
        match self.operation.call.event().await {
            Ok(Event::Started(pid)) => {
                self.pid = pid;
                Ok(())
            }
            Ok(Event::Reply(Err(failure))) => Err(self.operation.refused(failure)),
            Ok(other) => Err(self.operation.nonsense(&other)),
            Err(lost) => Err(self.operation.lost(lost)),
        }
    }

    /// Feeds, drains and waits, all at once.
    async fn collect(&mut self, stdout: &mut impl Sink, stderr: &mut impl Sink) -> Result<Exit, GuestError> {
        if let Some(exit) = &self.exited {
            return Ok(exit.clone());
        }
        let (mut out, mut err) = (self.operation.call.out.take(), self.operation.call.err.take());
        // A stdin that nobody took ends after the bytes that were given.
        let (stdin, input) = (self.stdin.take(), std::mem::take(&mut self.input));
        let feed = async {
            if let Some(stdin) = stdin {
                stdin.write(&input).await;
            }
            std::future::pending::<()>().await;
        };
        let work = async {
            tokio::try_join!(drain(&mut out, stdout), drain(&mut err, stderr), async {
                self.operation.call.reply().await
            })
        };
        let result = tokio::select! {
            () = feed => unreachable!("feeding stdin never ends"),
            result = work => result,
        };
        match result {
            Ok(((), (), Ok(Reply::Exited(exited)))) => {
                let exit = Exit::from(exited);
                self.exited = Some(exit.clone());
                Ok(exit)
            }
            Ok(((), (), Ok(other))) => Err(self.operation.nonsense(&other)),
            Ok(((), (), Err(failure))) => Err(self.operation.refused(failure)),
            Err(lost) => Err(self.operation.lost(lost)),
        }
    }
}

async fn next(pieces: &mut Option<Pieces>) -> Result<Option<Vec<u8>>, Lost> {
    match pieces {
        Some(pieces) => pieces.next().await,
        None => Ok(None),
    }
}

async fn drain(pieces: &mut Option<Pieces>, sink: &mut impl Sink) -> Result<(), Lost> {
    while let Some(piece) = next(pieces).await? {
        sink.take(&piece);
    }
    Ok(())
}

trait Sink {
    fn take(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn take(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

struct Drain;

impl Sink for Drain {
    fn take(&mut self, _: &[u8]) {}
}

/// A command's stdin. Dropped, the command reads the end.
pub struct Stdin {
    sender: CallSender,
}

impl Stdin {
    /// Sends bytes, as fast as the command reads them (256 KiB ahead). False once the command is over.
    pub async fn write(&self, bytes: &[u8]) -> bool {
        self.sender.data(bytes).await
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.sender.end(None);
    }
}

/// A command's stdout or stderr.
pub struct OutputStream {
    pieces: Pieces,
    machine: String,
    operation: String,
    started: std::time::Instant,
}

impl OutputStream {
    /// The next bytes, `None` at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`GuestError::Lost`] if it was cut off by the end of the session.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        self.pieces.next().await.map_err(|reason| GuestError::Lost {
            machine: self.machine.clone(),
            operation: self.operation.clone(),
            elapsed: self.started.elapsed(),
            reason,
        })
    }
}
