//! The two ends of a request's streams inside the agent, for async tasks and for blocking threads.

use agent_proto::frame::MAX_BULK;
use agent_proto::message::{Stream, ToHost, TtySize};
use agent_proto::window::{Overrun, ReceiveWindow, SendWindow};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// What a connection's writer is told to send.
pub(crate) enum Outgoing {
    Hello(agent_proto::hello::Hello),
    /// From here on this session; what is left of others is dropped.
    Open(u64),
    Message(u64, ToHost),
    Bulk(u64, u32, Stream, Vec<u8>),
    /// Tell when everything before it is written.
    Flushed(oneshot::Sender<()>),
}

/// Where a request sends to.
#[derive(Clone)]
pub(crate) struct Outbox {
    pub(crate) session: u64,
    pub(crate) id: u32,
    pub(crate) writer: mpsc::Sender<Outgoing>,
}

impl Outbox {
    /// Sends a message. A connection that is gone takes it silently: its end cancels the request.
    pub(crate) async fn message(&self, message: ToHost) {
        let _ = self.writer.send(Outgoing::Message(self.session, message)).await;
    }

    pub(crate) async fn bulk(&self, stream: Stream, data: Vec<u8>) {
        let _ = self.writer.send(Outgoing::Bulk(self.session, self.id, stream, data)).await;
    }

    /// Waits until what was sent before is written.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let _ = self.writer.send(Outgoing::Flushed(done)).await;
        let _ = written.await;
    }

    pub(crate) fn blocking_message(&self, message: ToHost) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.writer.blocking_send(Outgoing::Message(self.session, message)).map_err(gone)
    }
}

/// What comes for a request while it runs.
pub(crate) enum Input {
    Data(Vec<u8>),
    End(Option<[u8; 32]>),
    Signal(i32),
    Resize(TtySize),
}

/// The session's end of a request's input.
pub(crate) struct InputSender {
    queue: mpsc::UnboundedSender<Input>,
    window: Arc<Mutex<ReceiveWindow>>,
}

/// The request's end of its input. The queue is as long as the window at most.
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<Input>,
    window: Arc<Mutex<ReceiveWindow>>,
    outbox: Outbox,
}

/// Makes a request's input.
pub(crate) fn input(outbox: Outbox) -> (InputSender, Inbox) {
    let (sender, queue) = mpsc::unbounded_channel();
    let window = Arc::new(Mutex::new(ReceiveWindow::new()));
    (InputSender { queue: sender, window: window.clone() }, Inbox { queue, window, outbox })
}

impl InputSender {
    pub(crate) fn data(&self, data: &[u8]) -> Result<(), Overrun> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).received(data.len())?;
        self.other(Input::Data(data.to_vec()));
        Ok(())
    }

    /// Sends what needs no credit. A request that has ended takes it silently.
    pub(crate) fn other(&self, input: Input) {
        let _ = self.queue.send(input);
    }
}

impl Inbox {
    /// The next input, `None` when the host cancelled.
    pub(crate) async fn next(&mut self) -> Option<Input> {
        self.queue.recv().await
    }

    /// Data was used up: more may come.
    pub(crate) async fn taken(&mut self, bytes: usize) {
        if let Some(message) = self.grant(bytes) {
            self.outbox.message(message).await;
        }
    }

    fn grant(&mut self, bytes: usize) -> Option<ToHost> {
        let grant = self.window.lock().unwrap_or_else(PoisonError::into_inner).taken(bytes);
        grant.map(|bytes| ToHost::Credit { id: self.outbox.id, bytes })
    }
}

/// The input as a blocking reader that ends where the host's data does, digesting what goes through.
pub(crate) struct BlockingIn {
    inbox: Inbox,
    chunk: Vec<u8>,
    used: usize,
    hasher: blake3::Hasher,
    /// Set at the end: the digest that the host announced.
    ended: Option<Option<[u8; 32]>>,
}

impl BlockingIn {
    pub(crate) fn new(inbox: Inbox) -> Self {
        Self { inbox, chunk: Vec::new(), used: 0, hasher: blake3::Hasher::new(), ended: None }
    }

    /// The next chunk, empty at the end. An error if the host cancelled.
    pub(crate) fn chunk(&mut self) -> io::Result<Vec<u8>> {
        if self.used < self.chunk.len() {
            let rest = self.chunk.split_off(self.used);
            self.chunk.clear();
            self.used = 0;
            return Ok(rest);
        }
        while self.ended.is_none() {
            match self.inbox.queue.blocking_recv() {
                Some(Input::Data(data)) => {
                    if let Some(message) = self.inbox.grant(data.len()) {
                        self.inbox.outbox.blocking_message(message)?;
                    }
                    self.hasher.update(&data);
                    return Ok(data);
                }
                Some(Input::End(digest)) => self.ended = Some(digest),
                Some(Input::Signal(_) | Input::Resize(_)) => {}
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(Vec::new())
    }

    /// Reads what is left and compares the digests; false if they differ.
    pub(crate) fn verify(mut self) -> io::Result<bool> {
        while !self.chunk()?.is_empty() {}
        let announced = self.ended.flatten();
        Ok(announced.is_none_or(|digest| digest == *self.hasher.finalize().as_bytes()))
    }
}

impl Read for BlockingIn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.chunk.len() {
            self.chunk = self.chunk()?;
            self.used = 0;
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// [`Stream::Out`] as a blocking writer, digesting what goes through.
pub(crate) struct BlockingOut {
    outbox: Outbox,
    window: Arc<SendWindow>,
    runtime: Handle,
    pending: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl BlockingOut {
    pub(crate) fn new(outbox: Outbox, window: Arc<SendWindow>, runtime: Handle) -> Self {
        let pending = Vec::with_capacity(MAX_BULK);
        Self { outbox, window, runtime, pending, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn send(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.hasher.update(&self.pending);
        self.bytes += self.pending.len() as u64;
        let mut rest = std::mem::replace(&mut self.pending, Vec::with_capacity(MAX_BULK));
        while !rest.is_empty() {
            let credit = self.runtime.block_on(self.window.take(rest.len())).ok_or_else(gone)?;
            let tail = rest.split_off(credit);
            let chunk = Outgoing::Bulk(self.outbox.session, self.outbox.id, Stream::Out, rest);
            self.outbox.writer.blocking_send(chunk).map_err(|_| gone())?;
            rest = tail;
        }
        Ok(())
    }

    /// Sends the rest and tells how much it was, with its digest.
    pub(crate) fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.send()?;
        self.outbox.blocking_message(ToHost::End { id: self.outbox.id, stream: Stream::Out })?;
        Ok((self.bytes, *self.hasher.finalize().as_bytes()))
    }
}

impl Write for BlockingOut {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(MAX_BULK - self.pending.len());
        self.pending.extend_from_slice(&data[..count]);
        if self.pending.len() == MAX_BULK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
