//! Whose turn it is to speak, and who was heard.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pdu::Lldpdu;
use crate::forwarder::PortId;
use crate::mac::Mac;

/// How many neighbours one port remembers. More cannot be at one end of a cable, unless somebody makes them up.
pub const MAX_NEIGHBOURS: usize = 8;

/// How many LLDPDUs follow each other quickly when a neighbour is new, and how quickly (802.1AB, 9.2.5.19 and 9.2.5.6,
/// `txFastInit` and `msgFastTx`).
const FAST: u8 = 4;
const FAST_INTERVAL: Duration = Duration::from_secs(1);

/// Somebody whose LLDPDUs come in by a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The address that its frames come from.
    pub src: Mac,
    /// When it was first heard, since the switch started.
    pub since: Duration,
    /// When it was last heard.
    pub heard: Duration,
    /// How long it holds if nothing more is heard.
    pub until: Duration,
    /// What it says.
    pub says: Lldpdu,
}

/// A neighbour that came or went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Found(PortId, Neighbour),
    Gone(PortId, Neighbour),
}

#[derive(Default)]
struct Port {
    /// When it speaks next.
    due: Duration,
    spoke: Option<Duration>,
    fast: u8,
    neighbours: Vec<Neighbour>,
}

/// The ports whose links are up.
pub(crate) struct Agent {
    interval: Duration,
    ports: BTreeMap<PortId, Port>,
}

impl Agent {
    pub(crate) fn new(interval: Duration) -> Agent {
        Agent { interval: interval.max(FAST_INTERVAL), ports: BTreeMap::new() }
    }

    /// Says which ports have a link, of all that there are. One that had none speaks at once; one that has none any
    /// more has no neighbours.
    pub(crate) fn links(&mut self, up: &[PortId], now: Duration, changes: &mut Vec<Change>) {
        self.ports.retain(|id, port| {
            let keep = up.contains(id);
            if !keep {
                changes.extend(port.neighbours.drain(..).map(|neighbour| Change::Gone(*id, neighbour)));
            }
            keep
        });
        for id in up {
            self.ports.entry(*id).or_insert_with(|| Port { due: now, ..Port::default() });
        }
    }

    /// What a port says has changed: it says so at once.
    pub(crate) fn changed(&mut self, id: PortId, now: Duration) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.due = now;
        }
    }

    /// Takes what was said by a port's peer. False if the port is not up, or remembers too many already.
    pub(crate) fn receive(
        &mut self,
        id: PortId,
        src: Mac,
        says: Lldpdu,
        now: Duration,
        changes: &mut Vec<Change>,
    ) -> bool {
        let Some(port) = self.ports.get_mut(&id) else { return false };
        // Who it is: 802.1AB, 6.4, "MSAP identifier".
        let is_same = |it: &&mut Neighbour| it.says.chassis == says.chassis && it.says.port == says.port;
        let until = now + Duration::from_secs(says.ttl.into());
        if let Some(known) = port.neighbours.iter_mut().find(is_same) {
            (known.src, known.heard, known.until, known.says) = (src, now, until, says);
            port.forget(id, now, changes);
        } else if port.neighbours.len() >= MAX_NEIGHBOURS {
            return false;
        } else if until > now {
            let neighbour = Neighbour { src, since: now, heard: now, until, says };
            changes.push(Change::Found(id, neighbour.clone()));
            port.neighbours.push(neighbour);
            // Soon, but however many come and go, not more often than fast.
            port.fast = FAST;
            let soon = port.spoke.map_or(now, |spoke| (spoke + FAST_INTERVAL).max(now));
            port.due = port.due.min(soon);
        }
        true
    }

    /// The ports that speak now. Nothing is due after this.
    pub(crate) fn tick(&mut self, now: Duration, changes: &mut Vec<Change>) -> Vec<PortId> {
        let mut speak = Vec::new();
        for (id, port) in &mut self.ports {
            port.forget(*id, now, changes);
            if port.due <= now {
                speak.push(*id);
                port.spoke = Some(now);
                let fast = port.fast > 0;
                port.fast = port.fast.saturating_sub(1);
                port.due = now + if fast { FAST_INTERVAL } else { self.interval };
            }
        }
        speak
    }

    /// When there is something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let ends = |port: &Port| port.neighbours.iter().map(|neighbour| neighbour.until).min();
        self.ports.values().map(|port| ends(port).map_or(port.due, |end| end.min(port.due))).min()
    }

    pub(crate) fn neighbours(&self, id: PortId) -> &[Neighbour] {
        self.ports.get(&id).map_or(&[], |port| &port.neighbours)
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = PortId> {
        self.ports.keys().copied()
    }
}

