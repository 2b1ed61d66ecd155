//! One session on a link: its requests and their streams.

use super::error::Lost;
use super::link::Outgoing;
use agent_proto::hello::Identity;
use agent_proto::message::{Failure, FileMeta, Reply, Request, Stream, ToAgent, ToHost, TtySize};
use agent_proto::window::{ReceiveWindow, SendWindow};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open session.
pub(super) struct Session {
    pub(super) nonce: u64,
    pub(super) agent: Identity,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    requests: Mutex<Option<HashMap<u32, Slot>>>,
    next: AtomicU32,
    lost: watch::Sender<Option<Lost>>,
}

/// What the session knows of a request.
struct Slot {
    events: mpsc::UnboundedSender<Event>,
    outputs: [Option<mpsc::UnboundedSender<Piece>>; 2],
    windows: [Arc<Mutex<ReceiveWindow>>; 2],
    input: Arc<SendWindow>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.input.close();
    }
}

/// What happens to a request besides its streams.
#[derive(Debug)]
pub(super) enum Event {
    Started(u32),
    Meta(FileMeta),
    Reply(Result<Reply, Failure>),
}

enum Piece {
    Data(Vec<u8>),
    /// Its end: a stream that is over without this was cut off.
    End,
}

fn output(stream: Stream) -> Option<usize> {
    match stream {
        Stream::In => None,
        Stream::Out => Some(0),
        Stream::Err => Some(1),
    }
}

impl Session {
    pub(super) fn new(nonce: u64, agent: Identity, outgoing: mpsc::UnboundedSender<Outgoing>) -> Self {
        let requests = Mutex::new(Some(HashMap::new()));
        Self { nonce, agent, outgoing, requests, next: AtomicU32::new(1), lost: watch::Sender::new(None) }
    }

    /// Begins a request. On a lost session nothing ever comes of it but the end of its events.
    pub(super) fn request(self: &Arc<Self>, request: Request) -> Call {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (events, incoming) = mpsc::unbounded_channel();
        let (input, windows) = (Arc::new(SendWindow::new()), [(); 2].map(|()| Arc::default()));
        let (out, out_pieces) = mpsc::unbounded_channel();
        let (err, err_pieces) = mpsc::unbounded_channel();
        let slot =
            Slot { events, outputs: [Some(out), Some(err)], windows: windows.clone(), input: input.clone() };
        if let Some(requests) = &mut *lock(&self.requests) {
            requests.insert(id, slot);
            self.send(ToAgent::Request { id, request });
        }
        let [out_window, err_window] = windows;
        let output = |stream, pieces, window| Output {
            id,
            stream,
            session: self.clone(),
            pieces,
            window,
            over: false,
        };
        Call {
            id,
            session: self.clone(),
            events: incoming,
            input,
            out: Some(output(Stream::Out, out_pieces, out_window)),
            err: Some(output(Stream::Err, err_pieces, err_window)),
            replied: false,
        }
    }

    pub(super) fn send(&self, message: ToAgent) {
        // A link that is gone has lost the session already.
        let _ = self.outgoing.send(Outgoing::Message(self.nonce, message));
    }

    /// The agent said something.
    pub(super) fn message(&self, message: ToHost) {
        let mut requests = lock(&self.requests);
        let Some(requests) = &mut *requests else { return };
        match message {
            ToHost::Started { id, pid } => event(requests, id, Event::Started(pid)),
            ToHost::Meta { id, meta } => event(requests, id, Event::Meta(meta)),
            ToHost::Credit { id, bytes } => {
                if let Some(slot) = requests.get(&id) {
                    slot.input.grant(bytes);
                }
            }
            ToHost::End { id, stream } => {
                if let (Some(slot), Some(index)) = (requests.get_mut(&id), output(stream))
                    && let Some(sender) = slot.outputs[index].take()
                {
                    let _ = sender.send(Piece::End);
                }
            }
            ToHost::Reply { id, result } => {
                event(requests, id, Event::Reply(result));
                if let Some(mut slot) = requests.remove(&id) {
                    for sender in slot.outputs.iter_mut().filter_map(Option::take) {
                        let _ = sender.send(Piece::End);
                    }
                }
            }
            ToHost::Goodbye { .. } => {}
        }
    }

