//! What a test holds of a DHCP server that runs.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use switch::Mac;

use super::engine::{Clients, DhcpCounters, DhcpEngine, DhcpFault};
use super::lease::Lease;
use crate::error::Error;
use crate::shared::Shared;

/// A DHCP server on a [`crate::Host`]. Clones are the same server; it runs as long as its host.
#[derive(Clone, Debug)]
pub struct DhcpServer {
    pub(crate) shared: Shared,
}

impl DhcpServer {
    /// The leases by MAC address, those that ended too.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.with("read the leases", |engine| engine.leases(Instant::now()))
    }

    /// The lease of one client, if it has or had one.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn lease(&self, mac: Mac) -> Result<Option<Lease>, Error> {
        Ok(self.leases()?.into_iter().find(|lease| lease.mac == mac))
    }

    /// Ends a client's lease now. Nothing tells the client; its next renewal is refused, and it begins anew.
    ///
    /// # Errors
    /// [`Error::NoLease`], [`Error::NotRunning`].
    pub fn expire(&self, mac: Mac) -> Result<(), Error> {
        self.with("end a lease", |engine| engine.expire(mac, Instant::now()))?
    }

    /// Gives leases from now on for another time, in whole seconds.
    ///
    /// # Errors
    /// [`Error::LeaseTime`], [`Error::NotRunning`].
    pub fn set_lease_time(&self, time: Duration) -> Result<(), Error> {
        self.with("set the lease time", |engine| engine.set_lease_time(time))?
    }

    /// Answers these clients' requests with DHCPNAK until the guard heals.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn refuse(&self, clients: Clients) -> Result<FaultGuard, Error> {
        self.inject(clients, DhcpFault::Nak)
    }

    /// Answers these clients nothing until the guard heals.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn ignore(&self, clients: Clients) -> Result<FaultGuard, Error> {
        self.inject(clients, DhcpFault::Ignore)
    }

    /// Answers these clients so much later until the guard heals.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn delay(&self, clients: Clients, delay: Duration) -> Result<FaultGuard, Error> {
        self.inject(clients, DhcpFault::Delay(delay))
    }

    /// What the server got and gave.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn counters(&self) -> Result<DhcpCounters, Error> {
        self.with("read the counters", |engine| engine.counters())
    }

    /// What is said of it in the switch's state: the leases, how long each is still good, and the counters.
    pub(crate) fn report(&self) -> Result<serde_json::Value, Error> {
        self.with("report", |engine| {
            let now = Instant::now();
            let leases = engine.leases(now).into_iter().map(|lease| LeaseReport {
                expires_in_s: lease.expires.saturating_duration_since(now).as_secs(),
                lease,
            });
            serde_json::json!({ "leases": leases.collect::<Vec<_>>(), "counters": engine.counters() })
        })
    }

    fn inject(&self, clients: Clients, fault: DhcpFault) -> Result<FaultGuard, Error> {
        let id = self.with("make a fault", |engine| engine.inject(clients, fault))?;
        tracing::info!(host = self.shared.name(), ?clients, ?fault, "DHCP fault");
        Ok(FaultGuard { server: self.clone(), id })
    }

    fn with<T>(&self, operation: &'static str, call: impl FnOnce(&mut DhcpEngine) -> T) -> Result<T, Error> {
        self.shared.with_dhcp(operation, call)
    }
}

/// A lease with the time that it has left: its end has no meaning in another process.
#[derive(Serialize)]
struct LeaseReport {
    #[serde(flatten)]
    lease: Lease,
    expires_in_s: u64,
}

/// A fault of a DHCP server, healed when this is dropped.
#[must_use = "the fault ends when this is dropped"]
pub struct FaultGuard {
    server: DhcpServer,
    id: u64,
}

impl FaultGuard {
    /// Ends the fault now.
    pub fn heal(self) {}
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        // A host that is gone has no faults.
        let healed = self.server.with("heal a fault", |engine| engine.heal(self.id));
        tracing::info!(host = self.server.shared.name(), was_running = healed.is_ok(), "DHCP fault healed");
    }
}

impl fmt::Debug for FaultGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultGuard").field("id", &self.id).finish_non_exhaustive()
    }
}
