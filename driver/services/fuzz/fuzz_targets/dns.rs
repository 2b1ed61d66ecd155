//! Any bytes as a query: no panic, and an answer that fits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use services::{RecordData, Zone};

fuzz_target!(|query: &[u8]| {
    let mut zone = Zone::new("lab").unwrap();
    zone.set_subnet("192.168.1.0/24".parse().unwrap());
    zone.host("a", "192.168.1.1".parse().unwrap()).unwrap();
    zone.add("b", RecordData::Cname("a".into())).unwrap();
    for text in 0..16 {
        zone.add("c", RecordData::Txt(format!("{text:0200}"))).unwrap();
    }
    if let Some(answer) = zone.answer(query, 1232) {
        assert!((12..=1232).contains(&answer.len()));
    }
    zone.answer(query, u16::MAX);
});
