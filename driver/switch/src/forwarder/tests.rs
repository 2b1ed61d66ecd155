//! The rules, one by one and as properties over random switches and frames.

use std::collections::BTreeMap;

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::*;
use crate::frame::{Frame, MAX_FRAME};
use crate::mac::Mac;
use crate::summary::Summary;
use crate::vlan::VlanSet;

const AGEING: Duration = Duration::from_secs(300);
const T0: Duration = Duration::ZERO;

fn vlan(vid: u16) -> VlanId {
    VlanId::new(vid).unwrap()
}

fn access(vid: u16) -> PortMode {
    PortMode::Access { vlan: vlan(vid) }
}

fn trunk(allowed: &str, native: Option<u16>) -> PortMode {
    PortMode::Trunk { allowed: allowed.parse().unwrap(), native: native.map(vlan) }
}

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, n])
}

/// A frame with the given tags (TPID, TCI), outermost first.
fn frame(dst: Mac, src: Mac, tags: &[(u16, u16)], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    for (tpid, tci) in tags {
        bytes.extend_from_slice(&tpid.to_be_bytes());
        bytes.extend_from_slice(&tci.to_be_bytes());
    }
    bytes.extend_from_slice(&0x88b5_u16.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn tagged(dst: Mac, src: Mac, vid: u16) -> Vec<u8> {
    frame(dst, src, &[(0x8100, vid)], b"payload")
}

fn untagged(dst: Mac, src: Mac) -> Vec<u8> {
    frame(dst, src, &[], b"payload")
}

fn forwarder(modes: impl IntoIterator<Item = PortMode>) -> (Forwarder, Vec<PortId>) {
    let mut forwarder = Forwarder::new(AGEING);
    let ports: Vec<PortId> = modes.into_iter().map(|mode| forwarder.add_port(mode)).collect();
    for port in &ports {
        assert!(forwarder.set_link(*port, true));
    }
    (forwarder, ports)
}

type Left = Vec<(PortId, Vec<u8>)>;

/// What leaves, byte for byte.
fn send(forwarder: &mut Forwarder, from: PortId, bytes: &[u8], now: Duration) -> Result<Left, DropReason> {
    let mut copies = Vec::new();
    let (header, vlan) = forwarder.ingress(from, bytes, now, &mut copies)?;
    let frame = Frame::new(bytes);
    Ok(copies.iter().map(|copy| (copy.port, frame.in_form(copy.form, &header, vlan).to_vec())).collect())
}

#[test]
fn an_untagged_frame_leaves_a_trunk_only_on_its_native_vlan() {
    let (mut sw, p) = forwarder([access(10), access(20), trunk("10,20", Some(10)), trunk("10,20", None)]);
    let from_10 = untagged(Mac::BROADCAST, mac(1));
    assert_eq!(
        send(&mut sw, p[0], &from_10, T0),
        Ok(vec![(p[2], from_10.clone()), (p[3], tagged(Mac::BROADCAST, mac(1), 10))])
    );
    let tagged_20 = tagged(Mac::BROADCAST, mac(2), 20);
    assert_eq!(
        send(&mut sw, p[1], &untagged(Mac::BROADCAST, mac(2)), T0),
        Ok(vec![(p[2], tagged_20.clone()), (p[3], tagged_20)])
    );
}

#[test]
fn what_a_port_does_not_take() {
    use DropReason::*;
    let (mut sw, p) = forwarder([access(10), trunk("10,20", None), trunk("10", Some(10))]);
    let (all, me) = (Mac::BROADCAST, mac(1));
    let lacp = Mac([1, 0x80, 0xc2, 0, 0, 2]);
    for (port, bytes, reason) in [
        (p[0], tagged(all, me, 10), TaggedOnAccess),
        (p[0], tagged(all, me, 20), TaggedOnAccess),
        (p[1], untagged(all, me), UntaggedWithoutNative),
        (p[1], tagged(all, me, 0), UntaggedWithoutNative),
        (p[1], tagged(all, me, 30), VlanNotAllowed),
        (p[1], tagged(all, me, 4095), ReservedVlan),
        (p[2], tagged(all, me, 20), VlanNotAllowed),
        (p[0], untagged(lacp, me), ReservedMulticast),
        (p[1], tagged(lacp, me, 10), ReservedMulticast),
        (p[0], untagged(all, mac(1 | 2)), NoDestination),
        (p[0], untagged(all, Mac([1, 0, 0x5e, 0, 0, 1])), GroupSource),
        (p[0], untagged(all, me)[..13].to_vec(), Malformed),
        (p[1], tagged(all, me, 10)[..17].to_vec(), Malformed),
        (p[0], frame(all, me, &[], &vec![0; MAX_FRAME]), TooLong),
        (PortId(99), untagged(all, me), AdminDown),
    ] {
        if reason == NoDestination {
            sw.set_link(p[1], false);
            sw.set_link(p[2], false);
        }
        assert_eq!(send(&mut sw, port, &bytes, T0), Err(reason), "port {port}");
        sw.set_link(p[1], true);
        sw.set_link(p[2], true);
    }
    assert!(sw.fdb(T0).iter().all(|entry| entry.mac == mac(3)), "what is not taken is not learnt");
}

#[test]
fn a_priority_tag_is_taken_as_untagged_and_its_priority_kept() {
    let (mut sw, p) = forwarder([access(10), access(10), trunk("10", None)]);
    let priority = frame(Mac::BROADCAST, mac(1), &[(0x8100, 0xe000)], b"payload");
    assert_eq!(
        send(&mut sw, p[0], &priority, T0),
        Ok(vec![
            (p[1], untagged(Mac::BROADCAST, mac(1))),
            (p[2], frame(Mac::BROADCAST, mac(1), &[(0x8100, 0xe00a)], b"payload")),
        ])
    );
}

#[test]
fn inner_tags_are_payload() {
    let (mut sw, p) = forwarder([trunk("100", None), trunk("100", None), access(100), access(100)]);
    let c_in_c = frame(Mac::BROADCAST, mac(1), &[(0x8100, 100), (0x8100, 200)], b"x");
    assert_eq!(
        send(&mut sw, p[0], &c_in_c, T0),
        Ok(vec![(p[1], c_in_c.clone())]),
        "where the outer tag would go, the inner one would be taken for the VLAN"
    );
    assert_eq!(sw.counters(p[2]).unwrap().tx.dropped, BTreeMap::from([(DropReason::NestedTag, 1)]));

    let s_in_c = frame(Mac::BROADCAST, mac(1), &[(0x8100, 100), (0x88a8, 200)], b"x");
    let s_only = frame(Mac::BROADCAST, mac(1), &[(0x88a8, 200)], b"x");
    let expected = vec![(p[1], s_in_c.clone()), (p[2], s_only.clone()), (p[3], s_only.clone())];
    assert_eq!(send(&mut sw, p[0], &s_in_c, T0), Ok(expected));
    let expected = vec![(p[0], s_in_c.clone()), (p[1], s_in_c), (p[3], s_only.clone())];
    assert_eq!(send(&mut sw, p[2], &s_only, T0), Ok(expected));
}

#[test]
fn a_move_is_learnt_at_once_and_what_is_old_is_forgotten() {
    let (mut sw, p) = forwarder([access(1), access(1), access(1)]);
    send(&mut sw, p[0], &untagged(Mac::BROADCAST, mac(1)), T0).unwrap();
    let to_1 = untagged(mac(1), mac(9));
    assert_eq!(send(&mut sw, p[2], &to_1, T0), Ok(vec![(p[0], to_1.clone())]));
    send(&mut sw, p[1], &untagged(Mac::BROADCAST, mac(1)), T0).unwrap();
    assert_eq!(send(&mut sw, p[2], &to_1, T0), Ok(vec![(p[1], to_1.clone())]), "the very next frame");
    assert_eq!(send(&mut sw, p[1], &to_1, T0), Err(DropReason::SamePort));
    let late = AGEING + Duration::from_nanos(1);
    assert_eq!(send(&mut sw, p[2], &to_1, late).unwrap().len(), 2, "flooded again");
}

#[test]
fn a_vlan_learns_for_itself() {
    let (mut sw, p) = forwarder([trunk("1,2", None), trunk("1,2", None), trunk("1,2", None)]);
    send(&mut sw, p[0], &tagged(Mac::BROADCAST, mac(1), 1), T0).unwrap();
    assert_eq!(send(&mut sw, p[2], &tagged(mac(1), mac(9), 1), T0).unwrap().len(), 1);
    assert_eq!(send(&mut sw, p[2], &tagged(mac(1), mac(9), 2), T0).unwrap().len(), 2);
}

#[test]
fn whatever_changes_a_port_forgets_what_it_learnt() {
    let changes: [fn(&mut Forwarder, PortId); 4] = [
        |sw, port| assert!(sw.set_admin(port, false) && sw.set_admin(port, true)),
        |sw, port| assert!(sw.set_link(port, false) && sw.set_link(port, true)),
        |sw, port| assert!(sw.set_mode(port, access(1))),
        |sw, _| sw.flush(),
    ];
    for change in changes {
        let (mut sw, p) = forwarder([access(1), access(1), access(1)]);
        send(&mut sw, p[0], &untagged(Mac::BROADCAST, mac(1)), T0).unwrap();
        change(&mut sw, p[0]);
        assert_eq!(send(&mut sw, p[2], &untagged(mac(1), mac(9)), T0).unwrap().len(), 2);
    }
}

#[test]
fn a_port_that_is_down_takes_and_gets_nothing() {
    let (mut sw, p) = forwarder([access(1), access(1), access(1)]);
    sw.set_admin(p[0], false);
    assert_eq!(send(&mut sw, p[0], &untagged(Mac::BROADCAST, mac(1)), T0), Err(DropReason::AdminDown));
    assert_eq!(send(&mut sw, p[1], &untagged(Mac::BROADCAST, mac(2)), T0).unwrap().len(), 1);
    assert!(sw.remove_port(p[2]) && !sw.remove_port(p[2]));
    assert_eq!(send(&mut sw, p[1], &untagged(Mac::BROADCAST, mac(2)), T0), Err(DropReason::NoDestination));
}

#[test]
fn partitions_stop_what_they_say_and_heal() {
    let (mut sw, p) = forwarder([trunk("1,2", None), trunk("1,2", None), trunk("1,2", None)]);
    let reached = |sw: &mut Forwarder, from: usize, vid| -> Vec<usize> {
        let left = send(sw, p[from], &tagged(Mac::BROADCAST, mac(from as u8), vid), T0).unwrap();
        left.iter().map(|(port, _)| p.iter().position(|p| p == port).unwrap()).collect()
    };
    let both = sw.partition(PartitionSpec::between([p[0]], [p[1], p[2]]));
    assert_eq!((reached(&mut sw, 0, 1), reached(&mut sw, 1, 1)), (vec![], vec![2]));
    assert!(sw.heal(both).is_some() && sw.heal(both).is_none());

    let one_way = sw.partition(PartitionSpec::between([p[0]], [p[1]]).one_way());
    assert_eq!((reached(&mut sw, 0, 1), reached(&mut sw, 1, 1)), (vec![2], vec![0, 2]));
    let vlans = sw.partition(PartitionSpec::between([p[1]], [p[2]]).on_vlans(vlan(2)));
    assert_eq!((reached(&mut sw, 1, 1), reached(&mut sw, 1, 2)), (vec![0, 2], vec![0]));
    assert!(sw.heal(one_way).is_some() && sw.heal(vlans).is_some());
    assert_eq!((reached(&mut sw, 0, 1), reached(&mut sw, 1, 2)), (vec![1, 2], vec![0, 2]));
    assert_eq!(sw.counters(p[1]).unwrap().tx.dropped, BTreeMap::from([(DropReason::Partition, 2)]));
}

#[test]
fn a_frame_that_a_tag_would_make_too_long_is_dropped_on_the_way_out() {
    let (mut sw, p) = forwarder([access(1), access(1), trunk("1", None)]);
    let longest = frame(Mac::BROADCAST, mac(1), &[], &vec![0; MAX_FRAME - 14]);
    assert_eq!(send(&mut sw, p[0], &longest, T0), Ok(vec![(p[1], longest)]));
    assert_eq!(sw.counters(p[2]).unwrap().tx.dropped, BTreeMap::from([(DropReason::TooLong, 1)]));
}

/// Few VLANs and addresses, so that they meet.
fn any_vid() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 1u16..=4, 1 => Just(0u16), 1 => Just(4095u16)]
}

