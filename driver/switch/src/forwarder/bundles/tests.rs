//! A bundle is one port for everything but the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use crate::balance::HashPolicy;
use crate::counters::DropReason;
use crate::forwarder::{Egress, Forwarder, PortId};
use crate::mac::Mac;
use crate::partition::PartitionSpec;
use crate::vlan::{PortMode, VlanId};

const T0: Duration = Duration::ZERO;

fn access(vid: u16) -> PortMode {
    PortMode::Access { vlan: VlanId::new(vid).unwrap() }
}

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

fn frame(dst: Mac, src: Mac, flow: u8) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    bytes.extend_from_slice(
        b"\x08\x00\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x11\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02",
    );
    bytes.extend_from_slice(&[0, flow, 0, 53, 0, 8, 0, 0]);
    bytes
}

/// A bundle of the first two ports, both active, and two plain ports; all of VLAN 1, the members' own modes of VLAN 9.
fn rack() -> (Forwarder, PortId, Vec<PortId>) {
    let mut sw = Forwarder::new(Duration::from_secs(300));
    let ports: Vec<PortId> = [9, 9, 1, 1].map(|vid| sw.add_port(access(vid))).to_vec();
    for port in &ports {
        sw.set_link(*port, true);
    }
    let bundle = sw.add_bundle(access(1), HashPolicy::Layer34, &ports[..2]).unwrap();
    assert!(sw.set_active(ports[0], true) && sw.set_active(ports[1], true));
    (sw, bundle, ports)
}

fn send(sw: &mut Forwarder, from: PortId, bytes: &[u8]) -> Result<Vec<PortId>, DropReason> {
    let mut copies: Vec<Egress> = Vec::new();
    sw.ingress(from, bytes, T0, &mut copies)?;
    let mut left: Vec<PortId> = copies.iter().map(|copy| copy.port).collect();
    left.sort();
    Ok(left)
}

#[test]
fn a_flood_reaches_a_bundle_once_and_never_turns_back_into_it() {
    let (mut sw, _, p) = rack();
    let mut used = BTreeSet::new();
    for flow in 0..50 {
        let left = send(&mut sw, p[2], &frame(Mac::BROADCAST, mac(3), flow)).unwrap();
        assert_eq!(left.len(), 2, "one member and the other port");
        assert_eq!(left[1], p[3]);
        used.insert(left[0]);
    }
    assert_eq!(used, BTreeSet::from([p[0], p[1]]), "both links are used");
    for member in &p[..2] {
        let left = send(&mut sw, *member, &frame(Mac::BROADCAST, mac(1), 0)).unwrap();
        assert_eq!(left, [p[2], p[3]], "not back by the other member");
    }
}

#[test]
fn addresses_are_learnt_on_the_bundle() {
    let (mut sw, bundle, p) = rack();
    send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)).unwrap();
    assert_eq!(sw.fdb(T0)[0].port, bundle);
    let to_bond = |flow| frame(mac(1), mac(3), flow);
    let used: BTreeSet<_> = (0..50).flat_map(|flow| send(&mut sw, p[2], &to_bond(flow)).unwrap()).collect();
    assert_eq!(used, BTreeSet::from([p[0], p[1]]), "what was learnt by one link goes by either");
    assert_eq!(send(&mut sw, p[1], &frame(mac(1), mac(1), 0)), Err(DropReason::SamePort));
    sw.set_active(p[0], false);
    assert_eq!(sw.fdb(T0).len(), 2, "the bundle is still there");
    assert_eq!(send(&mut sw, p[2], &to_bond(7)), Ok(vec![p[1]]));
    sw.set_active(p[1], false);
    assert_eq!(sw.fdb(T0).len(), 1);
    assert_eq!(send(&mut sw, p[2], &to_bond(7)), Ok(vec![p[3]]), "unknown again");
}

#[test]
fn a_member_that_is_not_active_neither_takes_nor_gets() {
    let (mut sw, bundle, p) = rack();
    sw.set_active(p[0], false);
    assert_eq!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)), Err(DropReason::NotCollecting));
    assert_eq!(sw.counters(p[0]).unwrap().rx.dropped, BTreeMap::from([(DropReason::NotCollecting, 1)]));
    assert_eq!(sw.fdb(T0), [], "nor is anything learnt");
    let left: BTreeSet<_> =
        (0..50).flat_map(|flow| send(&mut sw, p[2], &frame(Mac::BROADCAST, mac(3), flow)).unwrap()).collect();
    assert_eq!(left, BTreeSet::from([p[1], p[3]]));
    assert_eq!(send(&mut sw, bundle, &frame(Mac::BROADCAST, mac(1), 0)), Err(DropReason::NotCollecting));
}

