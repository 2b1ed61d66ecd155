//! What a test holds of a router that advertises.

use std::net::Ipv6Addr;

use super::engine::RaCounters;
use crate::error::Error;
use crate::shared::Shared;

/// A router on a [`crate::Host`] that advertises. Clones are the same router; it runs as long as its host.
#[derive(Clone, Debug)]
pub struct RouterAdvertiser {
    pub(crate) shared: Shared,
    pub(crate) addresses: Vec<Ipv6Addr>,
}

impl RouterAdvertiser {
    /// The host's IPv6 addresses: that of the link, then one in each prefix.
    pub fn addresses(&self) -> &[Ipv6Addr] {
        &self.addresses
    }

    /// Stops advertising, without a word, as a router does whose cable is cut.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn stop(&self) -> Result<(), Error> {
        self.shared.set_ra(None)
    }

    /// What the router got and gave.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn counters(&self) -> Result<RaCounters, Error> {
        self.shared.with_ra("read the counters", |engine| engine.counters())
    }
}
