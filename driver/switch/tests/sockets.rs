//! The switch over real unix sockets, with peers that behave as QEMU does and as it must not.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;
use tokio::sync::broadcast::error::TryRecvError;

const LIMIT: Duration = Duration::from_secs(30);

/// For a frame that must not come: a call to the switch came before, which acts after all that was sent.
const NOTHING: Duration = Duration::from_millis(1);

struct Lab {
    sw: Switch,
    dir: TempDir,
}

impl Lab {
    fn new(change: impl FnOnce(&mut SwitchOptions)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut options = SwitchOptions::new("sw", dir.path());
        change(&mut options);
        Lab { sw: Switch::start(options).unwrap(), dir }
    }

    fn access(&self, name: &str, vid: u16) -> PortId {
        let mode = PortMode::Access { vlan: VlanId::new(vid).unwrap() };
        self.sw.add_port(PortConfig::new(name, mode)).unwrap()
    }

    fn trunk(&self, name: &str, allowed: &str) -> PortId {
        let mode = PortMode::Trunk { allowed: allowed.parse().unwrap(), native: None };
        self.sw.add_port(PortConfig::new(name, mode)).unwrap()
    }

    /// Connects as QEMU does, and waits until the switch has noticed.
    fn connect(&self, port: PortId) -> Peer {
        let peer = Peer::connect(&self.sw.socket_path(port).unwrap());
        self.until("the peer is connected", || self.port(port).connected);
        peer
    }

    fn port(&self, id: PortId) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.id == id).unwrap()
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.ports());
            thread::yield_now();
        }
    }
}

/// QEMU's end of `-netdev stream`.
struct Peer {
    socket: UnixStream,
    decoder: StreamDecoder,
}

