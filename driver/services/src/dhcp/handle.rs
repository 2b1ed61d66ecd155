//! What a test holds of a DHCP server that runs.

use std::time::{Duration, Instant};

use serde::Serialize;
use switch::{Mac, PortId, ServiceFaultId, Switch};

use super::engine::{Clients, DhcpCounters, DhcpEngine, DhcpFault};
use super::lease::Lease;
use crate::error::Error;
use crate::shared::Shared;

/// A DHCP server on a [`crate::Host`]. Clones are the same server; it runs as long as its host.
#[derive(Clone, Debug)]
pub struct DhcpServer {
    pub(crate) shared: Shared,
    pub(crate) switch: Switch,
    pub(crate) port: PortId,
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

    /// Ends a client's lease now. Nothing tells the client; its next renewal is refused, and it begins anew. There is
    /// nothing to heal: it is over as soon as it is done.
    ///
    /// # Errors
    /// [`Error::NoLease`], [`Error::NotRunning`].
    pub fn expire(&self, mac: Mac) -> Result<(), Error> {
        self.with("end a lease", |engine| engine.expire(mac, Instant::now()))??;
        self.switch.service_mishap(self.port, self.title(), format!("ended the lease of {mac}"), Some(mac));
        Ok(())
    }

    /// Gives leases from now on for another time, in whole seconds.
    ///
    /// # Errors
    /// [`Error::LeaseTime`], [`Error::NotRunning`].
    pub fn set_lease_time(&self, time: Duration) -> Result<(), Error> {
        self.with("set the lease time", |engine| engine.set_lease_time(time))?
    }

    /// Answers these clients' requests with DHCPNAK until it is healed.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn refuse(&self, clients: Clients) -> Result<FaultGuard, Error> {
        self.inject(clients, DhcpFault::Nak)
    }

    /// Answers these clients nothing until it is healed.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn ignore(&self, clients: Clients) -> Result<FaultGuard, Error> {
        self.inject(clients, DhcpFault::Ignore)
    }

    /// Answers these clients so much later until it is healed.
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

    fn inject(&self, clients: Clients, fault: DhcpFault) -> Result<FaultGuard, Error> {
        let number = self.with("make a fault", |engine| engine.inject(clients, fault))?;
        let (what, client) = match clients {
            Clients::All => (fault.of("all clients"), None),
            Clients::One(mac) => (fault.of(&mac.to_string()), Some(mac)),
        };
        let shared = self.shared.clone();
        let end = move || {
            // A host that is gone has no faults.
            let healed = shared.with_dhcp("heal a fault", |engine| engine.heal(number));
            tracing::info!(host = shared.name(), was_running = healed.is_ok(), "DHCP fault healed");
        };
        tracing::info!(host = self.shared.name(), what, "DHCP fault");
        let id = self.switch.service_fault(self.port, self.title(), what, client, end);
        Ok(FaultGuard { switch: self.switch.clone(), id })
    }

    /// How it is called where its faults are told.
    fn title(&self) -> String {
        format!("DHCP of {}", self.shared.name())
    }

    fn with<T>(&self, operation: &'static str, call: impl FnOnce(&mut DhcpEngine) -> T) -> Result<T, Error> {
        self.shared.with_dhcp(operation, call)
    }
}

/// What is said of a host's DHCP server in the switch's state: the leases, how long each is still good, and the counters.
pub(crate) fn report(host: &Shared) -> Result<serde_json::Value, Error> {
    host.with_dhcp("report", |engine| {
        let now = Instant::now();
        let leases = engine.leases(now).into_iter().map(|lease| LeaseReport {
            expires_in_s: lease.expires.saturating_duration_since(now).as_secs(),
            lease,
        });
        serde_json::json!({ "leases": leases.collect::<Vec<_>>(), "counters": engine.counters() })
    })
}

/// A lease with the time that it has left: its end has no meaning in another process.
#[derive(Serialize)]
struct LeaseReport {
    #[serde(flatten)]
    lease: Lease,
    expires_in_s: u64,
}

/// A fault of a DHCP server. It lasts until it is healed, by this or with all other faults of its switch; dropping this
/// leaves it.
#[must_use = "a fault lasts until `heal` is called: keep it"]
#[derive(Debug)]
pub struct FaultGuard {
    switch: Switch,
    id: ServiceFaultId,
}

impl FaultGuard {
    /// Ends the fault. One that is over already, since somebody else has healed it or the host is gone, is left as it is.
    pub fn heal(self) {
        // The only error there is says that it is over.
        let _ = self.switch.heal_service_fault(self.id);
    }
}
