//! The forwarding database: which MAC address was last seen on which port.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::forwarder::PortId;
use crate::mac::Mac;
use crate::vlan::VlanId;

/// How many addresses are kept. A real top-of-rack switch has tens of thousands; the bound keeps a guest that makes up
/// addresses from growing this process. What does not fit is flooded.
const CAPACITY: usize = 16_384;

/// One learnt address, as [`crate::Switch::fdb`] lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// The VLAN in which it was seen.
    pub vlan: VlanId,
    /// The address.
    pub mac: Mac,
    /// The port it was last seen on.
    pub port: PortId,
    /// How long ago it was last seen.
    pub age: Duration,
}

#[derive(Clone, Copy)]
struct Seen {
    port: PortId,
    at: Duration,
}

pub(crate) struct Fdb {
    entries: HashMap<(VlanId, Mac), Seen>,
    ageing: Duration,
}

impl Fdb {
    pub(crate) fn new(ageing: Duration) -> Fdb {
        Fdb { entries: HashMap::new(), ageing }
    }

    /// Learns an address; a move from another port counts from this very frame on.
    pub(crate) fn learn(&mut self, vlan: VlanId, mac: Mac, port: PortId, now: Duration) {
        let full = self.entries.len() >= CAPACITY;
        let seen = Seen { port, at: now };
        match self.entries.get_mut(&(vlan, mac)) {
            Some(entry) => *entry = seen,
            None if full => {}
            None => {
                self.entries.insert((vlan, mac), seen);
            }
        }
    }

    pub(crate) fn lookup(&self, vlan: VlanId, mac: Mac, now: Duration) -> Option<PortId> {
        let seen = self.entries.get(&(vlan, mac))?;
        (now.saturating_sub(seen.at) <= self.ageing).then_some(seen.port)
    }

    /// Frees what was not seen for the ageing time.
    pub(crate) fn age(&mut self, now: Duration) {
        let ageing = self.ageing;
        self.entries.retain(|_, seen| now.saturating_sub(seen.at) <= ageing);
    }

    pub(crate) fn forget_port(&mut self, port: PortId) {
        self.entries.retain(|_, seen| seen.port != port);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The entries that have not aged out, by VLAN and address.
    pub(crate) fn list(&self, now: Duration) -> Vec<FdbEntry> {
        let mut list: Vec<FdbEntry> = self
            .entries
            .iter()
            .map(|((vlan, mac), seen)| FdbEntry {
                vlan: *vlan,
                mac: *mac,
                port: seen.port,
                age: now.saturating_sub(seen.at),
            })
            .filter(|entry| entry.age <= self.ageing)
            .collect();
        list.sort_by_key(|entry| (entry.vlan, entry.mac));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_addresses_do_not_grow_it_and_ageing_makes_room() {
        let mut fdb = Fdb::new(Duration::from_secs(300));
        let vlan = VlanId::new(1).unwrap();
        let mac = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        };
        for n in 0..CAPACITY as u32 + 100 {
            fdb.learn(vlan, mac(n), PortId(0), Duration::ZERO);
        }
        assert_eq!(fdb.entries.len(), CAPACITY);
        let late = Duration::from_secs(301);
        assert_eq!(fdb.lookup(vlan, mac(0), late), None, "aged out even before it is freed");
        fdb.age(late);
        fdb.learn(vlan, mac(1), PortId(1), late);
        assert_eq!(fdb.list(late).len(), 1);
    }
}
