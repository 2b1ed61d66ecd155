//! Ways in where each host connection is a stream of its own: AF_VSOCK and unix sockets.

use crate::session::{self, stopped};
use crate::watched::watched;
use agent_proto::hello::Identity;
use anyhow::{Context as _, Result};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::watch;
use vsock::{VMADDR_CID_ANY, VsockListener};

/// Serves whoever connects to a unix socket.
pub(crate) async fn unix(
    path: &Path,
    identity: &Arc<Identity>,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let mut stop = stopping.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("cannot accept on the unix socket")?;
                spawn(stream, identity, &stopping);
            }
            () = stopped(&mut stop) => return Ok(()),
        }
    }
}

/// Serves whoever connects over AF_VSOCK.
pub(crate) async fn vsock(
    port: u32,
    identity: &Arc<Identity>,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)
        .with_context(|| format!("cannot listen on AF_VSOCK port {port}"))?;
    listener.set_nonblocking(true)?;
    let listener = watched(listener, Interest::READABLE)?;
    let mut stop = stopping.clone();
    loop {
        tokio::select! {
            ready = listener.readable() => {
                let accept = |listener: &AsyncFd<VsockListener>| listener.get_ref().accept();
                if let Ok(accepted) = ready?.try_io(accept) {
                    let (stream, _) = accepted.context("cannot accept on AF_VSOCK")?;
                    stream.set_nonblocking(true)?;
                    spawn(Nonblocking(watched(stream, Interest::READABLE | Interest::WRITABLE)?), identity, &stopping);
                }
            }
            () = stopped(&mut stop) => return Ok(()),
        }
    }
}

fn spawn<S>(stream: S, identity: &Arc<Identity>, stopping: &watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (identity, stopping) = (identity.clone(), stopping.clone());
    tokio::spawn(async move {
        // A host that goes away in the middle is an ordinary end.
        let _ = session::serve(stream, &identity, false, stopping).await;
    });
}

/// A non-blocking stream that tokio has no type for.
struct Nonblocking<S: AsRawFd>(AsyncFd<S>);

impl<S: AsRawFd + Unpin> AsyncRead for Nonblocking<S>
where
    for<'a> &'a S: Read,
{
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            if let Ok(read) = ready.try_io(|stream| stream.get_ref().read(unfilled)) {
                return Poll::Ready(read.map(|count| buffer.advance(count)));
            }
        }
    }
}

impl<S: AsRawFd + Unpin> AsyncWrite for Nonblocking<S>
where
    for<'a> &'a S: Write,
{
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = ready.try_io(|stream| stream.get_ref().write(data)) {
                return Poll::Ready(written);
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
