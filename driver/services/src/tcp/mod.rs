//! A host's TCP connections, as streams of tokio.

mod connections;
mod listener;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use connections::Connections;
pub use listener::TcpListener;
pub use stream::TcpStream;
pub(crate) use stream::{CONNECT_LIMIT, connect};
