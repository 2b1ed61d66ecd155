//! The connection: a task that reads, a task that writes, and the commands that wait.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qapi_spec::Command;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::error::Error;
use crate::line::LineReader;
use crate::log::TrafficLog;
use crate::message::{Event, Greeting, Message, Version};
use crate::probe::Probed;

/// How many events are kept for those who ask late.
const EVENTS_KEPT: usize = 1024;

/// How to talk to a monitor.
#[derive(Debug, Clone)]
pub struct Options {
    /// The machine's name, for messages.
    pub machine: String,
    /// The limit of each command that is not given one of its own.
    pub limit: Duration,
    /// Where all traffic is logged, one JSON object a line.
    pub log: Option<PathBuf>,
}

impl Options {
    /// Ten seconds for each command, no log.
    pub fn new(machine: impl Into<String>) -> Options {
        Options { machine: machine.into(), limit: Duration::from_secs(10), log: None }
    }
}

/// A QMP connection. Clones share it; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    greeting: Greeting,
    probed: Probed,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct Shared {
    options: Options,
    made: Instant,
    next_id: AtomicU64,
    state: Mutex<State>,
    /// The number of events so far; `true` once lost.
    progress: watch::Sender<(u64, bool)>,
    events: broadcast::Sender<Event>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    log: TrafficLog,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<u64, oneshot::Sender<Answer>>,
    greeted: Option<oneshot::Sender<Greeting>>,
    events: VecDeque<Event>,
    /// The position of the first of `events`.
    first: u64,
    garbage: Option<String>,
    lost: Option<String>,
}

type Answer = Result<Value, (String, String)>;