    /// Data of a stream came.
    pub(super) fn data(&self, id: u32, stream: Stream, data: &[u8]) -> Result<(), String> {
        let requests = lock(&self.requests);
        let slot = requests.as_ref().and_then(|requests| requests.get(&id));
        let (Some(slot), Some(index)) = (slot, output(stream)) else {
            // Cancelled: what was under way is dropped.
            return Ok(());
        };
        lock(&slot.windows[index])
            .received(data.len())
            .map_err(|overrun| format!("request {id}: {overrun}"))?;
        if let Some(sender) = &slot.outputs[index] {
            let _ = sender.send(Piece::Data(data.to_vec()));
        }
        Ok(())
    }

    /// Ends the session, once, and all its requests.
    pub(super) fn lose(&self, reason: Lost) {
        let first = self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(reason);
            first
        });
        if first {
            drop(lock(&self.requests).take());
        }
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.lost.borrow().clone()
    }

    /// Resolves when the session is over.
    pub(super) async fn closed(&self) -> Lost {
        let mut lost = self.lost.subscribe();
        let lost = lost.wait_for(Option::is_some).await.map(|lost| lost.clone());
        lost.ok().flatten().unwrap_or_else(|| Lost::Closed("the session was dropped".into()))
    }
}

fn event(requests: &HashMap<u32, Slot>, id: u32, event: Event) {
    if let Some(slot) = requests.get(&id) {
        let _ = slot.events.send(event);
    }
}

/// A request under way. Dropped before its reply, it is cancelled in the guest.
pub(super) struct Call {
    id: u32,
    session: Arc<Session>,
    events: mpsc::UnboundedReceiver<Event>,
    input: Arc<SendWindow>,
    pub(super) out: Option<Output>,
    pub(super) err: Option<Output>,
    replied: bool,
}

impl Call {
    /// The next event; an error if the session is over.
    pub(super) async fn event(&mut self) -> Result<Event, Lost> {
        match self.events.recv().await {
            Some(event) => {
                self.replied |= matches!(event, Event::Reply(_));
                Ok(event)
            }
            None => Err(self.session.closed().await),
        }
    }

    /// The reply, past all other events.
    pub(super) async fn reply(&mut self) -> Result<Result<Reply, Failure>, Lost> {
        loop {
            if let Event::Reply(reply) = self.event().await? {
                return Ok(reply);
            }
        }
    }

    /// A handle that sends to the request.
    pub(super) fn sender(&self) -> CallSender {
        CallSender { id: self.id, session: self.session.clone(), window: self.input.clone() }
    }

    pub(super) fn signal(&self, signal: i32) {
        self.session.send(ToAgent::Signal { id: self.id, signal });
    }

    pub(super) fn resize(&self, size: TtySize) {
        self.session.send(ToAgent::Resize { id: self.id, size });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let requests = lock(&self.session.requests).as_mut().and_then(|requests| requests.remove(&self.id));
        if !self.replied && requests.is_some() {
            self.session.send(ToAgent::Cancel { id: self.id });
        }
    }
}

/// Sends data to a request.
pub(super) struct CallSender {
    id: u32,
    session: Arc<Session>,
    window: Arc<SendWindow>,
}

impl CallSender {
    /// Sends as the agent grants. False if the request is over.
    pub(super) async fn data(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let want = data.len().min(agent_proto::frame::MAX_BULK);
            let Some(credit) = self.window.take(want).await else { return false };
            let chunk = data[..credit].to_vec();
            let _ = self.session.outgoing.send(Outgoing::Bulk(self.session.nonce, self.id, chunk));
            data = &data[credit..];
        }
        true
    }

    pub(super) fn end(&self, digest: Option<[u8; 32]>) {
        self.session.send(ToAgent::End { id: self.id, digest });
    }
}

/// One of a request's streams from the guest.
pub(super) struct Output {
    id: u32,
    stream: Stream,
    session: Arc<Session>,
    pieces: mpsc::UnboundedReceiver<Piece>,
    window: Arc<Mutex<ReceiveWindow>>,
    over: bool,
}

impl Output {
    /// The next bytes, `None` at the end, an error if it was cut off. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        if self.over {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Piece::Data(data)) => {
                let grant = lock(&self.window).taken(data.len());
                if let Some(bytes) = grant {
                    self.session.send(ToAgent::Credit { id: self.id, stream: self.stream, bytes });
                }
                Ok(Some(data))
            }
            Some(Piece::End) => {
                self.over = true;
                Ok(None)
            }
            None => Err(self.session.closed().await),
        }
    }
}