impl Peer {
    fn connect(path: &Path) -> Peer {
        let socket = UnixStream::connect(path).unwrap();
        Peer { socket, decoder: StreamDecoder::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.socket.set_write_timeout(Some(LIMIT)).unwrap();
        self.socket.write_all(bytes).expect("the switch always reads");
    }

    fn send(&mut self, frame: &[u8]) {
        self.write(&wire(frame));
    }

    /// The next frame; `None` at the limit or when the switch has closed.
    fn recv(&mut self, limit: Duration) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the switch sends whole frames") {
                return Some(frame);
            }
            self.socket.set_read_timeout(Some(limit)).unwrap();
            match self.socket.read(self.decoder.space()) {
                Ok(0) => return None,
                Ok(bytes) => self.decoder.filled(bytes),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn is_closed(&mut self) -> bool {
        self.socket.set_read_timeout(Some(LIMIT)).unwrap();
        loop {
            match self.socket.read(&mut [0; 4096]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
}

fn wire(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

fn frame(dst: u8, src: u8, length: usize) -> Vec<u8> {
    let mac = |n: u8| if n == 0xff { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, n] };
    let mut bytes = [mac(dst), mac(src)].concat();
    bytes.extend_from_slice(b"\x88\xb5");
    bytes.resize(length.max(MIN_FRAME), src);
    bytes
}

fn accounted(port: &PortState) {
    let PortCounters { rx, tx, .. } = &port.counters;
    assert_eq!(rx.frames, rx.forwarded + rx.dropped_total(), "{port:#?}");
    assert_eq!(tx.offered, tx.sent + tx.dropped_total() + port.queue.frames, "{port:#?}");
}

#[test]
fn frames_of_every_size_cross_from_vlan_to_vlan_port() {
    let lab = Lab::new(|_| {});
    let (a, b, other) = (lab.access("a", 100), lab.trunk("b", "100"), lab.access("other", 200));
    let (mut a, mut b, mut other) = (lab.connect(a), lab.connect(b), lab.connect(other));
    for length in [14, 60, 1514, 9014, 65_549, MAX_FRAME - 4] {
        let sent = frame(0xff, 1, length);
        a.send(&sent);
        let got = b.recv(LIMIT).unwrap();
        assert_eq!(got[12..16], *b"\x81\x00\x00\x64");
        assert_eq!([&got[..12], &got[16..]].concat(), sent);
        b.send(&got);
        assert!(lab.sw.ports().is_ok());
    }
    assert_eq!(other.recv(NOTHING), None);
    let untagged_out =
        lab.sw.frames(&FrameFilter::new().port("b").direction(Direction::Out).untagged()).unwrap();
    assert_eq!(untagged_out.len(), 0);
    lab.sw.ports().unwrap().iter().for_each(accounted);
}

#[test]
fn a_port_that_never_reads_holds_up_nobody() {
    let lab = Lab::new(|options| options.queue_bytes = 256 * 1024);
    let (a, b, stuck) = (lab.access("a", 1), lab.access("b", 1), lab.access("stuck", 1));
    let (mut pa, mut pb, ps) = (lab.connect(a), lab.connect(b), lab.connect(stuck));
    for n in 0..2000_u32 {
        pa.send(&frame(0xff, 1, 1514));
        assert!(pb.recv(LIMIT).is_some(), "frame {n}");
    }
    let state = lab.port(stuck);
    assert!(state.counters.tx.dropped[&DropReason::QueueFull] > 1000, "{state:#?}");
    assert!(state.queue.bytes <= 256 * 1024, "{state:#?}");
    assert_eq!(state.counters.tx.offered, 2000);
    lab.sw.ports().unwrap().iter().for_each(accounted);
    drop(ps);
    lab.until("the peer's end is noticed", || !lab.port(stuck).connected);
    let state = lab.port(stuck);
    assert!(state.counters.tx.dropped[&DropReason::Disconnected] > 0, "{state:#?}");
    accounted(&state);
}

#[test]
fn garbage_closes_the_connection_and_the_next_one_works() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let mut events = lab.sw.events();
    let mut pb = lab.connect(b);
    for length in [0_u32, 13, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut pa = lab.connect(a);
        pa.send(&frame(0xff, 1, 100));
        pa.write(&length.to_be_bytes());
        assert!(pa.is_closed());
        assert_eq!(pb.recv(LIMIT).unwrap().len(), 100, "what came before the garbage is forwarded");
    }
    assert_eq!(lab.port(a).counters.bad_lengths, 4);
    let mut told = Vec::new();
    loop {
        match events.try_recv() {
            Ok(Event {
                kind: EventKind::Disconnected { why: CloseReason::BadLength { length }, .. },
                ..
            }) => {
                told.push(length);
            }
            Ok(_) => {}
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(told, [0, 13, MAX_FRAME as u32 + 1, u32::MAX]);
    lab.connect(a).send(&frame(0xff, 1, 64));
    assert!(pb.recv(LIMIT).is_some());
}

#[test]
fn a_peer_that_dies_within_a_frame_and_comes_back() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let mut pb = lab.connect(b);
    for round in 1..=20 {
        let mut pa = lab.connect(a);
        let bytes = wire(&frame(0xff, 1, 200));
        for piece in bytes.chunks(3) {
            pa.write(piece);
        }
        assert_eq!(pb.recv(LIMIT).unwrap().len(), 200);
        pa.write(&bytes[..round * 7]);
        drop(pa);
        lab.until("the end is noticed", || !lab.port(a).connected);
        assert_eq!(lab.port(a).counters.half_frames, round as u64);
    }
    assert_eq!(pb.recv(NOTHING), None, "half a frame goes nowhere");
    assert_eq!(lab.port(a).counters.connections, 20);
}

#[test]
fn the_newest_connection_wins() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let mut pb = lab.connect(b);
    let mut old = lab.connect(a);
    old.send(&frame(0xff, 1, 99));
    let mut new = Peer::connect(&lab.sw.socket_path(a).unwrap());
    assert!(old.is_closed());
    new.send(&frame(0xff, 1, 100));
    let lengths = [pb.recv(LIMIT).unwrap().len(), pb.recv(LIMIT).unwrap().len()];
    assert_eq!(lengths, [99, 100], "what the old one sent is not lost");
    assert_eq!(lab.port(a).counters.replaced, 1);
}

#[test]
fn two_ports_at_full_rate_lose_nothing_that_is_not_counted() {
    const FRAMES: u64 = 50_000;
    let lab = Lab::new(|options| options.ring_bytes = 1 << 20);
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let (pa, pb) = (lab.connect(a), lab.connect(b));
    let path = lab.dir.path().join("all.pcapng");
    let capture = lab.sw.capture_to(&path, &FrameFilter::new()).unwrap();
    let run = |peer: Peer, dst, src| {
        let mut reader = Peer { socket: peer.socket.try_clone().unwrap(), decoder: StreamDecoder::new() };
        let mut peer = peer;
        let writer = thread::spawn(move || {
            let burst = wire(&frame(dst, src, 64)).repeat(50);
            for _ in 0..FRAMES / 50 {
                peer.write(&burst);
            }
        });
        let reader = thread::spawn(move || std::iter::from_fn(|| reader.recv(LIMIT)).count() as u64);
        (writer, reader)
    };
    let ((wa, ra), (wb, rb)) = (run(pa, 2, 1), run(pb, 1, 2));
    wa.join().unwrap();
    wb.join().unwrap();
    lab.until("all is read", || lab.sw.ports().unwrap().iter().all(|port| port.queue.frames == 0));
    let ports = lab.sw.ports().unwrap();
    let report = lab.sw.stop_capture(capture).unwrap();
    let state = lab.sw.state().unwrap();
    assert!(state.ring.bytes <= 1 << 20 && state.ring.evicted > 0, "{:?}", state.ring);
    let error = lab.sw.frames(&FrameFilter::new().port("a").tagged(200)).expect_err("the start was evicted");
    assert!(error.to_string().contains("evicted"), "{error}");
    assert!(lab.sw.recent_frames(&FrameFilter::new()).is_ok());

    lab.sw.stop().unwrap();
    let (got_a, got_b) = (ra.join().unwrap(), rb.join().unwrap());
    for (port, got) in ports.iter().zip([got_a, got_b]) {
        accounted(port);
        assert_eq!(port.counters.rx.frames, FRAMES);
        assert_eq!(port.counters.tx.offered, FRAMES);
        assert_eq!(port.counters.tx.sent, got);
    }
    assert_eq!(report.frames + report.lost, 2 * FRAMES + got_a + got_b, "{report:?}");
    assert_eq!(report.error, None);
}

#[test]
fn faults_are_made_and_healed() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let mut ca = lab.sw.attach_channel(a).unwrap();
    let mut cb = lab.sw.attach_channel(b).unwrap();
    let mut crosses = || {
        let sent = lab.port(b).counters.tx.sent;
        ca.send(&frame(0xff, 1, 60)).unwrap();
        let crossed = lab.port(b).counters.tx.sent > sent;
        assert_eq!(cb.recv(if crossed { LIMIT } else { NOTHING }).unwrap().is_some(), crossed);
        crossed
    };
    let access = |vid| PortMode::Access { vlan: VlanId::new(vid).unwrap() };
    assert!(crosses());
    lab.sw.set_admin(b, false).unwrap();
    assert!(!crosses());
    lab.sw.set_admin(b, true).unwrap();
    assert!(crosses());
    lab.sw.set_mode(b, access(2)).unwrap();
    assert!(!crosses());
    lab.sw.set_mode(b, access(1)).unwrap();
    assert!(crosses());
    let id = lab.sw.partition(PartitionSpec::between([a], [b])).unwrap();
    assert!(!crosses());
    assert_eq!(lab.sw.state().unwrap().partitions.len(), 1);
    lab.sw.heal(id).unwrap();
    assert!(crosses());
    assert!(matches!(lab.sw.heal(id), Err(Error::UnknownPartition { .. })));
    let nothing = lab.sw.partition(PartitionSpec::between([a], []));
    assert!(matches!(nothing, Err(Error::EmptyPartition { .. })));
}

#[test]
fn a_fault_judges_nothing_that_was_sent_before_it() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let (mut pa, _pb) = (lab.connect(a), lab.connect(b));
    for round in 1..=200 {
        pa.send(&frame(0xff, 1, 60));
        let id = lab.sw.partition(PartitionSpec::between([a], [b])).unwrap();
        assert_eq!(
            lab.port(b).counters.tx.offered,
            round,
            "the frame was read before the call was acted upon"
        );
        lab.sw.heal(id).unwrap();
    }
    assert_eq!(lab.port(b).counters.tx.dropped_total(), 0);
}

#[test]
fn the_ring_is_searched_by_what_a_test_asks_for() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.trunk("agent-1/eth1", "100,200"), lab.trunk("server-1/eth1", "100"));
    let (mut ca, _cb) = (lab.sw.attach_channel(a).unwrap(), lab.sw.attach_channel(b).unwrap());
    let tagged = |vid: u16| {
        let mut bytes = frame(0xff, 1, 60);
        bytes.splice(12..12, [[0x81, 0], vid.to_be_bytes()].concat());
        bytes
    };
    ca.send(&tagged(100)).unwrap();
    ca.send(&tagged(200)).unwrap();
    let count = |filter: FrameFilter| lab.sw.frames(&filter).unwrap().len();
    let vlan = |vid| VlanId::new(vid).unwrap();
    assert_eq!(count(FrameFilter::new()), 3);
    assert_eq!(count(FrameFilter::new().tagged(200)), 1);
    assert_eq!(count(FrameFilter::new().tagged(200).direction(Direction::Out)), 0);
    assert_eq!(count(FrameFilter::new().vlan(vlan(100)).port("server-1/eth1")), 1);
    assert_eq!(count(FrameFilter::new().ethertype(0x88b5).dst(Mac::BROADCAST)), 3);
    assert_eq!(count(FrameFilter::new().src("52:54:00:00:00:02".parse().unwrap())), 0);
    let mark = lab.sw.now();
    assert_eq!(count(FrameFilter::new().since(mark)), 0);
    assert_eq!(count(FrameFilter::new().until(mark)), 3);
    let dropped = &lab.sw.frames(&FrameFilter::new().tagged(200)).unwrap()[0];
    assert_eq!(dropped.dropped, Some(DropReason::NoDestination));
    let line = dropped.to_string();
    assert!(
        line.contains("agent-1/eth1 in") && line.contains("tag 200") && line.contains("dropped"),
        "{line}"
    );
    let error = lab.sw.frames(&FrameFilter::new().port("agnet-1/eth1")).expect_err("a misspelt port");
    assert!(error.to_string().contains("agent-1/eth1, server-1/eth1"), "{error}");
}