fn any_mode() -> impl Strategy<Value = PortMode> {
    let allowed = proptest::collection::vec((1u16..=4).prop_map(vlan), 0..4);
    prop_oneof![
        (1u16..=4).prop_map(access),
        (allowed, proptest::option::of((1u16..=4).prop_map(vlan))).prop_map(|(allowed, native)| {
            PortMode::Trunk { allowed: VlanSet::from_iter(allowed), native }
        }),
    ]
}

fn any_mac() -> impl Strategy<Value = Mac> {
    prop_oneof![
        6 => (0u8..6).prop_map(mac),
        2 => Just(Mac::BROADCAST),
        1 => (0u8..32).prop_map(|n| Mac([1, 0x80, 0xc2, 0, 0, n])),
    ]
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let tpid = prop_oneof![4 => Just(0x8100u16), 1 => Just(0x88a8u16)];
    let tag = (tpid, any_vid(), 0u16..8).prop_map(|(tpid, vid, priority)| (tpid, priority << 13 | vid));
    let well_formed = (any_mac(), any_mac(), proptest::collection::vec(tag, 0..4), any::<[u8; 4]>())
        .prop_map(|(dst, src, tags, payload)| frame(dst, src, &tags, &payload));
    prop_oneof![20 => well_formed, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

#[derive(Clone, Debug)]
enum Step {
    Frame(usize, Vec<u8>),
    Mode(usize, PortMode),
    Admin(usize, bool),
    Link(usize, bool),
    Partition(usize, usize, bool),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let port = 0usize..6;
    prop_oneof![
        30 => (port.clone(), any_frame()).prop_map(|(port, bytes)| Step::Frame(port, bytes)),
        1 => (port.clone(), any_mode()).prop_map(|(port, mode)| Step::Mode(port, mode)),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, up)| Step::Admin(port, up)),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, up)| Step::Link(port, up)),
        1 => (port.clone(), port, any::<bool>()).prop_map(|(a, b, both)| Step::Partition(a, b, both)),
        1 => (0u64..200).prop_map(Step::Wait),
    ]
}

