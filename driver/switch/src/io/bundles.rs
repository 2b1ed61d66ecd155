//! Bundles on the switch's thread: LACPDUs and timers in, membership out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use crate::balance;
use crate::bundle::{BundleConfig, BundleState, LacpIdentity, MemberState};
use crate::counters::DropReason;
use crate::error::Error;
use crate::event::EventKind;
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::lacp::{Aggregator, AggregatorConfig, LacpMode, Pdu, Tick};
use crate::mac::Mac;

/// All bundles of a switch.
#[derive(Default)]
pub(super) struct Bundles {
    all: BTreeMap<PortId, Bundle>,
    /// When the first of them has something to do.
    pub(super) due: Option<Duration>,
}

struct Bundle {
    name: Arc<str>,
    config: BundleConfig,
    system: Mac,
    aggregator: Aggregator,
    /// The members' numbers in LACP.
    numbers: Vec<(PortId, u16)>,
    /// How many members there ever were.
    joined: u16,
}

impl Bundle {
    fn add(&mut self, member: PortId) {
        let number = match self.config.identity {
            Some(identity) => identity.first_port.wrapping_add(self.joined),
            None => port_number(member),
        };
        self.joined = self.joined.wrapping_add(1);
        self.aggregator.add_port(number);
        self.numbers.push((member, number));
    }

    fn number(&self, member: PortId) -> Option<u16> {
        self.numbers.iter().find(|(id, _)| *id == member).map(|(_, number)| *number)
    }
}

impl Bundles {
    pub(super) fn name(&self, bundle: PortId) -> Option<&Arc<str>> {
        self.all.get(&bundle).map(|bundle| &bundle.name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.values().map(|bundle| &bundle.name)
    }

    fn reckon(&mut self) {
        self.due = self.all.values().filter_map(|bundle| bundle.aggregator.next_deadline()).min();
    }
}

impl Worker {
    pub(crate) fn add_bundle(&mut self, config: BundleConfig) -> Result<PortId, Error> {
        let operation = "add a bundle";
        let switch = || self.name.to_string();
        if self.has_port_named(&config.name) {
            return Err(Error::DuplicatePort { switch: switch(), port: config.name });
        }
        if config.members.is_empty() {
            return Err(Error::EmptyBundle { switch: switch(), bundle: config.name });
        }
        let mut seen = BTreeSet::new();
        for member in &config.members {
            let port = self.name_of(operation, *member)?;
            self.not_in_bundle(operation, *member)?;
            if !seen.insert(*member) {
                return Err(Error::InBundle { switch: switch(), operation, port, bundle: config.name });
            }
        }
        self.catch_up();
        let members = &config.members;
        let id = self
            .forwarder
            .add_bundle(config.mode.clone(), config.hash, members)
            .ok_or_else(|| self.unknown(operation, config.name.clone()))?;
        for member in members {
            self.discard_delayed(*member, DropReason::ModeChanged);
        }
        let identity = config.identity.unwrap_or_else(|| self.identity(id));
        let aggregator = Aggregator::new(&AggregatorConfig {
            mode: config.lacp,
            timeout: config.timeout,
            system: identity.system,
            key: identity.key,
            fallback: config.fallback,
            ports: Vec::new(),
        });
        let (name, mode, members) = (config.name.as_str(), config.mode.clone(), config.members.clone());
        self.tell(EventKind::BundleAdded {
            bundle: id,
            name: name.to_owned(),
            mode,
            members: members.clone(),
        });
        let (name, system) = (name.into(), identity.system);
        let mut bundle = Bundle { name, system, aggregator, numbers: Vec::new(), joined: 0, config };
        members.iter().for_each(|member| bundle.add(*member));
        self.bundles.all.insert(id, bundle);
        self.link_changed(id);
        Ok(id)
    }

