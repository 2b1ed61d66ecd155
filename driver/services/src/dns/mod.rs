//! DNS (RFC 1035): the lab's names, and records that a test adds.

mod handle;
#[cfg(test)]
mod tests;
mod zone;

pub use handle::DnsServer;
pub use zone::{RecordData, Zone};
pub(crate) use zone::{TCP_LONGEST, UDP_LONGEST};
