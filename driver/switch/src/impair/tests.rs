//! Whole impairments on a clock of their own.

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const A: PortId = PortId(0);
const B: PortId = PortId(1);
const PORT: ImpairTarget = ImpairTarget::Port(B);
const PAIR: ImpairTarget = ImpairTarget::Pair { from: A, to: B };

/// A frame that can be told from others: its number is behind its header.
fn frame(number: u32, length: usize) -> Frame {
    let mut bytes = b"\x52\x54\x00\x00\x00\x02\x52\x54\x00\x00\x00\x01\x88\xb5".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.resize(length.max(18), 0);
    Frame::new(&bytes)
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// A shaper, and a clock that stands still until it is told to go on.
struct Bench {
    shaper: Shaper,
    now: Duration,
    fates: Vec<Fate>,
    /// Frames that left, and when.
    left: Vec<(Duration, u32)>,
    dropped: BTreeMap<DropReason, u64>,
    corrupted: u64,
    duplicated: u64,
    reordered: u64,
}

impl Bench {
    fn new(seed: u64, rules: &[(ImpairTarget, Impairment)]) -> Bench {
        let mut bench = Bench {
            shaper: Shaper::new(seed, 1 << 20),
            now: Duration::from_secs(1),
            fates: Vec::new(),
            left: Vec::new(),
            dropped: BTreeMap::new(),
            corrupted: 0,
            duplicated: 0,
            reordered: 0,
        };
        for (target, impairment) in rules {
            bench.set(*target, impairment);
        }
        bench
    }

    fn set(&mut self, target: ImpairTarget, impairment: &Impairment) -> ImpairmentId {
        assert_eq!(impairment.problems(), [""; 0]);
        let id = self.shaper.set(target, "key", impairment.clone(), self.now, &mut self.fates);
        self.settle();
        id
    }

    fn offer(&mut self, number: u32, length: usize) {
        let vlan = VlanId::new(1).unwrap();
        let parcel = Parcel { from: A, to: B, vlan, frame: frame(number, length) };
        self.shaper.offer(parcel, self.now, &mut self.fates);
        self.settle();
    }

    fn go_on(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.shaper.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.shaper.release(self.now, &mut self.fates);
            self.settle();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(due) = self.shaper.next_due() {
            self.go_on(due.saturating_sub(self.now));
        }
    }

    fn settle(&mut self) {
        for fate in self.fates.drain(..) {
            match fate {
                Fate::Leaves(parcel) => self.left.push((self.now, number(&parcel.frame))),
                Fate::Dropped(_, reason) => *self.dropped.entry(reason).or_default() += 1,
                Fate::Corrupted(_) => self.corrupted += 1,
                Fate::Duplicated(_) => self.duplicated += 1,
                Fate::Reordered(_) => self.reordered += 1,
            }
        }
    }

    fn numbers(&self) -> Vec<u32> {
        self.left.iter().map(|(_, number)| *number).collect()
    }

    fn counters(&self) -> ImpairmentCounters {
        self.shaper.state()[0].counters
    }
}

#[test]
fn without_an_impairment_frames_leave_at_once() {
    let mut bench = Bench::new(0, &[]);
    assert!(bench.shaper.is_idle());
    bench.offer(1, 100);
    assert_eq!(bench.left, [(bench.now, 1)]);
}

#[test]
fn both_impairments_apply_the_pair_s_first() {
    let mut bench =
        Bench::new(0, &[(PAIR, Impairment::new().delay(20 * MS)), (PORT, Impairment::new().delay(30 * MS))]);
    let start = bench.now;
    bench.offer(1, 100);
    bench.go_on(49 * MS);
    assert_eq!(bench.left, []);
    assert_eq!(bench.shaper.load(B).frames, 1);
    bench.drain();
    assert_eq!(bench.left, [(start + 50 * MS, 1)]);
    assert_eq!(bench.shaper.load(B), FrameQueue::default());
    // The port's sees only what the pair's let through.
    bench.set(PAIR, &Impairment::new().loss(1.0));
    bench.offer(2, 100);
    let frames: Vec<u64> = bench.shaper.state().iter().map(|state| state.counters.frames).collect();
    assert_eq!(frames, [1, 1]);
}

#[test]
fn another_pair_and_another_port_are_spared() {
    let elsewhere = ImpairTarget::Pair { from: B, to: A };
    let loss = Impairment::new().loss(1.0);
    let mut bench = Bench::new(0, &[(elsewhere, loss.clone()), (ImpairTarget::Port(A), loss)]);
    bench.offer(1, 100);
    assert_eq!(bench.numbers(), [1]);
}

/// A thread that wakes up 7 ms late lets frames go late, and nothing adds up in the second impairment.
#[test]
fn a_late_release_does_not_add_up() {
    let mut bench =
        Bench::new(0, &[(PAIR, Impairment::new().delay(20 * MS)), (PORT, Impairment::new().delay(30 * MS))]);
    let start = bench.now;
    bench.offer(1, 100);
    bench.now += 27 * MS;
    bench.shaper.release(bench.now, &mut bench.fates);
    assert_eq!(bench.shaper.next_due(), Some(start + 50 * MS));
}

#[test]
fn ten_megabits_are_ten_megabits() {
    // 100 frames fill the queue; the source is twice as fast, for 10 s.
    for length in [64, 1514] {
        let rate = Impairment::new().rate(10_000_000).queue(100 * length as u64);
        let mut bench = Bench::new(0, &[(PORT, rate)]);
        let start = bench.now;
        let gap = Duration::from_nanos(length as u64 * 8 * 1_000_000_000 / 20_000_000);
        while bench.now < start + Duration::from_secs(10) {
            bench.offer(0, length);
            bench.go_on(gap);
        }
        let during = bench.left.iter().filter(|(at, _)| *at > start + Duration::from_secs(1)).count();
        let rate = (during * length * 8) as f64 / (bench.now - start - Duration::from_secs(1)).as_secs_f64();
        assert!((rate / 10e6 - 1.0).abs() < 0.001, "{rate} bit/s with frames of {length} bytes");
        let dropped = bench.dropped[&DropReason::RateQueueFull];
        assert_eq!(dropped, bench.counters().queue_full);
        let waiting = bench.shaper.load(B).frames;
        assert_eq!(bench.counters().frames, bench.left.len() as u64 + dropped + waiting);
        assert!(waiting <= 101, "{waiting} frames wait");
    }
}

/// A rate at which a frame takes 51.2 ns: rounding to whole nanoseconds would show.
#[test]
fn a_fast_rate_is_not_rounded() {
    let mut bench = Bench::new(0, &[(PORT, Impairment::new().rate(10_000_000_000).queue(1 << 30))]);
    let start = bench.now;
    (0..5000).for_each(|n| bench.offer(n, 64));
    bench.drain();
    assert_eq!((bench.now - start).as_nanos(), 5000 * 512 / 10);
}

#[test]
fn the_queue_of_a_rate_is_bounded_and_a_burst_leaves_at_the_rate() {
    let mut bench = Bench::new(0, &[(PORT, Impairment::new().rate(8_000_000).queue(10_000))]);
    let start = bench.now;
    (0..20).for_each(|n| bench.offer(n, 1000));
    assert_eq!(bench.dropped, BTreeMap::from([(DropReason::RateQueueFull, 10)]));
    bench.drain();
    let expected: Vec<(Duration, u32)> = (0..10).map(|n| (start + (n + 1) * MS, n)).collect();
    assert_eq!(bench.left, expected);
    // Room again; and a frame longer than the queue passes where nothing waits.
    bench.offer(20, 1000);
    bench.drain();
    bench.offer(21, 20_000);
    bench.drain();
    assert_eq!(bench.numbers()[10..], [20, 21]);
}

#[test]
fn what_is_delayed_is_bounded() {
    let mut bench = Bench::new(0, &[(PORT, Impairment::new().delay(Duration::from_secs(60)))]);
    (0..10_000).for_each(|n| bench.offer(n, 1000));
    let load = bench.shaper.load(B);
    assert!(load.bytes <= 1 << 20 && load.frames > 900, "{load:?}");
    assert_eq!(bench.dropped, BTreeMap::from([(DropReason::DelayQueueFull, 10_000 - load.frames)]));
    assert_eq!(bench.shaper.discard(B), load.frames);
    assert_eq!(bench.shaper.load(B), FrameQueue::default());
    assert!(bench.shaper.next_due().is_none());
}

#[test]
fn five_percent_are_five_percent() {
    for impairment in [Impairment::new().loss(0.05), Impairment::new().loss_bursts(0.05, 1.0)] {
        let mut bench = Bench::new(1, &[(PORT, impairment)]);
        (0..20_000).for_each(|n| bench.offer(n, 64));
        let lost = bench.dropped[&DropReason::ImpairmentLoss];
        // 4 standard deviations of the binomial distribution.
        assert!((1000 - 123..=1000 + 123).contains(&lost), "{lost} of 20000");
        assert_eq!(bench.left.len() as u64 + lost, 20_000);
        assert_eq!(bench.counters().lost, lost);
    }
}

#[test]
fn a_corrupt_frame_differs_by_one_bit_of_its_payload() {
    let mut bench = Bench::new(0, &[(PORT, Impairment::new().corrupt(1.0))]);
    let tagged =
        b"\x52\x54\x00\x00\x00\x02\x52\x54\x00\x00\x00\x01\x88\xa8\x00\x64\x81\x00\x00\xc8\x08\x06payload";
    let vlan = VlanId::new(1).unwrap();
    let mut flipped = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let parcel = Parcel { from: A, to: B, vlan, frame: Frame::new(tagged) };
        bench.shaper.offer(parcel, bench.now, &mut bench.fates);
        let Some(Fate::Leaves(parcel)) = bench.fates.pop() else { panic!("{:?}", bench.fates) };
        let difference: Vec<u8> = parcel.frame.iter().zip(tagged).map(|(a, b)| a ^ b).collect();
        assert_eq!(difference.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert!(difference[..22].iter().all(|byte| *byte == 0), "{:?}", parcel.frame);
        assert_eq!(parcel.frame.wire()[..4], Frame::new(tagged).wire()[..4]);
        flipped.insert(difference);
    }
    assert_eq!(flipped.len(), 8 * "payload".len());
    assert_eq!(bench.counters().corrupted, 2000);
    // Nothing to flip.
    let parcel = Parcel { from: A, to: B, vlan, frame: Frame::new(&tagged[..22]) };
    bench.fates.clear();
    bench.shaper.offer(parcel.clone(), bench.now, &mut bench.fates);
    assert_eq!(bench.fates, [Fate::Leaves(parcel)]);
}

#[test]
fn a_duplicate_comes_right_behind_and_takes_its_share_of_the_rate() {
    let twice = Impairment::new().duplicate(1.0).rate(8_000_000);
    let mut bench = Bench::new(0, &[(PORT, twice)]);
    let start = bench.now;
    (0..2).for_each(|n| bench.offer(n, 1000));
    bench.drain();
    let at = |n: u32| start + n * MS;
    assert_eq!(bench.left, [(at(1), 0), (at(2), 0), (at(3), 1), (at(4), 1)]);
    assert_eq!((bench.duplicated, bench.counters().duplicated), (2, 2));
}

#[test]
fn reordered_frames_go_ahead_and_held_ones_come_later() {
    for (impairment, late) in [
        (Impairment::new().delay(50 * MS).reorder(0.25), false),
        (Impairment::new().hold_back(0.25, 10 * MS), true),
    ] {
        let mut bench = Bench::new(3, &[(PORT, impairment)]);
        let mut sent = Vec::new();
        for n in 0..1000 {
            sent.push(bench.now);
            bench.offer(n, 64);
            bench.go_on(MS);
        }
        bench.drain();
        assert_eq!(bench.left.len(), 1000);
        let odd = if late { 10 * MS } else { Duration::ZERO };
        let usual = if late { Duration::ZERO } else { 50 * MS };
        let mut reordered = 0;
        for (at, number) in &bench.left {
            let delay = *at - sent[*number as usize];
            assert!(delay == odd || delay == usual, "{delay:?}");
            reordered += u64::from(delay == odd);
        }
        assert!((250 - 55..=250 + 55).contains(&reordered), "{reordered} of 1000");
        assert_eq!((bench.reordered, bench.counters().reordered), (reordered, reordered));
        assert!(!bench.numbers().is_sorted());
    }
}

#[test]
fn replacing_and_clearing_let_go_what_waited_in_order() {
    let mut bench = Bench::new(0, &[]);
    let first = bench.set(PORT, &Impairment::new().delay(50 * MS));
    (0..3).for_each(|n| bench.offer(n, 64));
    let second = bench.set(PORT, &Impairment::new().delay(10 * MS));
    assert_eq!(bench.numbers(), [0, 1, 2]);
    (3..6).for_each(|n| bench.offer(n, 64));
    let (now, fates) = (bench.now, &mut bench.fates);
    assert_eq!(bench.shaper.clear(first, now, fates), None, "it was replaced");
    assert_eq!(bench.shaper.clear(second, now, fates), Some(PORT));
    bench.settle();
    assert_eq!(bench.numbers(), [0, 1, 2, 3, 4, 5]);
    assert!(bench.shaper.is_idle());
}

/// Otherwise a test that sets the same loss twice would see the same frames lost twice.
#[test]
fn setting_again_draws_anew_and_a_whole_run_repeats() {
    let run = |seed| {
        let mut bench = Bench::new(seed, &[]);
        let mut parts = Vec::new();
        for _ in 0..2 {
            bench.set(PORT, &Impairment::new().loss(0.5));
            (0..100).for_each(|n| bench.offer(n, 64));
            parts.push(std::mem::take(&mut bench.left));
        }
        parts
    };
    let parts = run(5);
    assert_ne!(parts[0], parts[1]);
    assert_eq!(parts, run(5));
    assert_ne!(parts, run(6));
}

prop_compose! {
    /// Any sound impairment that neither doubles nor reorders.
    fn orderly()(
        delay in 0u32..100,
        jitter in 0u32..100,
        normal: bool,
        loss in proptest::option::of(0.0..0.9f64),
        rate in proptest::option::of((100_000u64..1_000_000_000, 1u64..100_000)),
        corrupt in proptest::option::of(0.0..=1.0f64),
    ) -> Impairment {
        let mut impairment = Impairment::new().delay((delay + 1) * MS).keep_order();
        if jitter > 0 {
            let distribution = if normal { Distribution::Normal } else { Distribution::Uniform };
            impairment = impairment.jitter(jitter.min(delay + 1) * MS, distribution);
        }
        impairment = loss.into_iter().fold(impairment, Impairment::loss);
        impairment = corrupt.into_iter().fold(impairment, Impairment::corrupt);
        rate.into_iter().fold(impairment, |it, (rate, queue)| it.rate(rate).queue(queue))
    }
}

proptest! {
    #[test]
    fn each_frame_is_accounted_for_and_repeats(
        seed: u64,
        port in orderly(),
        pair in proptest::option::of(orderly()),
        duplicate in proptest::option::of(0.0..=1.0f64),
        frames in proptest::collection::vec((0u64..20_000, 18usize..2000), 0..200),
    ) {
        let port = duplicate.into_iter().fold(port, Impairment::duplicate);
        let mut rules = vec![(PORT, port)];
        rules.extend(pair.map(|pair| (PAIR, pair)));
        let run = || {
            let mut bench = Bench::new(seed, &rules);
            for (n, (gap, length)) in frames.iter().enumerate() {
                bench.go_on(Duration::from_micros(*gap));
                bench.offer(n as u32, *length);
            }
            bench.drain();
            bench
        };
        let bench = run();
        let dropped: u64 = bench.dropped.values().sum();
        prop_assert_eq!(bench.left.len() as u64 + dropped, frames.len() as u64 + bench.duplicated);
        // In order, since that was asked for; and twice only where a duplicate was.
        let numbers = bench.corrupted == 0;
        if numbers {
            prop_assert!(bench.numbers().is_sorted());
            let distinct: std::collections::BTreeSet<u32> = bench.numbers().into_iter().collect();
            let twice = (bench.left.len() - distinct.len()) as u64;
            prop_assert!(twice <= bench.duplicated && (duplicate.is_some() || twice == 0));
        }
        let again = run();
        prop_assert_eq!(again.left, bench.left);
        prop_assert_eq!(again.dropped, bench.dropped);
    }

    #[test]
    fn a_plain_delay_is_exact_and_keeps_the_order(
        delay in 1u32..1000,
        gaps in proptest::collection::vec(0u64..50_000, 1..200),
    ) {
        let mut bench = Bench::new(0, &[(PORT, Impairment::new().delay(delay * MS))]);
        let mut expected = Vec::new();
        for (n, gap) in gaps.iter().enumerate() {
            bench.go_on(Duration::from_micros(*gap));
            expected.push((bench.now + delay * MS, n as u32));
            bench.offer(n as u32, 64);
        }
        bench.drain();
        prop_assert_eq!(bench.left, expected);
    }
}
