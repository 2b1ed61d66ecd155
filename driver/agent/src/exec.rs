//! Running commands.

use crate::failure::{Answer, Doing, failure};
use crate::session::Windows;
use crate::spawn::{Process, Start, set_terminal_size, spawn};
use crate::streams::{Inbox, Input, Outbox};
use crate::users::{self, Account, Database};
use crate::watched::watched;
use agent_proto::frame::MAX_BULK;
use agent_proto::message::{
    ExecSpec, Exited, Failure, FailureKind, Program, Reply, Status, Stream, ToHost, TtySize, Usage,
};
use agent_proto::window::SendWindow;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// How long after a command's exit its output is still waited for, where a child of it holds the pipe open.
///
/// What the command itself wrote is in the pipe by then and is always delivered.
const GRACE: Duration = Duration::from_millis(100);
/// Most that can be left in a pipe (Linux's default size).
const PIPE: usize = 64 * 1024;
/// How much of a stream is read at first: most commands say little, and a page that nobody has touched costs a guest under
/// emulation more than a system call.
const FIRST_READ: usize = 2 * 1024;
/// What is kept of the output of a command that is waited for.
const TAIL: usize = 64 * 1024;

type Fd = Arc<AsyncFd<OwnedFd>>;

/// A command and our ends of its streams.
struct Command {
    process: Process,
    started: Instant,
    stdin: Option<Fd>,
    outputs: Vec<(Stream, Fd)>,
    terminal: bool,
}

fn start(spec: &ExecSpec) -> Result<Command, Failure> {
    let argv = match &spec.program {
        Program::Argv(argv) if argv.first().is_some_and(|program| !program.is_empty()) => argv.clone(),
        Program::Argv(_) => return Err(failure(FailureKind::Invalid, "no program given")),
        Program::Shell(script) => shell(script),
    };
    let (account, chosen) = who(spec.user.as_deref())?;
    let home = account.as_ref().map_or("/", |account| account.home.as_str());
    let cwd = match &spec.cwd {
        Some(cwd) if !Path::new(cwd).is_dir() => {
            return Err(failure(FailureKind::NotFound, format!("no directory `{cwd}` to run in")));
        }
        Some(cwd) => cwd,
        None if Path::new(home).is_dir() => home,
        None => "/",
    };
    let env = environment(spec, account.as_ref());
    let mut command = Start {
        argv: &argv,
        env: &env,
        cwd,
        account: account.as_ref().filter(|_| chosen),
        terminal: spec.tty.is_some(),
        stdio: [None, None, None],
    };
    let (mut stdin, mut outputs) = (None, Vec::new());
    if let Some(size) = spec.tty {
        let pty = openpty(&winsize(size), None).doing("open a terminal")?;
        cloexec(&pty.master)?;
        cloexec(&pty.slave)?;
        let copy = |fd: &OwnedFd| fd.try_clone().doing("open a terminal");
        command.stdio = [Some(copy(&pty.slave)?), Some(copy(&pty.slave)?), Some(pty.slave)];
        let master = asynchronous(pty.master)?;
        stdin = Some(master.clone());
        outputs.push((Stream::Out, master));
    } else {
        if spec.stdin {
            let (reader, writer) = pipe()?;
            command.stdio[0] = Some(reader);
            stdin = Some(asynchronous(writer)?);
        }
        for (stream, fd) in [(Stream::Out, 1), (Stream::Err, 2)] {
            let (reader, writer) = pipe()?;
            command.stdio[fd] = Some(writer);
            outputs.push((stream, asynchronous(reader)?));
        }
    }
    let terminal = command.terminal;
    let started = Instant::now();
    let process = spawn(command).doing(format_args!("run `{}`", argv[0]))?;
    Ok(Command { process, started, stdin, outputs, terminal })
}

fn shell(script: &str) -> Vec<String> {
    let bash = ["/bin/bash", "/usr/bin/bash", "/run/current-system/sw/bin/bash"];
    let argv: &[&str] = match bash.into_iter().find(|path| Path::new(path).exists()) {
        Some(bash) => &[bash, "-euo", "pipefail", "-c", script],
        None => &["/bin/sh", "-eu", "-c", script],
    };
    argv.iter().map(|argument| (*argument).to_owned()).collect()
}

/// The account, where one is known, and whether it was asked for.
fn who(user: Option<&str>) -> Result<(Option<Account>, bool), Failure> {
    match user {
        Some(user) => Ok((Some(Database::read()?.account(user)?), true)),
        None => Ok((users::own(), false)),
    }
}

fn environment(spec: &ExecSpec, account: Option<&Account>) -> Vec<(String, String)> {
    let standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = if Path::new("/run/current-system/sw/bin").exists() {
        format!("/run/wrappers/bin:/run/current-system/sw/bin:{standard}")
    } else {
        standard.to_owned()
    };
    let mut env = vec![("PATH".to_owned(), path), ("LANG".to_owned(), "C.UTF-8".to_owned())];
    if let Some(account) = account {
        let own = [("HOME", &account.home), ("USER", &account.name), ("LOGNAME", &account.name)];
        env.extend(own.map(|(key, value)| (key.to_owned(), value.clone())));
        env.push(("SHELL".to_owned(), account.shell.clone()));
    }
    if spec.tty.is_some() {
        env.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    env.extend(spec.env.iter().cloned());
    env
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).doing("make a pipe")
}

