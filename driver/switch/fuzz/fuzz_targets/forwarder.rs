//! Any sequence of frames and changes to a switch with four ports and a bundle of two: no panic, nothing leaves by a
//! port that is down, does not carry the VLAN or is the one (or the bundle) that it came from, a bundle gets one copy,
//! and every frame is accounted for.
//!
//! `seeds/forwarder` has a conversation: `cargo fuzz run forwarder fuzz/corpus/forwarder fuzz/seeds/forwarder`.

#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use switch::{Forwarder, HashPolicy, PartitionSpec, PortId, PortMode, VlanId};

/// How many ports there are, the bundle and its two members included.
const PORTS: usize = 7;
const AGEING: Duration = Duration::from_secs(300);

fn modes() -> [PortMode; 4] {
    let vlan = |vid| VlanId::new(vid).unwrap();
    [
        PortMode::Access { vlan: vlan(1) },
        PortMode::Trunk { allowed: "1-2".parse().unwrap(), native: Some(vlan(1)) },
        PortMode::Trunk { allowed: "2-100".parse().unwrap(), native: None },
        PortMode::Access { vlan: vlan(2) },
    ]
}

/// What the switch was told of a port, by its number.
#[derive(Clone, Copy)]
struct Told {
    admin: bool,
    link: bool,
    active: bool,
}

fuzz_target!(|bytes: &[u8]| {
    let modes = modes();
    let mut forwarder = Forwarder::new(AGEING);
    let mut ports: Vec<PortId> =
        modes.iter().chain(&modes[..2]).map(|mode| forwarder.add_port(mode.clone())).collect();
    let members = [ports[4], ports[5]];
    let bundle = forwarder.add_bundle(modes[1].clone(), HashPolicy::Layer34, &members).unwrap();
    ports.push(bundle);
    let mut told = [Told { admin: true, link: true, active: false }; PORTS];
    ports[..6].iter().for_each(|port| assert!(forwarder.set_link(*port, true)));
    let (mut now, mut partitions, mut copies) = (Duration::ZERO, Vec::new(), Vec::new());

    let mut rest = bytes;
    while let [what, which, tail @ ..] = rest {
        rest = tail;
        let number = usize::from(*which) % PORTS;
        let (port, on) = (ports[number], which & 0x80 != 0);
        match what % 16 {
            0 => {
                told[number].admin = on;
                // As far as a port's own state goes, a member that is down has left.
                told[number].active &= on;
                assert!(forwarder.set_admin(port, on));
            }
            // A bundle's link is that of its members.
            1 if port != bundle => {
                told[number].link = on;
                told[number].active &= on;
                assert!(forwarder.set_link(port, on));
            }
            2 => {
                let Told { admin, link, .. } = told[number];
                let is_member = forwarder.set_active(port, on);
                assert_eq!(is_member, members.contains(&port));
                told[number].active = is_member && on && admin && link;
            }
            3 if !members.contains(&port) => {
                assert!(forwarder.set_mode(port, modes[usize::from(*what) / 16 % modes.len()].clone()));
            }
            4 => {
                let other = ports[usize::from(*what) / 16 % PORTS];
                let spec = PartitionSpec::between([port], [other]);
                partitions.push(forwarder.partition(if on { spec.one_way() } else { spec }));
            }
            5 => drop(partitions.pop().map(|id| forwarder.heal(id).unwrap())),
            6 => now += Duration::from_secs(u64::from(*which)),
            7 if *which == 0 => forwarder.flush(),
            7 => forwarder.age(now),
            _ => {
                let [length, tail @ ..] = rest else { return };
                let (frame, tail) = tail.split_at(usize::from(*length).min(tail.len()));
                rest = tail;
                check_frame(&mut forwarder, &ports, &told, number, frame, now, &mut copies);
            }
        }
    }
    for port in ports {
        let counters = forwarder.counters(port).unwrap();
        assert_eq!(counters.rx.frames, counters.rx.forwarded + counters.rx.dropped_total());
        assert!(counters.tx.dropped_total() <= counters.tx.offered);
    }
});

fn check_frame(
    forwarder: &mut Forwarder,
    ports: &[PortId],
    told: &[Told; PORTS],
    number: usize,
    frame: &[u8],
    now: Duration,
    copies: &mut Vec<switch::Egress>,
) {
    let from = ports[number];
    let offered = |forwarder: &Forwarder| -> u64 {
        let tx = ports.iter().map(|port| &forwarder.counters(*port).unwrap().tx);
        tx.map(|tx| tx.offered - tx.dropped_total()).sum()
    };
    let before = offered(forwarder);
    let verdict = forwarder.ingress(from, frame, now, copies);
    assert_eq!(offered(forwarder) - before, copies.len() as u64);
    let Ok((_, vlan)) = verdict else {
        assert!(copies.is_empty());
        return;
    };
    assert!(told[number].admin && told[number].link);
    let mut logical = BTreeSet::from([forwarder.bundle_of(from).unwrap_or(from)]);
    for copy in copies {
        let rules = forwarder.bundle_of(copy.port).unwrap_or(copy.port);
        assert!(logical.insert(rules), "a second copy, or one that comes back");
        assert!(forwarder.mode(rules).unwrap().carries(vlan));
        assert_eq!(forwarder.admin(rules), Some(true));
        let to = ports.iter().position(|port| *port == copy.port).unwrap();
        assert!(told[to].admin && told[to].link);
        assert_eq!(told[to].active, rules != copy.port);
    }
    let fdb = forwarder.fdb(now);
    assert!(fdb.iter().all(|entry| forwarder.bundle_of(entry.port).is_none() && entry.age <= AGEING));
}
