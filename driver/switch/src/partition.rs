//! Partitions: ports that do not hear each other for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::forwarder::PortId;
use crate::vlan::{VlanId, VlanSet};

/// Names a partition so that it can be healed. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub(crate) u64);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which frames a partition stops: those from a port of one set to a port of the other.
///
/// Carrier stays: the ports' links are up, their peers only hear nothing. (A link that goes down is
/// [`crate::Switch::set_admin`] together with QMP `set_link`.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    pub(crate) from: BTreeSet<PortId>,
    pub(crate) to: BTreeSet<PortId>,
    pub(crate) both_ways: bool,
    pub(crate) vlans: Option<VlanSet>,
}

impl PartitionSpec {
    /// Stops all frames between the two sets, both ways. A port in both sets is cut off from either, not from itself.
    pub fn between(
        a: impl IntoIterator<Item = PortId>,
        b: impl IntoIterator<Item = PortId>,
    ) -> PartitionSpec {
        PartitionSpec {
            from: a.into_iter().collect(),
            to: b.into_iter().collect(),
            both_ways: true,
            vlans: None,
        }
    }

    /// Stops only frames from the first set to the second; the way back stays open.
    pub fn one_way(mut self) -> PartitionSpec {
        self.both_ways = false;
        self
    }

    /// Stops only frames of these VLANs.
    pub fn on_vlans(mut self, vlans: impl Into<VlanSet>) -> PartitionSpec {
        self.vlans = Some(vlans.into());
        self
    }

    /// The ports it speaks of.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.from.union(&self.to).copied()
    }

    /// The two sets: frames from the first to the second are stopped, and the way back unless it is one-way.
    pub fn sides(&self) -> (&BTreeSet<PortId>, &BTreeSet<PortId>) {
        (&self.from, &self.to)
    }

    /// Whether the way back stays open.
    pub fn is_one_way(&self) -> bool {
        !self.both_ways
    }

    /// The VLANs whose frames it stops, if not those of all.
    pub fn vlans(&self) -> Option<&VlanSet> {
        self.vlans.as_ref()
    }

    /// Whether it would stop nothing.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty() || self.to.is_empty() || self.vlans.as_ref().is_some_and(VlanSet::is_empty)
    }

    fn stops(&self, from: PortId, to: PortId, vlan: VlanId) -> bool {
        let forth = self.from.contains(&from) && self.to.contains(&to);
        let back = self.both_ways && self.from.contains(&to) && self.to.contains(&from);
        (forth || back) && self.vlans.as_ref().is_none_or(|vlans| vlans.contains(vlan))
    }
}

#[derive(Default)]
pub(crate) struct Partitions {
    next: u64,
    active: BTreeMap<PartitionId, PartitionSpec>,
}

impl Partitions {
    pub(crate) fn add(&mut self, spec: PartitionSpec) -> PartitionId {
        let id = PartitionId(self.next);
        self.next += 1;
        self.active.insert(id, spec);
        id
    }

    pub(crate) fn heal(&mut self, id: PartitionId) -> Option<PartitionSpec> {
        self.active.remove(&id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    pub(crate) fn stops(&self, from: PortId, to: PortId, vlan: VlanId) -> bool {
        self.active.values().any(|spec| spec.stops(from, to, vlan))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PartitionId, &PartitionSpec)> {
        self.active.iter().map(|(id, spec)| (*id, spec))
    }
}
