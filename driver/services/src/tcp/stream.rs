//! One TCP connection of a host.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::Error;
use crate::shared::Shared;

/// How long a connection may take to come about.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A TCP connection of a [`crate::Host`].
///
/// Dropping it closes the connection: what was written is still delivered. If there are bytes that nobody has read, the
/// peer gets a reset, as from any system. Shutting it down ends the own direction only.
#[derive(Debug)]
pub struct TcpStream {
    shared: Shared,
    handle: SocketHandle,
    local: SocketAddr,
    peer: SocketAddr,
}

impl TcpStream {
    pub(crate) fn new(
        shared: Shared,
        handle: SocketHandle,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> TcpStream {
        TcpStream { shared, handle, local, peer }
    }

    /// The host's address and port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address and port.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Resets the connection: the peer gets an error, and what is under way is lost.
    pub fn abort(self) {
        self.shared.stack().sockets.get_mut::<smoltcp::socket::tcp::Socket<'_>>(self.handle).abort();
    }

    fn gone(&self, kind: io::ErrorKind) -> io::Error {
        io::Error::new(
            kind,
            format!("host {}: the connection to {} was reset", self.shared.name(), self.peer),
        )
    }
}

/// Connects a host to a peer.
pub(crate) async fn connect(shared: Shared, peer: SocketAddr, limit: Duration) -> Result<TcpStream, Error> {
    shared.check("connect")?;
    let began = Instant::now();
    let (handle, local) = shared.stack().connect(peer, limit)?;
    shared.wake();
    let stream = TcpStream::new(shared.clone(), handle, local, peer);
    let connected = poll_fn(|context| {
        let mut stack = shared.stack();
        let stack = &mut *stack;
        stack.connections.connected(&mut stack.sockets, handle, context.waker())
    });
    let host = || shared.name().to_owned();
    match connected.await {
        true => Ok(stream),
        false => {
            shared.check("connect")?;
            let elapsed = began.elapsed();
            // smoltcp tells a refusal and its timeout in the same way.
            Err(match elapsed < limit {
                true => Error::Refused { host: host(), peer, elapsed },
                false => Error::NoAnswer { host: host(), peer, elapsed },
            })
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut stack = self.shared.stack();
        stack.check()?;
        let stack = &mut *stack;
        let buffer = into.initialize_unfilled();
        let read = ready!(stack.connections.read(&mut stack.sockets, self.handle, buffer, context.waker()));
        let count = read.ok_or_else(|| self.gone(io::ErrorKind::ConnectionReset))?;
        into.advance(count);
        // There is room again, which the peer must learn.
        self.shared.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut stack = self.shared.stack();
        stack.check()?;
        let stack = &mut *stack;
        let wrote = ready!(stack.connections.write(&mut stack.sockets, self.handle, bytes, context.waker()));
        let count = wrote.ok_or_else(|| self.gone(io::ErrorKind::BrokenPipe))?;
        self.shared.wake();
        Poll::Ready(Ok(count))
    }

    /// Does nothing: what was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stack = self.shared.stack();
        stack.check()?;
        let stack = &mut *stack;
        stack.connections.close(&mut stack.sockets, self.handle);
        self.shared.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let mut stack = self.shared.stack();
        let stack = &mut *stack;
        stack.connections.let_go(&mut stack.sockets, self.handle);
        self.shared.wake();
    }
}
