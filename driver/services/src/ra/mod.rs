//! Router advertisements (RFC 4861), enough for machines to make their own IPv6 addresses (RFC 4862).

mod engine;
mod handle;
mod scope;
#[cfg(test)]
mod tests;
mod wire;

pub use engine::{RaCounters, RaEngine};
pub use handle::RouterAdvertiser;
pub use scope::{MAX_PREFIXES, RaScope};
