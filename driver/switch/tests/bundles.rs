//! Bundles over real sockets, with a scripted 802.3ad partner at the other end of the cables.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use switch::lacp::{LacpBit, LacpState, Lacpdu, LeaveReason, Pdu, PortInfo, ReceiveState};
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
/// What a Linux bond with `lacp_rate fast` says when it is done.
const DONE: u8 = 0x3f;

/// A bundle of two links with the bond at their other ends, and a station on a port of its own.
struct Rack {
    sw: Switch,
    bundle: PortId,
    members: [PortId; 2],
    links: [Option<Channel>; 2],
    /// What the switch last said on each link.
    heard: [Option<PortInfo>; 2],
    station: Channel,
    _dir: TempDir,
}

fn mode() -> PortMode {
    mode_of(1)
}

fn mode_of(vid: u16) -> PortMode {
    PortMode::Access { vlan: VlanId::new(vid).unwrap() }
}

impl Rack {
    fn new(lacp: LacpMode) -> Rack {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions::new("rack", dir.path())).unwrap();
        let port = |name| sw.add_port(PortConfig::new(name, mode())).unwrap();
        let members = [port("a/eth1"), port("a/eth2")];
        let station = sw.attach_channel(port("b/eth1")).unwrap();
        let bundle = sw.add_bundle(BundleConfig::new("a/bond0", mode(), members).lacp(lacp)).unwrap();
        let links = members.map(|member| Some(sw.attach_channel(member).unwrap()));
        Rack { sw, bundle, members, links, heard: [None; 2], station, _dir: dir }
    }

    fn state(&self) -> BundleState {
        self.sw.bundles().unwrap().remove(0)
    }

    fn active(&self) -> Vec<PortId> {
        self.state().active().map(|member| member.id).collect()
    }

    /// The bond answers the switch's LACPDUs on these links, until the condition holds.
    fn until(&mut self, what: &str, links: &[usize], mut condition: impl FnMut(&Rack) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.bundles());
            for link in links {
                self.answer(*link);
            }
        }
    }

    fn answer(&mut self, index: usize) {
        let Some(link) = &mut self.links[index] else { return };
        while let Some(frame) = link.recv(Duration::from_millis(5)).unwrap() {
            let Some(Pdu::Lacp(pdu)) = Pdu::parse(&frame) else { continue };
            self.heard[index] = Some(pdu.actor);
            let actor = PortInfo {
                system_priority: 0xffff,
                system: GUEST,
                key: 15,
                port_priority: 255,
                port: index as u16 + 1,
                state: LacpState(DONE),
            };
            let answer = Pdu::Lacp(Lacpdu { actor, partner: pdu.actor, collector_max_delay: 0 });
            link.send(&answer.to_frame(GUEST)).unwrap();
        }
    }

    /// How many data frames each link and the station got after the station had sent one for each of 64 stations.
    fn flood(&mut self) -> [usize; 2] {
        let since = self.sw.now();
        for n in 0..64 {
            self.station.send(&data(n)).unwrap();
        }
        ["a/eth1", "a/eth2"].map(|port| self.count(port, Direction::Out, since))
    }

    /// Data frames only.
    fn count(&self, port: &str, direction: Direction, since: Duration) -> usize {
        let filter = FrameFilter::new().port(port).direction(direction).since(since);
        let frames = self.sw.frames(&filter).unwrap();
        frames.iter().filter(|frame| frame.bytes[12..14] == [0x88, 0xb5]).count()
    }

    fn port(&self, id: PortId) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.id == id).unwrap()
    }
}

/// To everybody, from station `n`.
fn data(n: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x52, 0x54, 0, 1, 0, n]);
    frame.extend_from_slice(b"\x88\xb5hello");
    frame
}

