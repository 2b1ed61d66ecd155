//! Impairments on a running switch: what they cost in time, and what becomes of frames that wait.
//!
//! Times are those of the switch's own capture. This machine may be busy, which makes frames late and never early: so an
//! upper bound is for the median, beside a plain timer that runs at the same time, and is tried a few times; a lower one
//! is for every frame.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 8;

/// Delays a frame for longer than any test takes.
const LONG: Duration = Duration::from_secs(1800);

struct Lab {
    sw: Switch,
    a: PortId,
    b: PortId,
    to_a: Channel,
    to_b: Channel,
    _dir: TempDir,
}

impl Lab {
    fn new(seed: u64) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions { seed, ..SwitchOptions::new("sw", dir.path()) }).unwrap();
        let port = |name: &str| {
            let mode = PortMode::Access { vlan: VlanId::new(100).unwrap() };
            let id = sw.add_port(PortConfig::new(name, mode)).unwrap();
            (id, sw.attach_channel(id).unwrap())
        };
        let ((a, to_a), (b, to_b)) = (port("a/eth1"), port("b/eth1"));
        Lab { sw, a, b, to_a, to_b, _dir: dir }
    }

    fn impair(&self, impairment: Impairment) -> ImpairmentId {
        self.sw.impair(ImpairTarget::Port(self.b), impairment).unwrap()
    }

    fn send(&mut self, number: u32, length: usize) {
        self.to_a.send(&frame(number, length)).unwrap();
    }

    fn port(&self, id: PortId) -> PortState {
        let port = self.sw.ports().unwrap().into_iter().find(|port| port.id == id).unwrap();
        let tx = &port.counters.tx;
        let waiting = port.queue.frames + port.delayed.frames;
        assert_eq!(tx.offered + tx.duplicated, tx.sent + tx.dropped_total() + waiting, "{port:#?}");
        port
    }

    fn dropped(&self) -> BTreeMap<DropReason, u64> {
        self.port(self.b).counters.tx.dropped
    }

    /// When frames crossed a port, by number.
    fn times(&self, port: &str, direction: Direction) -> BTreeMap<u32, Duration> {
        let frames = self.sw.frames(&FrameFilter::new().port(port).direction(direction)).unwrap();
        frames.iter().map(|frame| (number(&frame.bytes), frame.at)).collect()
    }

    /// Sends one frame after the other came, so that nothing but its time wakes the switch, and answers how long each
    /// was in the switch, shortest first.
    fn delays(&mut self, frames: u32) -> Vec<Duration> {
        for n in 0..frames {
            self.send(n, 64);
            assert_eq!(number(&self.to_b.recv(LIMIT).unwrap().expect("every frame comes")), n);
        }
        let came = self.times("a/eth1", Direction::In);
        let left = self.times("b/eth1", Direction::Out);
        assert_eq!(left.len(), frames as usize);
        let mut delays: Vec<Duration> = left.iter().map(|(number, at)| *at - came[number]).collect();
        delays.sort();
        delays
    }
}

fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5".to_vec();
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.resize(length, 0);
    bytes
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// Tries until `attempt` says yes; each time on a new switch.
fn within_a_few_attempts(mut attempt: impl FnMut(&mut Lab) -> Result<(), String>) {
    let mut failures = Vec::new();
    for _ in 0..ATTEMPTS {
        match attempt(&mut Lab::new(0)) {
            Ok(()) => return,
            Err(failure) => failures.push(failure),
        }
    }
    panic!("not once in {ATTEMPTS} attempts: {failures:#?}");
}

/// The switch may add this much to a delay, at the median, and not more than a timer of this machine does.
fn added_at_the_median(asked: Duration, limit: Duration, target: fn(&Lab) -> ImpairTarget) {
    within_a_few_attempts(|lab| {
        lab.sw.impair(target(lab), Impairment::new().delay(asked)).unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let timer = thread::spawn(move || {
            let mut times = Vec::new();
            loop {
                let start = Instant::now();
                match stopped.recv_timeout(asked) {
                    Err(RecvTimeoutError::Timeout) => times.push(start.elapsed()),
                    _ => return times,
                }
            }
        });
        let delays = lab.delays(21);
        drop(stop);
        let mut timer = timer.join().unwrap();
        timer.sort();
        assert!(delays[0] >= asked, "a frame left after {:?}", delays[0]);
        let middle = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or(asked);
        let (frame, timer) = (middle(&delays), middle(&timer));
        let fault = format!("median {frame:?}, that of a timer {timer:?}");
        (frame < timer.max(asked) + limit).then_some(()).ok_or(fault)
    });
}

