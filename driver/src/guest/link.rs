//! A connection to the agent: two tasks, and the session that is open on it.

use super::error::Lost;
use super::session::{Session, lock};
use super::transport::BoxStream;
use agent_proto::frame::{Decoder, Encoder, Frame, MAX_FRAME, RESYNC};
use agent_proto::hello::{Hello, Identity};
use agent_proto::message::{Stream, ToAgent, ToHost, from_bytes, to_bytes};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

/// After so long without an answer the hello is said again. Only the first one can be lost, in a frame that was cut
/// off; the next ones bring what completes it.
const FIRST_REPEAT: Duration = Duration::from_millis(250);
const SLOWEST_REPEAT: Duration = Duration::from_secs(4);

/// What the writer is told to send.
pub(super) enum Outgoing {
    Raw(Vec<u8>),
    /// From here on this session; what is left of others is dropped.
    Open(u64),
    Message(u64, ToAgent),
    Bulk(u64, u32, Vec<u8>),
}

/// A connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    tasks: [AbortHandle; 2],
}

struct Shared {
    state: Mutex<State>,
    /// Something happened to the state.
    changed: Notify,
    /// Why the connection ended.
    ended: watch::Sender<Option<String>>,
    /// Hellos that are not written yet.
    unwritten: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// The nonce of the hello that waits for an answer.
    opening: Option<u64>,
    session: Option<Arc<Session>>,
    /// An agent spoke up while a hello waits: it may not have heard it.
    announced: bool,
}

impl Link {
    pub(super) fn new(stream: BoxStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (outgoing, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            ended: watch::Sender::new(None),
            unwritten: AtomicUsize::new(0),
        });
        let writing = tokio::spawn({
            let shared = shared.clone();
            async move {
                if let Err(error) = write(writer, queue, &shared).await {
                    shared.end(error.to_string());
                }
            }
        });
        let reading = tokio::spawn({
            let (shared, outgoing) = (shared.clone(), outgoing.clone());
            async move {
                let end = match read(reader, &shared, &outgoing).await {
                    Ok(()) => "end of file".to_owned(),
                    Err(error) => error.to_string(),
                };
                shared.end(end);
            }
        });
        Self { shared, outgoing, tasks: [writing.abort_handle(), reading.abort_handle()] }
    }

    /// Why it ended, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        self.shared.ended.borrow().clone()
    }

    /// Opens a session, saying hello until it is answered; an error if the connection ends first. No limit.
    pub(super) async fn open(&self) -> Result<Arc<Session>, String> {
        let nonce = fastrand::u64(1..);
        {
            let mut state = lock(&self.shared.state);
            if let Some(session) = state.session.take() {
                session.lose(Lost::Replaced);
            }
            state.opening = Some(nonce);
        }
        self.hello(nonce, false);
        let mut ended = self.shared.ended.subscribe();
        let mut repeat = FIRST_REPEAT;
        loop {
            let changed = self.shared.changed.notified();
            let announced = {
                let mut state = lock(&self.shared.state);
                if let Some(session) = state.session.as_ref().filter(|session| session.nonce == nonce) {
                    return Ok(session.clone());
                }
                std::mem::take(&mut state.announced)
            };
            if announced {
                self.hello(nonce, false);
            }
            tokio::select! {
                () = changed => {}
                Ok(end) = ended.wait_for(Option::is_some) => return Err(end.clone().unwrap_or_default()),
                woken = tokio::time::timeout(repeat, std::future::pending::<()>()) => {
                    debug_assert!(woken.is_err());
                    self.hello(nonce, true);
                    repeat = (repeat * 2).min(SLOWEST_REPEAT);
                }
            }
        }
    }

    /// Says hello, unless one is still waiting to be written: an agent that isn't there yet reads nothing.
    fn hello(&self, nonce: u64, resync: bool) {
        if self.shared.unwritten.load(Ordering::Acquire) > 0 {
            return;
        }
        self.shared.unwritten.fetch_add(1, Ordering::AcqRel);
        let mut bytes = vec![0; if resync { RESYNC } else { 0 }];
        Encoder::hello(&mut bytes, &Hello::Open { version: agent_proto::VERSION, nonce });
        let _ = self.outgoing.send(Outgoing::Raw(bytes));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.end("the host closed it".into());
    }
}