fn joined_or_left(rack: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<(PortId, Option<LeaveReason>)> {
    std::iter::from_fn(|| rack.try_recv().ok())
        .filter_map(|event| match event.kind {
            EventKind::MemberJoined { port, .. } => Some((port, None)),
            EventKind::MemberLeft { port, why, .. } => Some((port, Some(why))),
            _ => None,
        })
        .collect()
}

#[test]
fn a_bond_forms_loses_a_link_and_gets_it_back() {
    let mut rack = Rack::new(LacpMode::Active);
    let mut events = rack.sw.events();
    let both = rack.members.to_vec();
    assert_eq!(rack.flood(), [0, 0], "nothing goes by a link before LACP says so");
    rack.links[0].as_mut().unwrap().send(&data(200)).unwrap();
    assert_eq!(rack.port(both[0]).counters.rx.dropped.get(&DropReason::NotCollecting), Some(&1));

    rack.until("both links are in", &[0, 1], |rack| rack.active() == both);
    let state = rack.state();
    for (index, member) in state.members.iter().enumerate() {
        let (actor, partner) = (member.lacp.actor, member.lacp.partner);
        assert_eq!((partner.system, partner.key, partner.port), (GUEST, 15, index as u16 + 1));
        assert_eq!(actor.state, LacpState(DONE));
        assert_eq!(
            (actor.system, actor.key),
            (state.members[0].lacp.actor.system, state.members[0].lacp.actor.key)
        );
        assert_eq!(member.lacp.receive, ReceiveState::Current);
    }
    rack.until("the bond knows it", &[0, 1], |rack| {
        let distributes =
            |heard: &Option<PortInfo>| heard.is_some_and(|heard| heard.state.has(LacpBit::Distributing));
        rack.heard.iter().all(distributes)
    });

    let shares = rack.flood();
    assert!(shares[0] + shares[1] == 64 && shares[0] > 10 && shares[1] > 10, "each once: {shares:?}");
    let since = rack.sw.now();
    rack.links[0].as_mut().unwrap().send(&data(100)).unwrap();
    assert_eq!(rack.count("b/eth1", Direction::Out, since), 1);
    assert_eq!(rack.count("a/eth2", Direction::Out, since), 0, "not back by the other link");
    assert!(rack.sw.fdb().unwrap().iter().any(|entry| entry.port == rack.bundle));

    rack.sw.set_admin(both[0], false).unwrap();
    assert_eq!(rack.active(), both[1..], "at once");
    assert_eq!(rack.flood(), [0, 64]);
    rack.sw.set_admin(both[0], true).unwrap();
    rack.until("it is back", &[0, 1], |rack| rack.active() == both);

    rack.links[1] = None;
    rack.until("the cable is seen to be gone", &[0], |rack| !rack.port(both[1]).connected);
    assert_eq!(rack.active(), both[..1], "at once");
    assert_eq!(rack.flood(), [64, 0]);
    rack.links[1] = Some(rack.sw.attach_channel(both[1]).unwrap());
    rack.until("it is back", &[0, 1], |rack| rack.active() == both);

    let (down, join) = (Some(LeaveReason::LinkDown), None);
    let [a, b] = rack.members;
    assert_eq!(
        joined_or_left(&mut events),
        [(a, join), (b, join), (a, down), (a, join), (b, down), (b, join)]
    );

    let to_station = FrameFilter::new().port("b/eth1").direction(Direction::Out);
    let leaked = rack.sw.frames(&to_station).unwrap();
    assert!(leaked.iter().all(|frame| Pdu::parse(&frame.bytes).is_none()), "LACPDUs are never forwarded");
    for member in both {
        let rx = rack.port(member).counters.rx;
        assert!(rx.consumed > 0);
        assert_eq!(rx.frames, rx.consumed + rx.forwarded + rx.dropped_total());
        let tx = rack.port(member).counters.tx;
        assert_eq!(tx.offered, tx.sent + tx.dropped_total() + rack.port(member).queue.frames);
    }
    let shown = FrameFilter::new().port("a/eth1");
    let pdus = |direction: Direction| {
        let frames = rack.sw.frames(&shown.clone().direction(direction)).unwrap();
        frames.iter().filter(|frame| Pdu::parse(&frame.bytes).is_some() && frame.dropped.is_none()).count()
    };
    assert!(pdus(Direction::In) > 0 && pdus(Direction::Out) > 0, "both ways are in the capture");
}

#[test]
fn a_partner_that_falls_silent_on_one_link_is_noticed() {
    let mut rack = Rack::new(LacpMode::Active);
    let mut events = rack.sw.events();
    let both = rack.members.to_vec();
    rack.until("both links are in", &[0, 1], |rack| rack.active() == both);
    joined_or_left(&mut events);
    rack.until("the silent one is out", &[1], |rack| rack.active() == both[1..]);
    assert_eq!(joined_or_left(&mut events), [(both[0], Some(LeaveReason::PartnerSilent))]);
    assert_eq!(rack.flood(), [0, 64]);
    rack.until("it speaks again", &[0, 1], |rack| rack.active() == both);
}

#[test]
fn a_static_bundle_is_its_links() {
    let mut rack = Rack::new(LacpMode::Static);
    let both = rack.members.to_vec();
    assert_eq!(rack.active(), both);
    let shares = rack.flood();
    assert!(shares[0] + shares[1] == 64 && shares[0] > 10 && shares[1] > 10, "{shares:?}");
    rack.sw.set_admin(both[1], false).unwrap();
    assert_eq!(rack.flood(), [64, 0]);
    rack.sw.set_admin(both[1], true).unwrap();
    assert_eq!(rack.active(), both);

    rack.sw.set_admin(rack.bundle, false).unwrap();
    assert_eq!((rack.active(), rack.flood()), (vec![], [0, 0]));
    rack.sw.set_admin(rack.bundle, true).unwrap();
    rack.sw.remove_port(both[0]).unwrap();
    assert_eq!(rack.state().members.len(), 1);
    assert_eq!(rack.active(), both[1..]);
    let again = rack.sw.add_port(PortConfig::new("a/eth1", mode())).unwrap();
    let _link = rack.sw.attach_channel(again).unwrap();
    rack.sw.add_member(rack.bundle, again).unwrap();
    assert_eq!(rack.active(), [both[1], again], "a NIC that was plugged in again");
    assert!(matches!(rack.sw.add_member(rack.bundle, again), Err(Error::InBundle { .. })));
    let unknown = rack.sw.add_member(both[1], rack.members[0]);
    assert!(matches!(unknown, Err(Error::UnknownPort { .. })), "{unknown:?}");
    rack.sw.remove_bundle(rack.bundle).unwrap();
    assert_eq!(rack.port(both[1]).bundle, None);
    let since = rack.sw.now();
    rack.station.send(&data(1)).unwrap();
    assert_eq!(rack.count("a/eth2", Direction::Out, since), 1, "a port as any other");
}

#[test]
fn mistakes_are_told_and_the_state_is_json() {
    let rack = Rack::new(LacpMode::Active);
    let again = BundleConfig::new("c/bond0", mode(), [rack.members[0]]);
    let message = rack.sw.add_bundle(again).unwrap_err().to_string();
    assert!(message.contains("a/eth1") && message.contains("a/bond0"), "{message}");
    let none = BundleConfig::new("c/bond0", mode(), []);
    assert!(matches!(rack.sw.add_bundle(none), Err(Error::EmptyBundle { .. })));
    let named = BundleConfig::new("a/bond0", mode(), []);
    assert!(matches!(rack.sw.add_bundle(named), Err(Error::DuplicatePort { .. })));
    assert!(matches!(rack.sw.set_mode(rack.members[0], mode()), Err(Error::InBundle { .. })));
    assert!(matches!(rack.sw.attach_channel(rack.bundle), Err(Error::UnknownPort { .. })));
    let message = rack.sw.remove_bundle(rack.members[0]).unwrap_err().to_string();
    assert!(message.contains("there are: a/bond0"), "{message}");
    rack.sw.set_mode(rack.bundle, mode()).unwrap();
    rack.sw.partition(PartitionSpec::between([rack.bundle], [rack.members[0]])).unwrap();

    let state = rack.sw.state().unwrap();
    let json = serde_json::to_string_pretty(&state).unwrap();
    assert!(json.contains("\"short_timeout\"") && json.contains("\"layer3+4\""), "{json}");
    assert_eq!(serde_json::from_str::<SwitchState>(&json).unwrap(), state);
}

#[test]
fn what_waits_for_a_link_of_a_bundle_is_dropped_with_its_mode_and_its_admin_state() {
    // What waits has the tags, and the leave to pass, of the time when it came.
    type Change = fn(&Rack);
    let changes: [(DropReason, Change); 3] = [
        (DropReason::ModeChanged, |rack| rack.sw.set_mode(rack.bundle, mode_of(2)).unwrap()),
        (DropReason::AdminDown, |rack| rack.sw.set_admin(rack.bundle, false).unwrap()),
        (DropReason::ModeChanged, |rack| rack.sw.remove_bundle(rack.bundle).unwrap()),
    ];
    for (reason, change) in changes {
        let mut rack = Rack::new(LacpMode::Static);
        for member in rack.members {
            let long = Impairment::new().delay(Duration::from_secs(1800));
            rack.sw.impair(ImpairTarget::Port(member), long).unwrap();
        }
        (0..10).for_each(|n| rack.station.send(&data(n)).unwrap());
        let dropped = |rack: &Rack| -> u64 {
            let ports = rack.members.map(|member| rack.port(member).counters.tx.dropped);
            ports.iter().map(|dropped| dropped.get(&reason).copied().unwrap_or(0)).sum()
        };
        assert_eq!(dropped(&rack), 0);
        change(&rack);
        assert_eq!(dropped(&rack), 10);
        assert_eq!(rack.members.map(|member| rack.port(member).delayed.frames), [0, 0]);
    }
}

#[test]
fn what_waits_for_a_port_does_not_wait_for_a_bundle() {
    let mut rack = Rack::new(LacpMode::Static);
    rack.sw.remove_bundle(rack.bundle).unwrap();
    let [first, second] = rack.members;
    for member in rack.members {
        let long = Impairment::new().delay(Duration::from_secs(1800));
        rack.sw.impair(ImpairTarget::Port(member), long).unwrap();
    }
    rack.station.send(&data(1)).unwrap();
    assert_eq!(rack.members.map(|member| rack.port(member).delayed.frames), [1, 1]);
    let bundle = BundleConfig::new("a/bond1", mode_of(2), [first]).lacp(LacpMode::Static);
    let bundle = rack.sw.add_bundle(bundle).unwrap();
    assert_eq!(rack.port(first).counters.tx.dropped[&DropReason::ModeChanged], 1);
    rack.sw.add_member(bundle, second).unwrap();
    assert_eq!(rack.port(second).counters.tx.dropped[&DropReason::ModeChanged], 1);
}