#[test]
fn stopping_leaves_nothing() {
    let lab = Lab::new(|_| {});
    let (a, b) = (lab.access("a", 1), lab.access("b", 1));
    let (paths, mut peer) = ([a, b].map(|port| lab.sw.socket_path(port).unwrap()), lab.connect(a));
    assert!(matches!(
        lab.sw.add_port(PortConfig::new("a", PortMode::Access { vlan: VlanId::new(1).unwrap() })),
        Err(Error::DuplicatePort { .. })
    ));
    lab.sw.remove_port(b).unwrap();
    assert!(paths[0].exists() && !paths[1].exists());
    assert!(matches!(lab.sw.set_admin(b, true), Err(Error::UnknownPort { .. })));
    lab.sw.write_state(&lab.dir.path().join("ports.json")).unwrap();
    let json = std::fs::read(lab.dir.path().join("ports.json")).unwrap();
    let state: SwitchState = serde_json::from_slice(&json).unwrap();
    assert_eq!(state.ports.len(), 1);
    let clone = lab.sw.clone();
    lab.sw.stop().unwrap();
    assert!(peer.is_closed() && !paths[0].exists());
    assert!(matches!(clone.ports(), Err(Error::Stopped { .. })));
    clone.stop().unwrap();
}

#[test]
fn dropping_the_last_handle_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let port = sw.add_port(PortConfig::new("a", PortMode::Access { vlan: VlanId::new(1).unwrap() })).unwrap();
    let path = sw.socket_path(port).unwrap();
    let clone = sw.clone();
    drop(sw);
    assert!(path.exists() && clone.ports().is_ok());
    drop(clone);
    assert!(!path.exists());
}

#[test]
fn a_path_too_long_for_the_kernel_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", deep)).unwrap();
    let mode = PortMode::Access { vlan: VlanId::new(1).unwrap() };
    let error = sw.add_port(PortConfig::new("a", mode)).unwrap_err();
    assert!(matches!(error, Error::SocketPathTooLong { .. }), "{error}");
    assert_eq!(sw.ports().unwrap(), []);
}

#[test]
fn who_connects_in_a_loop_holds_up_nobody() {
    const EXCHANGES: usize = 50;
    let lab = Lab::new(|_| {});
    let (a, b, busy) = (lab.access("a", 1), lab.access("b", 1), lab.access("busy", 2));
    let (mut pa, mut pb) = (lab.connect(a), lab.connect(b));
    let path = lab.sw.socket_path(busy).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let loops = [(); 2].map(|()| {
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(UnixStream::connect(&path).unwrap());
            }
        })
    });
    for _ in 0..EXCHANGES {
        pa.send(&frame(0xff, 1, 60));
        assert!(pb.recv(LIMIT).is_some());
    }
    stop.store(true, Ordering::Relaxed);
    loops.into_iter().for_each(|thread| thread.join().unwrap());
}
