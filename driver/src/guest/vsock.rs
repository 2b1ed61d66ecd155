//! AF_VSOCK, where the host has `/dev/vhost-vsock`.
#![allow(unsafe_code, reason = "tokio can't know that a descriptor stays open as long as its owner")]

use super::transport::{BoxStream, Transport};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use vsock::VsockStream;

/// The agent of the guest with this context id.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    port: u32,
    name: String,
}

impl Vsock {
    /// A port ([`agent_proto::VSOCK_PORT`]) in the guest `cid` (3 or more; QEMU's `guest-cid`).
    #[must_use]
    pub fn new(cid: u32, port: u32) -> Self {
        Self { cid, port, name: format!("AF_VSOCK cid {cid} port {port}") }
    }
}

impl Transport for Vsock {
    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (cid, port) = (self.cid, self.port);
        async move {
            // Without an answer from the guest it blocks for the kernel's two seconds.
            let connect = move || VsockStream::connect_with_cid_port(cid, port);
            let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            // SAFETY: the stream keeps its descriptor open while it lives, and `AsyncFd` owns the stream.
            let stream = unsafe { AsyncFd::register(stream) }?;
            Ok(Box::new(Nonblocking(stream)) as BoxStream)
        }
        .boxed()
    }
}

struct Nonblocking(AsyncFd<VsockStream>);

impl AsyncRead for Nonblocking {
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

impl AsyncWrite for Nonblocking {
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
        Poll::Ready(self.0.get_ref().shutdown(std::net::Shutdown::Write))
    }
}