/// The VLAN that the receiver at the end of a port's wire takes a frame for.
fn vlan_on_wire(mode: &PortMode, bytes: &[u8]) -> Option<VlanId> {
    match Header::parse(bytes)?.tag.map(|tci| tci.vid()) {
        None => mode.untagged(),
        Some(vid) => VlanId::new(vid).ok().filter(|_| matches!(mode, PortMode::Trunk { .. })),
    }
}

/// Everything that must hold of one frame, judged by the modes alone and by the bytes that left.
fn check_frame(modes: &[PortMode], from: usize, bytes: &[u8], left: &Left) -> Result<(), TestCaseError> {
    if left.is_empty() {
        return Ok(());
    }
    let header = Header::parse(bytes).unwrap();
    let vid = header.tag.map_or(0, |tci| tci.vid());
    let came_in = if vid == 0 { modes[from].untagged() } else { VlanId::new(vid).ok() };
    let came_in = came_in.expect("a frame that leaves came in on a VLAN");
    prop_assert!(modes[from].carries(came_in));
    let payload = |bytes: &[u8]| -> Vec<u8> {
        if Header::parse(bytes).unwrap().tag.is_some() { bytes[16..].to_vec() } else { bytes[12..].to_vec() }
    };
    let tags = |bytes: &[u8]| Summary::parse(bytes).map(|summary| summary.tags.len());
    let inner = tags(bytes).map(|tags| tags - usize::from(header.tag.is_some()));
    for (port, out) in left {
        let mode = &modes[port.0 as usize];
        prop_assert_ne!(port.0 as usize, from, "a frame never comes back where it came from");
        prop_assert!(mode.carries(came_in), "VLAN {} never leaves by {:?}", came_in, mode);
        prop_assert_eq!(vlan_on_wire(mode, out), Some(came_in), "the receiver takes it for its VLAN");
        prop_assert_eq!(payload(out), payload(bytes), "all beneath the tag is untouched");
        let outer = usize::from(mode.tags(came_in));
        prop_assert_eq!(tags(out), inner.map(|inner| inner + outer), "tags are never doubled");
        prop_assert_eq!(&out[..12], &bytes[..12]);
    }
    let mut ports: Vec<PortId> = left.iter().map(|(port, _)| *port).collect();
    ports.sort();
    ports.dedup();
    prop_assert_eq!(ports.len(), left.len(), "a port gets a frame once");
    Ok(())
}