#[test]
fn fifty_milliseconds_are_fifty_within_one_at_the_median() {
    let (asked, limit) = (Duration::from_millis(50), Duration::from_millis(1));
    added_at_the_median(asked, limit, |lab| ImpairTarget::Port(lab.b));
    added_at_the_median(asked, limit, |lab| ImpairTarget::Pair { from: lab.a, to: lab.b });
}

/// A poll in whole milliseconds would make this 1 ms and more.
#[test]
fn a_fraction_of_a_millisecond_is_not_rounded_up_to_one() {
    let (asked, limit) = (Duration::from_micros(300), Duration::from_micros(600));
    added_at_the_median(asked, limit, |lab| ImpairTarget::Port(lab.b));
}

#[test]
fn ten_megabits_are_met_within_three_percent() {
    const FRAMES: u32 = 400;
    within_a_few_attempts(|lab| {
        lab.impair(Impairment::new().rate(10_000_000).queue(1 << 20));
        (0..FRAMES).for_each(|n| lab.send(n, 1514));
        for n in 0..FRAMES {
            assert_eq!(number(&lab.to_b.recv(LIMIT).unwrap().expect("nothing is dropped")), n);
        }
        let left = lab.times("b/eth1", Direction::Out);
        let time = left[&(FRAMES - 1)] - left[&0];
        let rate = f64::from((FRAMES - 1) * 1514 * 8) / time.as_secs_f64();
        (rate / 10e6 - 1.0).abs().le(&0.03).then_some(()).ok_or(format!("{rate:.0} bit/s"))
    });
}

#[test]
fn the_capture_has_a_delayed_frame_when_it_leaves_and_not_before() {
    let mut lab = Lab::new(0);
    let id = lab.impair(Impairment::new().delay(LONG));
    lab.send(1, 64);
    assert_eq!(lab.times("a/eth1", Direction::In).len(), 1);
    assert_eq!(lab.times("b/eth1", Direction::Out).len(), 0);
    let port = lab.port(lab.b);
    assert_eq!((port.delayed.frames, port.queue.frames, port.counters.tx.offered), (1, 0, 1));
    let before = lab.sw.now();
    lab.sw.clear_impairment(id).unwrap();
    assert!(lab.times("b/eth1", Direction::Out)[&1] >= before);
    assert_eq!(number(&lab.to_b.recv(LIMIT).unwrap().unwrap()), 1);
    assert_eq!(lab.port(lab.b).delayed, FrameQueue::default());
}

/// 15 MB, far more than the queue of a port: the rest is counted, and what the peer reads comes in order.
#[test]
fn a_large_backlog_is_let_go_in_order_and_accounted_for() {
    let mut lab = Lab::new(0);
    let id = lab.impair(Impairment::new().delay(LONG));
    (0..10_000).for_each(|n| lab.send(n, 1500));
    assert_eq!(lab.port(lab.b).delayed.frames, 10_000);
    lab.sw.clear_impairment(id).unwrap();
    let lost = lab.dropped().get(&DropReason::QueueFull).copied().unwrap_or(0);
    let came: Vec<u32> =
        (lost..10_000).map(|_| number(&lab.to_b.recv(LIMIT).unwrap().expect("it is not lost"))).collect();
    assert!(came.is_sorted() && came[..1000] == Vec::from_iter(0..1000)[..], "{} came", came.len());
    assert_eq!(lab.port(lab.b).counters.tx.sent, 10_000 - lost);
}

#[test]
fn what_waits_for_a_port_that_goes_down_is_dropped_and_counted() {
    let mut lab = Lab::new(0);
    lab.impair(Impairment::new().delay(LONG));
    (0..5).for_each(|n| lab.send(n, 64));
    lab.sw.set_admin(lab.b, false).unwrap();
    assert_eq!(lab.dropped(), BTreeMap::from([(DropReason::AdminDown, 5)]));
    lab.sw.set_admin(lab.b, true).unwrap();
    (0..3).for_each(|n| lab.send(n, 64));
    let mode = PortMode::Access { vlan: VlanId::new(200).unwrap() };
    lab.sw.set_mode(lab.b, mode).unwrap();
    assert_eq!(lab.dropped()[&DropReason::ModeChanged], 3);
}

