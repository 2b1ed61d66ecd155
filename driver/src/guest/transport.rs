//! The ways in: byte streams to the agent.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A byte stream both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A byte stream of any transport.
pub type BoxStream = Box<dyn Stream>;

/// A way to get a byte stream to the agent.
pub trait Transport: Send + Sync {
    /// What errors call it, with the path or address.
    fn name(&self) -> &str;

    /// Makes a connection, or waits for one. An error is tried again until the caller's limit.
    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// A unix socket on which QEMU (or an agent in a test) listens: `-chardev socket,server=on`.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    name: String,
}

impl UnixSocket {
    /// The socket at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { name: format!("unix socket {}", path.display()), path }
    }
}

impl Transport for UnixSocket {
    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async { Ok(Box::new(UnixStream::connect(&self.path).await?) as BoxStream) }.boxed()
    }
}

/// vhost-user-vsock: the unix socket of a `vhost-device-vsock`, where a connection begins with `CONNECT port`.
#[derive(Debug)]
pub struct VhostUserVsock {
    path: PathBuf,
    port: u32,
    name: String,
}

impl VhostUserVsock {
    /// A port ([`agent_proto::VSOCK_PORT`]) behind the daemon's socket at `path` (its `uds-path`).
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, port: u32) -> Self {
        let path = path.into();
        Self { name: format!("vhost-user-vsock {} port {port}", path.display()), path, port }
    }
}

impl Transport for VhostUserVsock {
    fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async {
            let mut stream = UnixStream::connect(&self.path).await?;
            stream.write_all(format!("CONNECT {}\n", self.port).as_bytes()).await?;
            // What the agent says right after the answer stays in the reader's buffer, and with it in the stream.
            let mut stream = BufReader::new(stream);
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            if !answer.starts_with("OK ") {
                let answer = answer.trim_end();
                let answer = if answer.is_empty() { "closed: nobody listens in the guest" } else { answer };
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, answer));
            }
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}