/// Runs random steps on a random switch and checks every rule after every step, beside a plain model of learning.
fn check_run(modes: Vec<PortMode>, steps: Vec<Step>, hub: bool) -> Result<(), TestCaseError> {
    let (mut sw, ports) = forwarder(modes.clone());
    sw.hub = hub;
    let (mut modes, mut now) = (modes, T0);
    let mut up: Vec<(bool, bool)> = vec![(true, true); ports.len()];
    let mut learnt: BTreeMap<(VlanId, Mac), (usize, Duration)> = BTreeMap::new();
    let mut partitions: Vec<(usize, usize, bool)> = Vec::new();
    for step in steps {
        let changed = match step {
            Step::Frame(from, bytes) => {
                let result = send(&mut sw, ports[from], &bytes, now);
                let left = result.clone().unwrap_or_default();
                check_frame(&modes, from, &bytes, &left)?;
                for (port, _) in &left {
                    let to = port.0 as usize;
                    prop_assert!(up[to] == (true, true), "a port that is down gets nothing");
                    let stopped = |(a, b, both): &(usize, usize, bool)| {
                        (*a, *b) == (from, to) || *both && (*b, *a) == (from, to)
                    };
                    prop_assert!(!partitions.iter().any(stopped), "a partition lets nothing through");
                }
                if let Some(header) = Header::parse(&bytes).filter(|_| result.is_ok()) {
                    prop_assert!(up[from] == (true, true));
                    prop_assert!(!header.dst.is_reserved() && !header.src.is_group());
                    let vid = header.tag.map_or(0, |tci| tci.vid());
                    let vlan = VlanId::new(vid).ok().or(modes[from].untagged()).unwrap();
                    learnt.insert((vlan, header.src), (from, now));
                    let fresh = learnt.get(&(vlan, header.dst)).filter(|(_, at)| now - *at <= AGEING);
                    if let Some((to, _)) = fresh.filter(|_| !header.dst.is_group()) {
                        prop_assert!(left.len() <= 1, "known unicast goes to one port");
                        prop_assert!(left.iter().all(|(port, _)| port.0 as usize == *to), "to the right one");
                    }
                } else if let (Err(DropReason::SamePort | DropReason::NoDestination), Some(header)) =
                    (&result, Header::parse(&bytes))
                {
                    let vid = header.tag.map_or(0, |tci| tci.vid());
                    let vlan = VlanId::new(vid).ok().or(modes[from].untagged()).unwrap();
                    learnt.insert((vlan, header.src), (from, now));
                }
                None
            }
            Step::Mode(port, mode) => {
                modes[port] = mode.clone();
                sw.set_mode(ports[port], mode);
                Some(port)
            }
            Step::Admin(port, admin) => {
                up[port].0 = admin;
                sw.set_admin(ports[port], admin);
                Some(port)
            }
            Step::Link(port, link) => {
                up[port].1 = link;
                sw.set_link(ports[port], link);
                Some(port)
            }
            Step::Partition(a, b, both) => {
                let spec = PartitionSpec::between([ports[a]], [ports[b]]);
                sw.partition(if both { spec } else { spec.one_way() });
                partitions.push((a, b, both));
                None
            }
            Step::Wait(seconds) => {
                now += Duration::from_secs(seconds);
                sw.age(now);
                None
            }
        };
        if let Some(changed) = changed {
            learnt.retain(|_, (port, _)| *port != changed);
        }
        check_fdb(&sw, &learnt, now)?;
    }
    Ok(())
}

