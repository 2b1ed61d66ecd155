//! Link layer discovery (IEEE 802.1AB): who is at the other end of this cable, and on which port?
//!
//! Pure: PDUs, links and the time go in; what is due, and who is there, comes out. [`Lldpdu`] is what is on the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::vlan::VlanId;

mod agent;
mod pdu;

pub(crate) use agent::{Agent, Change};
pub use agent::{MAX_NEIGHBOURS, Neighbour};
pub use pdu::{ChassisId, ETHERTYPE, Lldpdu, MAX_TEXT, NEAREST_BRIDGE, OtherTlv, PortIdentity, VlanName};

/// What the switch says of itself, and how often.
///
/// Each port says its own name as its id and description, the VLAN of its untagged frames, and the names of its VLANs as
/// far as a frame of 1500 bytes has room. The chassis is an address made from the switch's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LldpConfig {
    /// What the system is called; the switch's name unless said otherwise.
    pub system_name: Option<String>,
    /// How often each port says it. 30 s unless said otherwise, and at once when its link comes up; each second for a
    /// while when a neighbour is new (802.1AB, 9.2.5).
    pub interval: Duration,
    /// For how many intervals it holds. 4 unless said otherwise.
    pub hold: u16,
    /// What VLANs are called; `VLAN0200` and the like unless said otherwise.
    pub vlan_names: BTreeMap<VlanId, String>,
}

impl Default for LldpConfig {
    fn default() -> LldpConfig {
        LldpConfig {
            system_name: None,
            interval: Duration::from_secs(30),
            hold: 4,
            vlan_names: BTreeMap::new(),
        }
    }
}

impl LldpConfig {
    /// The usual values.
    pub fn new() -> LldpConfig {
        LldpConfig::default()
    }

    /// For how long what is said holds, in seconds (802.1AB, 9.2.5.22, `txTTL`).
    pub(crate) fn ttl(&self) -> u16 {
        let seconds = self.interval.as_secs().saturating_mul(u64::from(self.hold)).saturating_add(1);
        seconds.min(u64::from(u16::MAX)) as u16
    }

    pub(crate) fn vlan_name(&self, vlan: VlanId) -> String {
        self.vlan_names.get(&vlan).cloned().unwrap_or_else(|| format!("VLAN{:04}", vlan.get()))
    }
}