#[test]
fn a_member_that_goes_down_is_out_at_once_and_not_back_by_itself() {
    let changes: [fn(&mut Forwarder, PortId, bool); 2] =
        [|sw, port, up| assert!(sw.set_admin(port, up)), |sw, port, up| assert!(sw.set_link(port, up))];
    for change in changes {
        let (mut sw, _, p) = rack();
        change(&mut sw, p[0], false);
        sw.set_active(p[0], true);
        for flow in 0..20 {
            assert_eq!(send(&mut sw, p[2], &frame(Mac::BROADCAST, mac(3), flow)).unwrap(), [p[1], p[3]]);
        }
        change(&mut sw, p[0], true);
        assert_eq!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)), Err(DropReason::NotCollecting));
        sw.set_active(p[0], true);
        assert!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)).is_ok());
    }
}

#[test]
fn the_modes_are_those_of_the_bundle_until_it_ends() {
    let (mut sw, bundle, p) = rack();
    assert_eq!(sw.bundle_of(p[0]), Some(bundle));
    assert_eq!(sw.add_bundle(access(1), HashPolicy::Layer2, &p[1..3]), None, "one bundle for a port");
    sw.set_mode(bundle, access(9));
    assert_eq!(send(&mut sw, p[2], &frame(Mac::BROADCAST, mac(3), 0)).unwrap(), [p[3]]);
    sw.set_mode(bundle, access(1));
    sw.set_admin(bundle, false);
    assert_eq!(send(&mut sw, p[2], &frame(Mac::BROADCAST, mac(3), 0)).unwrap(), [p[3]]);
    assert_eq!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)), Err(DropReason::AdminDown));
    assert!(sw.remove_bundle(bundle) && !sw.remove_bundle(bundle) && !sw.remove_bundle(p[0]));
    assert_eq!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)).unwrap(), [p[1]], "VLAN 9, two ports");
    assert_eq!(sw.bundle_of(p[0]), None);
}

#[test]
fn a_partition_names_the_bundle_or_a_link_of_it() {
    let (mut sw, bundle, p) = rack();
    let arrived = |sw: &mut Forwarder| -> BTreeSet<PortId> {
        let flood = |flow| frame(Mac::BROADCAST, mac(3), flow);
        (0..50).flat_map(|flow| send(sw, p[2], &flood(flow)).unwrap()).collect()
    };
    let whole = sw.partition(PartitionSpec::between([p[2]], [bundle]));
    assert_eq!(arrived(&mut sw), BTreeSet::from([p[3]]));
    assert_eq!(send(&mut sw, p[0], &frame(Mac::BROADCAST, mac(1), 0)).unwrap(), [p[3]]);
    sw.heal(whole);
    let link = sw.partition(PartitionSpec::between([p[2]], [p[0]]));
    assert_eq!(arrived(&mut sw), BTreeSet::from([p[1], p[3]]));
    sw.heal(link);
    let links = sw.partition(PartitionSpec::between([p[2]], [p[0], p[1]]));
    assert_eq!(arrived(&mut sw), BTreeSet::from([p[3]]));
    sw.heal(links);

    let second = sw.add_bundle(access(1), HashPolicy::Layer34, &p[2..]).unwrap();
    assert!(sw.set_active(p[2], true) && sw.set_active(p[3], true));
    assert_eq!(arrived(&mut sw), BTreeSet::from([p[0], p[1]]));
    sw.partition(PartitionSpec::between([bundle], [second]));
    assert_eq!(arrived(&mut sw), BTreeSet::new());
}

#[derive(Clone, Debug)]
enum Step {
    Frame { from: usize, dst: u8, src: u8, flow: u8, vid: u16 },
    Active(usize, bool),
    Admin(usize, bool),
    Link(usize, bool),
}

const PORTS: usize = 8;

fn any_mode() -> impl Strategy<Value = PortMode> {
    let native = proptest::option::of((1u16..=3).prop_map(|vid| VlanId::new(vid).unwrap()));
    let trunk = (prop_oneof![Just("1"), Just("1-2"), Just("2-3")], native)
        .prop_map(|(allowed, native)| PortMode::Trunk { allowed: allowed.parse().unwrap(), native });
    prop_oneof![(1u16..=3).prop_map(access), trunk]
}

