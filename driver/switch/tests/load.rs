//! The switch in a storm: 32 ports that send broadcasts as fast as they can, one that never reads, one that sends
//! garbage lengths. Two pairs of stations talk all the time, one of them in the storm's VLAN; memory is bounded, and the
//! counters account for each copy of each frame that the peers say they have sent.
//!
//! For a minute of it: `cargo test -p switch --test load -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use pretty_assertions::assert_eq;
use switch::*;

use self::peers::{Account, Flooder, Station, talk_garbage};

#[path = "load/peers.rs"]
mod peers;

const FLOODERS: usize = 32;
/// Threads that play the flooders, each an equal share of them.
const CROWDS: usize = 4;
const STORM: u16 = 100;
const QUIET: u16 = 200;

/// For what must come, however busy this machine is.
const LIMIT: Duration = Duration::from_secs(30);
/// An exchange between two stations takes no longer, nor does a call to the switch.
const PROMPT: Duration = Duration::from_secs(2);
/// After what time a station in the storm asks again: a queue on the way may have been full.
const AGAIN: Duration = Duration::from_millis(100);
/// How many frames of the storm the switch may forward for each exchange beside it, on average. It was 1000 to 2000 on
/// two cores, busy or not, and 20,000 when the switch read 64 KiB of each port before it looked at the next.
const FRAMES_AN_EXCHANGE: u64 = 8000;
/// How often memory and counters are read meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// One storm at a time: memory is that of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_storm_of_three_seconds() {
    storm(Duration::from_secs(3));
}

#[test]
#[ignore = "takes a minute"]
fn a_storm_of_a_minute() {
    storm(Duration::from_secs(60));
}

fn storm(time: Duration) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    // Small, so that what grows beyond them shows within seconds.
    let options =
        SwitchOptions { ring_bytes: 16 << 20, queue_bytes: 1 << 20, ..SwitchOptions::new("sw", dir.path()) };
    let sw = Switch::start(options.clone()).unwrap();
    let port = |name: &str, vid| {
        let mode = PortMode::Access { vlan: VlanId::new(vid).unwrap() };
        let id = sw.add_port(PortConfig::new(name, mode)).unwrap();
        sw.socket_path(id).unwrap()
    };
    let connect = |name: &str, vid| UnixStream::connect(port(name, vid)).unwrap();
    let mut crowds: [Vec<Flooder>; CROWDS] = Default::default();
    for n in 0..FLOODERS {
        let name = format!("flooder-{n}");
        let socket = connect(&name, STORM);
        crowds[n % CROWDS].push(Flooder::new(name, n as u8, socket));
    }
    let _stuck = connect("stuck", STORM);
    let garbage = port("garbage", STORM);
    let station = |name, mac, peer, vid| Station::new(name, mac, peer, connect(name, vid));
    let mut asker = station("asker", 101, ("answerer", 102), QUIET);
    let mut answerer = station("answerer", 102, ("asker", 101), QUIET);
    let mut storm_asker = station("storm-asker", 103, ("storm-answerer", 104), STORM);
    let mut storm_answerer = station("storm-answerer", 104, ("storm-asker", 103), STORM);
    assert_eq!(sw.ports().unwrap().iter().filter(|port| !port.connected).count(), 1, "the one of garbage");
    for station in [&mut asker, &mut answerer, &mut storm_asker, &mut storm_answerer] {
        station.announce();
    }
    assert_eq!(sw.fdb().unwrap().len(), 4, "from now on, a frame to a station goes to one port");
    let mut report = Report { before: resident(), ..Report::default() };

    let flood = Arc::new(AtomicBool::new(true));
    let _ends = Ends(Arc::clone(&flood));
    let (quiet, quiets) = mpsc::channel();
    let mut threads: Vec<thread::JoinHandle<Vec<Account>>> = Vec::new();
    for crowd in crowds {
        let (flood, quiet) = (Arc::clone(&flood), quiet.clone());
        threads.push(thread::spawn(move || peers::flood(crowd, &flood, &quiet)));
    }
    {
        let (flood, quiet) = (Arc::clone(&flood), quiet.clone());
        threads.push(thread::spawn(move || vec![talk_garbage("garbage", &garbage, &flood, &quiet)]));
    }
    {
        let (flood, quiet) = (Arc::clone(&flood), quiet.clone());
        threads.push(thread::spawn(move || {
            while flood.load(Ordering::Relaxed) {
                storm_asker.ask(AGAIN);
            }
            quiet.send(()).unwrap();
            vec![storm_asker.read_to_the_end()]
        }));
    }
    let heard = storm_answerer.heard();
    for mut answerer in [answerer, storm_answerer] {
        threads.push(thread::spawn(move || {
            answerer.answer_to_the_end();
            vec![answerer.account]
        }));
    }

    let (start, mut look) = (Instant::now(), Instant::now());
    while start.elapsed() < time {
        // Of what is in a VLAN of its own, nothing is lost: it asks once.
        report.exchanges.push(asker.ask(PROMPT));
        if look <= Instant::now() {
            report.peak = report.peak.max(resident());
            let called = Instant::now();
            sw.ports().unwrap();
            report.call = report.call.max(called.elapsed());
            look = Instant::now() + LOOK;
        }
    }
    flood.store(false, Ordering::Relaxed);
    for _ in 0..CROWDS + 2 {
        quiets.recv_timeout(LIMIT).expect("whoever sends comes to an end");
    }
    let ports = drained(&sw, &heard);
    report.after = resident();
    report.peak = report.peak.max(report.after);
    sw.stop().unwrap();
    let mut accounts = vec![asker.read_to_the_end()];
    accounts.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));

    report.add(&ports, &accounts);
    println!("{time:?}: {report:#?}");
    check_counters(&ports, &accounts);
    report.check_memory(&options, ports.len());
    assert!(report.call < PROMPT, "a call took {:?}", report.call);
    let share = report.frames_in / report.exchanges.0.len() as u64;
    assert!(share < FRAMES_AN_EXCHANGE, "{share} frames of the storm were forwarded for each exchange");
}

