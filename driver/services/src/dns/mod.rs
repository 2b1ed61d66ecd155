//! DNS (RFC 1035): the lab's names, and records that a test adds.

mod handle;
mod sockets;
#[cfg(test)]
mod tests;
mod zone;

pub use handle::DnsServer;
pub(crate) use sockets::{DNS, DnsSockets};
pub use zone::{RecordData, Zone};
