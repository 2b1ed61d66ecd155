//! Any frames, one after the other: no panic, and answers to solicitations only, which fit into a packet. The input is a
//! row of frames, each preceded by the seconds before it (one byte) and its length (two, big endian).

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use services::{RaEngine, RaScope};
use switch::Mac;

fuzz_target!(|input: &[u8]| {
    let scope = RaScope {
        prefixes: vec!["fd00:7::/64".parse().unwrap()],
        mtu: Some(1400),
        dns: vec!["fd00:7::53".parse().unwrap()],
        ..RaScope::default()
    };
    let mut now = Instant::now();
    let mut engine = RaEngine::new(Mac([2, 0x5e, 192, 168, 7, 254]), scope, now).unwrap();
    let mut rest = input;
    while let Some((&[seconds, high, low], behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(behind.len().min(u16::from_be_bytes([high, low]).into()));
        rest = behind;
        now += Duration::from_secs(seconds.into());
        let answers = [engine.handle(frame, now), engine.tick(now)];
        assert!(answers.iter().flatten().all(|frame| frame.len() <= 14 + 1280));
        assert!(engine.due() > now, "a tick leaves nothing due");
    }
    let counters = engine.counters();
    assert!(counters.unicast + counters.malformed <= counters.solicitations);
});
