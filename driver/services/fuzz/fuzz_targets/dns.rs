//! Any bytes as a query: no panic, and an answer that fits.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use services::{RecordData, Zone};

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let mut zone = Zone::new("lab").unwrap();
    zone.set_subnet("192.168.1.0/24".parse().unwrap());
    zone.host("a", "192.168.1.1".parse().unwrap()).unwrap();
    zone.add("b", RecordData::Cname("a".into())).unwrap();
    for text in 0..16 {
        zone.add("c", RecordData::Txt(format!("{text:0200}"))).unwrap();
    }
    zone
});

fuzz_target!(|query: &[u8]| {
    if let Some(answer) = ZONE.answer(query, 1232) {
        assert!((12..=1232).contains(&answer.len()));
    }
    ZONE.answer(query, u16::MAX);
});