    pub(crate) fn add_member(&mut self, id: PortId, member: PortId) -> Result<(), Error> {
        let operation = "add a member to a bundle";
        let port_name = self.name_of(operation, member)?;
        self.not_in_bundle(operation, member)?;
        self.catch_up();
        if !self.bundles.all.contains_key(&id) {
            return Err(self.unknown_bundle(operation, id));
        }
        self.discard_delayed(member, DropReason::ModeChanged);
        let Some(bundle) = self.bundles.all.get_mut(&id) else { return Ok(()) };
        self.forwarder.add_member(id, member);
        bundle.add(member);
        let bundle_name = bundle.name.to_string();
        self.tell(EventKind::MemberAdded { bundle: id, bundle_name, port: member, port_name });
        self.link_changed(member);
        Ok(())
    }

    pub(crate) fn remove_bundle(&mut self, id: PortId) -> Result<(), Error> {
        self.catch_up();
        let bundle =
            self.bundles.all.remove(&id).ok_or_else(|| self.unknown_bundle("remove a bundle", id))?;
        // What is delayed has the tags of the bundle's mode.
        for (member, _) in &bundle.numbers {
            self.discard_delayed(*member, DropReason::ModeChanged);
        }
        self.forwarder.remove_bundle(id);
        self.bundles.reckon();
        self.tell(EventKind::BundleRemoved { bundle: id, name: bundle.name.to_string() });
        Ok(())
    }

    pub(crate) fn bundles(&mut self) -> Vec<BundleState> {
        self.catch_up();
        let state = |(id, bundle): (&PortId, &Bundle)| {
            let member = |(id, number): &(PortId, u16)| {
                let name = self.ports.get(*id)?.name.to_string();
                Some(MemberState { id: *id, name, lacp: bundle.aggregator.status(*number)? })
            };
            Some(BundleState {
                id: *id,
                name: bundle.name.to_string(),
                mode: self.forwarder.mode(*id)?.clone(),
                admin: self.forwarder.admin(*id)?,
                lacp: bundle.config.lacp,
                timeout: bundle.config.timeout,
                hash: bundle.config.hash,
                members: bundle.numbers.iter().filter_map(member).collect(),
            })
        };
        self.bundles.all.iter().filter_map(state).collect()
    }

    /// The link or the admin state of a port or a bundle may have changed: at once, its frames go elsewhere.
    pub(super) fn link_changed(&mut self, id: PortId) {
        self.lldp_links();
        let bundle_id = self.forwarder.bundle_of(id).unwrap_or(id);
        let Some(bundle) = self.bundles.all.get_mut(&bundle_id) else { return };
        let now = self.clock.now();
        for (member, number) in &bundle.numbers {
            if self.forwarder.is_up(*member) {
                bundle.aggregator.port_up(*number, now);
            } else {
                bundle.aggregator.port_down(*number, now);
            }
        }
        self.run_bundle(bundle_id, now);
        self.bundles.reckon();
    }

    /// The port is about to be removed: it leaves its bundle for good.
    pub(super) fn leave_bundle(&mut self, member: PortId) {
        let Some(bundle_id) = self.forwarder.bundle_of(member) else { return };
        self.forwarder.set_link(member, false);
        self.link_changed(member);
        if let Some(bundle) = self.bundles.all.get_mut(&bundle_id) {
            bundle.numbers.retain(|(id, _)| *id != member);
        }
    }

    /// Takes a PDU of link aggregation that is for a bundle. False if the frame is none, and to be judged as any other.
    pub(super) fn take_pdu(&mut self, from: PortId, frame: &Frame, now: Duration) -> bool {
        let Some(bundle_id) = self.forwarder.bundle_of(from).filter(|_| self.forwarder.is_up(from)) else {
            return false;
        };
        let Some(pdu) = Pdu::parse(frame) else { return false };
        let Some(bundle) = self.bundles.all.get_mut(&bundle_id) else { return false };
        let Some(number) = bundle.number(from).filter(|_| bundle.config.lacp != LacpMode::Static) else {
            return false;
        };
        bundle.aggregator.receive(number, &pdu, now);
        self.bundles.reckon();
        self.count_consumed(from, frame);
        true
    }

