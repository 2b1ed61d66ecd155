//! The machines, by tables of PDUs and clock ticks, and as properties over random ones.

mod properties;
mod table;

use super::*;

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
const KEY: u16 = 7;

const ACTIVITY: u8 = LacpBit::Activity as u8;
const SHORT: u8 = LacpBit::ShortTimeout as u8;
const AGGREGATION: u8 = LacpBit::Aggregation as u8;
const SYNC: u8 = LacpBit::Synchronization as u8;
/// What a Linux bond with `lacp_rate fast` says before it has chosen, and when it is done.
const BEGINS: u8 = ACTIVITY | SHORT | AGGREGATION;
const IN_SYNC: u8 = BEGINS | SYNC;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn config(mode: LacpMode, ports: impl IntoIterator<Item = u16>) -> AggregatorConfig {
    let ports = ports.into_iter().collect();
    AggregatorConfig { mode, timeout: LacpTimeout::Short, system: US, key: KEY, fallback: false, ports }
}

/// An aggregator with a clock, which is ticked whenever it wishes to be, and what came of it.
struct Bench {
    aggregator: Aggregator,
    now: Duration,
    sent: Vec<(Duration, u16, Pdu)>,
    changes: Vec<(Duration, Change)>,
}

impl Bench {
    fn new(config: &AggregatorConfig) -> Bench {
        let aggregator = Aggregator::new(config);
        Bench { aggregator, now: Duration::ZERO, sent: Vec::new(), changes: Vec::new() }
    }

    /// Lets time pass, up to and including `end`.
    fn to(&mut self, end: Duration) {
        self.tick();
        while let Some(due) = self.aggregator.next_deadline().filter(|due| *due <= end) {
            assert!(due > self.now, "a tick leaves nothing undone: {due:?} at {:?}", self.now);
            self.now = due;
            self.tick();
        }
        self.now = end;
    }

    fn tick(&mut self) {
        let tick = self.aggregator.tick(self.now);
        self.sent.extend(tick.send.into_iter().map(|(port, pdu)| (self.now, port, pdu)));
        self.changes.extend(tick.changes.into_iter().map(|change| (self.now, change)));
    }

    fn up(&mut self, port: u16) {
        self.aggregator.port_up(port, self.now);
        self.tick();
    }

    fn down(&mut self, port: u16) {
        self.aggregator.port_down(port, self.now);
        self.tick();
    }

    fn status(&self, port: u16) -> PortStatus {
        self.aggregator.status(port).unwrap()
    }

    /// A LACPDU from the guest whose NIC has the same number as our port, and which knows us.
    fn hear(&mut self, port: u16, state: u8) {
        self.hear_from(port, GUEST, state, self.status(port).actor);
    }

    fn hear_from(&mut self, port: u16, system: Mac, state: u8, partner: PortInfo) {
        let actor = PortInfo {
            system_priority: 0xffff,
            system,
            key: 15,
            port_priority: 255,
            port,
            state: LacpState(state),
        };
        let pdu = Pdu::Lacp(Lacpdu { actor, partner, collector_max_delay: 0 });
        self.aggregator.receive(port, &pdu, self.now);
        self.tick();
    }

    /// Lets time pass while the guest sends on these ports each second.
    fn hear_until(&mut self, end: Duration, ports: &[u16], state: u8) {
        loop {
            ports.iter().for_each(|port| self.hear(*port, state));
            if self.now >= end {
                return;
            }
            self.to((self.now + ms(1000)).min(end));
        }
    }

    fn active(&self) -> Vec<u16> {
        (1..=12).filter(|port| self.aggregator.status(*port).is_some_and(|port| port.active)).collect()
    }

    fn times(&self, port: u16) -> Vec<u64> {
        let mine = self.sent.iter().filter(|(_, of, _)| *of == port);
        mine.map(|(at, ..)| at.as_millis() as u64).collect()
    }
}
