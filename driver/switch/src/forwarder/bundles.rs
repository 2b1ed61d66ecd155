//! Bundles: many links that are one port for everything but the wire.
//!
//! A bundle has a [`PortId`] of its own. Addresses are learnt on it, its mode is that of its members, and flooding goes
//! to it once. On the way in a member stands for its bundle; on the way out one active member is picked for each frame.

use super::{Forwarder, Port, PortId, Role};
use crate::balance::{self, HashPolicy};
use crate::counters::DropReason;
use crate::vlan::{PortMode, VlanId};

impl Forwarder {
    /// Makes these ports members of a new bundle, none of them active; its id is that of one logical port. `None` if
    /// one of them is not a port, or is in a bundle or is one.
    pub fn add_bundle(&mut self, mode: PortMode, hash: HashPolicy, members: &[PortId]) -> Option<PortId> {
        let is_plain =
            |member: &PortId| self.port(*member).is_some_and(|port| matches!(port.role, Role::Plain));
        if !members.iter().all(is_plain) {
            return None;
        }
        let bundle = self.add_port(mode);
        self.change(bundle, |port| port.role = Role::Bundle { hash, active: Vec::new() });
        for member in members {
            self.add_member(bundle, *member);
        }
        Some(bundle)
    }

    /// Makes one more port a member of a bundle, not active. False if the port is none, or is in a bundle or is one,
    /// or if there is no such bundle.
    pub fn add_member(&mut self, bundle: PortId, member: PortId) -> bool {
        let is_plain = self.port(member).is_some_and(|port| matches!(port.role, Role::Plain));
        let is_bundle = self.port(bundle).is_some_and(|port| matches!(port.role, Role::Bundle { .. }));
        is_plain && is_bundle && self.change(member, |port| port.role = Role::Member { bundle })
    }

    /// Ends a bundle; its members are ports of their own again, with the modes that they had. False if it is none.
    pub fn remove_bundle(&mut self, bundle: PortId) -> bool {
        if !self.port(bundle).is_some_and(|port| matches!(port.role, Role::Bundle { .. })) {
            return false;
        }
        for port in self.ports.iter_mut().flatten() {
            if matches!(port.role, Role::Member { bundle: of } if of == bundle) {
                port.role = Role::Plain;
            }
        }
        self.remove_port(bundle)
    }

    /// Says whether a member carries frames. One that is down never does. False if the port is in no bundle.
    pub fn set_active(&mut self, member: PortId, active: bool) -> bool {
        let Some(bundle) = self.bundle_of(member) else { return false };
        let up = self.port(member).is_some_and(|port| port.admin && port.link);
        let Some(port) = self.port_mut(bundle) else { return false };
        let Role::Bundle { active: members, .. } = &mut port.role else { return false };
        members.retain(|other| *other != member);
        if active && up {
            members.push(member);
            members.sort();
        }
        port.link = !members.is_empty();
        if !port.link {
            self.fdb.forget_port(bundle);
        }
        true
    }

    /// The bundle that the port is a member of.
    pub fn bundle_of(&self, member: PortId) -> Option<PortId> {
        match self.port(member)?.role {
            Role::Member { bundle } => Some(bundle),
            _ => None,
        }
    }

    /// Whether the port is up and so is its bundle, if it is in one: whether LACP may run on it.
    pub(crate) fn is_up(&self, id: PortId) -> bool {
        let bundle_is_up = self.bundle_of(id).is_none_or(|bundle| self.admin(bundle) == Some(true));
        bundle_is_up && self.port(id).is_some_and(|port| port.admin && port.link)
    }

    /// The port that rules and learning go by: the bundle of a member.
    pub(super) fn logical(&self, id: PortId) -> PortId {
        self.bundle_of(id).unwrap_or(id)
    }

    /// The port whose mode is that of frames which come in by `from`.
    pub(super) fn ruling<'a>(&'a self, from: PortId, port: &'a Port) -> Result<&'a Port, DropReason> {
        match port.role {
            Role::Plain => Ok(port),
            Role::Member { bundle } => {
                let bundle = self.port(bundle).filter(|bundle| bundle.admin).ok_or(DropReason::AdminDown)?;
                match &bundle.role {
                    Role::Bundle { active, .. } if active.contains(&from) => Ok(bundle),
                    _ => Err(DropReason::NotCollecting),
                }
            }
            // It has no wire of its own.
            Role::Bundle { .. } => Err(DropReason::NotCollecting),
        }
    }

    /// The wire that a copy for `to` leaves by.
    pub(super) fn wire(&self, to: PortId, frame: &[u8]) -> PortId {
        match self.port(to).map(|port| &port.role) {
            Some(Role::Bundle { hash, active }) => balance::pick(*hash, frame, active).unwrap_or(to),
            _ => to,
        }
    }

    /// Whether a partition stops frames between two wires: one that names them, or the bundles that they are in.
    pub(crate) fn is_partitioned(&self, from: PortId, to: PortId, vlan: VlanId) -> bool {
        if self.partitions.is_empty() {
            return false;
        }
        let stops = |from, to| self.partitions.stops(from, to, vlan);
        let (logical_from, logical_to) = (self.logical(from), self.logical(to));
        stops(from, to)
            || stops(logical_from, to)
            || stops(from, logical_to)
            || stops(logical_from, logical_to)
    }
}

#[cfg(test)]
mod tests;
