//! Tools: programs that end within a limit.

use std::borrow::Cow;
use std::io::{self, Read};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::child::Child;
use crate::command::{Command, CommandLine, Stdio};
use crate::error::{Error, Tail};
use crate::latch::Latch;
use crate::spawner::spawn;

/// The most of one stream that is kept in memory.
const CAPTURE_MAX: usize = 64 << 20;
/// How long to read on after the child's end: only what left its process group can still hold a pipe.
const DRAIN: Duration = Duration::from_secs(2);
/// How long SIGKILL may take before a limit's error is returned all the same.
const REAP: Duration = Duration::from_secs(5);
/// A longer line is delivered in pieces.
const LINE_MAX: usize = 64 << 10;

/// Which of a child's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a tool ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output; empty after [`run_streaming`].
    pub stdout: Vec<u8>,
    /// All of its standard error; after [`run_streaming`] only the last lines.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
    /// What was run.
    pub command: CommandLine,
}

impl Output {
    /// Whether it ended with status 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Itself if it was successful.
    ///
    /// # Errors
    /// [`Error::Failed`] with the last lines of stderr, or of stdout where stderr is empty.
    pub fn checked(self) -> Result<Output, Error> {
        if self.success() {
            return Ok(self);
        }
        let tail = Some(Tail::of(&self.stderr)).filter(|tail| !tail.is_empty());
        let tail = tail.unwrap_or_else(|| Tail::of(&self.stdout));
        Err(Error::Failed { command: self.command, status: self.status, elapsed: self.elapsed, tail })
    }

    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text; bytes that are not UTF-8 are replaced.
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}

/// Runs a tool and captures what it prints. Dropping the future kills the tool's process group.
///
/// Must be called on a tokio runtime with its timer enabled.
///
/// # Errors
/// What [`spawn`] gives; [`Error::Limit`] when it runs too long, after its process group was killed. A failing
/// status is not an error here: see [`Output::checked`].
pub async fn run(command: Command, limit: Duration) -> Result<Output, Error> {
    let running = Running::start(command)?;
    if tokio::time::timeout(limit, running.child.wait()).await.is_err() {
        running.child.kill_group();
        let _ = tokio::time::timeout(REAP, running.child.wait()).await;
        return Err(running.over(limit));
    }
    let drain = tokio::time::Instant::now() + DRAIN;
    for capture in running.captures() {
        let _ = tokio::time::timeout_at(drain, capture.done.wait()).await;
    }
    running.output()
}

/// [`run`] on a plain thread.
///
/// # Errors
/// Those of [`run`].
pub fn run_blocking(command: Command, limit: Duration) -> Result<Output, Error> {
    let running = Running::start(command)?;
    if running.child.wait_blocking(limit).is_none() {
        running.child.kill_group();
        let _ = running.child.wait_blocking(REAP);
        return Err(running.over(limit));
    }
    let drain = Instant::now() + DRAIN;
    for capture in running.captures() {
        let _ = capture.done.wait_until(Some(drain));
    }
    running.output()
}