impl Client {
    /// Connects to QEMU's listening socket.
    ///
    /// # Errors
    /// [`Error::Connect`] and those of [`Client::connect`].
    pub async fn connect_path(path: impl AsRef<Path>, options: Options) -> Result<Client, Error> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| Error::connect(&options.machine, path, &error))?;
        Client::connect(stream, options).await
    }

    /// Greets QEMU on an established connection, whoever listened for it, and switches to command mode.
    ///
    /// # Errors
    /// [`Error::NoGreeting`] if nothing, or something else than QEMU, is at the other end; [`Error::Log`].
    pub async fn connect(stream: UnixStream, options: Options) -> Result<Client, Error> {
        let log = TrafficLog::open(options.log.as_deref()).map_err(|error| Error::Log {
            machine: options.machine.clone(),
            path: options.log.clone().unwrap_or_default(),
            reason: error.to_string(),
        })?;
        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (greeted, greeting) = oneshot::channel();
        let limit = options.limit;
        let shared = Arc::new(Shared {
            options,
            made: Instant::now(),
            next_id: AtomicU64::new(1),
            state: Mutex::new(State { greeted: Some(greeted), ..State::default() }),
            progress: watch::Sender::new((0, false)),
            events: broadcast::Sender::new(EVENTS_KEPT),
            outgoing,
            log,
        });
        let (reader, writer) = stream.into_split();
        let tasks = [
            tokio::spawn(read(shared.clone(), reader)).abort_handle(),
            tokio::spawn(write(shared.clone(), writer, to_send)).abort_handle(),
        ];
        let mut connection =
            Connection { shared, greeting: Greeting::default(), probed: Probed::default(), tasks };
        match tokio::time::timeout(limit, greeting).await {
            Ok(Ok(greeting)) => connection.greeting = greeting,
            Ok(Err(_)) | Err(_) => return Err(connection.shared.no_greeting()),
        }
        let client = Client { connection: Arc::new(connection) };
        client.execute_raw("qmp_capabilities", Value::Null).await?;
        Ok(client)
    }

    /// What QEMU said first.
    pub fn greeting(&self) -> &Greeting {
        &self.connection.greeting
    }

    /// QEMU's version.
    pub fn version(&self) -> &Version {
        &self.connection.greeting.version
    }

    /// Executes a command within the limit of [`Options`].
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Timeout`], [`Error::Lost`], [`Error::Shape`].
    pub async fn execute<C: Command>(&self, command: C) -> Result<C::Ok, Error> {
        self.execute_within(command, self.shared().options.limit).await
    }

    /// Executes a command within a limit. Dropping the future leaves the connection usable; QEMU may or may not
    /// have executed the command then.
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn execute_within<C: Command>(&self, command: C, limit: Duration) -> Result<C::Ok, Error> {
        let shape = |reason: serde_json::Error, answer: String| Error::Shape {
            machine: self.shared().options.machine.clone(),
            command: C::NAME.into(),
            reason: reason.to_string(),
            answer,
        };
        let arguments = serde_json::to_value(&command)
            .map_err(|reason| shape(reason, "its arguments are no JSON".into()))?;
        let value = self.execute_raw_within(C::NAME, arguments, limit).await?;
        C::Ok::deserialize(&value).map_err(|reason| shape(reason, shorten(&value.to_string())))
    }

    /// Executes a command by name, for what the types don't know. `arguments` is an object or null.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Timeout`], [`Error::Lost`].
    pub async fn execute_raw(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        self.execute_raw_within(command, arguments, self.shared().options.limit).await
    }

    /// [`Client::execute_raw`] within a limit.
    ///
    /// # Errors
    /// Those of [`Client::execute_raw`].
    pub async fn execute_raw_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, Error> {
        let shared = self.shared();
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut state = shared.state();
            if state.lost.is_some() {
                drop(state);
                return Err(shared.lost_error(Some(command)));
            }
            state.pending.insert(id, answer);
        }
        let _forget = Forget { shared, id };
        let mut message =
            Map::from_iter([("execute".to_owned(), json!(command)), ("id".to_owned(), json!(id))]);
        if arguments.as_object().is_some_and(|arguments| !arguments.is_empty()) {
            message.insert("arguments".into(), arguments);
        }
        let mut line = Value::Object(message).to_string().into_bytes();
        line.push(b'\n');
        if shared.outgoing.send(line).is_err() {
            return Err(shared.lost_error(Some(command)));
        }
        let machine = || shared.options.machine.clone();
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err((class, description)))) => {
                Err(Error::Refused { machine: machine(), command: command.into(), class, description })
            }
            Ok(Err(_)) => Err(shared.lost_error(Some(command))),
            Err(_) => {
                let last_event = shared.last_event();
                Err(Error::Timeout { machine: machine(), command: command.into(), limit, last_event })
            }
        }
    }

    /// The events from now on. A receiver that lags misses the oldest and is told so; see [`Client::wait_event`]
    /// for one that can't be missed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared().events.subscribe()
    }

    /// The number of events so far: what [`Client::wait_event`] takes to look at later ones only.
    pub fn position(&self) -> u64 {
        self.shared().progress.borrow().0
    }

    /// Waits for an event at or after a position (0: since the connection was made) that `wanted` accepts. `awaited`
    /// says in messages what that is. Gives the event and the position after it.
    ///
    /// # Errors
    /// [`Error::NoEvent`] after `limit`; [`Error::Lost`] if the connection ended and no such event came before.
    pub async fn wait_event(
        &self,
        awaited: &str,
        mut from: u64,
        limit: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<(Event, u64), Error> {
        let shared = self.shared();
        let mut progress = shared.progress.subscribe();
        let wait = async {
            loop {
                let (count, lost) = *progress.borrow_and_update();
                while from < count {
                    let event = shared.state().event(&mut from);
                    match event {
                        Some(event) if wanted(&event) => return Ok((event, from)),
                        _ => {}
                    }
                }
                if lost {
                    return Err(shared.lost_error(None));
                }
                // The sender is in `shared`, so it outlives this.
                let _ = progress.changed().await;
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(found) => found,
            Err(_) => Err(Error::NoEvent {
                machine: shared.options.machine.clone(),
                awaited: awaited.into(),
                limit,
                last_event: shared.last_event(),
            }),
        }
    }

    /// Resolves when the connection is lost, with the error that says how.
    pub async fn closed(&self) -> Error {
        let mut progress = self.shared().progress.subscribe();
        let _ = progress.wait_for(|(_, lost)| *lost).await;
        self.shared().lost_error(None)
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.shared().state().lost.is_some()
    }

    pub(crate) fn probed(&self) -> &Probed {
        &self.connection.probed
    }

    fn shared(&self) -> &Shared {
        &self.connection.shared
    }
}

/// Takes a command off the list when its future ends or is dropped.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state().pending.remove(&self.id);
    }
}

