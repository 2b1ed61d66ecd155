//! The Link Aggregation Control Protocol (IEEE 802.1AX): the switch as the partner of a bond.
//!
//! [`Aggregator`] is one bundle's side of it: all machines of all its ports. It has no clock and does no I/O. Time is
//! what the caller says it is, a [`Duration`] since any fixed point. The caller hands in the PDUs that come
//! ([`Aggregator::receive`]) and the state of the links ([`Aggregator::port_up`], [`Aggregator::port_down`]), and calls
//! [`Aggregator::tick`] at [`Aggregator::next_deadline`] at the latest; that answers what to send and which ports began
//! or ceased to carry frames.
//!
//! Left out: the Churn machines, which only watch; independent control of collecting and distributing; version 2 PDUs
//! are read as version 1.

mod pdu;
mod port;
mod selection;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use pdu::{ETHERTYPE, LacpBit, LacpState, Lacpdu, Marker, PDU_LENGTH, Pdu, PortInfo, SLOW_PROTOCOLS};
pub use port::{MuxState, PeriodicState, ReceiveState, Selected};

use port::Port;

use crate::mac::Mac;

/// The priority of our system and of our ports, the value that most switches have.
const PRIORITY: u16 = 0x8000;

/// Whether and how a bundle speaks LACP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LacpMode {
    /// Sends LACPDUs without being asked.
    Active,
    /// Sends LACPDUs only to a partner that is active.
    Passive,
    /// Sends none and takes none: each member with a link carries frames, for `balance-xor` and `balance-rr`.
    Static,
}

/// What a bundle asks of its partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LacpTimeout {
    /// A LACPDU each second; a silent partner is out of the bundle after 3 s.
    Short,
    /// A LACPDU each 30 s; a silent partner is out of the bundle after 90 s.
    Long,
}

/// What one aggregator is to be.
#[derive(Clone, Debug)]
pub struct AggregatorConfig {
    /// Whether and how it speaks LACP.
    pub mode: LacpMode,
    /// What it asks of its partner.
    pub timeout: LacpTimeout,
    /// Its system's address.
    pub system: Mac,
    /// The key of its ports. Bundles of one system have different ones.
    pub key: u16,
    /// Whether one link carries frames alone while no partner speaks LACP on any, or only as an individual link.
    pub fallback: bool,
    /// The numbers of its ports.
    pub ports: Vec<u16>,
}

/// All there is to know about one port of an aggregator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Whether it carries frames: it collects and distributes.
    pub active: bool,
    /// What the Selection logic says.
    pub selected: Selected,
    /// The Receive machine.
    pub receive: ReceiveState,
    /// The Periodic Transmission machine.
    pub periodic: PeriodicState,
    /// The Mux machine.
    pub mux: MuxState,
    /// What we say of ourselves.
    pub actor: PortInfo,
    /// What the partner says of itself, or what is believed of one that was not heard.
    pub partner: PortInfo,
    /// LACPDUs that came.
    pub pdus_received: u64,
    /// LACPDUs that were sent.
    pub pdus_sent: u64,
}

/// Why a port no longer carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveReason {
    /// Its link went down, or it was set down.
    LinkDown,
    /// The partner's LACPDU is overdue.
    PartnerSilent,
    /// The partner says that it has not chosen this link, or not for us.
    PartnerOutOfSync,
    /// Another partner is at the other end, or the partner is another one than that of the rest of the bundle.
    PartnerChanged,
}

/// A port that began or ceased to carry frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The port's number.
    pub port: u16,
    /// Why it ceased; `None` if it began.
    pub left: Option<LeaveReason>,
}

/// What a tick brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// What to send, by which port.
    pub send: Vec<(u16, Pdu)>,
    /// Which ports began or ceased to carry frames.
    pub changes: Vec<Change>,
}

/// One bundle's side of LACP.
#[derive(Debug)]
pub struct Aggregator {
    config: AggregatorConfig,
    ports: BTreeMap<u16, Port>,
}

impl Aggregator {
    /// All its ports are down.
    pub fn new(config: &AggregatorConfig) -> Aggregator {
        let mut aggregator = Aggregator { config: config.clone(), ports: BTreeMap::new() };
        for number in &config.ports {
            aggregator.add_port(*number);
        }
        aggregator
    }

