//! One connection: sessions in it, requests in them.

use crate::request;
use crate::streams::{Input, InputSender, Outbox, Outgoing, input};
use agent_proto::frame::{Decoder, Encoder, Frame, MAX_FRAME, RESYNC};
use agent_proto::hello::{Hello, Identity};
use agent_proto::message::{Stream, ToAgent, ToHost, from_bytes, to_bytes};
use agent_proto::window::SendWindow;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Messages and chunks that may wait for the writer: about 2 MiB.
const QUEUE: usize = 64;

/// The windows of what a request sends.
#[derive(Clone, Default)]
pub(crate) struct Windows {
    pub(crate) out: Arc<SendWindow>,
    pub(crate) err: Arc<SendWindow>,
}

impl Windows {
    fn of(&self, stream: Stream) -> Option<&SendWindow> {
        match stream {
            Stream::In => None,
            Stream::Out => Some(&self.out),
            Stream::Err => Some(&self.err),
        }
    }
}

struct Running {
    input: InputSender,
    windows: Windows,
    task: AbortHandle,
}

/// Ends the request: its process group is killed and its temporary file removed by what the task owns.
impl Drop for Running {
    fn drop(&mut self) {
        self.windows.out.close();
        self.windows.err.close();
        self.task.abort();
    }
}

struct Session {
    nonce: u64,
    writer: mpsc::Sender<Outgoing>,
    ended: mpsc::UnboundedSender<(u64, u32)>,
    requests: HashMap<u32, Running>,
}

/// Serves a connection until it ends. `resync` completes what a process before this one may have left half-written.
pub(crate) async fn serve<S>(
    stream: S,
    identity: &Identity,
    resync: bool,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let mut writing = tokio::spawn(write(writer, queue, resync));
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut decoder = Decoder::new();
    let mut session: Option<Session> = None;
    let mut buffer = vec![0; 2 * MAX_FRAME];
    send(&outgoing, Outgoing::Hello(Hello::Announce { agent: identity.clone(), dropped: None })).await;
    let result = loop {
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) => break Ok(()),
                Ok(count) => decoder.push(&buffer[..count]),
                Err(error) => break Err(error),
            },
            written = &mut writing => break written.unwrap_or_else(|panic| Err(io::Error::other(panic))),
            Some((nonce, id)) = endings.recv() => {
                if let Some(session) = session.as_mut().filter(|session| session.nonce == nonce) {
                    session.requests.remove(&id);
                }
                continue;
            }
            () = stopped(&mut stopping) => {
                if let Some(session) = session.take() {
                    let reason = "the agent was told to stop (SIGTERM): the guest shuts down".to_owned();
                    let outbox = Outbox { session: session.nonce, id: 0, writer: outgoing.clone() };
                    outbox.message(ToHost::Goodbye { reason }).await;
                    outbox.flush().await;
                }
                break Ok(());
            }
        }
        loop {
            let problem = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::Hello(Hello::Open { nonce, .. }))) => {
                    if session.as_ref().is_none_or(|session| session.nonce != nonce) {
                        session = Some(Session {
                            nonce,
                            writer: outgoing.clone(),
                            ended: ended.clone(),
                            requests: HashMap::new(),
                        });
                        decoder.open(nonce);
                        send(&outgoing, Outgoing::Open(nonce)).await;
                    }
                    send(&outgoing, Outgoing::Hello(Hello::Accepted { nonce, agent: identity.clone() }))
                        .await;
                    continue;
                }
                Ok(Some(Frame::Hello(_))) => continue,
                Ok(Some(Frame::Message(bytes))) => match (&mut session, from_bytes(&bytes)) {
                    (Some(session), Ok(message)) => session.handle(message),
                    (_, Err(error)) => Err(format!("a message makes no sense: {error}")),
                    (None, _) => continue,
                },
                Ok(Some(Frame::Bulk { request, data, .. })) => match &session {
                    Some(session) => session.data(request, data),
                    None => continue,
                },
                Err(error) => Err(error.to_string()),
            };
            let Err(problem) = problem else { continue };
            decoder.close();
            if let Some(lost) = session.take() {
                let dropped = Some((lost.nonce, problem));
                send(&outgoing, Outgoing::Hello(Hello::Announce { agent: identity.clone(), dropped })).await;
            }
        }
    };
    writing.abort();
    result
}

/// Resolves when the agent is told to stop.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn send(writer: &mpsc::Sender<Outgoing>, outgoing: Outgoing) {
    // A writer that is gone ends the connection by itself.
    let _ = writer.send(outgoing).await;
}

impl Session {
    fn handle(&mut self, message: ToAgent) -> Result<(), String> {
        match message {
            ToAgent::Request { id, request } => {
                if self.requests.contains_key(&id) {
                    return Err(format!("request {id} runs already"));
                }
                let outbox = Outbox { session: self.nonce, id, writer: self.writer.clone() };
                let (sender, inbox) = input(outbox.clone());
                let windows = Windows::default();
                let (ended, nonce) = (self.ended.clone(), self.nonce);
                let work = request::perform(request, outbox, inbox, windows.clone());
                let task = tokio::spawn(async move {
                    work.await;
                    let _ = ended.send((nonce, id));
                });
                self.requests.insert(id, Running { input: sender, windows, task: task.abort_handle() });
            }
            ToAgent::Credit { id, stream, bytes } => {
                let running = self.requests.get(&id);
                if let Some(window) = running.and_then(|running| running.windows.of(stream)) {
                    window.grant(bytes);
                }
            }
            ToAgent::End { id, digest } => self.input(id, Input::End(digest)),
            ToAgent::Signal { id, signal } => self.input(id, Input::Signal(signal)),
            ToAgent::Resize { id, size } => self.input(id, Input::Resize(size)),
            ToAgent::Cancel { id } => drop(self.requests.remove(&id)),
        }
        Ok(())
    }

    /// What comes for a request that has just ended is no error: the host could not know.
    fn input(&self, id: u32, input: Input) {
        if let Some(running) = self.requests.get(&id) {
            running.input.other(input);
        }
    }

    fn data(&self, id: u32, data: &[u8]) -> Result<(), String> {
        match self.requests.get(&id) {
            Some(running) => running.input.data(data).map_err(|overrun| format!("request {id}: {overrun}")),
            None => Ok(()),
        }
    }
}

/// Encodes what is queued, as much as fits one write, and writes it.
async fn write<W>(mut writer: W, mut queue: mpsc::Receiver<Outgoing>, resync: bool) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut encoder = Encoder::new(0);
    let mut buffer = Vec::with_capacity(2 * MAX_FRAME);
    let mut flushed = Vec::new();
    if resync {
        buffer.resize(RESYNC, 0);
    }
    while let Some(mut outgoing) = queue.recv().await {
        loop {
            match outgoing {
                Outgoing::Hello(hello) => Encoder::hello(&mut buffer, &hello),
                Outgoing::Open(nonce) => encoder = Encoder::new(nonce),
                Outgoing::Message(session, message) if session == encoder.session() => {
                    encoder.message(&mut buffer, &to_bytes(&message));
                }
                Outgoing::Bulk(session, id, stream, data) if session == encoder.session() => {
                    encoder.bulk(&mut buffer, id, stream, &data);
                }
                Outgoing::Message(..) | Outgoing::Bulk(..) => {}
                Outgoing::Flushed(done) => flushed.push(done),
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
        for done in flushed.drain(..) {
            let _ = done.send(());
        }
    }
    Ok(())
}
