//! The serial console: captured from the first byte, on disk and in memory, with waits, stages and findings.
//!
//! QEMU connects to a socket that we listen on, before its first instruction, so nothing is lost. Two files are
//! written: `console.raw` with the bytes as they came, and `console.log` with `[  12.345] text` lines, stamped with
//! the seconds since power-on and without escape sequences.

mod error;
mod scanner;
mod stage;
mod transcript;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regex::Regex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

pub use error::ConsoleError;
pub use scanner::{Finding, FindingKind, Scanner, Severity};
pub use stage::{Stage, StageDetector};
pub use transcript::Position;
use transcript::{Line, Transcript};

/// How many lines an error carries.
const TAIL: usize = 12;
/// How many calls of [`Console::send`] may wait for a guest that does not read.
const UNREAD_MAX: usize = 1024;

/// How a console is captured.
#[derive(Debug, Clone)]
pub struct ConsoleOptions {
    /// The machine's name, for messages.
    pub machine: String,
    /// `console.log`; the raw bytes go to the same path with the extension `raw`. Both are appended to, so that a
    /// machine that is powered on again goes on in the same files.
    pub log: PathBuf,
    /// When the machine was powered on: what the stamps count from.
    pub started: Instant,
}

/// A captured console. Clones share it; it is let go when the last is dropped.
#[derive(Debug, Clone)]
pub struct Console {
    capture: Arc<Capture>,
}

#[derive(Debug)]
struct Capture {
    shared: Arc<Shared>,
    input: mpsc::Sender<Vec<u8>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.end();
    }
}

#[derive(Debug)]
struct Shared {
    options: ConsoleOptions,
    transcript: Mutex<Transcript>,
    stage: watch::Sender<Stage>,
    /// Counts what came; `true` once the console is closed.
    progress: watch::Sender<(u64, bool)>,
    /// Who is given a copy of what comes.
    listeners: Mutex<Vec<mpsc::UnboundedSender<Vec<u8>>>>,
}

/// What a wait found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The text that matched.
    pub text: String,
    /// The pattern's groups, the whole match being the first.
    pub groups: Vec<Option<String>>,
    /// The position behind it, to wait for what comes next.
    pub position: Position,
    /// Time since power-on when it was seen.
    pub at: Duration,
}

impl Console {
    /// Captures a console on the current tokio runtime, until it is closed or the last handle is dropped.
    ///
    /// # Errors
    /// If a log can't be opened. A disk that becomes full later ends the logs, not the capture.
    pub fn capture<S>(stream: S, options: ConsoleOptions) -> io::Result<Console>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let append = |path: &std::path::Path| fs_err::OpenOptions::new().create(true).append(true).open(path);
        let logs = Logs {
            stamped: Some(append(&options.log)?.into_parts().0),
            raw: Some(append(&options.log.with_extension("raw"))?.into_parts().0),
        };
        let shared = Arc::new(Shared {
            options,
            transcript: Mutex::default(),
            stage: watch::Sender::new(Stage::Spawned),
            progress: watch::Sender::new((0, false)),
            listeners: Mutex::default(),
        });
        let (reader, writer) = tokio::io::split(stream);
        let (input, typed) = mpsc::channel(UNREAD_MAX);
        let tasks = [
            tokio::spawn(read(shared.clone(), reader, logs)).abort_handle(),
            tokio::spawn(write(writer, typed)).abort_handle(),
        ];
        Ok(Console { capture: Arc::new(Capture { shared, input, tasks }) })
    }

    /// Waits until `pattern` matches text at or after `from`, within `limit`. Escape sequences are left out, and a
    /// prompt without a newline matches too. What came already counts, if it is not before `from`. A pattern that
    /// ends in a repetition may match what has come of a longer text: end it with what must follow.
    ///
    /// Dropping the future is harmless.
    ///
    /// # Errors
    /// [`ConsoleError::Timeout`], [`ConsoleError::Closed`].
    pub async fn wait_for(
        &self,
        pattern: &Regex,
        from: Position,
        limit: Duration,
    ) -> Result<Match, ConsoleError> {
        let shared = self.shared();
        let begun = Instant::now();
        let mut progress = shared.progress.subscribe();
        let wait = async {
            loop {
                let (_, closed) = *progress.borrow_and_update();
                if let Some(found) = shared.find(pattern, from) {
                    return Some(found);
                }
                if closed || progress.changed().await.is_err() {
                    return None;
                }
            }
        };
        let outcome = tokio::time::timeout(limit, wait).await;
        if let Ok(Some(found)) = outcome {
            return Ok(found);
        }
        let (machine, pattern) = (shared.options.machine.clone(), pattern.to_string());
        let (age, stage, tail) = (shared.age(), self.stage(), self.tail(TAIL));
        Err(match outcome {
            Ok(_) => ConsoleError::Closed { machine, pattern, age, stage, tail },
            Err(_) => ConsoleError::Timeout { machine, pattern, elapsed: begun.elapsed(), age, stage, tail },
        })
    }

    /// Types bytes, in order. Returns at once; the guest reads when it reads.
    ///
    /// # Errors
    /// [`ConsoleError::Send`].
    pub fn send(&self, bytes: impl Into<Vec<u8>>) -> Result<(), ConsoleError> {
        let sent = self.capture.input.try_send(bytes.into());
        sent.map_err(|error| ConsoleError::Send {
            machine: self.shared().options.machine.clone(),
            reason: match error {
                mpsc::error::TrySendError::Closed(_) => "it is closed",
                mpsc::error::TrySendError::Full(_) => "the guest has not read what was typed before",
            },
            tail: self.tail(TAIL),
        })
    }

    /// A copy of all bytes that come from now on, for a dialogue that reads more than lines.
    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Vec<u8>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared().listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// The position behind all that came so far.
    pub fn position(&self) -> Position {
        self.shared().transcript().position()
    }

    /// The last lines that are not blank, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        self.shared().transcript().tail(lines)
    }

    /// All text from a position on that is still in memory (the last megabytes).
    pub fn text(&self, from: Position) -> String {
        let transcript = self.shared().transcript();
        let (text, index) = transcript.text_from(from);
        text[index..].to_owned()
    }

    /// The stage of the boot.
    pub fn stage(&self) -> Stage {
        *self.shared().stage.borrow()
    }

    /// The stage of the boot, as it goes on.
    pub fn stages(&self) -> watch::Receiver<Stage> {
        self.shared().stage.subscribe()
    }

    /// Says what the console can't show: that the agent answers, that the boot is done, or, with
    /// [`Stage::Spawned`], that the machine was reset and begins again. A stage before the current one is not gone
    /// back to otherwise.
    pub fn set_stage(&self, stage: Stage) {
        if stage == Stage::Spawned {
            // Under the lock, so that no byte from before the reset raises the stage after it.
            let mut transcript = self.shared().transcript();
            transcript.begin_again();
            self.shared().stage.send_replace(Stage::Spawned);
        } else {
            self.shared().reach(stage);
        }
    }

    /// The findings, from the first on, and then as they come.
    pub fn findings(&self) -> Findings {
        Findings { progress: self.shared().progress.subscribe(), shared: self.shared().clone(), next: 0 }
    }

    /// Changes whenever something came and the logs have it.
    pub(crate) fn progress(&self) -> watch::Receiver<(u64, bool)> {
        self.shared().progress.subscribe()
    }

    /// Whether the other end has closed it.
    pub fn is_closed(&self) -> bool {
        self.shared().progress.borrow().1
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.capture.shared
    }
}