#[test]
fn what_waits_for_a_port_that_is_removed_is_counted_in_its_last_event() {
    let mut lab = Lab::new(0);
    lab.impair(Impairment::new().delay(LONG));
    (0..5).for_each(|n| lab.send(n, 64));
    let mut events = lab.sw.events();
    lab.sw.remove_port(lab.b).unwrap();
    let event = events.try_recv().unwrap();
    let EventKind::PortRemoved { name, counters, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!(name, "b/eth1");
    assert_eq!(counters.tx.dropped, BTreeMap::from([(DropReason::PortRemoved, 5)]));
    // The impairment is still there to be cleared: whoever holds it need not know of the port.
    assert_eq!(lab.sw.clear_all_impairments().unwrap(), 1);
}

#[test]
fn a_partition_stops_what_was_under_way() {
    let mut lab = Lab::new(0);
    let id = lab.impair(Impairment::new().delay(LONG));
    lab.send(1, 64);
    lab.sw.partition(PartitionSpec::between([lab.a], [lab.b])).unwrap();
    lab.sw.clear_impairment(id).unwrap();
    assert_eq!(lab.dropped(), BTreeMap::from([(DropReason::Partition, 1)]));
    assert_eq!(lab.times("b/eth1", Direction::Out).len(), 0);
}

#[test]
fn a_seed_repeats_a_run_and_every_frame_is_counted() {
    const FRAMES: u32 = 4000;
    let run = |seed| {
        let mut lab = Lab::new(seed);
        lab.impair(Impairment::new().loss(0.05).duplicate(0.1).corrupt(0.01));
        (0..FRAMES).for_each(|n| lab.send(n, 64));
        let out = FrameFilter::new().port("b/eth1").direction(Direction::Out);
        let left: Vec<Vec<u8>> = lab.sw.frames(&out).unwrap().iter().map(|f| f.bytes.to_vec()).collect();
        let port = lab.port(lab.b);
        let tx = port.counters.tx;
        let lost = tx.dropped[&DropReason::ImpairmentLoss];
        assert_eq!(left.len() as u64, u64::from(FRAMES) - lost + tx.duplicated);
        // 4 standard deviations.
        assert!((200 - 55..=200 + 55).contains(&lost), "{lost} lost");
        assert!((380 - 75..=380 + 75).contains(&tx.duplicated), "{} doubled", tx.duplicated);
        assert!((38 - 25..=38 + 25).contains(&tx.corrupted), "{} corrupted", tx.corrupted);
        let counters = lab.sw.impairments().unwrap()[0].counters;
        assert_eq!((counters.frames, counters.lost), (u64::from(FRAMES), lost));
        left
    };
    let left = run(7);
    assert_eq!(left, run(7));
    assert_ne!(left, run(8));
}

#[test]
fn setting_replaces_and_shows_in_state_and_events() {
    let mut lab = Lab::new(99);
    let mut events = lab.sw.events();
    let pair = ImpairTarget::Pair { from: lab.a, to: lab.b };
    let first = lab.sw.impair(pair, Impairment::new().delay(LONG)).unwrap();
    lab.send(1, 64);
    let lossy = Impairment::new().loss(0.5);
    let second = lab.sw.impair(pair, lossy.clone()).unwrap();
    assert_eq!(number(&lab.to_b.recv(LIMIT).unwrap().unwrap()), 1);
    let replaced = lab.sw.clear_impairment(first).unwrap_err();
    let told = "switch sw: there is no impairment 0; was it cleared or replaced before?";
    assert_eq!(replaced.to_string(), told);

    let state = lab.sw.state().unwrap();
    let expected = ImpairmentState {
        id: second,
        target: pair,
        impairment: lossy.clone(),
        counters: ImpairmentCounters::default(),
    };
    assert_eq!((state.seed, &state.impairments[..]), (99, &[expected][..]));
    let json = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<SwitchState>(&json).unwrap(), state);

    lab.sw.clear_impairment(second).unwrap();
    assert_eq!(lab.sw.impairments().unwrap(), []);
    let told: Vec<EventKind> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.kind).collect();
    let delay = Impairment::new().delay(LONG);
    assert_eq!(
        told,
        [
            EventKind::Impaired { id: first, target: pair, impairment: delay, seed: 99 },
            EventKind::Impaired { id: second, target: pair, impairment: lossy, seed: 99 },
            EventKind::ImpairmentCleared { id: second, target: pair },
        ]
    );
}

#[test]
fn mistakes_say_what_is_wrong() {
    let lab = Lab::new(0);
    let refused = |target, impairment| lab.sw.impair(target, impairment).unwrap_err().to_string();
    assert_eq!(
        refused(ImpairTarget::Port(lab.b), Impairment::new().loss(5.0).rate(0)),
        "switch sw: cannot impair b/eth1: loss is a ratio from 0 to 1, not 5 (5 % is 0.05); a rate of 0 bit/s lets \
         nothing through: use a partition",
    );
    assert_eq!(
        refused(ImpairTarget::Pair { from: lab.a, to: lab.a }, Impairment::new().loss(0.1)),
        "switch sw: cannot impair a/eth1 to a/eth1: no frame leaves by the port that it came in by",
    );
    lab.sw.remove_port(lab.a).unwrap();
    assert_eq!(
        refused(ImpairTarget::Port(lab.a), Impairment::new().loss(0.1)),
        "switch sw: impair: there is no port 0; there are: a/eth1, b/eth1",
    );
}