fn asynchronous(fd: OwnedFd) -> Result<Fd, Failure> {
    let flags = fcntl(&fd, FcntlArg::F_GETFL).doing("set up a pipe")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).doing("set up a pipe")?;
    watched(fd, Interest::READABLE | Interest::WRITABLE).map(Arc::new).doing("set up a pipe")
}

fn cloexec(fd: &OwnedFd) -> Result<(), Failure> {
    let flag = nix::fcntl::FdFlag::FD_CLOEXEC;
    fcntl(fd, FcntlArg::F_SETFD(flag)).map(|_| ()).doing("set up a terminal")
}

fn winsize(size: TtySize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Runs a command for the host.
pub(crate) async fn run(spec: ExecSpec, outbox: Outbox, inbox: Inbox, windows: Windows) -> Answer {
    let limit = spec.limit_ms.map(Duration::from_millis);
    let mut command = start(&spec)?;
    outbox.message(ToHost::Started { id: outbox.id, pid: command.process.pid() }).await;
    let (exit, exited) = watch::channel(None);
    let pumps = std::mem::take(&mut command.outputs).into_iter().map(|(stream, fd)| {
        let window = if stream == Stream::Out { &windows.out } else { &windows.err };
        let sink = Sink::Host { outbox: outbox.clone(), window: window.clone(), stream };
        pump(fd, sink, exited.clone())
    });
    let pumps = Tasks(pumps.map(tokio::spawn).collect());
    let (status, usage, elapsed) = supervise(command, inbox, limit).await?;
    let _ = exit.send(Some(tokio::time::Instant::now() + GRACE));
    let lingering = pumps.join().await;
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    Ok(Reply::Exited(Exited { status, elapsed_us, usage, lingering }))
}

/// Feeds and signals a command until it exits; kills its group at the limit.
async fn supervise(
    mut command: Command,
    mut inbox: Inbox,
    limit: Option<Duration>,
) -> Result<(Status, Usage, Duration), Failure> {
    let (started, terminal) = (command.started, command.terminal);
    let deadline = limit.map(|limit| tokio::time::Instant::from_std(started) + limit);
    let resize = command.stdin.clone().filter(|_| terminal);
    let (feed, fed) = tokio::sync::mpsc::unbounded_channel();
    let (taken, mut used) = tokio::sync::mpsc::unbounded_channel();
    let _feeder = Tasks(vec![tokio::spawn(feed_stdin(command.stdin.take(), fed, taken, terminal))]);
    let mut timed_out = false;
    loop {
        tokio::select! {
            exited = command.process.exited() => {
                let (status, usage) = exited.doing("wait for the command")?;
                let status = if timed_out { Status::TimedOut } else { status };
                return Ok((status, usage, started.elapsed()));
            }
            () = until(deadline), if !timed_out => {
                timed_out = true;
                command.process.kill_group();
            }
            Some(bytes) = used.recv() => inbox.taken(bytes).await,
            Some(input) = inbox.next() => match input {
                Input::Data(_) | Input::End(_) => {
                    let _ = feed.send(input);
                }
                Input::Signal(signal) => command.process.signal_group(signal),
                Input::Resize(size) => {
                    if let Some(terminal) = &resize {
                        set_terminal_size(terminal.get_ref(), &winsize(size));
                    }
                }
            },
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Writes the host's data to stdin; what a command no longer reads is dropped, and credit flows all the same.
async fn feed_stdin(
    mut stdin: Option<Fd>,
    mut queue: tokio::sync::mpsc::UnboundedReceiver<Input>,
    taken: tokio::sync::mpsc::UnboundedSender<usize>,
    terminal: bool,
) -> bool {
    while let Some(input) = queue.recv().await {
        match input {
            Input::Data(data) => {
                let written = match &stdin {
                    Some(fd) => write_all(fd, &data).await,
                    None => Ok(()),
                };
                if written.is_err() {
                    stdin = None;
                }
                let _ = taken.send(data.len());
            }
            // A terminal has no end; this is what Ctrl-D sends.
            Input::End(_) if terminal => {
                if let Some(fd) = &stdin {
                    let _ = write_all(fd, &[4]).await;
                }
            }
            Input::End(_) => stdin = None,
            Input::Signal(_) | Input::Resize(_) => {}
        }
    }
    false
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut guard = fd.writable().await?;
        let write = |fd: &AsyncFd<OwnedFd>| Ok(nix::unistd::write(fd.get_ref(), data)?);
        if let Ok(written) = guard.try_io(write) {
            data = &data[written?..];
        }
    }
    Ok(())
}

/// Tasks that end with their owner.
struct Tasks(Vec<tokio::task::JoinHandle<bool>>);

impl Tasks {
    /// Whether any of them said yes.
    async fn join(mut self) -> bool {
        let mut any = false;
        for task in &mut self.0 {
            any |= task.await.unwrap_or(false);
        }
        any
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Where output goes.
enum Sink {
    Host { outbox: Outbox, window: Arc<SendWindow>, stream: Stream },
    Memory(tokio::sync::mpsc::UnboundedSender<Vec<u8>>),
}

impl Sink {
    async fn credit(&self) -> Option<usize> {
        match self {
            Self::Host { window, .. } => window.take(MAX_BULK).await,
            Self::Memory(_) => Some(MAX_BULK),
        }
    }

    fn give_back(&self, bytes: usize) {
        if let Self::Host { window, .. } = self {
            window.give_back(bytes);
        }
    }

    async fn data(&self, data: Vec<u8>) {
        match self {
            Self::Host { outbox, stream, .. } => outbox.bulk(*stream, data).await,
            Self::Memory(sender) => {
                let _ = sender.send(data);
            }
        }
    }

    async fn end(&self) {
        if let Self::Host { outbox, stream, .. } = self {
            outbox.message(ToHost::End { id: outbox.id, stream: *stream }).await;
        }
    }
}

/// Moves output until its end, or until [`GRACE`] after the command's exit; true if somebody still holds it.
async fn pump(fd: Fd, sink: Sink, mut exited: watch::Receiver<Option<tokio::time::Instant>>) -> bool {
    // What may still be read once the grace is over.
    let mut rest = None;
    let mut room = FIRST_READ;
    let lingering = loop {
        let Some(credit) = sink.credit().await else { break false };
        let mut buffer = vec![0; credit.min(room)];
        let read = tokio::select! {
            biased;
            read = read(&fd, &mut buffer) => Some(read),
            () = grace(&mut exited), if rest.is_none() => {
                rest = Some(PIPE);
                sink.give_back(credit);
                continue;
            }
            () = std::future::ready(()), if rest.is_some() => None,
        };
        let count = match read {
            None => break true,
            // A terminal whose other side is closed says EIO.
            Some(Ok(0) | Err(_)) => break false,
            Some(Ok(count)) => count,
        };
        sink.give_back(credit - count);
        if count == room {
            room = MAX_BULK;
        }
        buffer.truncate(count);
        sink.data(buffer).await;
        if let Some(rest) = &mut rest {
            match rest.checked_sub(count) {
                Some(less) if less > 0 => *rest = less,
                _ => break true,
            }
        }
    };
    sink.end().await;
    lingering
}

async fn grace(exited: &mut watch::Receiver<Option<tokio::time::Instant>>) {
    let end = exited.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    until(end).await;
}

async fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut guard = fd.readable().await?;
        if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), buffer)?)) {
            return result;
        }
    }
}