/// The findings of a console, one after the other.
#[derive(Debug)]
pub struct Findings {
    shared: Arc<Shared>,
    progress: watch::Receiver<(u64, bool)>,
    next: usize,
}

impl Findings {
    /// The next finding; `None` once the console is closed and all were given. Dropping the future is harmless.
    pub async fn next(&mut self) -> Option<Finding> {
        loop {
            let (_, closed) = *self.progress.borrow_and_update();
            if let Some(finding) = self.try_next() {
                return Some(finding);
            }
            if closed || self.progress.changed().await.is_err() {
                return None;
            }
        }
    }

    /// The next finding if there is one by now.
    pub fn try_next(&mut self) -> Option<Finding> {
        let finding = self.shared.transcript().findings().get(self.next).cloned()?;
        self.next += 1;
        Some(finding)
    }
}

impl Shared {
    fn transcript(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        self.options.started.elapsed()
    }

    fn find(&self, pattern: &Regex, from: Position) -> Option<Match> {
        let transcript = self.transcript();
        let (text, index) = transcript.text_from(from);
        let groups = pattern.captures_at(text, index)?;
        let whole = groups.get(0)?;
        Some(Match {
            text: whole.as_str().to_owned(),
            groups: groups.iter().map(|group| group.map(|group| group.as_str().to_owned())).collect(),
            position: transcript.position_of(whole.end()),
            at: self.age(),
        })
    }

    fn reach(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let later = stage > *now;
            if later {
                *now = stage;
            }
            later
        });
    }

    fn feed(&self, bytes: &[u8]) -> Vec<Line> {
        let mut transcript = self.transcript();
        let lines = transcript.feed(bytes, self.age());
        self.reach(transcript.stage());
        lines
    }

    /// To those who listen, as long as they do.
    fn pass_on(&self, bytes: &[u8]) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.send(bytes.to_vec()).is_ok());
    }

    fn came(&self) {
        self.progress.send_modify(|(count, _)| *count += 1);
    }

    fn end(&self) {
        // Whoever listens reads the end.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.progress.send_modify(|(_, closed)| *closed = true);
    }
}

async fn read<S: AsyncRead>(shared: Arc<Shared>, mut reader: ReadHalf<S>, mut logs: Logs) {
    let mut chunk = vec![0; 16 << 10];
    loop {
        match reader.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => {
                logs.raw(&chunk[..count]);
                logs.lines(&shared.feed(&chunk[..count]));
                shared.pass_on(&chunk[..count]);
                // After the logs, so that whoever is woken finds in them what woke it.
                shared.came();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!("{}: console: {error}", shared.options.machine);
                break;
            }
        }
    }
    let last = shared.transcript().last_line();
    logs.lines(last.as_slice());
    shared.end();
}

/// A task of its own, so that a caller who stops waiting never leaves half a line behind.
async fn write<S: AsyncWrite>(mut writer: WriteHalf<S>, mut typed: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = typed.recv().await {
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!("console: {error}");
            return;
        }
    }
}

/// Both files; one that can't be written to any more is let go, with one warning.
struct Logs {
    stamped: Option<File>,
    raw: Option<File>,
}

impl Logs {
    fn raw(&mut self, bytes: &[u8]) {
        append(&mut self.raw, bytes);
    }

    fn lines(&mut self, lines: &[Line]) {
        let mut text = String::new();
        for line in lines {
            text.push_str(&format!("[{:>8.3}] {}\n", line.at.as_secs_f64(), line.text));
        }
        append(&mut self.stamped, text.as_bytes());
    }
}

fn append(file: &mut Option<File>, bytes: &[u8]) {
    let Some(open) = file else { return };
    if let Err(error) = open.write_all(bytes) {
        tracing::warn!("a console log ends early: {error}");
        *file = None;
    }
}

#[cfg(test)]
mod tests;
