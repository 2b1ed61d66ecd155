//! The pure core: given a frame and the port it came in by, where does it go and in which form?

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::balance::HashPolicy;
use crate::counters::{DropReason, PortCounters};
use crate::fdb::{Fdb, FdbEntry};
use crate::frame::{Form, Header, MAX_FRAME, TPID_8021Q};
use crate::partition::{PartitionId, PartitionSpec, Partitions};
use crate::vlan::{PortMode, VlanId};

mod bundles;

/// Names a port of one switch. Never used for another port, not even after the port was removed; only the numbered places
/// of a VDE switch ([`crate::UplinkKind::Vde`]) keep theirs from client to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortId(pub(crate) u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One copy of a frame on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The port it leaves by.
    pub port: PortId,
    /// The form it leaves in.
    pub form: Form,
}

/// What a port is to the others.
enum Role {
    Plain,
    /// One wire of a bundle, which has the say.
    Member {
        bundle: PortId,
    },
    /// One logical port whose wires are its members. Its link is up while one is active.
    Bundle {
        hash: HashPolicy,
        active: Vec<PortId>,
    },
}

struct Port {
    mode: PortMode,
    role: Role,
    admin: bool,
    link: bool,
    counters: PortCounters,
}

impl Port {
    fn new(mode: PortMode) -> Port {
        Port { mode, role: Role::Plain, admin: true, link: false, counters: PortCounters::default() }
    }
}

/// The switching rules without any I/O: learning, VLANs, partitions, admin state, counters.
///
/// Time is what the caller says it is: a [`Duration`] since any fixed point, which must not go backwards.
pub struct Forwarder {
    ports: Vec<Option<Port>>,
    fdb: Fdb,
    partitions: Partitions,
    /// Forgets all VLAN rules, so that a test can show that the isolation property notices.
    #[cfg(test)]
    hub: bool,
}

impl Forwarder {
    /// A switch without ports, which forgets an address that it did not see for `mac_ageing`.
    pub fn new(mac_ageing: Duration) -> Forwarder {
        Forwarder {
            ports: Vec::new(),
            fdb: Fdb::new(mac_ageing),
            partitions: Partitions::default(),
            #[cfg(test)]
            hub: false,
        }
    }

    /// Adds a port: administratively up, and without a link until [`Forwarder::set_link`] says so.
    pub fn add_port(&mut self, mode: PortMode) -> PortId {
        self.ports.push(Some(Port::new(mode)));
        PortId(self.ports.len() as u32 - 1)
    }

    /// Adds a port that takes the id of one that was removed: a place which somebody leaves and somebody else takes, so
    /// that ids do not run out however often that happens. False if there is a port of that id, or never was one.
    pub fn add_port_again(&mut self, id: PortId, mode: PortMode) -> bool {
        match self.ports.get_mut(id.0 as usize) {
            Some(place @ None) => {
                *place = Some(Port::new(mode));
                true
            }
            _ => false,
        }
    }

    /// Removes a port and what was learnt on it. False if there is none.
    pub fn remove_port(&mut self, id: PortId) -> bool {
        self.set_active(id, false);
        self.fdb.forget_port(id);
        self.ports.get_mut(id.0 as usize).is_some_and(|port| port.take().is_some())
    }

    /// Gives the port another mode and forgets what was learnt on it. False if there is no such port.
    pub fn set_mode(&mut self, id: PortId, mode: PortMode) -> bool {
        self.change(id, |port| port.mode = mode)
    }

    /// Sets the administrative state; what was learnt on the port is forgotten. A member of a bundle ceases to be
    /// active when it goes down. False if there is no such port.
    pub fn set_admin(&mut self, id: PortId, up: bool) -> bool {
        if !up {
            self.set_active(id, false);
        }
        self.change(id, |port| port.admin = up)
    }

    /// Says whether somebody is at the other end; what was learnt on the port is forgotten. A port without a link gets
    /// no frames, and a member of a bundle ceases to be active. False if there is no such port.
    pub fn set_link(&mut self, id: PortId, up: bool) -> bool {
        if !up {
            self.set_active(id, false);
        }
        self.change(id, |port| port.link = up)
    }

