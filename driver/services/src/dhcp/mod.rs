//! DHCPv4 (RFC 2131): what is handed out, to whom, and what a test may do to it.

mod engine;
mod handle;
mod lease;
mod options;
mod reply;
mod scope;
#[cfg(test)]
mod tests;
mod wire;

pub use engine::{Clients, DhcpCounters, DhcpEngine, DhcpFault};
pub(crate) use handle::report;
pub use handle::{DhcpServer, FaultGuard};
pub use lease::{Lease, LeaseState};
pub use reply::DhcpReply;
pub use scope::{DhcpScope, MAX_RANGE, Reservation};
pub(crate) use wire::DhcpFrame;
