//! LLDP on the switch's thread: what each port says of itself, and what its peers say.

use std::time::Duration;

use super::Worker;
use crate::event::EventKind;
use crate::forwarder::PortId;
use crate::frame::{Frame, Header};
use crate::lldp::{
    Agent, Change, ChassisId, ETHERTYPE, LldpConfig, Lldpdu, Neighbour, OtherTlv, PortIdentity, VlanName,
};
use crate::vlan::PortMode;

/// The TLV of a system's capabilities, and what a switch says there: it can be a bridge, and is one (802.1AB, 8.5.8).
const SYSTEM_CAPABILITIES: u8 = 7;
const BRIDGE: [u8; 4] = [0, 4, 0, 4];

/// The agent of all ports, and what it says.
pub(super) struct Lldp {
    config: LldpConfig,
    agent: Agent,
}

impl Worker {
    /// Begins to speak LLDP, goes on with other words, or takes back what was said and falls silent.
    pub(crate) fn set_lldp(&mut self, config: Option<LldpConfig>) {
        self.catch_up();
        let now = self.clock.now();
        if config.is_none()
            && let Some(lldp) = &self.lldp
        {
            let up: Vec<PortId> = lldp.agent.up().collect();
            up.into_iter().for_each(|id| self.speak(id, Some(0), now));
        }
        if let Some(lldp) = self.lldp.take() {
            let mut changes = Vec::new();
            let Lldp { mut agent, .. } = lldp;
            agent.links(&[], now, &mut changes);
            self.tell_changes(changes);
        }
        self.lldp = config.map(|config| Lldp { agent: Agent::new(config.interval), config });
        self.lldp_links();
    }

    /// The link or the admin state of any port or bundle may have changed.
    pub(super) fn lldp_links(&mut self) {
        let Some(lldp) = &mut self.lldp else { return };
        let up: Vec<PortId> = self.ports.ids().filter(|id| self.forwarder.is_up(*id)).collect();
        let mut changes = Vec::new();
        lldp.agent.links(&up, self.clock.now(), &mut changes);
        self.tell_changes(changes);
    }

    /// A port, or the bundle that it is in, was given other VLANs.
    pub(super) fn lldp_changed(&mut self, id: PortId) {
        let now = self.clock.now();
        let Some(lldp) = &mut self.lldp else { return };
        for port in self.ports.ids().filter(|port| *port == id || self.forwarder.bundle_of(*port) == Some(id))
        {
            lldp.agent.changed(port, now);
        }
    }

    pub(super) fn neighbours(&self, id: PortId) -> Vec<Neighbour> {
        self.lldp.as_ref().map_or(&[][..], |lldp| lldp.agent.neighbours(id)).to_vec()
    }

    /// When the first port has something to say, or the first neighbour is to be forgotten.
    pub(super) fn lldp_due(&self) -> Option<Duration> {
        self.lldp.as_ref()?.agent.next_deadline()
    }

    /// Takes an LLDPDU. False if the frame is none that can be read, and to be judged as any other.
    pub(super) fn take_lldpdu(&mut self, from: PortId, frame: &Frame, now: Duration) -> bool {
        let Some(lldp) = &mut self.lldp else { return false };
        let Some(header) = Header::parse(frame).filter(|it| it.ethertype == ETHERTYPE) else { return false };
        let Some(says) = Lldpdu::parse(frame) else { return false };
        let mut changes = Vec::new();
        if !lldp.agent.receive(from, header.src, says, now, &mut changes) {
            return false;
        }
        self.tell_changes(changes);
        self.count_consumed(from, frame);
        true
    }

    /// Does what is due; false if nothing was.
    pub(super) fn run_lldp(&mut self, now: Duration) -> bool {
        let Some(lldp) = &mut self.lldp else { return false };
        if lldp.agent.next_deadline().is_none_or(|due| due > now) {
            return false;
        }
        let mut changes = Vec::new();
        let speak = lldp.agent.tick(now, &mut changes);
        self.tell_changes(changes);
        speak.into_iter().for_each(|id| self.speak(id, None, now));
        true
    }

    /// Sends what a port says of itself, out of that port alone. It holds as long as the configuration says, unless said
    /// otherwise, in seconds.
    fn speak(&mut self, id: PortId, ttl: Option<u16>, now: Duration) {
        let (Some(lldp), Some(port)) = (&self.lldp, self.ports.get(id)) else { return };
        let logical = self.forwarder.bundle_of(id).unwrap_or(id);
        let Some(mode) = self.forwarder.mode(logical) else { return };
        let system = self.system();
        let name = port.name.to_string();
        let config = &lldp.config;
        let pdu = Lldpdu {
            port_description: Some(name.clone()),
            system_name: Some(config.system_name.clone().unwrap_or_else(|| self.name.to_string())),
            system_description: Some("Rackless virtual switch".to_owned()),
            port_vlan: Some(mode.untagged().map_or(0, |vlan| vlan.get())),
            vlan_names: vlan_names(mode, config),
            other: vec![OtherTlv { kind: SYSTEM_CAPABILITIES, value: BRIDGE.to_vec() }],
            ..Lldpdu::new(
                ChassisId::Mac(system),
                PortIdentity::Interface(name),
                ttl.unwrap_or_else(|| config.ttl()),
            )
        };
        let frame = Frame::new(&pdu.to_frame(system));
        self.count(id, |tx| tx.offered += 1);
        self.enqueue(id, None, &frame, now);
    }

    fn tell_changes(&self, changes: Vec<Change>) {
        for change in changes {
            let (found, port, neighbour) = match change {
                Change::Found(port, neighbour) => (true, port, neighbour),
                Change::Gone(port, neighbour) => (false, port, neighbour),
            };
            let name = self.ports.get(port).map(|port| port.name.to_string()).unwrap_or_default();
            let Lldpdu { chassis, port: its_port, system_name, .. } = neighbour.says;
            self.tell(if found {
                EventKind::NeighbourFound { port, name, chassis, its_port, system_name }
            } else {
                EventKind::NeighbourGone { port, name, chassis, its_port, system_name }
            });
        }
    }
}

/// The VLANs of a port. A frame has no room for a hundred of them, so that no more are looked at.
fn vlan_names(mode: &PortMode, config: &LldpConfig) -> Vec<VlanName> {
    let named = |vlan| VlanName { vid: u16::from(vlan), name: config.vlan_name(vlan) };
    match mode {
        PortMode::Access { vlan } => vec![named(*vlan)],
        PortMode::Trunk { allowed, native } => {
            let others = allowed.iter().filter(|vlan| Some(*vlan) != *native);
            native.iter().copied().chain(others).take(200).map(named).collect()
        }
    }
}
