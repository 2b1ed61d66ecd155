//! The line at work: two tasks, the state that they leave, and requests that are said again until they are answered.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::attach::Options;
use crate::error::{Error, Refusal};
use crate::frame::{self, Decoder, Item, Marker, Tag};

/// Lines of text that are kept.
const TEXT_LINES: usize = 64;
/// Lines of text in an error.
const EVIDENCE_LINES: usize = 8;
/// Where others talk without end, the line is never silent: an answer is given up after so many silences.
const SILENCES: u32 = 6;
/// The most patience.
const PATIENCE_MAX: u32 = 4;

/// What the guest said of itself when its server began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The boot, as the kernel numbers it; `unknown` where there is no `/proc`.
    pub boot_id: String,
    /// Whose shell it is.
    pub uid: u32,
    /// Where the server keeps its files.
    pub(crate) directory: String,
}

/// A shell at the other end of a line. Clones share it.
///
/// Requests take turns in the order in which they were made; commands run beside each other.
#[derive(Debug, Clone)]
pub struct Shell {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) marker: Marker,
    pub(crate) hello: Hello,
    pub(crate) wire: Wire,
    /// Whose turn it is.
    turn: tokio::sync::Mutex<()>,
    next_request: AtomicU32,
    next_job: AtomicU32,
    /// How many bytes a piece of a file has that is fetched.
    pub(crate) piece: AtomicUsize,
    /// How many times the silence is waited through: a guest that is slower than we thought would never be done with
    /// requests that are said again too soon.
    patience: AtomicU32,
    /// Commands whose files can go.
    done: Mutex<Vec<u32>>,
}

/// The two tasks of a line and what they share.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Wire {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    unwritten: AtomicUsize,
}

/// What came.
#[derive(Debug)]
pub(crate) struct State {
    decoder: Decoder,
    /// The request whose answer is waited for, and the answer.
    awaited: Option<u32>,
    reply: Option<Vec<u8>>,
    /// Commands whose end is waited for, and what it said.
    jobs: HashMap<u32, Option<Vec<u8>>>,
    /// How often something arrived damaged, here or in the guest, and what was wrong last.
    pub(crate) damages: u64,
    evidence: String,
    /// The last lines of others, and how many there were.
    pub(crate) text: VecDeque<String>,
    pub(crate) lines: u64,
    /// When something last came.
    heard: Instant,
    closed: Option<String>,
}

impl State {
    fn take(&mut self, item: Item) {
        match item {
            Item::Answer { tag: Tag::Reply(number), body } if self.awaited == Some(number) => {
                self.reply.get_or_insert(body);
            }
            // To an earlier attempt, whose twin was answered.
            Item::Answer { tag: Tag::Reply(_), .. } => {}
            Item::Answer { tag: Tag::Ended(job), body } => {
                if let Some(end) = self.jobs.get_mut(&job) {
                    end.get_or_insert(body);
                }
            }
            Item::Answer { tag: Tag::Refused, .. } => {
                self.damages += 1;
                self.evidence = "a request arrived in the guest damaged".to_owned();
            }
            Item::Damaged { evidence } => {
                self.damages += 1;
                self.evidence = evidence;
            }
            Item::Text(text) => {
                self.lines += 1;
                self.text.push_back(text);
                if self.text.len() > TEXT_LINES {
                    self.text.pop_front();
                }
            }
        }
    }

    /// Whether the line ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// From now on the answer to this request counts.
    pub(crate) fn await_reply(&mut self, number: u32) {
        (self.awaited, self.reply) = (Some(number), None);
    }

    /// The answer, once.
    pub(crate) fn take_reply(&mut self) -> Option<Vec<u8>> {
        self.reply.take()
    }

    /// Whether the line said this.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.text.iter().any(|line| line.contains(text)) || self.unfinished().contains(text)
    }

    /// The line that has no end yet.
    pub(crate) fn unfinished(&self) -> String {
        self.decoder.unfinished()
    }

    /// The last lines of text, for errors.
    pub(crate) fn last(&self) -> Vec<String> {
        let unfinished = self.unfinished();
        let mut last: Vec<String> = self.text.iter().rev().take(EVIDENCE_LINES).rev().cloned().collect();
        if !unfinished.trim().is_empty() {
            last.push(unfinished);
        }
        last
    }
}

/// How a wait for the line ended.
pub(crate) enum Waited<T> {
    /// It came.
    Came(T),
    /// Nothing came for too long.
    Silent,
    /// The line ended.
    Closed(String),
}

