//! Any bytes as a frame: no panic, nothing leaves by a port that does not carry its VLAN, and the counters add up; what
//! is read in depth keeps within the frame and fits on one line.
//!
//! `seeds/frame_parser` has a frame of each protocol, without which a header that is whole is not found soon:
//! `cargo fuzz run frame_parser fuzz/corpus/frame_parser fuzz/seeds/frame_parser`.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use switch::{Forwarder, Frame, Header, PortMode, Summary, VlanId};

fuzz_target!(|bytes: &[u8]| {
    if let Some(summary) = Summary::parse(bytes) {
        let line = summary.to_string();
        assert!(!line.is_empty() && !line.contains('\n'));
        assert!(bytes.get(summary.payload.clone()).is_some());
        assert!(summary.payload.start >= 14 + 4 * summary.tags.len());
    }
    let vlan = |vid| VlanId::new(vid).unwrap();
    let modes = [
        PortMode::Access { vlan: vlan(1) },
        PortMode::Trunk { allowed: "1-2".parse().unwrap(), native: Some(vlan(1)) },
        PortMode::Trunk { allowed: "2-100".parse().unwrap(), native: None },
        PortMode::Access { vlan: vlan(2) },
    ];
    let mut forwarder = Forwarder::new(Duration::from_secs(300));
    let ports = modes.clone().map(|mode| forwarder.add_port(mode));
    for port in ports {
        forwarder.set_link(port, true);
    }
    let mut copies = Vec::new();
    for from in ports {
        let Ok((header, vlan)) = forwarder.ingress(from, bytes, Duration::ZERO, &mut copies) else { continue };
        for copy in &copies {
            assert_ne!(copy.port, from);
            let mode = forwarder.mode(copy.port).unwrap();
            assert!(mode.carries(vlan));
            let out = Frame::new(bytes).in_form(copy.form, &header, vlan);
            let tag = Header::parse(&out).unwrap().tag;
            assert_eq!(tag.map(|tci| tci.vid()), mode.tags(vlan).then_some(vlan.get()));
        }
        let rx = &forwarder.counters(from).unwrap().rx;
        assert_eq!(rx.frames, rx.forwarded + rx.dropped_total());
    }
});
