//! What is advertised, when, and to whom.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;
use switch::Mac;

use super::wire::{Solicitation, solicitation};
use super::*;
use crate::Error;

const ROUTER: Mac = Mac([0x02, 0x5e, 192, 168, 7, 254]);
const MACHINE: Mac = Mac([0x52, 0x54, 0, 1, 1, 1]);
const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn scope() -> RaScope {
    RaScope {
        prefixes: vec!["fd00:7::/64".parse().unwrap()],
        mtu: Some(1400),
        dns: vec![ip("fd00:7::53"), ip("fd00:7::54")],
        router_lifetime: 1800 * SECOND,
        ..RaScope::default()
    }
}

fn solicit(from: Ipv6Addr, hop_limit: u8, lladdr: Option<Mac>) -> Vec<u8> {
    let to = ip("ff02::2");
    let lladdr = lladdr.map(|mac| EthernetAddress(mac.0).into());
    let icmp = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr });
    let header = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MACHINE.0),
        dst_addr: EthernetAddress([0x33, 0x33, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + header.buffer_len() + icmp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet);
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    icmp.emit(&from, &to, &mut message, &ChecksumCapabilities::default());
    bytes
}

/// To whom an advertisement goes, and its bytes from the ICMPv6 type on; its checksum is right.
fn parts(frame: &[u8]) -> (Mac, Ipv6Addr, Vec<u8>) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let packet = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
    assert_eq!((packet.hop_limit(), packet.src_addr()), (255, ip("fe80::5e:c0ff:fea8:7fe")));
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(message.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
    (Mac(ethernet.dst_addr().0), packet.dst_addr(), packet.payload().to_vec())
}

#[test]
fn everything_is_in_an_advertisement() {
    let mut engine = RaEngine::new(ROUTER, scope(), Instant::now()).unwrap();
    assert_eq!(engine.addresses(), [ip("fe80::5e:c0ff:fea8:7fe"), ip("fd00:7::5e:c0ff:fea8:7fe")]);
    let (mac, to, message) = parts(&engine.tick(engine.due()).unwrap());
    assert_eq!((mac, to), (Mac([0x33, 0x33, 0, 0, 0, 1]), ip("ff02::1")));
    let packet = Icmpv6Packet::new_checked(&message[..]).unwrap();
    let NdiscRepr::RouterAdvert { router_lifetime, lladdr, mtu, prefix_info, .. } =
        NdiscRepr::parse(&packet).unwrap()
    else {
        panic!("no advertisement")
    };
    let prefix = prefix_info.unwrap();
    assert_eq!((router_lifetime.secs(), mtu), (1800, Some(1400)));
    assert_eq!(lladdr, Some(EthernetAddress(ROUTER.0).into()));
    assert_eq!((prefix.prefix, prefix.prefix_len, prefix.flags.bits()), (ip("fd00:7::"), 64, 0b1100_0000));
    assert_eq!((prefix.valid_lifetime.secs(), prefix.preferred_lifetime.secs()), (86400, 14400));
    // RFC 8106, 5.1: type, length in 8 bytes, reserved, lifetime, addresses.
    let dns = &message[message.len() - 40..];
    assert_eq!(dns[..8], [25, 5, 0, 0, 0, 0, 7, 8]);
    assert_eq!((&dns[8..24], &dns[24..]), (&ip("fd00:7::53").octets()[..], &ip("fd00:7::54").octets()[..]));
}

#[test]
fn who_asks_is_answered_alone_and_who_has_no_address_with_all() {
    let start = Instant::now();
    let mut engine = RaEngine::new(ROUTER, scope(), start + SECOND).unwrap();
    let machine = ip("fe80::5054:ff:fe01:101");
    let (mac, to, _) = parts(&engine.handle(&solicit(machine, 255, Some(MACHINE)), start).unwrap());
    assert_eq!((mac, to), (MACHINE, machine));
    let anonymous = solicit(Ipv6Addr::UNSPECIFIED, 255, None);
    assert_eq!(parts(&engine.handle(&anonymous, start).unwrap()).1, ip("ff02::1"));
    // Not twice within 3 s, but then at once.
    assert_eq!(engine.handle(&anonymous, start + SECOND), None);
    assert_eq!(engine.due(), start + 3 * SECOND);
    assert_eq!(engine.tick(start + 2 * SECOND), None);
    engine.tick(start + 3 * SECOND).unwrap();
    let counters = engine.counters();
    assert_eq!(
        (counters.solicitations, counters.unicast, counters.multicast, counters.malformed),
        (3, 1, 2, 0)
    );
}

#[test]
fn what_rfc_4861_has_dropped_is_counted_only() {
    let start = Instant::now();
    let mut engine = RaEngine::new(ROUTER, scope(), start + SECOND).unwrap();
    let machine = ip("fe80::5054:ff:fe01:101");
    let mut damaged = solicit(machine, 255, Some(MACHINE));
    *damaged.last_mut().unwrap() ^= 1;
    let bad =
        [solicit(machine, 64, Some(MACHINE)), solicit(Ipv6Addr::UNSPECIFIED, 255, Some(MACHINE)), damaged];
    for frame in bad {
        assert_eq!(solicitation(&frame, ROUTER), Some(Solicitation::Malformed));
        assert_eq!(engine.handle(&frame, start), None);
    }
    assert_eq!(engine.counters().malformed, 3);
    let mut other = solicit(machine, 255, Some(MACHINE));
    other[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(solicitation(&other, ROUTER), None);
}

#[test]
fn the_first_come_quickly_and_none_later_than_the_interval() {
    let start = Instant::now();
    for interval in [4, 30, 600, 1800] {
        let interval = interval * SECOND;
        let mut engine = RaEngine::new(ROUTER, RaScope { interval, ..scope() }, start).unwrap();
        for n in 1..50 {
            let now = engine.due();
            engine.tick(now).unwrap();
            let wait = engine.due() - now;
            let longest = if n < 3 { interval.min(16 * SECOND) } else { interval };
            assert!((3 * SECOND..=longest).contains(&wait), "{n}: {wait:?} of {interval:?}");
        }
    }
}

#[test]
fn what_cannot_be_advertised_is_refused() {
    let refused = |change: fn(&mut RaScope)| {
        let mut scope = scope();
        change(&mut scope);
        RaEngine::new(ROUTER, scope, Instant::now()).map(drop)
    };
    assert!(matches!(
        refused(|scope| scope.prefixes[0] = "fd00::/63".parse().unwrap()),
        Err(Error::Prefix { .. })
    ));
    assert!(matches!(
        refused(|scope| scope.prefixes[0] = "fe80::/64".parse().unwrap()),
        Err(Error::Prefix { .. })
    ));
    let told = |change, part: &str| {
        let error = refused(change).expect_err("it is refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    told(|scope| scope.prefixes.clear(), "0 prefixes");
    told(|scope| scope.mtu = Some(1279), "1279 bytes of MTU; expected 1280 to 65535");
    told(|scope| scope.preferred = scope.valid + SECOND, "86401 seconds of preference");
    told(|scope| scope.interval = SECOND, "1 seconds between");
    told(|scope| scope.router_lifetime = 9001 * SECOND, "9001 seconds as default router");
    refused(|_| ()).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in any::<Vec<u8>>(), at in 0_usize..200, value in any::<u8>()) {
        let now = Instant::now();
        let mut engine = RaEngine::new(ROUTER, scope(), now).unwrap();
        engine.handle(&bytes, now);
        let mut frame = solicit(ip("fe80::1"), 255, Some(MACHINE));
        frame.extend(bytes);
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        engine.handle(&frame, now);
    }
}
