//! Which of the stack's sockets belongs to whom: to a listener, to a stream of the test, or to nobody any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};

/// How many bytes a connection holds for a peer that is slow.
const OUTGOING: usize = 256 << 10;

/// How many bytes it holds for a reader that is slow: the most that a window says without window scaling (RFC 7323, 2). With
/// it smoltcp 0.13 rounds a window down, so that its end goes back by a few bytes now and then, and drops what is under way
/// beyond that; and with a hole before it a FIN is lost too, until the peer sends it again after seconds.
const INCOMING: usize = 65535;

/// How many clients may wait for [`super::TcpListener::accept`]; the next ones are refused.
const BACKLOG: usize = 128;

/// How long a client may take for its handshake.
const HANDSHAKE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(30);

/// How long a connection whose stream was dropped may take to deliver what was written to it.
const LINGER: Duration = Duration::from_secs(60);

/// How long a reset may wait for its peer's hardware address.
const RESET: Duration = Duration::from_secs(5);

/// The ports from which connections are made (RFC 6335, 6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49152..=65535;

/// The listeners, the streams, and the connections that end by themselves.
#[derive(Default)]
pub(crate) struct Connections {
    listeners: BTreeMap<u64, Listening>,
    /// What was received and must not get lost with the socket, for each stream of the test.
    streams: BTreeMap<SocketHandle, Kept>,
    orphans: Vec<(SocketHandle, Instant)>,
    /// Those that are closed once their peers have all that was written: see [`Connections::close`].
    closing: BTreeSet<SocketHandle>,
    listeners_ever: u64,
    port_offset: u16,
}

struct Listening {
    port: u16,
    open: Option<SocketHandle>,
    begun: Vec<SocketHandle>,
    ready: VecDeque<SocketHandle>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// The peer has said that nothing comes any more, and `bytes` is all that was left.
    whole: bool,
}

fn socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; INCOMING]), SocketBuffer::new(vec![0; OUTGOING]));
    // Whole requests and answers are written at once; what is relayed must not wait.
    socket.set_nagle_enabled(false);
    socket
}

/// Whether its peer has ended its own direction, and not yet got everything.
fn still_sends(socket: &Socket<'_>) -> bool {
    socket.state() == State::CloseWait && socket.send_queue() > 0
}

fn get<'a>(sockets: &'a mut SocketSet<'static>, handle: SocketHandle) -> &'a mut Socket<'static> {
    sockets.get_mut(handle)
}

impl Connections {
    pub(crate) fn listens(&self, port: u16) -> bool {
        self.listeners.values().any(|listener| listener.port == port)
    }

    /// Opens a port, 0 being any that is free. Gives the listener's number and its port.
    pub(crate) fn listen(&mut self, sockets: &mut SocketSet<'static>, port: u16) -> Option<(u64, u16)> {
        let port = match port {
            0 => self.free_port(sockets)?,
            port if self.listens(port) => return None,
            port => port,
        };
        self.listeners_ever += 1;
        let listening =
            Listening { port, open: None, begun: Vec::new(), ready: VecDeque::new(), waker: None };
        self.listeners.insert(self.listeners_ever, listening);
        self.keep_listening(sockets);
        Some((self.listeners_ever, port))
    }

    fn free_port(&mut self, sockets: &SocketSet<'static>) -> Option<u16> {
        let taken = |port: u16| {
            let by_socket = sockets.iter().any(|(_, socket)| match socket {
                smoltcp::socket::Socket::Tcp(socket) => {
                    socket.local_endpoint().is_some_and(|local| local.port == port)
                }
                _ => false,
            });
            by_socket || self.listens(port)
        };
        // From where the last search ended, so that a port that was just used rests.
        let count = EPHEMERAL.end() - EPHEMERAL.start();
        let mut candidates = (1..=count).map(|step| (self.port_offset + step) % count);
        let offset = candidates.find(|offset| !taken(EPHEMERAL.start() + offset))?;
        self.port_offset = offset;
        Some(EPHEMERAL.start() + offset)
    }