    fn change(&mut self, id: PortId, change: impl FnOnce(&mut Port)) -> bool {
        self.fdb.forget_port(id);
        self.port_mut(id).map(change).is_some()
    }

    /// The mode of a port.
    pub fn mode(&self, id: PortId) -> Option<&PortMode> {
        self.port(id).map(|port| &port.mode)
    }

    /// Whether a port is administratively up; `None` if there is none.
    pub fn admin(&self, id: PortId) -> Option<bool> {
        self.port(id).map(|port| port.admin)
    }

    /// The counters of a port. Sending is counted by whoever sends.
    pub fn counters(&self, id: PortId) -> Option<&PortCounters> {
        self.port(id).map(|port| &port.counters)
    }

    pub(crate) fn counters_mut(&mut self, id: PortId) -> Option<&mut PortCounters> {
        self.port_mut(id).map(|port| &mut port.counters)
    }

    /// Starts a partition.
    pub fn partition(&mut self, spec: PartitionSpec) -> PartitionId {
        self.partitions.add(spec)
    }

    /// Ends a partition; what it was, if there is one.
    pub fn heal(&mut self, id: PartitionId) -> Option<PartitionSpec> {
        self.partitions.heal(id)
    }

    /// The partitions in force.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &PartitionSpec)> {
        self.partitions.iter()
    }

    /// The learnt addresses, by VLAN and address.
    pub fn fdb(&self, now: Duration) -> Vec<FdbEntry> {
        self.fdb.list(now)
    }

    /// Knows these addresses as of now, those of ports that there are not left out.
    pub fn learn(&mut self, entries: Vec<FdbEntry>, now: Duration) {
        for entry in entries.into_iter().filter(|entry| self.port(entry.port).is_some()).collect::<Vec<_>>() {
            self.fdb.learn(entry.vlan, entry.mac, entry.port, now);
        }
    }

    /// Forgets all learnt addresses.
    pub fn flush(&mut self) {
        self.fdb.clear();
    }

    /// Frees addresses that have aged out. They count as unknown before that as well.
    pub fn age(&mut self, now: Duration) {
        self.fdb.age(now);
    }

    /// Takes a frame in and says where it goes: `copies` is cleared, then filled.
    ///
    /// Answers the header and the VLAN of the frame. All copies may have been dropped on the way out, by a partition
    /// for example; then `copies` is empty and the counters of those ports say why.
    ///
    /// # Errors
    /// The reason why the frame goes nowhere. A port that does not exist, or has no link, is like one that is down.
    pub fn ingress(
        &mut self,
        from: PortId,
        frame: &[u8],
        now: Duration,
        copies: &mut Vec<Egress>,
    ) -> Result<(Header, VlanId), DropReason> {
        copies.clear();
        let logical = self.logical(from);
        let verdict = self.classify(from, frame).and_then(|(header, vlan)| {
            self.fdb.learn(vlan, header.src, logical, now);
            self.choose(logical, &header, vlan, now, copies)?;
            Ok((header, vlan))
        });
        if let Some(counters) = self.counters_mut(from) {
            counters.rx.frames += 1;
            counters.rx.bytes += frame.len() as u64;
            match verdict {
                Ok(_) => counters.rx.forwarded += 1,
                Err(reason) => counters.rx.drop(reason),
            }
        }
        if let Ok((header, vlan)) = verdict {
            copies.iter_mut().for_each(|copy| copy.port = self.wire(copy.port, frame));
            copies.retain(|copy| self.passes_egress(from, *copy, frame.len(), &header, vlan));
        }
        verdict
    }

    /// The rules on the way in.
    fn classify(&self, from: PortId, frame: &[u8]) -> Result<(Header, VlanId), DropReason> {
        let port = self.port(from).filter(|port| port.admin && port.link).ok_or(DropReason::AdminDown)?;
        let header = Header::parse(frame).ok_or(DropReason::Malformed)?;
        if frame.len() > MAX_FRAME {
            return Err(DropReason::TooLong);
        }
        if header.dst.is_reserved() {
            return Err(DropReason::ReservedMulticast);
        }
        if header.src.is_group() {
            return Err(DropReason::GroupSource);
        }
        let port = self.ruling(from, port)?;
        let vlan = match header.tag.map(|tci| tci.vid()) {
            None | Some(0) => port.mode.untagged().ok_or(DropReason::UntaggedWithoutNative)?,
            Some(vid) => {
                let vlan = VlanId::new(vid).map_err(|_| DropReason::ReservedVlan)?;
                if matches!(port.mode, PortMode::Access { .. }) {
                    return Err(DropReason::TaggedOnAccess);
                }
                if !port.mode.carries(vlan) {
                    return Err(DropReason::VlanNotAllowed);
                }
                vlan
            }
        };
        Ok((header, vlan))
    }

    /// Chooses the ports: the one where the destination was learnt, else all others of the VLAN.
    fn choose(
        &self,
        from: PortId,
        header: &Header,
        vlan: VlanId,
        now: Duration,
        copies: &mut Vec<Egress>,
    ) -> Result<(), DropReason> {
        let known = if header.dst.is_group() { None } else { self.fdb.lookup(vlan, header.dst, now) };
        if known == Some(from) {
            return Err(DropReason::SamePort);
        }
        let known = known.filter(|to| self.port(*to).is_some_and(|port| self.takes(port, vlan)));
        match known {
            Some(to) => copies.extend(self.port(to).map(|port| self.copy(to, port, header, vlan))),
            None => copies.extend(
                self.iter()
                    .filter(|(to, port)| *to != from && self.takes(port, vlan))
                    .map(|(to, port)| self.copy(to, port, header, vlan)),
            ),
        }
        if copies.is_empty() { Err(DropReason::NoDestination) } else { Ok(()) }
    }

    fn takes(&self, port: &Port, vlan: VlanId) -> bool {
        let is_member = |port: &Port| matches!(port.role, Role::Member { .. });
        #[cfg(test)]
        if self.hub {
            return port.admin && port.link && !is_member(port);
        }
        port.admin && port.link && !is_member(port) && port.mode.carries(vlan)
    }

    fn copy(&self, to: PortId, port: &Port, header: &Header, vlan: VlanId) -> Egress {
        let has_vlan_tag = header.tag.is_some_and(|tci| tci.vid() != 0);
        let form = match (port.mode.tags(vlan), header.tag) {
            (true, _) if has_vlan_tag => Form::AsReceived,
            (true, _) => Form::Tagged,
            (false, None) => Form::AsReceived,
            (false, Some(_)) => Form::Untagged,
        };
        Egress { port: to, form }
    }

    /// The rules on the way out, which count what they drop.
    fn passes_egress(
        &mut self,
        from: PortId,
        copy: Egress,
        length: usize,
        header: &Header,
        vlan: VlanId,
    ) -> bool {
        let grows = copy.form == Form::Tagged && header.tag.is_none();
        let reason = if self.is_partitioned(from, copy.port, vlan) {
            Some(DropReason::Partition)
        } else if copy.form == Form::Untagged && header.ethertype == TPID_8021Q {
            Some(DropReason::NestedTag)
        } else if grows && length + 4 > MAX_FRAME {
            Some(DropReason::TooLong)
        } else {
            None
        };
        if let Some(counters) = self.counters_mut(copy.port) {
            counters.tx.offered += 1;
            if let Some(reason) = reason {
                counters.tx.drop(reason, 1);
            }
        }
        reason.is_none()
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0 as usize)?.as_ref()
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.0 as usize)?.as_mut()
    }

    fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.ports.iter().enumerate().filter_map(|(id, port)| Some((PortId(id as u32), port.as_ref()?)))
    }
}

#[cfg(test)]
mod tests;