fn check_fdb(
    sw: &Forwarder,
    learnt: &BTreeMap<(VlanId, Mac), (usize, Duration)>,
    now: Duration,
) -> Result<(), TestCaseError> {
    let fresh = learnt.iter().filter(|(_, (_, at))| now - *at <= AGEING);
    let expected: Vec<_> = fresh.map(|((vlan, mac), (port, at))| (*vlan, *mac, *port, now - *at)).collect();
    let entries = sw.fdb(now);
    let actual: Vec<_> =
        entries.iter().map(|entry| (entry.vlan, entry.mac, entry.port.0 as usize, entry.age)).collect();
    prop_assert_eq!(actual, expected, "a move is learnt at once, and nothing else is");
    Ok(())
}

fn any_run() -> impl Strategy<Value = (Vec<PortMode>, Vec<Step>)> {
    (proptest::collection::vec(any_mode(), 6), proptest::collection::vec(any_step(), 1..60))
}

proptest! {
    #[test]
    fn isolation_and_learning((modes, steps) in any_run()) {
        check_run(modes, steps, false)?;
    }

    #[test]
    fn every_frame_is_accounted_for((modes, steps) in any_run()) {
        let (mut sw, ports) = forwarder(modes);
        let (mut frames, mut copies) = (BTreeMap::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Frame(from, bytes) => {
                    *frames.entry(from).or_insert(0) += 1;
                    for (port, _) in send(&mut sw, ports[from], &bytes, T0).unwrap_or_default() {
                        *copies.entry(port).or_insert(0) += 1;
                    }
                }
                Step::Admin(port, up) => drop(sw.set_admin(ports[port], up)),
                Step::Link(port, up) => drop(sw.set_link(ports[port], up)),
                Step::Partition(a, b, _) => drop(sw.partition(PartitionSpec::between([ports[a]], [ports[b]]))),
                Step::Mode(..) | Step::Wait(_) => {}
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let PortCounters { rx, tx, .. } = sw.counters(*port).unwrap();
            prop_assert_eq!(rx.frames, frames.get(&index).copied().unwrap_or(0));
            prop_assert_eq!(rx.frames, rx.forwarded + rx.dropped_total());
            prop_assert_eq!(tx.offered, copies.get(port).copied().unwrap_or(0) + tx.dropped_total());
        }
    }
}