    /// Begins a connection; gives its socket and its own address.
    pub(crate) fn connect(
        &mut self,
        context: &mut Context,
        sockets: &mut SocketSet<'static>,
        peer: SocketAddr,
        limit: Duration,
    ) -> Result<(SocketHandle, SocketAddr), String> {
        let port = self.free_port(sockets).ok_or("no port is free")?;
        let mut socket = socket();
        socket.set_timeout(Some(limit.into()));
        socket.connect(context, peer, port).map_err(|error| error.to_string())?;
        let local = socket.local_endpoint().ok_or("it has no address for this peer")?;
        let handle = sockets.add(socket);
        self.streams.insert(handle, Kept::default());
        Ok((handle, SocketAddr::new(local.addr.into(), local.port)))
    }

    /// Has each listener wait for its next client, and hands over those whose handshake is done.
    pub(crate) fn keep_listening(&mut self, sockets: &mut SocketSet<'static>) {
        for listener in self.listeners.values_mut() {
            if let Some(open) = listener.open
                && get(sockets, open).state() != State::Listen
            {
                listener.begun.push(open);
                listener.open = None;
            }
            let ready = &mut listener.ready;
            listener.begun.retain(|handle| {
                let socket = get(sockets, *handle);
                match socket.state() {
                    State::SynReceived => return true,
                    // It was reset, or never answered.
                    State::Listen | State::Closed => drop(sockets.remove(*handle)),
                    _ => {
                        socket.set_timeout(None);
                        ready.push_back(*handle);
                        if let Some(waker) = listener.waker.take() {
                            waker.wake();
                        }
                    }
                }
                false
            });
            if listener.open.is_none() && listener.begun.len() + listener.ready.len() < BACKLOG {
                let mut socket = socket();
                socket.set_timeout(Some(HANDSHAKE));
                match socket.listen(listener.port) {
                    Ok(()) => listener.open = Some(sockets.add(socket)),
                    Err(error) => tracing::warn!(%error, listener.port, "cannot listen"),
                }
            }
        }
    }

    /// The next client of a listener: its socket, its address, and the host's own.
    pub(crate) fn accept(
        &mut self,
        sockets: &mut SocketSet<'static>,
        listener: u64,
        waker: &Waker,
    ) -> Poll<(SocketHandle, SocketAddr, SocketAddr)> {
        let Some(listener) = self.listeners.get_mut(&listener) else { return Poll::Pending };
        while let Some(handle) = listener.ready.pop_front() {
            let socket = get(sockets, handle);
            let (local, peer) = (socket.local_endpoint(), socket.remote_endpoint());
            if let (Some(local), Some(peer)) = (local, peer) {
                self.streams.insert(handle, Kept::default());
                let address = |end: smoltcp::wire::IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
                return Poll::Ready((handle, address(peer), address(local)));
            }
            // Its peer has reset it meanwhile.
            sockets.remove(handle);
        }
        listener.waker = Some(waker.clone());
        Poll::Pending
    }

    /// Ends a listener; its clients that nobody has accepted are reset.
    pub(crate) fn unlisten(&mut self, sockets: &mut SocketSet<'static>, listener: u64) {
        let Some(listener) = self.listeners.remove(&listener) else { return };
        if let Some(open) = listener.open {
            sockets.remove(open);
        }
        for handle in listener.begun.into_iter().chain(listener.ready) {
            get(sockets, handle).abort();
            self.orphan(handle);
        }
    }