/// Ends the storm, also if the test fails in it.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The ports, when nothing waits any more but for the one that never reads, and when the station in the storm has
/// answered all that it `heard`: it was asked some things twice.
fn drained(sw: &Switch, heard: &AtomicU64) -> Vec<PortState> {
    let is_drained = |port: &PortState| match port.name.as_str() {
        "stuck" => true,
        "storm-answerer" if port.counters.tx.sent > heard.load(Ordering::Acquire) => false,
        _ => port.queue.frames == 0,
    };
    let end = Instant::now() + LIMIT;
    let mut before = Vec::new();
    loop {
        let ports = sw.ports().unwrap();
        if ports == before && ports.iter().all(is_drained) {
            return ports;
        }
        assert!(Instant::now() < end, "these do not drain: {ports:#?}");
        before = ports;
        thread::yield_now();
    }
}

/// What the peers have sent is what the switch has taken; what it had to send is what the peers have read, what it has
/// dropped, by reason, and what waits.
fn check_counters(ports: &[PortState], accounts: &[Account]) {
    let account = |name: &str| accounts.iter().find(|account| account.name == name);
    let vlan = |name: &str| ports.iter().find(|port| port.name == name).map(|port| &port.mode);
    for port in ports {
        let PortCounters { rx, tx, .. } = &port.counters;
        let by_its_peer = account(&port.name).map_or(0, |peer| peer.broadcasts + peer.unicasts);
        assert_eq!(rx.frames, by_its_peer, "{port:#?}");
        assert_eq!((rx.forwarded, rx.dropped_total(), rx.consumed), (rx.frames, 0, 0), "{port:#?}");

        let neighbours = || accounts.iter().filter(|other| other.name != port.name);
        let broadcasts: u64 = neighbours()
            .filter(|other| vlan(&other.name) == Some(&port.mode))
            .map(|other| other.broadcasts)
            .sum();
        let unicasts: u64 =
            neighbours().filter(|other| other.peer.as_ref() == Some(&port.name)).map(|o| o.unicasts).sum();
        match port.name.as_str() {
            // It was there for some of them.
            "garbage" => assert!(tx.offered <= broadcasts, "{port:#?}"),
            _ => assert_eq!(tx.offered, broadcasts + unicasts, "{port:#?}"),
        }
        assert_eq!(tx.offered, tx.sent + tx.dropped_total() + port.queue.frames, "{port:#?}");
        let reasons: &[DropReason] = match port.name.as_str() {
            "garbage" => &[DropReason::QueueFull, DropReason::Disconnected],
            "asker" | "answerer" => &[],
            _ => &[DropReason::QueueFull],
        };
        assert!(tx.dropped.keys().all(|reason| reasons.contains(reason)), "{port:#?}");
        if let Some(read) = account(&port.name).and_then(|peer| peer.read) {
            assert_eq!(tx.sent, read, "{port:#?}");
        }
        if port.name == "garbage" {
            let peer = account("garbage").unwrap();
            let ends = (port.counters.bad_lengths, port.counters.half_frames);
            assert_eq!(ends, (peer.bad_lengths, peer.half_frames), "{port:#?}");
        } else {
            assert_eq!((port.counters.connections, port.connected), (1, true), "{port:#?}");
        }
    }
    let stuck = ports.iter().find(|port| port.name == "stuck").unwrap();
    assert!(stuck.counters.tx.dropped[&DropReason::QueueFull] > 0, "this was no storm: {stuck:#?}");
}

