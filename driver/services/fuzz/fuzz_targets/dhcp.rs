//! Any messages, one after the other: no panic, replies that fit into a packet, and never more leases than addresses.
//! The input is a row of messages, each preceded by the minutes before it (one byte) and its length (two, big endian).

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use services::{DhcpEngine, DhcpScope, Reservation};
use switch::Mac;

fuzz_target!(|input: &[u8]| {
    let scope = DhcpScope {
        reservations: vec![Reservation {
            mac: Mac([0x52, 0x54, 0, 1, 1, 1]),
            address: "192.168.1.1".parse().unwrap(),
            hostname: Some("server-1".into()),
        }],
        range: Some("192.168.1.100".parse().unwrap()..="192.168.1.101".parse().unwrap()),
        search: vec!["lab".into()],
        routes: vec![("10.0.0.0/8".parse().unwrap(), "192.168.1.9".parse().unwrap())],
        ..DhcpScope::default()
    };
    let mut engine = DhcpEngine::new("192.168.1.254/24".parse().unwrap(), scope).unwrap();
    let mut now = Instant::now();
    let mut rest = input;
    while let Some((&[minutes, high, low], behind)) = rest.split_first_chunk() {
        let (message, behind) = behind.split_at(behind.len().min(u16::from_be_bytes([high, low]).into()));
        let mut message = message.to_vec();
        rest = behind;
        // The cookie is a wall that chance seldom climbs.
        if let Some(cookie) = message.get_mut(236..240) {
            cookie.copy_from_slice(&[99, 130, 83, 99]);
        }
        if let Some(reply) = engine.handle(&message, now) {
            assert!((300..=1472).contains(&reply.message.len()));
        }
        assert!(engine.leases(now).len() <= 3);
        now += Duration::from_secs(60 * u64::from(minutes));
    }
});