    /// How a connection that was begun is getting on: `Ready(false)` if it has failed.
    pub(crate) fn connected(
        &mut self,
        sockets: &mut SocketSet<'static>,
        handle: SocketHandle,
        waker: &Waker,
    ) -> Poll<bool> {
        let socket = get(sockets, handle);
        match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            state => {
                socket.set_timeout(None);
                Poll::Ready(state != State::Closed)
            }
        }
    }

    /// Reads into a buffer that is not empty. `Ready(Some(0))` is the end, `Ready(None)` a connection that was reset.
    pub(crate) fn read(
        &mut self,
        sockets: &mut SocketSet<'static>,
        handle: SocketHandle,
        into: &mut [u8],
        waker: &Waker,
    ) -> Poll<Option<usize>> {
        let kept = self.streams.entry(handle).or_default();
        if !kept.bytes.is_empty() || kept.whole {
            let count = std::io::Read::read(&mut kept.bytes, into).unwrap_or(0);
            return Poll::Ready(Some(count));
        }
        let socket = get(sockets, handle);
        match socket.recv_slice(into) {
            Ok(0) => {
                socket.register_recv_waker(waker);
                Poll::Pending
            }
            Ok(count) => Poll::Ready(Some(count)),
            Err(RecvError::Finished) => {
                kept.whole = true;
                Poll::Ready(Some(0))
            }
            Err(RecvError::InvalidState) => Poll::Ready(None),
        }
    }

    /// Writes what fits of bytes that are not none. `Ready(None)` if the connection takes nothing any more.
    pub(crate) fn write(
        &mut self,
        sockets: &mut SocketSet<'static>,
        handle: SocketHandle,
        bytes: &[u8],
        waker: &Waker,
    ) -> Poll<Option<usize>> {
        if self.closing.contains(&handle) {
            return Poll::Ready(None);
        }
        let socket = get(sockets, handle);
        match socket.send_slice(bytes) {
            Ok(0) => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Ok(count) => Poll::Ready(Some(count)),
            Err(_) => Poll::Ready(None),
        }
    }

    /// The stream is gone. What it wrote is still delivered, unless it has left bytes unread, which its peer must learn.
    pub(crate) fn let_go(&mut self, sockets: &mut SocketSet<'static>, handle: SocketHandle) {
        let unread = self.streams.remove(&handle).is_some_and(|kept| !kept.bytes.is_empty());
        let socket = get(sockets, handle);
        if unread || socket.recv_queue() > 0 {
            socket.abort();
        } else {
            self.close(sockets, handle);
        }
        self.orphan(handle);
    }

    /// Ends the own direction after what was written to it.
    ///
    /// If the peer has ended its direction before, smoltcp 0.13 must not know of that until the peer has everything: with a
    /// FIN to send, it takes a larger window for a duplicate acknowledgement, and stands still until its next probe.
    pub(crate) fn close(&mut self, sockets: &mut SocketSet<'static>, handle: SocketHandle) {
        let socket = get(sockets, handle);
        if still_sends(socket) {
            self.closing.insert(handle);
        } else {
            socket.close();
        }
    }

    fn orphan(&mut self, handle: SocketHandle) {
        self.orphans.push((handle, Instant::now() + LINGER));
    }

    /// Removes the connections of nobody that have ended, and resets those that take too long.
    pub(crate) fn reap(&mut self, sockets: &mut SocketSet<'static>, now: Instant) {
        for (handle, kept) in &mut self.streams {
            let socket = get(sockets, *handle);
            // smoltcp empties its buffers when this state is over.
            if socket.state() == State::TimeWait && !kept.whole {
                while socket.recv(|bytes| (bytes.len(), kept.bytes.extend(&*bytes))).is_ok() {}
                kept.whole = true;
            }
        }
        self.closing.retain(|handle| {
            let socket = get(sockets, *handle);
            let waits = still_sends(socket);
            if !waits {
                socket.close();
            }
            waits
        });
        self.orphans.retain_mut(|(handle, end)| {
            let socket = get(sockets, *handle);
            let closed = socket.state() == State::Closed;
            // A reset is sent after the socket was closed, and takes its addresses with it.
            let over = closed && (socket.remote_endpoint().is_none() || *end <= now);
            if over {
                sockets.remove(*handle);
            } else if *end <= now {
                socket.abort();
                *end = now + RESET;
            }
            !over
        });
    }

    /// When [`Connections::reap`] has something to do whatever the stack does.
    pub(crate) fn next_reap(&self) -> Option<Instant> {
        self.orphans.iter().map(|(_, end)| *end).min()
    }

    /// How many connections there are, without those that only wait for late segments.
    #[cfg(test)]
    pub(crate) fn count(&self, sockets: &mut SocketSet<'static>) -> usize {
        let listening = |listener: &Listening| listener.begun.len() + listener.ready.len();
        let orphans =
            self.orphans.iter().filter(|(handle, _)| get(sockets, *handle).state() != State::TimeWait);
        orphans.count() + self.streams.len() + self.listeners.values().map(listening).sum::<usize>()
    }

    /// How many bytes are kept outside of sockets.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.streams.values().map(|kept| kept.bytes.len()).sum()
    }

    /// The host has ended: everybody who waits is told.
    pub(crate) fn end(&mut self, sockets: &mut SocketSet<'static>) {
        for handle in self.streams.keys() {
            get(sockets, *handle).abort();
        }
        for listener in self.listeners.values_mut() {
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
    }
}