#[test]
fn the_isolation_property_notices_a_hub() {
    let mut runner = TestRunner::deterministic();
    match runner.run(&any_run(), |(modes, steps)| check_run(modes, steps, true)) {
        Err(TestError::Fail(reason, _)) => assert!(reason.message().contains("never leaves"), "{reason}"),
        other => panic!("a hub went unnoticed: {other:?}"),
    }
}

#[test]
fn a_place_that_is_taken_again_has_its_id_and_nothing_else_of_before() {
    let mut forwarder = Forwarder::new(Duration::from_secs(300));
    let mode = |vid| PortMode::Access { vlan: VlanId::new(vid).unwrap() };
    let id = forwarder.add_port(mode(1));
    assert!(!forwarder.add_port_again(id, mode(2)), "it is there");
    assert!(!forwarder.add_port_again(PortId(7), mode(2)), "there never was one");
    forwarder.set_admin(id, false);
    forwarder.counters_mut(id).unwrap().rx.frames = 5;
    assert!(forwarder.remove_port(id) && forwarder.add_port_again(id, mode(2)));
    assert_eq!((forwarder.mode(id), forwarder.admin(id)), (Some(&mode(2)), Some(true)));
    assert_eq!(forwarder.counters(id), Some(&PortCounters::default()));
    assert_ne!(forwarder.add_port(mode(1)), id);
}