fn any_step() -> impl Strategy<Value = Step> {
    let port = 0..PORTS;
    prop_oneof![
        20 => (port.clone(), 0u8..9, 0u8..8, 0u8..4, 0u16..4)
            .prop_map(|(from, dst, src, flow, vid)| Step::Frame { from, dst, src, flow, vid }),
        2 => (port.clone(), any::<bool>()).prop_map(|(port, active)| Step::Active(port, active)),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, up)| Step::Admin(port, up)),
        1 => (port, any::<bool>()).prop_map(|(port, up)| Step::Link(port, up)),
    ]
}

proptest! {
    /// Two bundles of three links and two plain ports.
    #[test]
    fn bundles_keep_isolation_and_order(
        modes in proptest::collection::vec(any_mode(), 4),
        layer_2 in any::<bool>(),
        steps in proptest::collection::vec(any_step(), 1..120),
    ) {
        let mut sw = Forwarder::new(Duration::from_secs(300));
        let ports: Vec<PortId> = (0..PORTS).map(|n| sw.add_port(modes[n % 4].clone())).collect();
        let hash = if layer_2 { HashPolicy::Layer2 } else { HashPolicy::Layer34 };
        let bundles = [&ports[..3], &ports[3..6]].map(|members| members.to_vec());
        for (members, mode) in bundles.iter().zip(&modes) {
            prop_assert!(sw.add_bundle(mode.clone(), hash, members).is_some());
        }
        // What the port's wire belongs to: a bundle, or itself.
        let owner = |port: usize| if port < 6 { port / 3 } else { port };
        let mode = |port: usize| if port < 6 { &modes[port / 3] } else { &modes[port % 4] };
        let mut up = [(true, true, false); PORTS];
        for (index, port) in ports.iter().enumerate() {
            sw.set_link(*port, true);
            up[index].2 = index >= 6 || sw.set_active(*port, true);
        }
        let works = |up: &(bool, bool, bool)| up.0 && up.1 && up.2;
        let mut by_flow: BTreeMap<(Vec<u8>, usize), usize> = BTreeMap::new();
        for step in steps {
            let changed = !matches!(step, Step::Frame { .. });
            match step {
                Step::Frame { from, dst, src, flow, vid } => {
                    let dst = if dst == 8 { Mac::BROADCAST } else { mac(dst) };
                    let mut bytes = frame(dst, mac(src), flow);
                    if vid > 0 {
                        bytes.splice(12..12, [0x81, 0, 0, vid as u8]);
                    }
                    let left = send(&mut sw, ports[from], &bytes);
                    if !works(&up[from]) {
                        let down = !(up[from].0 && up[from].1);
                        let reason = if down { DropReason::AdminDown } else { DropReason::NotCollecting };
                        prop_assert_eq!(left, Err(reason));
                        continue;
                    }
                    let vlan = VlanId::new(vid).ok().or(mode(from).untagged());
                    let left: Vec<usize> = left
                        .unwrap_or_default()
                        .iter()
                        .map(|port| ports.iter().position(|other| other == port).expect("a wire"))
                        .collect();
                    let mut owners: Vec<usize> = left.iter().map(|port| owner(*port)).collect();
                    prop_assert!(!owners.contains(&owner(from)), "never back into the bundle it came from");
                    owners.sort();
                    owners.dedup();
                    prop_assert_eq!(owners.len(), left.len(), "one link of a bundle");
                    for to in left {
                        prop_assert!(works(&up[to]), "only by links that work");
                        prop_assert!(mode(to).carries(vlan.unwrap()), "the bundle's VLANs hold");
                        let before = by_flow.insert((bytes[..].to_vec(), owner(to)), to);
                        prop_assert!(before.is_none_or(|before| before == to), "one conversation, one link");
                    }
                }
                Step::Active(port, active) => {
                    if sw.set_active(ports[port], active) {
                        up[port].2 = active && up[port].0 && up[port].1;
                    }
                }
                Step::Admin(port, admin) => {
                    sw.set_admin(ports[port], admin);
                    up[port].0 = admin;
                    up[port].2 &= admin || port >= 6;
                }
                Step::Link(port, link) => {
                    sw.set_link(ports[port], link);
                    up[port].1 = link;
                    up[port].2 &= link || port >= 6;
                }
            }
            if changed {
                by_flow.clear();
            }
        }
        for port in &ports {
            let counters = sw.counters(*port).unwrap();
            prop_assert_eq!(counters.rx.frames, counters.rx.forwarded + counters.rx.dropped_total());
        }
    }
}