    /// Counts a frame that was for the switch itself.
    pub(super) fn count_consumed(&mut self, from: PortId, frame: &Frame) {
        if let Some(counters) = self.forwarder.counters_mut(from) {
            counters.rx.frames += 1;
            counters.rx.bytes += frame.len() as u64;
            counters.rx.consumed += 1;
        }
    }

    /// Does what is due for any bundle; false if nothing was.
    pub(super) fn run_bundles(&mut self, now: Duration) -> bool {
        if self.bundles.due.is_none_or(|due| due > now) {
            return false;
        }
        let ids: Vec<PortId> = self.bundles.all.keys().copied().collect();
        for id in ids {
            self.run_bundle(id, now);
        }
        self.bundles.reckon();
        true
    }

    fn run_bundle(&mut self, id: PortId, now: Duration) {
        let Some(bundle) = self.bundles.all.get_mut(&id) else { return };
        let Tick { send, changes } = bundle.aggregator.tick(now);
        let port = |number| bundle.numbers.iter().find(|(_, own)| *own == number).map(|(port, _)| *port);
        let send: Vec<(PortId, Frame)> = send
            .into_iter()
            .filter_map(|(number, pdu)| Some((port(number)?, Frame::new(&pdu.to_frame(bundle.system)))))
            .collect();
        let changes: Vec<_> =
            changes.into_iter().filter_map(|change| Some((port(change.port)?, change.left))).collect();
        let name = Arc::clone(&bundle.name);
        for (port, left) in changes {
            self.forwarder.set_active(port, left.is_none());
            let port_name = self.ports.get(port).map(|port| port.name.to_string()).unwrap_or_default();
            let (bundle, bundle_name) = (id, name.to_string());
            self.tell(match left {
                None => EventKind::MemberJoined { bundle, bundle_name, port, port_name },
                Some(why) => EventKind::MemberLeft { bundle, bundle_name, port, port_name, why },
            });
        }
        for (port, frame) in send {
            if let Some(counters) = self.forwarder.counters_mut(port) {
                counters.tx.offered += 1;
            }
            self.enqueue(port, None, &frame, now);
        }
    }

    /// The ports whose wires a port or a bundle stands for.
    pub(super) fn wires(&self, id: PortId) -> Vec<PortId> {
        match self.bundles.all.get(&id) {
            Some(bundle) => bundle.numbers.iter().map(|(member, _)| *member).collect(),
            None => vec![id],
        }
    }

    /// That a port is its own master.
    pub(super) fn not_in_bundle(&self, operation: &'static str, id: PortId) -> Result<(), Error> {
        let Some(bundle) = self.forwarder.bundle_of(id) else { return Ok(()) };
        let name = |name: Option<&Arc<str>>| name.map(ToString::to_string).unwrap_or_default();
        Err(Error::InBundle {
            switch: self.name.to_string(),
            operation,
            port: name(self.ports.get(id).map(|port| &port.name)),
            bundle: name(self.bundles.name(bundle)),
        })
    }

    fn unknown_bundle(&self, operation: &'static str, id: PortId) -> Error {
        let known: Vec<&str> = self.bundles.all.values().map(|bundle| &*bundle.name).collect();
        Error::UnknownBundle {
            switch: self.name.to_string(),
            operation,
            bundle: id.to_string(),
            known: known.join(", "),
        }
    }

    fn identity(&self, bundle: PortId) -> LacpIdentity {
        LacpIdentity { system: self.system(), key: port_number(bundle), first_port: 0 }
    }

    /// The switch's own address, the same for each run of a test: from its name, locally administered.
    pub(super) fn system(&self) -> Mac {
        let [a, b, c, d, e, ..] = balance::fold(0, self.name.as_bytes()).to_be_bytes();
        Mac([0x02, a, b, c, d, e])
    }
}

/// Not 0, which stands for "unknown".
fn port_number(id: PortId) -> u16 {
    (id.0 % u32::from(u16::MAX)) as u16 + 1
}