impl State {
    /// The event at a position, or the oldest that is still kept; moves the position behind it.
    fn event(&self, position: &mut u64) -> Option<Event> {
        *position = (*position).max(self.first);
        let event = self.events.get(usize::try_from(*position - self.first).ok()?).cloned();
        *position += 1;
        event
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_event(&self) -> String {
        self.state().events.back().map_or_else(|| "none".to_owned(), Event::to_string)
    }

    fn lost_error(&self, command: Option<&str>) -> Error {
        let reason = self.state().lost.clone().unwrap_or_else(|| "closed by us".into());
        Error::Lost {
            machine: self.options.machine.clone(),
            command: command.map(str::to_owned),
            after: self.made.elapsed(),
            reason,
            last_event: self.last_event(),
        }
    }

    fn no_greeting(&self) -> Error {
        let state = self.state();
        let got = match (&state.garbage, &state.lost) {
            (Some(garbage), _) => format!("what came is not QMP: {garbage}"),
            (None, Some(reason)) => format!("the connection was lost: {reason}"),
            (None, None) => "nothing came; is another client connected to this monitor?".into(),
        };
        Error::NoGreeting { machine: self.options.machine.clone(), elapsed: self.made.elapsed(), got }
    }

    fn receive(&self, line: &[u8]) {
        self.log.incoming(line);
        let mut state = self.state();
        match Message::parse(line) {
            Message::Greeting(greeting) => {
                if let Some(greeted) = state.greeted.take() {
                    let _ = greeted.send(greeting);
                }
            }
            Message::Event(event) => {
                if state.events.len() == EVENTS_KEPT {
                    state.events.pop_front();
                    state.first += 1;
                }
                state.events.push_back(event.clone());
                drop(state);
                let _ = self.events.send(event);
                self.progress.send_modify(|(count, _)| *count += 1);
            }
            Message::Return { id, value } => state.answer(id, Ok(value)),
            Message::Error { id, class, description } => state.answer(id, Err((class, description))),
            Message::Garbage => {
                let text = shorten(&String::from_utf8_lossy(line));
                tracing::debug!("{}: not QMP: {text}", self.options.machine);
                state.garbage = Some(text);
            }
        }
    }

    fn lose(&self, reason: String) {
        let mut state = self.state();
        if state.lost.is_none() {
            state.lost = Some(reason);
        }
        // Dropping the senders wakes those who wait.
        state.pending.clear();
        state.greeted = None;
        drop(state);
        self.progress.send_modify(|(_, lost)| *lost = true);
    }
}

impl State {
    /// QEMU leaves the id out only where it could not read a command as JSON, and ours it can. So an answer without
    /// one is none of ours: taking it for the oldest command's would hand out a wrong value.
    fn answer(&mut self, id: Option<u64>, answer: Answer) {
        if let Some(waiting) = id.and_then(|id| self.pending.remove(&id)) {
            let _ = waiting.send(answer);
        }
    }
}

async fn read(shared: Arc<Shared>, mut reader: OwnedReadHalf) {
    let mut lines = LineReader::default();
    let mut chunk = vec![0; 64 << 10];
    let reason = loop {
        match reader.read(&mut chunk).await {
            Ok(0) => break "QEMU closed it".to_owned(),
            Ok(count) => lines.push(&chunk[..count], |line| match line {
                Ok(line) => shared.receive(line),
                Err(long) => tracing::warn!(
                    "{}: a QMP line of {} bytes was passed over",
                    shared.options.machine,
                    long.length
                ),
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error.to_string(),
        }
    };
    shared.lose(reason);
}

/// A task of its own, so that a caller who stops waiting never leaves half a line on the wire.
async fn write(shared: Arc<Shared>, mut writer: OwnedWriteHalf, mut lines: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        shared.log.outgoing(&line);
        if let Err(error) = writer.write_all(&line).await {
            // The reader may have answers left to read; it ends by itself when they are read.
            tracing::debug!("{}: QMP: {error}", shared.options.machine);
            return;
        }
    }
}

fn shorten(text: &str) -> String {
    const WIDTH: usize = 300;
    match text.char_indices().nth(WIDTH) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}