/// What is printed of a storm. Memory in bytes.
#[derive(Debug, Default)]
struct Report {
    before: u64,
    peak: u64,
    after: u64,
    /// The longest call.
    call: Duration,
    exchanges: Exchanges,
    in_storm: BTreeMap<String, u64>,
    frames_in: u64,
    copies: u64,
    sent: u64,
    waiting: u64,
    dropped: BTreeMap<DropReason, u64>,
}

/// How long the exchanges beside the storm took.
#[derive(Default)]
struct Exchanges(Vec<Duration>);

impl Exchanges {
    fn push(&mut self, time: Duration) {
        self.0.push(time);
    }
}

impl std::fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut times = self.0.clone();
        times.sort();
        let (count, middle) = (times.len(), times.get(times.len() / 2));
        write!(f, "{count}, median {middle:?}, longest {:?}", times.last())
    }
}

impl Report {
    fn add(&mut self, ports: &[PortState], accounts: &[Account]) {
        for PortState { counters: PortCounters { rx, tx, .. }, queue, .. } in ports {
            self.frames_in += rx.frames;
            self.copies += tx.offered;
            self.sent += tx.sent;
            self.waiting += queue.frames;
            for (reason, copies) in &tx.dropped {
                *self.dropped.entry(*reason).or_default() += copies;
            }
        }
        let asker = accounts.iter().find(|account| account.name == "storm-asker").unwrap();
        self.in_storm = [("exchanges", asker.exchanges), ("asked again", asker.unicasts - asker.exchanges)]
            .map(|(what, count)| (what.to_owned(), count))
            .into();
    }

    /// The ring and the queues are what may grow, and each has its limit. Half as much on top: deques are as long as a
    /// power of two, the allocator rounds up, and this process reads what it sends.
    fn check_memory(&self, options: &SwitchOptions, ports: usize) {
        let bound = (options.ring_bytes + ports * options.queue_bytes) as u64 * 3 / 2;
        let grown = self.peak.saturating_sub(self.before);
        assert!(grown <= bound, "grown by {grown} bytes; {bound} are allowed: {self:#?}");
    }
}

/// The memory of this process, in bytes (proc_pid_statm(5)).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64
}