impl Wire {
    pub(crate) fn new<S>(stream: S, marker: Marker) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let (outgoing, queue) = mpsc::unbounded_channel();
        let state = State {
            decoder: Decoder::new(marker),
            awaited: None,
            reply: None,
            jobs: HashMap::new(),
            damages: 0,
            evidence: String::new(),
            text: VecDeque::new(),
            lines: 0,
            heard: Instant::now(),
            closed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            unwritten: AtomicUsize::new(0),
        });
        let reading = tokio::spawn(read(reader, shared.clone()));
        let writing = tokio::spawn(write(writer, queue, shared.clone()));
        Self { shared, outgoing, tasks: [reading.abort_handle(), writing.abort_handle()] }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes, whole, unless some of before are not taken yet: then these are an attempt too many.
    pub(crate) fn send(&self, bytes: Vec<u8>) {
        if self.shared.unwritten.load(Ordering::Acquire) == 0 {
            self.send_anyway(bytes);
        }
    }

    /// Sends bytes behind those that were not taken yet.
    pub(crate) fn send_anyway(&self, bytes: Vec<u8>) {
        self.shared.unwritten.fetch_add(1, Ordering::AcqRel);
        // A line that is gone says so to whoever waits.
        let _ = self.outgoing.send(bytes);
    }

    /// Waits until `look` finds something, at most `limit` and until the line was silent for `silence`.
    pub(crate) async fn wait<T>(
        &self,
        silence: Duration,
        limit: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Waited<T> {
        let begun = Instant::now();
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let heard = {
                let mut state = self.state();
                if let Some(found) = look(&mut state) {
                    return Waited::Came(found);
                }
                if let Some(reason) = &state.closed {
                    return Waited::Closed(reason.clone());
                }
                state.heard.max(begun)
            };
            let end = (heard + silence).min(begun + limit);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || tokio::time::timeout(left, changed.changed()).await.is_err() {
                // It may have come at the very end.
                match look(&mut self.state()) {
                    Some(found) => return Waited::Came(found),
                    None if Instant::now() >= end => return Waited::Silent,
                    None => {}
                }
            }
        }
    }
}

async fn read<S: AsyncRead>(mut reader: ReadHalf<S>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    let reason = loop {
        match reader.read(&mut buffer).await {
            Ok(0) => break "end of file".to_owned(),
            Ok(count) => {
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                for item in state.decoder.push(&buffer[..count]) {
                    state.take(item);
                }
                state.heard = Instant::now();
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => break error.to_string(),
        }
        shared.changed.send_modify(|count| *count += 1);
    };
    shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = Some(reason);
    shared.changed.send_modify(|count| *count += 1);
}

async fn write<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(bytes) = queue.recv().await {
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!("a shell's line takes no more: {error}");
            shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = Some(error.to_string());
            shared.changed.send_modify(|count| *count += 1);
            return;
        }
        shared.unwritten.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the guest's shell made of some code.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u32,
    pub(crate) output: Vec<u8>,
}

impl Reply {
    /// Output, newline, status.
    fn parse(mut body: Vec<u8>) -> Option<Self> {
        let at = body.iter().rposition(|&byte| byte == b'\n')?;
        let status = std::str::from_utf8(&body[at + 1..]).ok()?.parse().ok()?;
        body.truncate(at);
        Some(Self { status, output: body })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }
}

impl Shell {
    pub(crate) fn new(options: Options, marker: Marker, hello: Hello, wire: Wire) -> Self {
        let inner = Inner {
            piece: AtomicUsize::new(options.piece),
            options,
            marker,
            hello,
            wire,
            turn: tokio::sync::Mutex::default(),
            next_request: AtomicU32::new(1),
            next_job: AtomicU32::new(1),
            patience: AtomicU32::new(1),
            done: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the guest said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.inner.hello
    }

    /// Whose line it is.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.inner.options.machine
    }