    /// Adds a port, down. One that there is already stays as it is.
    pub fn add_port(&mut self, number: u16) {
        let config = &self.config;
        let lacp = config.mode != LacpMode::Static;
        let state = LacpState(0)
            .with(LacpBit::Activity, config.mode == LacpMode::Active)
            .with(LacpBit::ShortTimeout, config.timeout == LacpTimeout::Short)
            .with(LacpBit::Aggregation, true);
        let actor = PortInfo {
            system_priority: PRIORITY,
            system: config.system,
            key: config.key,
            port_priority: PRIORITY,
            port: number,
            state,
        };
        self.ports.entry(number).or_insert_with(|| Port::new(actor, lacp));
    }

    /// The port's link is up. A port that is up already, or that there is not, changes nothing; so in all that follows.
    pub fn port_up(&mut self, port: u16, now: Duration) {
        self.set_enabled(port, true, now);
    }

    /// The port's link is down: it carries no frames from now on.
    pub fn port_down(&mut self, port: u16, now: Duration) {
        self.set_enabled(port, false, now);
    }

    fn set_enabled(&mut self, number: u16, enabled: bool, now: Duration) {
        if let Some(port) = self.ports.get_mut(&number) {
            port.set_enabled(enabled, now);
            self.settle(now);
        }
    }

    /// A PDU has come in by a port. The answer to it, if there is one, comes from the next [`Aggregator::tick`].
    pub fn receive(&mut self, number: u16, pdu: &Pdu, now: Duration) {
        let Some(port) = self.ports.get_mut(&number) else { return };
        match pdu {
            Pdu::Lacp(pdu) => {
                port.receive(pdu, now);
                // port_moved: a partner that was on a port which is down now is not there any more.
                let moved = |(other, port): &(&u16, &mut Port)| {
                    **other != number && !port.enabled && port.partner.is_same_port(&pdu.actor)
                };
                self.ports.iter_mut().filter(moved).for_each(|(_, port)| port.initialize());
                self.settle(now);
            }
            Pdu::Marker(marker) => port.mark(*marker),
            // We never ask.
            Pdu::MarkerResponse(_) => {}
        }
    }

    /// Does what is due, and says what is to be sent and which ports began or ceased to carry frames.
    pub fn tick(&mut self, now: Duration) -> Tick {
        for port in self.ports.values_mut() {
            port.run_timers(now);
        }
        self.settle(now);
        let mut tick = Tick::default();
        for (number, port) in &mut self.ports {
            tick.send.extend(port.transmit(now).into_iter().map(|pdu| (*number, pdu)));
            if port.reported != port.is_active() {
                port.reported = port.is_active();
                let left = (!port.reported).then(|| port.leave_reason());
                tick.changes.push(Change { port: *number, left });
            }
        }
        tick
    }

    /// When [`Aggregator::tick`] has something to do next; what is past is due now. `None` if nothing will happen unless
    /// a PDU comes or a link changes.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.ports.values().filter_map(Port::next_deadline).min()
    }

    /// All about a port.
    pub fn status(&self, port: u16) -> Option<PortStatus> {
        let port = self.ports.get(&port)?;
        Some(PortStatus {
            active: port.is_active(),
            selected: port.selected,
            receive: port.receive,
            periodic: port.periodic,
            mux: port.mux,
            actor: port.actor,
            partner: port.partner,
            pdus_received: port.pdus_received,
            pdus_sent: port.pdus_sent,
        })
    }

    /// Runs the Mux machines and the Selection logic until nothing moves. A port that is no longer chosen is let go
    /// before it can be chosen again.
    fn settle(&mut self, now: Duration) {
        self.step_mux(now);
        selection::select(&mut self.ports, self.config.fallback);
        self.step_mux(now);
    }

    fn step_mux(&mut self, now: Duration) {
        loop {
            let ready = !self.ports.values().any(Port::holds_others_up);
            let mut moved = false;
            for port in self.ports.values_mut() {
                moved |= port.step_mux(ready, now);
            }
            if !moved {
                break;
            }
        }
    }
}

impl Port {
    fn leave_reason(&self) -> LeaveReason {
        match (self.receive, self.mux) {
            (ReceiveState::PortDisabled, _) => LeaveReason::LinkDown,
            (ReceiveState::Expired | ReceiveState::Defaulted, _) => LeaveReason::PartnerSilent,
            // Still chosen, or it would not be attached.
            (_, MuxState::Attached) => LeaveReason::PartnerOutOfSync,
            _ => LeaveReason::PartnerChanged,
        }
    }
}

#[cfg(test)]
mod tests;
