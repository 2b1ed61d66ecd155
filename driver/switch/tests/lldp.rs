//! LLDP over real sockets: what each port says, what is remembered of its peers, and that none of it goes further.

use std::time::Duration;

use pretty_assertions::assert_eq;
use switch::lldp::{ChassisId, NEAREST_BRIDGE, PortIdentity, VlanName};
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// For a frame that must not come: a call to the switch came before, which acts after all that was sent.
const NOTHING: Duration = Duration::from_millis(1);

struct Rack {
    sw: Switch,
    _dir: TempDir,
}

impl Rack {
    fn new() -> Rack {
        let dir = tempfile::tempdir().unwrap();
        Rack { sw: Switch::start(SwitchOptions::new("rack", dir.path())).unwrap(), _dir: dir }
    }

    fn port(&self, name: &str, mode: PortMode) -> (PortId, Channel) {
        let id = self.sw.add_port(PortConfig::new(name, mode)).unwrap();
        (id, self.sw.attach_channel(id).unwrap())
    }

    fn state(&self, id: PortId) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.id == id).unwrap()
    }
}

fn access(vid: u16) -> PortMode {
    PortMode::Access { vlan: VlanId::new(vid).unwrap() }
}

fn trunk(allowed: &str, native: Option<u16>) -> PortMode {
    let native = native.map(|vid| VlanId::new(vid).unwrap());
    PortMode::Trunk { allowed: allowed.parse().unwrap(), native }
}

fn heard(channel: &mut Channel) -> Lldpdu {
    let frame = channel.recv(LIMIT).unwrap().expect("an LLDPDU");
    assert_eq!(frame[..6], NEAREST_BRIDGE.0);
    Lldpdu::parse(&frame).unwrap_or_else(|| panic!("{frame:?}"))
}

fn vlan(vid: u16, name: &str) -> VlanName {
    VlanName { vid, name: name.into() }
}

fn of_guest(ttl: u16) -> Lldpdu {
    let (chassis, port) = (ChassisId::Local("server-1".into()), PortIdentity::Interface("eth1".into()));
    Lldpdu { system_name: Some("server-1".into()), ..Lldpdu::new(chassis, port, ttl) }
}

const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

#[test]
fn each_port_is_told_its_own_name_and_vlans_and_nothing_is_said_unasked() {
    let rack = Rack::new();
    let (_, mut a) = rack.port("server-1/eth1", access(100));
    let (b, mut b_end) = rack.port("agent-1/eth1", trunk("200,300", Some(1)));
    rack.sw.ports().unwrap();
    assert_eq!(a.recv(NOTHING).unwrap(), None);

    let named = [(VlanId::new(200).unwrap(), "storage".to_owned())].into();
    rack.sw.set_lldp(Some(LldpConfig { vlan_names: named, ..LldpConfig::new() })).unwrap();
    let said = heard(&mut a);
    assert_eq!(said.port, PortIdentity::Interface("server-1/eth1".into()));
    assert_eq!(said.port_description.as_deref(), Some("server-1/eth1"));
    assert_eq!((said.system_name.as_deref(), said.ttl), (Some("rack"), 121));
    assert_eq!((said.port_vlan, said.vlan_names), (Some(100), vec![vlan(100, "VLAN0100")]));
    let also = heard(&mut b_end);
    assert_eq!((also.port_description.as_deref(), also.port_vlan), (Some("agent-1/eth1"), Some(1)));
    assert_eq!(also.vlan_names, [vlan(1, "VLAN0001"), vlan(200, "storage"), vlan(300, "VLAN0300")]);
    assert_eq!(also.chassis, said.chassis, "one switch");

    rack.sw.set_mode(b, trunk("200", None)).unwrap();
    let changed = heard(&mut b_end);
    assert_eq!((changed.port_vlan, changed.vlan_names), (Some(0), vec![vlan(200, "storage")]));
    let mut again = rack.sw.attach_channel(b).unwrap();
    assert_eq!(heard(&mut again).port_description.as_deref(), Some("agent-1/eth1"), "a link that comes up");
    rack.sw.set_lldp(None).unwrap();
    assert_eq!(heard(&mut again).ttl, 0, "what was said is taken back");
    assert_eq!(heard(&mut a).ttl, 0);
    rack.sw.ports().unwrap();
    assert_eq!(a.recv(NOTHING).unwrap(), None, "each port was told once, and of itself only");
}

