//! Any bytes as an LLDPDU: no panic, one line of text whatever a peer says, and what was read can be written, in a frame
//! of ordinary size, and read again.
//!
//! `seeds/lldp` has what lldpd, systemd-networkd and this switch say:
//! `cargo fuzz run lldp fuzz/corpus/lldp fuzz/seeds/lldp`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use switch::lldp::{ETHERTYPE, Lldpdu, NEAREST_BRIDGE};
use switch::{Mac, Summary};

const SRC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fuzz_target!(|bytes: &[u8]| {
    // What is no LLDP by its header is not worth the fuzzer's time.
    let header = [&NEAREST_BRIDGE.0[..], &SRC.0, &ETHERTYPE.to_be_bytes()].concat();
    let frame = [&header, bytes].concat();
    let parsed = Lldpdu::parse(&frame);
    let summary = Summary::parse(&frame).expect("it has a header");
    assert_eq!(summary.lldp(), parsed.as_ref());
    assert!(!summary.to_string().contains('\n'), "what a peer says stays in its line");
    let Some(pdu) = parsed else { return };
    let written = pdu.to_frame(SRC);
    assert!(written.len() <= 1514);
    let again = Lldpdu::parse(&written).expect("what was written can be read");
    assert_eq!((&again.chassis, &again.port, again.ttl), (&pdu.chassis, &pdu.port, pdu.ttl));
    // The second time nothing is cut any more.
    assert_eq!(Lldpdu::parse(&again.to_frame(SRC)).as_ref(), Some(&again));
});
