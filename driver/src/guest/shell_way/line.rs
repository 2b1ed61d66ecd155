//! The serial console as a line: what it says is copied, what is typed goes to it, and it is captured as ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::console::Console;
use crate::guest::transport::{BoxStream, Transport};

/// A way to a shell that shares the console with its capture.
pub(crate) struct ConsoleLine {
    console: Console,
}

impl ConsoleLine {
    pub(crate) fn new(console: Console) -> Self {
        Self { console }
    }
}

impl Transport for ConsoleLine {
    fn name(&self) -> &str {
        "the serial console"
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let heard = self.console.listen();
        let tap = Tap { console: self.console.clone(), heard, rest: Vec::new(), used: 0 };
        async move { Ok(Box::new(tap) as BoxStream) }.boxed()
    }
}

struct Tap {
    console: Console,
    heard: mpsc::UnboundedReceiver<Vec<u8>>,
    rest: Vec<u8>,
    used: usize,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.used == self.rest.len() {
            let Some(bytes) = ready!(self.heard.poll_recv(context)) else { return Poll::Ready(Ok(())) };
            (self.rest, self.used) = (bytes, 0);
        }
        let count = buffer.remaining().min(self.rest.len() - self.used);
        buffer.put_slice(&self.rest[self.used..self.used + count]);
        self.used += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.console.send(data);
        Poll::Ready(sent.map(|()| data.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
