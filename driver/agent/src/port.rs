//! The virtserialport: one byte pipe for all of the guest's life, with a host that comes and goes.
//!
//! While no host is connected, the kernel says POLLHUP and POLLIN without end and `read` returns 0. tokio keeps a
//! hang-up for ever once it saw one, so that it would spin here. Each direction therefore has an edge-triggered epoll
//! of its own, and tokio watches those: an epoll is readable when something happened and never hangs up.

use crate::session::{self, stopped};
use crate::wait::pause;
use crate::watched::watched;
use agent_proto::hello::Identity;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

const PORTS: &str = "/sys/class/virtio-ports";

/// Serves the port of this name whenever there is one and a host is connected.
pub(crate) async fn serve(
    name: &str,
    identity: &Arc<Identity>,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let mut first = true;
    let mut stop = stopping.clone();
    loop {
        let served = async {
            let port = Arc::new(open(find(name).await)?);
            loop {
                port.connected().await?;
                session::serve(Stream(port.clone()), identity, first, stopping.clone()).await?;
                first = false;
                if *stopping.borrow() {
                    return Ok(());
                }
            }
        };
        let error: anyhow::Error = tokio::select! {
            served = served => match served {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            // A session says goodbye by itself; this is for a port without one.
            () = async { stopped(&mut stop).await; pause(Duration::from_secs(1)).await; } => return Ok(()),
        };
        eprintln!("rackless-agent: port {name}: {error:#}; opening it again");
        pause(Duration::from_millis(200)).await;
    }
}

/// The device of the port, once there is one. By sysfs: udev's links come late in boot.
async fn find(name: &str) -> PathBuf {
    let mut wait = Duration::from_millis(10);
    loop {
        for entry in fs::read_dir(PORTS).into_iter().flatten().flatten() {
            let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim_end() == name {
                return PathBuf::from("/dev").join(entry.file_name());
            }
        }
        pause(wait).await;
        wait = (wait * 2).min(Duration::from_millis(500));
    }
}

/// An open port.
struct Port {
    file: File,
    readable: Edge,
    writable: Edge,
}

fn open(path: PathBuf) -> Result<Port> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let readable = Edge::new(&file, EpollFlags::EPOLLIN)?;
    let writable = Edge::new(&file, EpollFlags::EPOLLOUT)?;
    Ok(Port { file, readable, writable })
}

impl Port {
    /// Waits until a host is connected.
    async fn connected(&self) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::ZERO)?;
            if !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
                return Ok(());
            }
            std::future::poll_fn(|context| self.readable.poll_happened(context)).await?;
        }
    }
}

/// One direction's events.
struct Edge(AsyncFd<Events>);

struct Events(Epoll);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl Edge {
    fn new(file: &File, interest: EpollFlags) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(file, EpollEvent::new(interest | EpollFlags::EPOLLET, 0))?;
        watched(Events(epoll), tokio::io::Interest::READABLE).map(Self)
    }

    /// Ready when something happened since the last time.
    fn poll_happened(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let mut events = [EpollEvent::empty()];
            match self.0.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(Errno::EINTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// The port as a stream that ends when the host disconnects.
struct Stream(Arc<Port>);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match (&self.0.file).read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.0.readable.poll_happened(context))?;
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match (&self.0.file).write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
            ready!(self.0.writable.poll_happened(context))?;
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
