//! Each machine by a table: what happens, and the state that it leads to.

use pretty_assertions::assert_eq;

use super::*;
use LacpMode::{Active, Passive, Static};
use MuxState::*;
use PeriodicState::*;
use ReceiveState::*;

#[derive(Clone, Copy, Debug)]
enum Do {
    Up,
    Down,
    /// A LACPDU that knows us, with this state.
    Hear(u8),
    /// One that does not know us.
    HearStranger(u8),
    /// Only time passes.
    Wait,
}

/// At so many milliseconds (after what is due has been done), this happens, and then the machines are so.
type Row = (u64, Do, ReceiveState, PeriodicState, Selected, MuxState);

fn check(name: &str, config: &AggregatorConfig, rows: &[Row]) {
    let mut bench = Bench::new(config);
    for (at, what, receive, periodic, selected, mux) in rows {
        bench.to(ms(*at));
        match what {
            Do::Up => bench.up(1),
            Do::Down => bench.down(1),
            Do::Hear(state) => bench.hear(1, *state),
            Do::HearStranger(state) => {
                bench.hear_from(1, GUEST, *state, PortInfo { port: 99, ..bench.status(1).actor });
            }
            Do::Wait => {}
        }
        let status = bench.status(1);
        let is = (status.receive, status.periodic, status.selected, status.mux);
        assert_eq!(is, (*receive, *periodic, *selected, *mux), "{name}, at {at} ms, after {what:?}");
        let bit = |bit| status.actor.state.has(bit);
        assert_eq!(bit(LacpBit::Synchronization), matches!(mux, Attached | CollectingDistributing));
        assert_eq!(bit(LacpBit::Collecting), *mux == CollectingDistributing);
        assert_eq!(bit(LacpBit::Distributing), *mux == CollectingDistributing);
        assert_eq!(bit(LacpBit::Expired), *receive == Expired);
        assert_eq!(status.active, *mux == CollectingDistributing);
    }
}

