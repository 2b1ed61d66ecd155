//! Who has which address: the table of leases.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use serde::Serialize;
use switch::Mac;

/// What a client has been given, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// The client.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host name that the client sent (option 12), cut after 255 characters.
    pub hostname: Option<String>,
    /// How far it got.
    pub state: LeaseState,
    /// When the lease ends or ended; for an offer, until when the address is kept for the client; for a refused address,
    /// until when nobody gets it.
    #[serde(skip)]
    pub expires: Instant,
}

/// How far a lease got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Offered; the client has not asked for it yet.
    Offered,
    /// The client has it.
    Bound,
    /// Its time is over, or a test ended it.
    Expired,
    /// The client gave it back.
    Released,
    /// The client found that somebody else uses the address (DHCPDECLINE).
    Declined,
}

pub(super) struct Held {
    pub(super) address: Ipv4Addr,
    pub(super) hostname: Option<String>,
    pub(super) state: LeaseState,
    pub(super) until: Instant,
    /// A test ended the lease: the client is told so when it next asks.
    pub(super) revoked: bool,
}

impl Held {
    /// Whether nobody else may have the address now.
    fn keeps(&self, now: Instant) -> bool {
        !matches!(self.state, LeaseState::Expired | LeaseState::Released) && now < self.until
    }

    fn lease(&self, mac: Mac, now: Instant) -> Lease {
        let over = matches!(self.state, LeaseState::Offered | LeaseState::Bound) && self.until <= now;
        let state = if over { LeaseState::Expired } else { self.state };
        Lease { mac, address: self.address, hostname: self.hostname.clone(), state, expires: self.until }
    }
}

/// The leases. No two clients have one address, so that there are never more leases than addresses.
#[derive(Default)]
pub(super) struct Leases {
    by_mac: BTreeMap<Mac, Held>,
    by_address: BTreeMap<Ipv4Addr, Mac>,
}

impl Leases {
    pub(super) fn get(&self, mac: Mac) -> Option<&Held> {
        self.by_mac.get(&mac)
    }

    pub(super) fn get_mut(&mut self, mac: Mac) -> Option<&mut Held> {
        self.by_mac.get_mut(&mac)
    }

    pub(super) fn holder(&self, address: Ipv4Addr) -> Option<(Mac, &Held)> {
        let mac = *self.by_address.get(&address)?;
        Some((mac, self.by_mac.get(&mac)?))
    }

    /// Whether `mac` could have this address: nobody else keeps it, and `mac` has not declined it.
    pub(super) fn free_for(&self, address: Ipv4Addr, mac: Mac, now: Instant) -> bool {
        self.holder(address).is_none_or(|(holder, held)| {
            !held.keeps(now) || (holder == mac && held.state != LeaseState::Declined)
        })
    }

    /// Gives an address; what its last holder and the client had before is forgotten.
    pub(super) fn put(&mut self, mac: Mac, held: Held) {
        self.remove(mac);
        if let Some(last) = self.by_address.insert(held.address, mac) {
            self.by_mac.remove(&last);
        }
        self.by_mac.insert(mac, held);
    }

    pub(super) fn remove(&mut self, mac: Mac) {
        if let Some(held) = self.by_mac.remove(&mac) {
            self.by_address.remove(&held.address);
        }
    }

    pub(super) fn list(&self, now: Instant) -> Vec<Lease> {
        self.by_mac.iter().map(|(mac, held)| held.lease(*mac, now)).collect()
    }
}
