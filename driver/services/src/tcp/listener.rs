//! A listening TCP port of a host.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::stream::TcpStream;
use crate::shared::Shared;

/// A TCP port of a [`crate::Host`] that clients connect to, until this is dropped.
#[derive(Debug)]
pub struct TcpListener {
    shared: Shared,
    id: u64,
    address: SocketAddr,
}

impl TcpListener {
    pub(crate) fn new(shared: Shared, id: u64, address: SocketAddr) -> TcpListener {
        TcpListener { shared, id, address }
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next client. Up to 128 may wait for this; more are refused.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] once the host has ended.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let mut stack = self.shared.stack();
        stack.check()?;
        let stack = &mut *stack;
        stack
            .connections
            .accept(&mut stack.sockets, self.id, context.waker())
            .map(|(handle, peer, local)| Ok((TcpStream::new(self.shared.clone(), handle, local, peer), peer)))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let mut stack = self.shared.stack();
        let stack = &mut *stack;
        stack.connections.unlisten(&mut stack.sockets, self.id);
        self.shared.wake();
    }
}