#[test]
fn an_active_bundle_with_a_fast_partner() {
    check(
        "fast",
        &config(Active, [1]),
        &[
            (0, Do::Wait, PortDisabled, NoPeriodic, Selected::Down, Detached),
            (0, Do::Up, Expired, Fast, Selected::Silent, Detached),
            (2999, Do::Wait, Expired, Fast, Selected::Silent, Detached),
            (3000, Do::Wait, Defaulted, Fast, Selected::Silent, Detached),
            (3500, Do::Hear(BEGINS), Current, Fast, Selected::Selected, Waiting),
            (4500, Do::Hear(BEGINS), Current, Fast, Selected::Selected, Waiting),
            (5499, Do::Wait, Current, Fast, Selected::Selected, Waiting),
            (5500, Do::Hear(BEGINS), Current, Fast, Selected::Selected, Attached),
            (6000, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
            (7000, Do::Hear(BEGINS), Current, Fast, Selected::Selected, Attached),
            (7100, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
            (7200, Do::HearStranger(IN_SYNC), Current, Fast, Selected::Selected, Attached),
            (7300, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
            (10_299, Do::Wait, Current, Fast, Selected::Selected, CollectingDistributing),
            (10_300, Do::Wait, Expired, Fast, Selected::Selected, Attached),
            (10_400, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
            (13_400, Do::Wait, Expired, Fast, Selected::Selected, Attached),
            (16_400, Do::Wait, Defaulted, Fast, Selected::Silent, Detached),
            (17_000, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, Waiting),
            (18_000, Do::Down, PortDisabled, NoPeriodic, Selected::Down, Detached),
            (60_000, Do::Up, Expired, Fast, Selected::Selected, Waiting),
            (60_100, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, Waiting),
            (62_000, Do::Wait, Current, Fast, Selected::Selected, CollectingDistributing),
            (62_100, Do::Down, PortDisabled, NoPeriodic, Selected::Down, Detached),
        ],
    );
}

#[test]
fn a_slow_partner_and_a_long_timeout() {
    let slow = IN_SYNC & !SHORT;
    let long = AggregatorConfig { timeout: LacpTimeout::Long, ..config(Active, [1]) };
    check(
        "slow",
        &long,
        &[
            (0, Do::Up, Expired, Fast, Selected::Silent, Detached),
            (500, Do::Hear(slow), Current, Slow, Selected::Selected, Waiting),
            (2500, Do::Wait, Current, Slow, Selected::Selected, CollectingDistributing),
            (90_499, Do::Wait, Current, Slow, Selected::Selected, CollectingDistributing),
            (90_500, Do::Wait, Expired, Fast, Selected::Selected, Attached),
            (90_600, Do::Hear(slow), Current, Slow, Selected::Selected, CollectingDistributing),
            (90_700, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
        ],
    );
}

#[test]
fn a_passive_bundle_speaks_when_spoken_to() {
    let passive = IN_SYNC & !ACTIVITY;
    check(
        "passive",
        &config(Passive, [1]),
        &[
            (0, Do::Up, Expired, NoPeriodic, Selected::Silent, Detached),
            (3000, Do::Wait, Defaulted, NoPeriodic, Selected::Silent, Detached),
            (4000, Do::Hear(BEGINS), Current, Fast, Selected::Selected, Waiting),
            (6000, Do::Hear(IN_SYNC), Current, Fast, Selected::Selected, CollectingDistributing),
            (6500, Do::Hear(passive), Current, NoPeriodic, Selected::Selected, Attached),
            (9500, Do::Wait, Expired, NoPeriodic, Selected::Selected, Attached),
            (12_500, Do::Wait, Defaulted, NoPeriodic, Selected::Silent, Detached),
        ],
    );
    check(
        "a passive partner of an active bundle",
        &config(Active, [1]),
        &[
            (0, Do::Up, Expired, Fast, Selected::Silent, Detached),
            (100, Do::Hear(passive), Current, Fast, Selected::Selected, Waiting),
            (2100, Do::Hear(passive), Current, Fast, Selected::Selected, CollectingDistributing),
        ],
    );
}

#[test]
fn a_static_bundle_needs_no_partner_and_takes_none() {
    check(
        "static",
        &config(Static, [1]),
        &[
            (0, Do::Wait, PortDisabled, NoPeriodic, Selected::Down, Detached),
            (0, Do::Up, LacpDisabled, NoPeriodic, Selected::Selected, CollectingDistributing),
            (100, Do::Hear(BEGINS), LacpDisabled, NoPeriodic, Selected::Selected, CollectingDistributing),
            (200_000, Do::Down, PortDisabled, NoPeriodic, Selected::Down, Detached),
            (200_000, Do::Up, LacpDisabled, NoPeriodic, Selected::Selected, CollectingDistributing),
        ],
    );
    let mut bench = Bench::new(&config(Static, 1..=12));
    (1..=12).for_each(|port| bench.up(port));
    bench.to(ms(60_000));
    assert_eq!((bench.active().len(), bench.sent.len()), (12, 0));
}

#[test]
fn an_individual_link_is_left_alone_or_used_alone() {
    let individual = IN_SYNC & !AGGREGATION;
    let alone = |fallback, (selected, mux)| {
        let config = AggregatorConfig { fallback, ..config(Active, [1]) };
        let rows: [Row; 3] = [
            (0, Do::Up, Expired, Fast, Selected::Silent, Detached),
            (100, Do::Hear(individual), Current, Fast, selected, if fallback { Waiting } else { Detached }),
            (2100, Do::Hear(individual), Current, Fast, selected, mux),
        ];
        check("individual", &config, &rows);
    };
    alone(false, (Selected::Individual, Detached));
    alone(true, (Selected::Selected, CollectingDistributing));
}

#[test]
fn without_a_partner_one_link_is_used_only_if_asked_for() {
    for fallback in [false, true] {
        let mut bench = Bench::new(&AggregatorConfig { fallback, ..config(Active, [1, 2]) });
        bench.up(1);
        bench.up(2);
        bench.to(ms(4999));
        assert_eq!(bench.active(), [0u16; 0]);
        bench.to(ms(5000));
        assert_eq!(bench.active(), if fallback { vec![1] } else { vec![] }, "3 s of silence, 2 s of waiting");
        bench.down(1);
        bench.to(ms(7000));
        assert_eq!(bench.active(), if fallback { vec![2] } else { vec![] });
        bench.up(1);
        bench.hear_until(ms(9500), &[1, 2], IN_SYNC);
        assert_eq!(bench.active(), [1, 2], "a partner that speaks LACP takes over");
    }
}

#[test]
fn links_of_one_partner_join_together_and_leave_alone() {
    let mut bench = Bench::new(&config(Active, [1, 2]));
    bench.up(1);
    bench.hear(1, IN_SYNC);
    bench.to(ms(1000));
    bench.up(2);
    bench.hear(2, IN_SYNC);
    bench.hear(1, IN_SYNC);
    bench.to(ms(2999));
    assert_eq!(bench.active(), [0u16; 0], "the first waits for the second");
    bench.to(ms(3000));
    let joined = |port| (ms(3000), Change { port, left: None });
    assert_eq!(bench.changes, [joined(1), joined(2)]);

    bench.changes.clear();
    bench.down(2);
    let left = |at, port, why| (ms(at), Change { port, left: Some(why) });
    assert_eq!(bench.changes, [left(3000, 2, LeaveReason::LinkDown)], "at once");
    bench.to(ms(4000));
    assert_eq!(
        bench.changes,
        [left(3000, 2, LeaveReason::LinkDown), left(4000, 1, LeaveReason::PartnerSilent)]
    );
    bench.changes.clear();
    bench.hear(1, IN_SYNC);
    bench.hear(1, BEGINS);
    bench.hear(1, IN_SYNC);
    bench.hear_from(1, Mac([9; 6]), IN_SYNC, bench.status(1).actor);
    let whys: Vec<_> = bench.changes.iter().map(|(_, change)| change.left).collect();
    let (out_of_sync, changed) = (LeaveReason::PartnerOutOfSync, LeaveReason::PartnerChanged);
    // A port of another partner is chosen again at once, but has to wait.
    assert_eq!(whys, [None, Some(out_of_sync), None, Some(changed)]);
}

#[test]
fn a_link_of_another_partner_stays_out() {
    let mut bench = Bench::new(&config(Active, [1, 2, 3]));
    (1..=3).for_each(|port| bench.up(port));
    let other = Mac([0x52, 0x54, 0, 0, 0, 0x77]);
    for second in 0..5 {
        bench.to(ms(second * 1000));
        bench.hear(2, IN_SYNC);
        bench.hear(3, IN_SYNC);
        bench.hear_from(1, other, IN_SYNC, bench.status(1).actor);
    }
    assert_eq!(
        bench.active(),
        [2, 3],
        "the partner with the most links, though another one has the first port"
    );
    assert_eq!(bench.status(1).selected, Selected::OtherPartner);
    bench.down(2);
    bench.down(3);
    bench.to(ms(6000));
    assert_eq!(bench.active(), [1], "nobody else is left");
    assert_eq!(bench.status(2).selected, Selected::Down);
}

#[test]
fn a_cable_from_the_switch_to_itself_is_no_link() {
    let mut bench = Bench::new(&config(Active, [1, 2]));
    for (port, other) in [(1, 2), (2, 1)] {
        bench.up(port);
        let (actor, partner) = (bench.status(other).actor, bench.status(port).actor);
        let pdu = Pdu::Lacp(Lacpdu { actor, partner, collector_max_delay: 0 });
        bench.aggregator.receive(port, &pdu, bench.now);
    }
    bench.to(ms(2500));
    assert_eq!(bench.active(), [0u16; 0]);
    assert_eq!(bench.status(1).selected, Selected::Loopback);
}

#[test]
fn eight_links_at_most_and_the_ninth_stands_by() {
    let all: Vec<u16> = (1..=9).collect();
    let mut bench = Bench::new(&config(Active, all.clone()));
    all.iter().for_each(|port| bench.up(*port));
    bench.hear_until(ms(2000), &all, IN_SYNC);
    assert_eq!(bench.active(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((bench.status(9).selected, bench.status(9).mux), (Selected::Standby, Waiting));
    bench.down(3);
    assert_eq!(bench.active(), [1, 2, 4, 5, 6, 7, 8, 9], "it has waited already");
    bench.up(3);
    bench.hear_until(ms(6000), &all, IN_SYNC);
    assert_eq!(bench.status(3).selected, Selected::Standby, "nothing is rearranged without need");
}

#[test]
fn a_partner_that_moved_to_another_port_is_forgotten_on_the_old_one() {
    let mut bench = Bench::new(&config(Active, [1, 2]));
    bench.up(1);
    bench.hear(1, IN_SYNC);
    bench.down(1);
    assert_eq!(bench.status(1).partner.system, GUEST, "a cable that is plugged in again is known again");
    bench.up(2);
    let (mut actor, partner) = (bench.status(1).partner, bench.status(2).actor);
    actor.state = LacpState(IN_SYNC);
    bench.aggregator.receive(2, &Pdu::Lacp(Lacpdu { actor, partner, collector_max_delay: 0 }), bench.now);
    assert_eq!(bench.status(1).partner.system, Mac([0; 6]));
    assert_eq!(bench.status(2).partner.system, GUEST);
}

#[test]
fn pdus_come_each_second_to_a_fast_partner_and_each_thirty_to_a_slow_one() {
    let mut bench = Bench::new(&config(Active, [1]));
    bench.up(1);
    bench.to(ms(4500));
    assert_eq!(bench.times(1), [1000, 2000, 3000, 4000], "nobody was heard");
    bench.sent.clear();
    for second in 0..100 {
        bench.to(ms(5000 + second * 1000));
        bench.hear(1, IN_SYNC & !SHORT);
    }
    let times = bench.times(1);
    let periodic: Vec<u64> = times.iter().copied().filter(|at| *at > 8000).collect();
    assert_eq!(periodic, [35_000, 65_000, 95_000], "{times:?}");
}

#[test]
fn no_more_than_three_pdus_a_second() {
    let mut bench = Bench::new(&config(Active, [1]));
    bench.up(1);
    for step in 0..100 {
        bench.to(ms(step * 10));
        bench.hear_from(1, GUEST, IN_SYNC, PortInfo { port: 99, ..bench.status(1).actor });
    }
    assert_eq!(bench.times(1), [0, 10, 20], "each of the hundred asks for one");
    bench.to(ms(1020));
    assert_eq!(bench.times(1), [0, 10, 20, 1000], "what was held back comes when it may");
}

#[test]
fn markers_are_answered_as_they_were_asked_ten_a_second() {
    let mut bench = Bench::new(&config(Passive, [1]));
    let marker = |transaction| Marker { requester_port: 3, requester_system: GUEST, transaction };
    bench.aggregator.receive(1, &Pdu::Marker(marker(0)), bench.now);
    assert_eq!(bench.aggregator.next_deadline(), None, "a port that is down answers nothing");
    bench.up(1);
    bench.aggregator.receive(1, &Pdu::MarkerResponse(marker(0)), bench.now);
    for transaction in 1..=30 {
        bench.aggregator.receive(1, &Pdu::Marker(marker(transaction)), bench.now);
        bench.tick();
    }
    let answers: Vec<Pdu> = bench.sent.iter().map(|(.., pdu)| *pdu).collect();
    assert_eq!(answers, (1..=10).map(|n| Pdu::MarkerResponse(marker(n))).collect::<Vec<_>>());
    bench.to(ms(1000));
    assert_eq!(bench.sent.len(), 20, "ten waited, the rest is dropped");
    bench.to(ms(5000));
    assert_eq!(bench.sent.len(), 20);
}

/// Two of our own, with a cable that loses nothing: what one says is what the other needs.
#[test]
fn two_aggregators_find_each_other_unless_both_are_passive() {
    for (a, b, meet) in [(Active, Active, true), (Active, Passive, true), (Passive, Passive, false)] {
        let mut ends = [a, b].map(|mode| Bench::new(&config(mode, [1, 2])));
        ends[1] = Bench::new(&AggregatorConfig { system: GUEST, ..config(b, [1, 2]) });
        for end in &mut ends {
            end.up(1);
            end.up(2);
        }
        for step in 1..=100 {
            for end in &mut ends {
                end.to(ms(step * 100));
            }
            for (from, to) in [(0, 1), (1, 0)] {
                for (_, port, pdu) in std::mem::take(&mut ends[from].sent) {
                    let now = ends[to].now;
                    ends[to].aggregator.receive(port, &pdu, now);
                }
            }
        }
        for end in &ends {
            assert_eq!(end.active(), if meet { vec![1, 2] } else { vec![] }, "{a:?} and {b:?}");
            let last = end.changes.last().map_or(Duration::ZERO, |(at, _)| *at);
            assert!(last <= ms(4000), "formed at {last:?}, and nothing moved afterwards");
        }
    }
}