#[test]
fn what_a_peer_says_is_remembered_for_its_port_and_goes_no_further() {
    let rack = Rack::new();
    let mut events = rack.sw.events();
    rack.sw.set_lldp(Some(LldpConfig::new())).unwrap();
    let (a, mut a_end) = rack.port("server-1/eth1", access(1));
    let (b, _b_end) = rack.port("server-2/eth1", access(1));
    let capture = rack.sw.capture(FrameFilter::new()).unwrap();
    a_end.send(&of_guest(120).to_frame(GUEST)).unwrap();
    let state = rack.state(a);
    let [neighbour] = &state.neighbours[..] else { panic!("{state:#?}") };
    assert_eq!((neighbour.src, &neighbour.says), (GUEST, &of_guest(120)));
    assert_eq!(rack.state(b).neighbours, []);
    let rx = &state.counters.rx;
    assert_eq!((rx.frames, rx.consumed, rx.dropped_total()), (1, 1, 0));

    let crossed = capture.finish().unwrap();
    let guests = |frame: &CapturedFrame| frame.bytes[6..12] == GUEST.0;
    assert_eq!(crossed.count(guests).unwrap(), 1, "in by its own port only");
    let line = crossed.assert_some("the guest's LLDPDU", guests).unwrap().to_string();
    assert!(line.contains("LLDP server-1 port eth1, 120 s"), "{line}");

    a_end.send(&of_guest(0).to_frame(GUEST)).unwrap();
    assert_eq!(rack.state(a).neighbours, []);
    a_end.send(&of_guest(120).to_frame(GUEST)).unwrap();
    assert_eq!(rack.state(a).neighbours.len(), 1);
    rack.sw.set_admin(a, false).unwrap();
    assert_eq!(rack.state(a).neighbours, [], "a link that is down has no neighbours");

    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::NeighbourFound { name, system_name, .. } => told.push((true, name, system_name)),
            EventKind::NeighbourGone { name, system_name, .. } => told.push((false, name, system_name)),
            _ => {}
        }
    }
    let (name, guest) = ("server-1/eth1".to_owned(), Some("server-1".to_owned()));
    let expected = [true, false, true, false].map(|found| (found, name.clone(), guest.clone()));
    assert_eq!(told, expected);
}

#[test]
fn what_cannot_be_read_or_is_not_asked_for_is_dropped_as_before() {
    let rack = Rack::new();
    let (a, mut a_end) = rack.port("server-1/eth1", access(1));
    let (_b, mut b_end) = rack.port("server-2/eth1", access(1));
    let good = of_guest(120).to_frame(GUEST);
    a_end.send(&good).unwrap();
    rack.sw.ports().unwrap();
    rack.sw.set_lldp(Some(LldpConfig::new())).unwrap();
    a_end.send(&good[..20]).unwrap();
    let tagged = [&good[..12], b"\x81\x00\x00\x00", &good[12..]].concat();
    a_end.send(&tagged).unwrap();
    let state = rack.state(a);
    assert_eq!(state.counters.rx.dropped, [(DropReason::ReservedMulticast, 3)].into());
    assert_eq!(state.neighbours, []);
    heard(&mut b_end);
    assert_eq!(b_end.recv(NOTHING).unwrap(), None);
}

#[test]
fn each_link_of_a_bundle_speaks_for_itself_with_the_bundles_vlans() {
    let rack = Rack::new();
    let (one, mut one_end) = rack.port("server-1/eth1", access(1));
    let (two, mut two_end) = rack.port("server-1/eth2", access(1));
    let bundle = BundleConfig::new("server-1/bond0", access(7), [one, two]).lacp(LacpMode::Passive);
    let bundle = rack.sw.add_bundle(bundle).unwrap();
    rack.sw.set_lldp(Some(LldpConfig::new())).unwrap();
    for (end, name) in [(&mut one_end, "server-1/eth1"), (&mut two_end, "server-1/eth2")] {
        let said = heard(end);
        assert_eq!((said.port_description.as_deref(), said.port_vlan), (Some(name), Some(7)));
        end.send(&of_guest(120).to_frame(GUEST)).unwrap();
    }
    let neighbours = [one, two].map(|port| rack.state(port).neighbours.len());
    assert_eq!(neighbours, [1, 1], "though LACP has not made them part of it");
    // A neighbour that is new is told again, soon, and what has changed at once.
    rack.sw.set_mode(bundle, access(8)).unwrap();
    while heard(&mut two_end).port_vlan != Some(8) {}
    let mut events = rack.sw.events();
    rack.sw.remove_port(one).unwrap();
    assert_eq!(rack.state(two).neighbours.len(), 1);
    let gone = std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event.kind {
        EventKind::NeighbourGone { port, name, .. } => Some((port, name)),
        _ => None,
    });
    assert_eq!(gone, Some((one, "server-1/eth1".to_owned())));
}