    /// Why the line is closed; `None` while it is open.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.inner.wire.state().closed.clone()
    }

    /// Resolves when the line ends, with the reason.
    pub async fn wait_closed(&self) -> String {
        let mut changed = self.inner.wire.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(reason) = self.closed() {
                return reason;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// [`Error::Silent`], [`Error::Damaged`], [`Error::Closed`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.ask("ping", ":", &[]).await.map(drop)
    }

    /// The last lines of text that were no answers.
    #[must_use]
    pub fn last_text(&self) -> Vec<String> {
        self.inner.wire.state().last()
    }

    /// Has code run by the guest's shell, which must do the same when it runs twice. `$X` is `data` in base64.
    pub(crate) async fn ask(&self, operation: &str, code: &str, data: &[u8]) -> Result<Reply, Error> {
        self.ask_within(operation, code, data, self.inner.options.attempts).await
    }

    /// The same with another number of attempts.
    pub(crate) async fn ask_within(
        &self,
        operation: &str,
        code: &str,
        data: &[u8],
        attempts: u32,
    ) -> Result<Reply, Error> {
        let inner = &*self.inner;
        let _turn = inner.turn.lock().await;
        let number = inner.next_request.fetch_add(1, Ordering::Relaxed);
        let line = frame::request(&inner.marker, number, &format!("{}{code}", self.clearing()), data);
        let begun = Instant::now();
        inner.wire.state().await_reply(number);
        let mut damaged = false;
        for _ in 0..attempts {
            let before = inner.wire.state().damages;
            inner.wire.send(line.clone());
            let patience = inner.patience.load(Ordering::Relaxed);
            let silence = inner.options.silence * patience;
            let look = |state: &mut State| match state.reply.take() {
                Some(body) => Some(Some(body)),
                None => (state.damages != before).then_some(None),
            };
            match inner.wire.wait(silence, silence * SILENCES, look).await {
                Waited::Came(Some(body)) => {
                    inner.patience.store((patience / 2).max(1), Ordering::Relaxed);
                    return Reply::parse(body)
                        .ok_or_else(|| self.refused(operation, Refusal::Failed, "no status"));
                }
                Waited::Came(None) => damaged = true,
                Waited::Silent => inner.patience.store((patience * 2).min(PATIENCE_MAX), Ordering::Relaxed),
                Waited::Closed(reason) => return Err(self.closed_error(operation, reason)),
            }
        }
        Err(self.unanswered(operation, attempts, begun.elapsed(), damaged))
    }

    fn unanswered(&self, operation: &str, attempts: u32, elapsed: Duration, damaged: bool) -> Error {
        let state = self.inner.wire.state();
        let (machine, operation, last) = (self.machine().to_owned(), operation.to_owned(), state.last());
        if damaged {
            let evidence = state.evidence.clone();
            return Error::Damaged { machine, operation, attempts, elapsed, evidence, last };
        }
        Error::Silent { machine, operation, attempts, elapsed, last }
    }

    /// Has code run, and its failure as an error.
    pub(crate) async fn tell(&self, operation: &str, code: &str, data: &[u8]) -> Result<Reply, Error> {
        let reply = self.ask(operation, code, data).await?;
        if reply.status == 0 {
            return Ok(reply);
        }
        Err(self.refused(operation, Refusal::Failed, &reply.text()))
    }

    pub(crate) fn refused(&self, operation: &str, refusal: Refusal, message: &str) -> Error {
        let (machine, operation) = (self.machine().to_owned(), operation.to_owned());
        Error::Refused { machine, operation, refusal, message: message.to_owned() }
    }

    pub(crate) fn closed_error(&self, operation: &str, reason: String) -> Error {
        let last = self.inner.wire.state().last();
        Error::Closed { machine: self.machine().to_owned(), operation: operation.to_owned(), reason, last }
    }

    /// A number for a command, whose end is listened for from now on.
    pub(crate) fn new_job(&self) -> u32 {
        let job = self.inner.next_job.fetch_add(1, Ordering::Relaxed);
        self.inner.wire.state().jobs.insert(job, None);
        job
    }

    /// Waits for a command to say its end, at most `limit`.
    pub(crate) async fn job_end(&self, job: u32, limit: Duration) -> Waited<Vec<u8>> {
        let look = |state: &mut State| state.jobs.get_mut(&job).and_then(Option::take);
        self.inner.wire.wait(limit, limit, look).await
    }

    /// Nobody asks for this command any more: its files go with the next request.
    pub(crate) fn forget_job(&self, job: u32) {
        self.inner.wire.state().jobs.remove(&job);
        self.inner.done.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    /// Code that removes the files of commands that are over. If it is lost, they go with the session's directory.
    fn clearing(&self) -> String {
        let done = std::mem::take(&mut *self.inner.done.lock().unwrap_or_else(PoisonError::into_inner));
        if done.is_empty() {
            return String::new();
        }
        let names: Vec<String> = done.iter().map(|job| format!("\"$D\"/{job}")).collect();
        format!("rm -rf {}\n", names.join(" "))
    }
}
