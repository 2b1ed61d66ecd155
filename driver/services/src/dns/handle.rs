//! What a test holds of a DNS server that runs.

use std::net::Ipv4Addr;

use super::zone::{RecordData, Zone};
use crate::error::Error;
use crate::shared::Shared;

/// A DNS server on a [`crate::Host`], on UDP and TCP port 53. Clones are the same server; it runs as long as its host.
#[derive(Clone, Debug)]
pub struct DnsServer {
    pub(crate) shared: Shared,
}

impl DnsServer {
    /// Gives a host its address, and the address its name: an A and a PTR record. See [`Zone::host`].
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::NotRunning`].
    pub fn host(&self, name: &str, address: Ipv4Addr) -> Result<(), Error> {
        self.with("add a host", |zone| zone.host(name, address))?
    }

    /// Adds a record to those of its name. See [`Zone::add`].
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Text`], [`Error::NotRunning`].
    pub fn add(&self, name: &str, data: RecordData) -> Result<(), Error> {
        self.with("add a record", |zone| zone.add(name, data))?
    }

    /// Removes all records of a name; says whether there were any.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::NotRunning`].
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        self.with("remove a name", |zone| zone.remove(name))?
    }

    fn with<T>(&self, operation: &'static str, call: impl FnOnce(&mut Zone) -> T) -> Result<T, Error> {
        self.shared.with_zone(operation, call)
    }
}
