//! A port's sockets: one that listens, unless it is an uplink's, and at most one connection.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fast::FastPort;
use super::intake::Rest;
use super::packet::PacketIo;
use super::queue::{EgressQueue, Sent};
use crate::frame::Frame;
use crate::state::FrameQueue;

/// How frames come from and go to a peer.
pub(crate) enum Wire {
    /// As QEMU's stream: each with its length before it.
    Stream { socket: UnixStream, rest: Rest },
    /// One with each call.
    Packets(Box<dyn PacketIo>),
}

/// A connected peer.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) queue: EgressQueue,
}

impl Connection {
    pub(crate) fn stream(socket: UnixStream, queue_bytes: usize) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        let wire = Wire::Stream { socket, rest: Rest::default() };
        Ok(Connection { wire, queue: EgressQueue::new(queue_bytes) })
    }

    pub(crate) fn packets(io: Box<dyn PacketIo>, queue_bytes: usize) -> Connection {
        Connection { wire: Wire::Packets(io), queue: EgressQueue::new(queue_bytes) }
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.wire {
            Wire::Stream { socket, .. } => socket.as_fd(),
            Wire::Packets(io) => io.fd(),
        }
    }

    /// Bytes that were read and are not yet a frame.
    pub(crate) fn pending(&self) -> usize {
        match &self.wire {
            Wire::Stream { rest, .. } => rest.len(),
            Wire::Packets(_) => 0,
        }
    }

    /// Writes as much of the queue as the peer takes.
    pub(crate) fn flush(&mut self) -> (Sent, io::Result<()>) {
        match &mut self.wire {
            Wire::Stream { socket, .. } => self.queue.write_to(socket),
            Wire::Packets(io) => self.queue.send_each(|frame| io.send(frame)),
        }
    }
}

/// A socket that listens; its file is removed when it is dropped.
pub(crate) struct Listener {
    pub(crate) path: PathBuf,
    pub(crate) socket: UnixListener,
}

impl Listener {
    pub(crate) fn bind(path: &Path) -> io::Result<Listener> {
        let listener = Listener { socket: UnixListener::bind(path)?, path: path.to_owned() };
        listener.socket.set_nonblocking(true)?;
        Ok(listener)
    }

    /// The next waiting connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket was gone already");
        }
    }
}

/// One port.
pub(crate) struct IoPort {
    pub(crate) name: Arc<str>,
    /// Where peers connect; an uplink brings its own.
    pub(crate) listener: Option<Listener>,
    pub(crate) connection: Option<Connection>,
    /// What a vhost-user port has in the place of `connection`.
    pub(crate) fast: Option<FastPort>,
    /// Until when new connections are left waiting, because taking one failed.
    pub(crate) muted_until: Option<Duration>,
}

impl IoPort {
    pub(crate) fn new(name: Arc<str>, listener: Option<Listener>) -> IoPort {
        IoPort { name, listener, connection: None, fast: None, muted_until: None }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some() || self.fast.as_ref().is_some_and(FastPort::is_connected)
    }

    /// What waits for its peer.
    pub(crate) fn queue(&self) -> FrameQueue {
        match (&self.fast, &self.connection) {
            (Some(fast), _) => fast.queue(),
            (None, Some(connection)) => connection.queue.state(),
            (None, None) => FrameQueue::default(),
        }
    }

    /// Forgets what waits, as far as it is not yet begun, and answers how many frames that were.
    pub(crate) fn clear(&mut self) -> u64 {
        match (&mut self.fast, &mut self.connection) {
            (Some(fast), _) => fast.clear(),
            (None, Some(connection)) => connection.queue.clear(),
            (None, None) => 0,
        }
    }

    /// The frames that wait for its peer.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = &mut Frame> {
        let fast = self.fast.iter_mut().flat_map(FastPort::waiting);
        fast.chain(self.connection.iter_mut().flat_map(|connection| connection.queue.waiting()))
    }

    /// The next waiting connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        self.listener.as_ref().map_or(Ok(None), Listener::accept)
    }
}
