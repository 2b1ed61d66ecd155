//! The forwarding database: which MAC address was last seen on which port.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
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

/// What an address is found by: 60 bits, hashed as one number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    vlan: VlanId,
    mac: Mac,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f] = self.mac.0;
        let [high, low] = self.vlan.get().to_be_bytes();
        state.write_u64(u64::from_ne_bytes([high, low, a, b, c, d, e, f]));
    }
}

/// Hashes a [`Key`] by one multiplication with secrets: each frame is looked up twice, and guests, which don't know the
/// secrets, can't make up addresses that collide.
#[derive(Clone)]
struct Secrets {
    add: u64,
    multiply: u64,
}

impl Secrets {
    fn new() -> Secrets {
        let random = RandomState::new();
        Secrets { add: random.hash_one(0), multiply: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Secrets {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer { secrets: self.clone(), mixed: 0 }
    }
}

struct Mixer {
    secrets: Secrets,
    mixed: u64,
}

impl Hasher for Mixer {
    fn write_u64(&mut self, number: u64) {
        let Secrets { add, multiply } = self.secrets;
        let product = u128::from(self.mixed ^ number ^ add) * u128::from(multiply);
        self.mixed = (product >> 64) as u64 ^ product as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_ne_bytes(number));
        }
    }

    fn finish(&self) -> u64 {
        self.mixed
    }
}

#[derive(Clone, Copy)]
struct Seen {
    port: PortId,
    at: Duration,
}

pub(crate) struct Fdb {
    entries: HashMap<Key, Seen, Secrets>,
    ageing: Duration,
}

impl Fdb {
    pub(crate) fn new(ageing: Duration) -> Fdb {
        Fdb { entries: HashMap::with_hasher(Secrets::new()), ageing }
    }

    /// Learns an address; a move from another port counts from this very frame on.
    pub(crate) fn learn(&mut self, vlan: VlanId, mac: Mac, port: PortId, now: Duration) {
        let full = self.entries.len() >= CAPACITY;
        let seen = Seen { port, at: now };
        match self.entries.get_mut(&Key { vlan, mac }) {
            Some(entry) => *entry = seen,
            None if full => {}
            None => {
                self.entries.insert(Key { vlan, mac }, seen);
            }
        }
    }

    pub(crate) fn lookup(&self, vlan: VlanId, mac: Mac, now: Duration) -> Option<PortId> {
        let seen = self.entries.get(&Key { vlan, mac })?;
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
            .map(|(Key { vlan, mac }, seen)| FdbEntry {
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
