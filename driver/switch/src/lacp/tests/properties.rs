//! What must hold whatever comes.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Up(u16),
    Down(u16),
    Pdu(u16, u8, u8, bool),
    Marker(u16),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let port = 1u16..=10;
    prop_oneof![
        3 => port.clone().prop_map(Step::Up),
        1 => port.clone().prop_map(Step::Down),
        8 => (port.clone(), 0u8..3, any::<u8>(), any::<bool>())
            .prop_map(|(port, system, state, knows)| Step::Pdu(port, system, state, knows)),
        1 => port.prop_map(Step::Marker),
        4 => prop_oneof![0u64..300, 900u64..3100, 20_000u64..100_000].prop_map(Step::Wait),
    ]
}

fn any_config() -> impl Strategy<Value = AggregatorConfig> {
    let mode = prop_oneof![3 => Just(LacpMode::Active), 1 => Just(LacpMode::Passive)];
    (mode, any::<bool>(), any::<bool>()).prop_map(|(mode, long, fallback)| {
        let timeout = if long { LacpTimeout::Long } else { LacpTimeout::Short };
        AggregatorConfig { timeout, fallback, ..config(mode, 1..=10) }
    })
}

proptest! {
    #[test]
    fn the_rules_hold_whatever_comes(
        config in any_config(),
        steps in proptest::collection::vec(any_step(), 1..120),
    ) {
        let mut bench = Bench::new(&config);
        let mut up = [false; 11];
        let mut told = [false; 11];
        for step in steps {
            match step {
                Step::Up(port) => {
                    up[usize::from(port)] = true;
                    bench.up(port);
                }
                Step::Down(port) => {
                    up[usize::from(port)] = false;
                    bench.down(port);
                }
                Step::Pdu(port, system, state, knows) => {
                    // One of them is ourselves.
                    let system = if system == 0 { US } else { Mac([2, 0, 0, 0, 1, system]) };
                    let known = bench.status(port).actor;
                    bench.hear_from(port, system, state, if knows { known } else { bench.status(1).partner });
                }
                Step::Marker(port) => {
                    let marker = Marker { requester_port: 1, requester_system: GUEST, transaction: 1 };
                    bench.aggregator.receive(port, &Pdu::Marker(marker), bench.now);
                }
                Step::Wait(time) => bench.to(bench.now + ms(time)),
            }
            bench.tick();
            let due = bench.aggregator.next_deadline();
            prop_assert!(due.is_none_or(|due| due > bench.now), "a tick leaves nothing undone");

            for (_, change) in bench.changes.drain(..) {
                let told = &mut told[usize::from(change.port)];
                prop_assert_eq!(*told, change.left.is_some(), "a port joins, then leaves");
                *told = !*told;
            }
            let active = bench.active();
            prop_assert!(active.len() <= 8);
            let partners: Vec<PortInfo> = active.iter().map(|port| bench.status(*port).partner).collect();
            for partner in &partners {
                let who = |info: &PortInfo| (info.system_priority, info.system, info.key);
                prop_assert_eq!(who(partner), who(&partners[0]), "one bundle has one partner");
                prop_assert!(partners.len() == 1 || partner.state.has(LacpBit::Aggregation));
                prop_assert!(partner.state.has(LacpBit::Synchronization));
            }
            for port in 1..=10u16 {
                let index = usize::from(port);
                prop_assert_eq!(told[index], active.contains(&port), "every change is told");
                prop_assert!(!told[index] || up[index], "what is down carries nothing");
            }
        }
        for port in 1..=10 {
            let pdus: Vec<Duration> = bench
                .sent
                .iter()
                .filter(|(_, of, pdu)| *of == port && matches!(pdu, Pdu::Lacp(_)))
                .map(|(at, ..)| *at)
                .collect();
            for four in pdus.windows(4) {
                prop_assert!(four[3] - four[0] >= ms(1000), "three PDUs a second: {:?}", four);
            }
        }
    }
}
