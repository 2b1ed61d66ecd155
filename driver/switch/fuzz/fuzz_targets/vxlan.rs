//! Any bytes as a VXLAN datagram, and what is in it as a frame on a trunk: no panic, a frame is the end of its datagram, and
//! whatever was taken is taken again from a header of our own.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use switch::{Forwarder, PortMode, VXLAN_HEADER, VlanId, Vni};

fuzz_target!(|bytes: &[u8]| {
    let vni = match bytes {
        // As often as not, the one of the datagram.
        [first, _, _, _, a, b, c, ..] if first & 1 == 0 => u32::from_be_bytes([0, *a, *b, *c]),
        _ => 42,
    };
    let vni = Vni::new(vni).unwrap();
    let Ok(frame) = vni.frame(bytes) else { return };
    assert_eq!(frame, &bytes[VXLAN_HEADER..]);
    let again = [&vni.header()[..], frame].concat();
    assert_eq!(vni.frame(&again), Ok(frame));
    let mut forwarder = Forwarder::new(Duration::from_secs(300));
    let uplink = forwarder.add_port(PortMode::Trunk { allowed: "2-100".parse().unwrap(), native: None });
    let station = forwarder.add_port(PortMode::Access { vlan: VlanId::new(2).unwrap() });
    for port in [uplink, station] {
        forwarder.set_link(port, true);
    }
    let mut copies = Vec::new();
    let _ = forwarder.ingress(uplink, frame, Duration::ZERO, &mut copies);
    let rx = &forwarder.counters(uplink).unwrap().rx;
    assert_eq!((rx.frames, rx.frames), (1, rx.forwarded + rx.dropped_total()));
});
