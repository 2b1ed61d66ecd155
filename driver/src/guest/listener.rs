//! The transport of a virtserialport whose QEMU connects to us.

use super::session::lock;
use super::transport::{BoxStream, Transport};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A unix socket on which we listen and to which QEMU connects: `-chardev socket,path=…` of a virtserialport.
///
/// Bind it before QEMU starts; a QEMU that is started again is accepted again. QEMU connects only once, so that its
/// connection outlives sessions: whoever connects next takes it over, and the session before reads an end of file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Of the socket, to know it from another one that took its place.
    inode: u64,
    name: String,
    connection: Arc<Mutex<Option<Connection>>>,
}

#[derive(Debug, Clone)]
struct Connection {
    stream: Arc<UnixStream>,
    /// Cancelled when somebody else takes the connection over.
    revoked: CancellationToken,
}

impl Listener {
    /// Binds the socket. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the path is taken, too long or not writable.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let listener = UnixListener::bind(&path)?;
        let inode = fs_err::symlink_metadata(&path)?.ino();
        let name = format!("virtserialport at {}", path.display());
        Ok(Self { listener, path, inode, name, connection: Arc::default() })
    }

    /// Binds the socket in the place of the one that an earlier life of the machine has there: a session of that life may
    /// end a moment after the next has begun.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind), but for a path that is taken.
    pub(crate) fn bind_anew(path: impl AsRef<Path>) -> io::Result<Self> {
        match fs_err::remove_file(path.as_ref()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Self::bind(path),
        }
    }

    /// With another name for errors: it is not an agent's port.
    pub(crate) fn called(mut self, name: String) -> Self {
        self.name = name;
        self
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The inode is not used again while the socket is open.
        if fs_err::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

impl Transport for Listener {
    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async {
            let standing = lock(&self.connection).take();
            let stream = match standing {
                Some(standing) => {
                    standing.revoked.cancel();
                    standing.stream
                }
                None => Arc::new(self.listener.accept().await?.0),
            };
            let connection = Connection { stream, revoked: CancellationToken::new() };
            *lock(&self.connection) = Some(connection.clone());
            let revoked = [(); 2].map(|()| Box::pin(connection.revoked.clone().cancelled_owned()));
            Ok(Box::new(Lease { connection, revoked, standing: self.connection.clone() }) as BoxStream)
        }
        .boxed()
    }
}

/// The connection, until it ends or is taken over.
struct Lease {
    connection: Connection,
    /// One for the reader and one for the writer: each wakes only who asked last.
    revoked: [Pin<Box<WaitForCancellationFutureOwned>>; 2],
    standing: Arc<Mutex<Option<Connection>>>,
}

impl Lease {
    /// QEMU is gone: the next one must be accepted.
    fn forget(&self) {
        let mut standing = lock(&self.standing);
        if standing.as_ref().is_some_and(|standing| Arc::ptr_eq(&standing.stream, &self.connection.stream)) {
            *standing = None;
        }
    }
}

impl AsyncRead for Lease {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.revoked[0].as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.connection.stream.poll_read_ready(context))?;
            match self.connection.stream.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) if count > 0 => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                end => {
                    self.forget();
                    return Poll::Ready(end.map(drop));
                }
            }
        }
    }
}

impl AsyncWrite for Lease {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.revoked[1].as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "another session took it over",
            )));
        }
        loop {
            ready!(self.connection.stream.poll_write_ready(context))?;
            match self.connection.stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.forget();
                    return Poll::Ready(Err(error));
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_earlier_life_that_ends_late_leaves_the_next_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let earlier = Listener::bind_anew(&path).unwrap();
        assert!(Listener::bind(&path).is_err(), "the path is taken");
        let next = Listener::bind_anew(&path).unwrap();
        drop(earlier);
        let (_there, here) = tokio::join!(UnixStream::connect(&path), next.listener.accept());
        here.unwrap();
        drop(next);
        assert!(!path.exists());
    }
}
