//! A port's sockets: one that listens, and at most one connection.

use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::queue::EgressQueue;
use crate::stream::StreamDecoder;

/// A connected peer.
pub(crate) struct Connection {
    pub(crate) socket: UnixStream,
    pub(crate) decoder: StreamDecoder,
    pub(crate) queue: EgressQueue,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream, queue_bytes: usize) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, decoder: StreamDecoder::new(), queue: EgressQueue::new(queue_bytes) })
    }
}

/// One port: its socket's file is removed when it is dropped.
pub(crate) struct IoPort {
    pub(crate) name: Arc<str>,
    pub(crate) path: PathBuf,
    pub(crate) listener: UnixListener,
    pub(crate) connection: Option<Connection>,
    /// Until when new connections are left waiting, because taking one failed.
    pub(crate) muted_until: Option<Duration>,
}

impl IoPort {
    pub(crate) fn listen(name: Arc<str>, path: &Path) -> io::Result<IoPort> {
        let listener = UnixListener::bind(path)?;
        let port = IoPort { name, path: path.to_owned(), listener, connection: None, muted_until: None };
        port.listener.set_nonblocking(true)?;
        Ok(port)
    }

    /// The next waiting connection, if there is one.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl Drop for IoPort {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the port's socket was gone already");
        }
    }
}