/// Runs a command for the agent itself: status and the end of stdout and stderr, in the order of arrival.
pub(crate) async fn capture(spec: &ExecSpec, limit: Duration) -> Result<(Status, String), Failure> {
    let mut command = start(&ExecSpec { stdin: false, ..spec.clone() })?;
    command.stdin = None;
    let (exit, exited) = watch::channel(None);
    let (sender, mut output) = tokio::sync::mpsc::unbounded_channel();
    let outputs = std::mem::take(&mut command.outputs).into_iter();
    let pumps = outputs.map(|(_, fd)| pump(fd, Sink::Memory(sender.clone()), exited.clone()));
    let pumps = Tasks(pumps.map(tokio::spawn).collect());
    drop(sender);
    let mut tail = Vec::new();
    let mut keep = |data: Vec<u8>| {
        tail.extend_from_slice(&data);
        if tail.len() > 2 * TAIL {
            tail.drain(..tail.len() - TAIL);
        }
    };
    let deadline = tokio::time::Instant::now() + limit;
    let mut timed_out = false;
    let status = loop {
        tokio::select! {
            exited = command.process.exited() => break exited.doing("wait for the command")?.0,
            () = tokio::time::sleep_until(deadline), if !timed_out => {
                timed_out = true;
                command.process.kill_group();
            }
            Some(data) = output.recv() => keep(data),
        }
    };
    let _ = exit.send(Some(tokio::time::Instant::now() + GRACE));
    pumps.join().await;
    while let Ok(data) = output.try_recv() {
        keep(data);
    }
    let tail = &tail[tail.len().saturating_sub(TAIL)..];
    let status = if timed_out { Status::TimedOut } else { status };
    Ok((status, String::from_utf8_lossy(tail).into_owned()))
}

/// A plain command of the agent's own.
pub(crate) fn argv(argv: &[&str]) -> ExecSpec {
    ExecSpec {
        program: Program::Argv(argv.iter().map(|argument| (*argument).to_owned()).collect()),
        env: vec![("SYSTEMD_PAGER".into(), "cat".into()), ("SYSTEMD_COLORS".into(), "0".into())],
        cwd: Some("/".into()),
        user: None,
        tty: None,
        stdin: false,
        limit_ms: None,
    }
}
