//! Any bytes as PDUs, with links that come and go and time that passes: no panic, nothing is left undone by a tick, at
//! most three LACPDUs a second, at most eight links, and none that is down.
//!
//! `seeds/lacp` has a bond that forms, without which a PDU is not found soon:
//! `cargo fuzz run lacp fuzz/corpus/lacp fuzz/seeds/lacp`.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use switch::lacp::{Aggregator, AggregatorConfig, ETHERTYPE, Pdu, SLOW_PROTOCOLS};
use switch::{LacpMode, LacpTimeout, Mac};

const SYSTEM: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PORTS: u16 = 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, mut rest)) = bytes.split_first() else { return };
    let config = AggregatorConfig {
        mode: [LacpMode::Active, LacpMode::Passive, LacpMode::Static, LacpMode::Active]
            [usize::from(first & 3)],
        timeout: if first & 4 == 0 { LacpTimeout::Short } else { LacpTimeout::Long },
        system: SYSTEM,
        key: 1,
        fallback: first & 8 != 0,
        ports: (1..=PORTS).collect(),
    };
    let mut aggregator = Aggregator::new(&config);
    let (mut now, mut up) = (Duration::ZERO, [false; 256]);
    let mut sent: BTreeMap<u16, Vec<Duration>> = BTreeMap::new();
    while let [what, port, tail @ ..] = rest {
        rest = tail;
        let number = u16::from(*port) % (PORTS + 1);
        match what % 4 {
            0 => {
                up[usize::from(number)] = true;
                aggregator.port_up(number, now);
            }
            1 => {
                up[usize::from(number)] = false;
                aggregator.port_down(number, now);
            }
            2 => now += Duration::from_millis(u64::from(*port) * u64::from(*what)),
            _ => {
                // The length of a PDU, or less. What no switch would take for a PDU is not worth the fuzzer's time.
                let (pdu, tail) = rest.split_at(rest.len().min(112));
                rest = tail;
                let header = [&SLOW_PROTOCOLS.0[..], &SYSTEM.0, &ETHERTYPE.to_be_bytes()].concat();
                if let Some(parsed) = Pdu::parse(&[&header, pdu].concat()) {
                    assert_eq!(Pdu::parse(&parsed.to_frame(SYSTEM)), Some(parsed));
                    aggregator.receive(number, &parsed, now);
                }
                // The same, from one that knows us, or the bundle would never form.
                if let (Some(Pdu::Lacp(mut pdu)), Some(status)) =
                    (Pdu::parse(&[&header, pdu].concat()), aggregator.status(number))
                {
                    pdu.partner = status.actor;
                    aggregator.receive(number, &Pdu::Lacp(pdu), now);
                }
            }
        }
        let tick = aggregator.tick(now);
        for (port, pdu) in tick.send {
            assert!(up[usize::from(port)]);
            if matches!(pdu, Pdu::Lacp(_)) {
                sent.entry(port).or_default().push(now);
            }
        }
        assert!(aggregator.next_deadline().is_none_or(|due| due > now));
        let active: Vec<u16> =
            (1..=PORTS).filter(|port| aggregator.status(*port).is_some_and(|status| status.active)).collect();
        assert!(active.len() <= 8 || config.mode == LacpMode::Static);
        assert!(active.iter().all(|port| up[usize::from(*port)]));
    }
    for times in sent.values() {
        assert!(times.windows(4).all(|four| four[3] - four[0] >= Duration::from_secs(1)));
    }
});