/// Runs a tool and hands each line that it prints to `on_line` as it comes, on the calling thread, for progress.
/// A carriage return ends a line too, as in progress bars; empty lines are left out.
///
/// # Errors
/// Those of [`run`].
pub fn run_streaming(
    command: Command,
    limit: Duration,
    mut on_line: impl FnMut(Stream, &str),
) -> Result<Output, Error> {
    let command = piped(command);
    let started = Instant::now();
    let child = spawn(command)?;
    // Bounded, so that a tool which prints faster than `on_line` works is slowed down instead of filling memory.
    let (sender, lines) = mpsc::sync_channel(256);
    if let Some(stdout) = child.take_stdout() {
        read_lines(stdout, Stream::Stdout, sender.clone(), &child)?;
    }
    if let Some(stderr) = child.take_stderr() {
        read_lines(stderr, Stream::Stderr, sender.clone(), &child)?;
    }
    drop(sender);

    let mut tails = [Tail::default(), Tail::default()];
    let until = started + limit;
    loop {
        // Once the child has ended, only a process that left its group can keep the pipes open.
        let ended = child.try_status().is_some();
        let left = if ended { DRAIN } else { until.saturating_duration_since(Instant::now()).min(DRAIN) };
        match lines.recv_timeout(left) {
            Ok((stream, line)) => {
                tails[stream as usize].push(&line);
                on_line(stream, &line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) if ended => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if !ended && Instant::now() >= until {
            break;
        }
    }
    let [stdout, stderr] = tails;
    let tail = if stderr.is_empty() { stdout } else { stderr };
    let Some(status) = child.wait_blocking(until.saturating_duration_since(Instant::now())) else {
        child.kill_group();
        let _ = child.wait_blocking(REAP);
        return Err(Error::Limit { command: child.line().clone(), limit, elapsed: started.elapsed(), tail });
    };
    let stderr = tail.lines().flat_map(|line| [line, "\n"]).collect::<String>().into_bytes();
    Ok(Output {
        status,
        stdout: Vec::new(),
        stderr,
        elapsed: started.elapsed(),
        command: child.line().clone(),
    })
}

fn piped(mut command: Command) -> Command {
    command.stdout.get_or_insert(Stdio::Piped);
    command.stderr.get_or_insert(Stdio::Piped);
    command
}

struct Running {
    child: Child,
    stdout: Option<Capture>,
    stderr: Option<Capture>,
}

impl Running {
    fn start(command: Command) -> Result<Running, Error> {
        let child = spawn(piped(command))?;
        let capture = |pipe: Option<Box<dyn Read + Send>>| {
            pipe.map(Capture::of)
                .transpose()
                .map_err(|source| Error::Spawn { command: child.line().clone(), source })
        };
        let stdout = capture(child.take_stdout().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>))?;
        let stderr = capture(child.take_stderr().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>))?;
        Ok(Running { child, stdout, stderr })
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }

    fn over(&self, limit: Duration) -> Error {
        let tail = |capture: &Option<Capture>| {
            capture.as_ref().map(|capture| Tail::of(&capture.lock().bytes)).unwrap_or_default()
        };
        let stderr = Some(tail(&self.stderr)).filter(|tail| !tail.is_empty());
        Error::Limit {
            command: self.child.line().clone(),
            limit,
            elapsed: self.child.started().elapsed(),
            tail: stderr.unwrap_or_else(|| tail(&self.stdout)),
        }
    }

    fn output(self) -> Result<Output, Error> {
        let command = self.child.line().clone();
        let take = |capture: Option<Capture>| {
            let Some(capture) = capture else { return Ok(Vec::new()) };
            let mut kept = capture.lock();
            if kept.overflowed {
                return Err(Error::TooMuchOutput { command: command.clone(), limit: CAPTURE_MAX });
            }
            Ok(std::mem::take(&mut kept.bytes))
        };
        let elapsed = self.child.started().elapsed();
        let (stdout, stderr) = (take(self.stdout)?, take(self.stderr)?);
        let status = self.child.try_status().expect("it was waited for");
        Ok(Output { status, stdout, stderr, elapsed, command })
    }
}

/// A stream, read by a thread of its own into memory.
struct Capture {
    kept: Arc<Mutex<Kept>>,
    done: Arc<Latch<()>>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Capture {
    fn of(mut pipe: Box<dyn Read + Send>) -> io::Result<Capture> {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let done = Arc::new(Latch::new());
        let capture = Capture { kept: kept.clone(), done: done.clone() };
        thread::Builder::new().name("child-output".into()).stack_size(256 << 10).spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Some(count) = read_some(&mut pipe, &mut chunk) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.bytes.len() + count > CAPTURE_MAX {
                    kept.overflowed = true;
                } else {
                    kept.bytes.extend_from_slice(&chunk[..count]);
                }
            }
            done.set(());
        })?;
        Ok(capture)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` at the end, and on an error, which a pipe does not give.
fn read_some(pipe: &mut impl Read, chunk: &mut [u8]) -> Option<usize> {
    loop {
        match pipe.read(chunk) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn read_lines(
    mut pipe: impl Read + Send + 'static,
    stream: Stream,
    lines: mpsc::SyncSender<(Stream, String)>,
    child: &Child,
) -> Result<(), Error> {
    let read = move || {
        let mut chunk = vec![0; 16 << 10];
        let mut line = Vec::new();
        let deliver = |line: &mut Vec<u8>| {
            let text = String::from_utf8_lossy(line).into_owned();
            line.clear();
            text.is_empty() || lines.send((stream, text)).is_ok()
        };
        while let Some(count) = read_some(&mut pipe, &mut chunk) {
            for &byte in &chunk[..count] {
                let ends = matches!(byte, b'\n' | b'\r');
                if !ends {
                    line.push(byte);
                }
                if (ends || line.len() >= LINE_MAX) && !deliver(&mut line) {
                    return;
                }
            }
        }
        deliver(&mut line);
    };
    thread::Builder::new()
        .name("child-lines".into())
        .stack_size(256 << 10)
        .spawn(read)
        .map(drop)
        .map_err(|source| Error::Spawn { command: child.line().clone(), source })
}