impl Port {
    /// Forgets whom nothing was heard of for too long.
    fn forget(&mut self, id: PortId, now: Duration, changes: &mut Vec<Change>) {
        let gone = self.neighbours.extract_if(.., |neighbour| neighbour.until <= now);
        changes.extend(gone.map(|neighbour| Change::Gone(id, neighbour)));
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;
    use crate::lldp::{ChassisId, PortIdentity};

    const SRC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const P: PortId = PortId(3);

    fn said(chassis: u8, ttl: u16) -> Lldpdu {
        Lldpdu::new(ChassisId::Local(format!("guest-{chassis}")), PortIdentity::Interface("eth1".into()), ttl)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn up(now: Duration) -> Agent {
        let mut agent = Agent::new(secs(30));
        agent.links(&[P], now, &mut Vec::new());
        agent
    }

    /// When the port speaks, up to a time.
    fn speaks(agent: &mut Agent, until: Duration) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(due) = agent.next_deadline().filter(|due| *due <= until) {
            if !agent.tick(due, &mut Vec::new()).is_empty() {
                times.push(due.as_secs());
            }
        }
        times
    }

    #[test]
    fn a_port_speaks_at_link_up_and_every_interval_and_when_it_has_news() {
        let mut agent = up(secs(5));
        assert_eq!(speaks(&mut agent, secs(70)), [5, 35, 65]);
        agent.changed(P, secs(70));
        assert_eq!(speaks(&mut agent, secs(100)), [70, 100]);
        agent.links(&[], secs(101), &mut Vec::new());
        assert_eq!(agent.next_deadline(), None);
        agent.links(&[P], secs(110), &mut Vec::new());
        assert_eq!(speaks(&mut agent, secs(140)), [110, 140]);
    }

    #[test]
    fn a_new_neighbour_hears_of_us_soon() {
        let mut agent = up(secs(0));
        assert_eq!(speaks(&mut agent, secs(10)), [0]);
        assert!(agent.receive(P, SRC, said(1, 120), secs(10), &mut Vec::new()));
        assert_eq!(speaks(&mut agent, secs(60)), [10, 11, 12, 13, 14, 44]);
        assert!(agent.receive(P, SRC, said(1, 120), secs(60), &mut Vec::new()));
        assert_eq!(speaks(&mut agent, secs(80)), [74], "it is not new any more");
    }

    #[test]
    fn a_neighbour_is_kept_for_as_long_as_it_asks() {
        let (mut agent, mut changes) = (up(secs(0)), Vec::new());
        agent.receive(P, SRC, said(1, 120), secs(1), &mut changes);
        agent.receive(P, SRC, said(2, 10), secs(1), &mut changes);
        agent.receive(P, SRC, Lldpdu { system_name: Some("x".into()), ..said(2, 10) }, secs(9), &mut changes);
        let [Change::Found(P, one), Change::Found(P, two)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((&one.says, &two.says), (&said(1, 120), &said(2, 10)));
        let names = |agent: &Agent| -> Vec<(u64, u64, Option<String>)> {
            let line = |n: &Neighbour| (n.since.as_secs(), n.heard.as_secs(), n.says.system_name.clone());
            agent.neighbours(P).iter().map(line).collect()
        };
        assert_eq!(names(&agent), [(1, 1, None), (1, 9, Some("x".into()))]);

        changes.clear();
        agent.tick(secs(18), &mut changes);
        assert_eq!(changes, []);
        agent.tick(secs(19), &mut changes);
        assert!(matches!(&changes[..], [Change::Gone(P, gone)] if gone.says.chassis == said(2, 0).chassis));
        changes.clear();
        agent.receive(P, SRC, said(1, 0), secs(20), &mut changes);
        assert!(matches!(&changes[..], [Change::Gone(P, _)]), "it said good-bye: {changes:?}");
        assert_eq!(agent.neighbours(P), []);
    }

    #[test]
    fn a_link_that_goes_takes_its_neighbours_with_it() {
        let (mut agent, mut changes) = (up(secs(0)), Vec::new());
        agent.receive(P, SRC, said(1, 120), secs(1), &mut Vec::new());
        agent.links(&[PortId(4)], secs(2), &mut changes);
        assert!(matches!(&changes[..], [Change::Gone(P, _)]), "{changes:?}");
        assert!(!agent.receive(P, SRC, said(1, 120), secs(3), &mut changes), "a port without a link");
    }

    proptest! {
        #[test]
        fn whatever_is_said_memory_and_answers_are_bounded(
            steps in proptest::collection::vec((0u8..40, prop_oneof![Just(0u16), 1u16..5, Just(u16::MAX)], 0u64..1500), 0..300)
        ) {
            let (mut agent, mut changes, mut now) = (up(secs(0)), Vec::new(), secs(0));
            let (mut spoken, mut present) = (Vec::new(), 0i64);
            for (chassis, ttl, wait) in steps {
                now += Duration::from_millis(wait);
                spoken.extend(agent.tick(now, &mut changes).iter().map(|_| now));
                agent.receive(P, SRC, said(chassis, ttl), now, &mut changes);
                spoken.extend(agent.tick(now, &mut changes).iter().map(|_| now));
                prop_assert!(agent.next_deadline().is_none_or(|due| due > now), "a tick leaves nothing undone");
                prop_assert!(agent.neighbours(P).len() <= MAX_NEIGHBOURS);
                for change in changes.drain(..) {
                    present += if matches!(change, Change::Found(..)) { 1 } else { -1 };
                }
                prop_assert_eq!(present, agent.neighbours(P).len() as i64, "every change is told");
            }
            prop_assert!(spoken.windows(2).all(|two| two[1] - two[0] >= FAST_INTERVAL), "{:?}", spoken);
        }
    }
}