impl Shared {
    fn end(&self, why: String) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| why.clone());
            first
        });
        self.lose(Lost::Closed(why));
    }

    fn lose(&self, reason: Lost) {
        let session = lock(&self.state).session.take();
        if let Some(session) = session {
            session.lose(reason);
        }
    }

    fn session(&self) -> Option<Arc<Session>> {
        lock(&self.state).session.clone()
    }

    /// True if the session of this hello was waited for and is now open.
    fn accepted(&self, nonce: u64, agent: Identity, outgoing: &mpsc::UnboundedSender<Outgoing>) -> bool {
        {
            let mut state = lock(&self.state);
            if state.opening != Some(nonce) {
                return false;
            }
            state.opening = None;
            let _ = outgoing.send(Outgoing::Open(nonce));
            state.session = Some(Arc::new(Session::new(nonce, agent, outgoing.clone())));
        }
        self.changed.notify_one();
        true
    }

    /// An agent spoke up by itself.
    fn announced(&self, agent: &Identity, dropped: Option<(u64, String)>) -> Option<Lost> {
        let mut state = lock(&self.state);
        if state.opening.is_some() {
            state.announced = true;
            self.changed.notify_one();
        }
        let session = state.session.as_ref()?;
        match dropped {
            Some((nonce, why)) if nonce == session.nonce => Some(Lost::Dropped(why)),
            _ if agent.instance != session.agent.instance => {
                Some(Lost::Restarted { same_boot: agent.boot_id == session.agent.boot_id })
            }
            _ => None,
        }
    }
}

async fn read(
    mut reader: ReadHalf<BoxStream>,
    shared: &Shared,
    outgoing: &mpsc::UnboundedSender<Outgoing>,
) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 4 * MAX_FRAME];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..count]);
        // A restarted agent is told apart from damage: its announcement follows the frame that it cut off.
        let mut damage = None;
        loop {
            let lost = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::Hello(Hello::Accepted { nonce, agent }))) => {
                    if shared.accepted(nonce, agent, outgoing) {
                        decoder.open(nonce);
                    }
                    None
                }
                Ok(Some(Frame::Hello(Hello::Announce { agent, dropped }))) => {
                    shared.announced(&agent, dropped)
                }
                Ok(Some(Frame::Hello(Hello::Open { .. }))) => None,
                Ok(Some(Frame::Message(bytes))) => message(shared, &bytes).err(),
                Ok(Some(Frame::Bulk { request, stream, data })) => match shared.session() {
                    Some(session) => session.data(request, stream, data).map_err(Lost::Damaged).err(),
                    None => None,
                },
                Err(error) => {
                    damage.get_or_insert(error);
                    None
                }
            };
            if let Some(lost) = lost {
                decoder.close();
                shared.lose(lost);
            }
        }
        if let Some(damage) = damage {
            shared.lose(Lost::Damaged(damage.to_string()));
        }
    }
}

fn message(shared: &Shared, bytes: &[u8]) -> Result<(), Lost> {
    let message: ToHost =
        from_bytes(bytes).map_err(|error| Lost::Damaged(format!("a message makes no sense: {error}")))?;
    if let ToHost::Goodbye { reason } = message {
        return Err(Lost::Goodbye(reason));
    }
    if let Some(session) = shared.session() {
        session.message(message);
    }
    Ok(())
}

async fn write(
    mut writer: WriteHalf<BoxStream>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    shared: &Shared,
) -> io::Result<()> {
    let mut encoder = Encoder::new(0);
    let mut buffer = Vec::with_capacity(2 * MAX_FRAME);
    while let Some(mut outgoing) = queue.recv().await {
        let mut hellos = 0;
        loop {
            match outgoing {
                Outgoing::Raw(bytes) => {
                    buffer.extend_from_slice(&bytes);
                    hellos += 1;
                }
                Outgoing::Open(nonce) => encoder = Encoder::new(nonce),
                Outgoing::Message(session, message) if session == encoder.session() => {
                    encoder.message(&mut buffer, &to_bytes(&message));
                }
                Outgoing::Bulk(session, id, data) if session == encoder.session() => {
                    encoder.bulk(&mut buffer, id, Stream::In, &data);
                }
                Outgoing::Message(..) | Outgoing::Bulk(..) => {}
            }
            if buffer.len() >= MAX_FRAME {
                break;
            }
            match queue.try_recv() {
                Ok(more) => outgoing = more,
                Err(_) => break,
            }
        }
        for chunk in buffer.chunks(MAX_FRAME) {
            writer.write_all(chunk).await?;
        }
        writer.flush().await?;
        buffer.clear();
        shared.unwritten.fetch_sub(hellos, Ordering::AcqRel);
    }
    Ok(())
}
