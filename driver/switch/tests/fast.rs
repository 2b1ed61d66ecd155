//! vhost-user ports: two guests' memories, and what a hostile guest or front end can do to the others.

mod guest;

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use guest::{ALL, Guest, MEMORY, VERSION_1};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pretty_assertions::assert_eq;
use switch::lacp::{LacpState, Lacpdu, Pdu, PortInfo};
use switch::*;
use tempfile::TempDir;
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress};

const LIMIT: Duration = Duration::from_secs(30);
/// For a frame that must not come: a call to the switch came before, which acts after all that was sent.
const NOTHING: Duration = Duration::from_millis(1);
const BROADCAST: [u8; 6] = [0xff; 6];
const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

struct Lab {
    sw: Switch,
    _dir: TempDir,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let options = SwitchOptions { queue_bytes: 100_000, ..SwitchOptions::new("sw", dir.path()) };
        Lab { sw: Switch::start(options).unwrap(), _dir: dir }
    }

    fn add(&self, name: &str, vid: u16, fast: bool) -> PortId {
        let mode = PortMode::Access { vlan: VlanId::new(vid).unwrap() };
        self.sw.add_port(PortConfig::new(name, mode).fast(fast)).unwrap()
    }

    fn guest(&self, port: PortId, features: u64) -> Guest {
        let guest = Guest::start(&self.sw.socket_path(port).unwrap(), features, guest::SIZE);
        self.until("the port runs", || self.port(port).fast.unwrap().running);
        guest
    }

    fn port(&self, id: PortId) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.id == id).unwrap()
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.ports());
            std::thread::yield_now();
        }
    }

    /// What a guest got, once the switch has dealt with all that was sent.
    fn recv(&self, guest: &mut Guest) -> Option<(Vec<u8>, Vec<u8>)> {
        self.sw.ports().unwrap();
        guest.recv()
    }

    fn accounts(&self) {
        for port in self.sw.ports().unwrap() {
            let PortCounters { rx, tx, .. } = &port.counters;
            assert_eq!(rx.frames, rx.forwarded + rx.consumed + rx.dropped_total(), "{port:#?}");
            let gone = tx.sent + tx.dropped_total() + port.queue.frames + port.delayed.frames;
            assert_eq!(tx.offered + tx.duplicated, gone, "{port:#?}");
        }
    }
}

fn frame(dst: [u8; 6], src: [u8; 6], payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &[0x88, 0xb5], payload].concat()
}

/// A TCP frame of `length` bytes of payload as a guest hands it over that leaves all to its card, and its header.
fn tcp(length: usize) -> ([u8; 10], Vec<u8>) {
    let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp(4000, 5201, 1, 1000).write(&mut bytes, &payload).unwrap();
    // The pseudo header's sum is all that a guest fills in.
    let words = [0x0a00u32, 1, 0x0a00, 2, 6, (20 + length) as u32];
    let sum = words.iter().sum::<u32>();
    bytes[50..52].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
    let mut header = [0; 10];
    (header[0], header[1]) = (1, 1);
    for (at, value) in [(2, 54u16), (4, 1448), (6, 34), (8, 16)] {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    (header, bytes)
}

/// The TCP payload of a frame whose checksum is true.
fn payload(frame: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(TransportSlice::Tcp(tcp)), Some(etherparse::NetSlice::Ipv4(ip))) =
        (&sliced.transport, &sliced.net)
    else {
        panic!("no TCP over IPv4: {frame:x?}");
    };
    assert_eq!(
        tcp.checksum(),
        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
    );
    tcp.payload().to_vec()
}

#[test]
fn fast_and_plain_ports_are_one_switch() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let (c, d) = (lab.add("c", 10, false), lab.add("d", 20, false));
    let e = lab.add("e", 20, true);
    let (mut a_guest, mut b_guest, mut e_guest) =
        (lab.guest(a, ALL), lab.guest(b, VERSION_1), lab.guest(e, ALL));
    let (mut c, mut d) = (lab.sw.attach_channel(c).unwrap(), lab.sw.attach_channel(d).unwrap());

    let flooded = frame(BROADCAST, A, b"flooded");
    a_guest.send(&flooded);
    assert_eq!(lab.recv(&mut b_guest).unwrap().1, flooded);
    assert_eq!(*c.recv(LIMIT).unwrap().unwrap(), *flooded);
    assert_eq!(lab.recv(&mut e_guest), None, "another VLAN");
    assert_eq!(d.recv(NOTHING).unwrap(), None, "another VLAN");

    let known = frame(A, B, b"known");
    b_guest.send(&known);
    assert_eq!(lab.recv(&mut a_guest).unwrap().1, known);
    assert_eq!(c.recv(NOTHING).unwrap(), None, "the address was learnt");

    let from_plain = frame(A, [2, 0, 0, 0, 0, 0xc], b"from a plain port");
    c.send(&from_plain).unwrap();
    assert_eq!(lab.recv(&mut a_guest).unwrap().1, from_plain);
    assert_eq!((a_guest.sent_and_back(), b_guest.sent_and_back()), (1, 1));

    lab.sw.set_mode(b, PortMode::Access { vlan: VlanId::new(20).unwrap() }).unwrap();
    a_guest.send(&flooded);
    assert_eq!(lab.recv(&mut b_guest), None, "it moved to another VLAN");
    lab.sw.set_mode(b, PortMode::Access { vlan: VlanId::new(10).unwrap() }).unwrap();
    lab.sw.set_admin(b, false).unwrap();
    a_guest.send(&flooded);
    b_guest.send(&known);
    assert_eq!(lab.recv(&mut b_guest), None, "it is down");
    assert_eq!(lab.recv(&mut a_guest), None, "it is down");
    assert_eq!(lab.port(b).counters.rx.dropped[&DropReason::AdminDown], 1);
    lab.accounts();
}

#[test]
fn what_both_guests_agreed_on_passes_undone() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let (mut a_guest, mut b_guest) = (lab.guest(a, ALL), lab.guest(b, ALL));
    let (header, whole) = tcp(60_000);
    a_guest.send_with(&header, &whole);
    let (got, bytes) = lab.recv(&mut b_guest).unwrap();
    assert_eq!(bytes, whole);
    assert_eq!(got[..10], header);
    assert_eq!(got[10], (whole.len() + 12).div_ceil(2048) as u8, "buffers of 2 KiB");
    b_guest.wait_for_call();
    assert_eq!(lab.port(b).counters.tx.sent, 1);
    lab.accounts();
}

#[test]
fn what_a_port_did_not_agree_on_is_done_for_it() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let all: VlanSet = "10".parse().unwrap();
    let trunk = PortMode::Trunk { allowed: all, native: None };
    let trunk = lab.sw.add_port(PortConfig::new("trunk", trunk)).unwrap();
    let (mut a_guest, mut b_guest) = (lab.guest(a, ALL), lab.guest(b, VERSION_1));
    let mut trunk = lab.sw.attach_channel(trunk).unwrap();
    let (header, whole) = tcp(10_000);
    a_guest.send_with(&header, &whole);
    let mut stream = Vec::new();
    while let Some((got, bytes)) = lab.recv(&mut b_guest) {
        assert_eq!(got[..10], [0; 10], "nothing is left to do");
        stream.extend(payload(&bytes));
    }
    assert_eq!(stream, whole[54..]);
    let mut stream = Vec::new();
    while stream.len() < 10_000 {
        let tagged = trunk.recv(LIMIT).unwrap().unwrap();
        assert_eq!(tagged[12..16], [0x81, 0, 0, 10]);
        stream.extend(payload(&tagged));
    }
    assert_eq!(stream, whole[54..]);
    assert_eq!(lab.port(b).counters.tx.sent, 7, "10,000 bytes in segments of 1448");
    lab.accounts();
}

#[test]
fn a_guest_without_buffers_gets_its_frames_later_and_not_without_end() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let mut a_guest = lab.guest(a, ALL);
    let mut b_guest = Guest::start(&lab.sw.socket_path(b).unwrap(), ALL, 0);
    lab.until("the port runs", || lab.port(b).fast.unwrap().running);
    for number in 0..120u8 {
        a_guest.send(&frame(BROADCAST, A, &[number; 1000]));
        lab.sw.ports().unwrap();
    }
    let PortState { queue, counters, .. } = lab.port(b);
    assert!(queue.bytes <= 100_000 && queue.frames > 80, "{queue:?}");
    assert_eq!(counters.tx.dropped[&DropReason::QueueFull], 120 - queue.frames);
    lab.accounts();
    b_guest.post(guest::SIZE);
    for number in 0..guest::SIZE as u8 {
        assert_eq!(lab.recv(&mut b_guest).unwrap().1[14..], [number; 1000]);
    }
    lab.accounts();
}

/// The guest of each link is an 802.3ad bond: it answers the switch's LACPDUs until so many links carry frames.
fn aggregate(lab: &Lab, links: &mut [Guest], active: &[PortId]) {
    let bond = Mac([2, 0, 0, 0, 0, 0xb0]);
    lab.until("the bundle forms", || {
        for (index, link) in links.iter_mut().enumerate() {
            while let Some((_, frame)) = link.recv() {
                let Some(Pdu::Lacp(pdu)) = Pdu::parse(&frame) else { continue };
                let actor = PortInfo {
                    system_priority: 0xffff,
                    system: bond,
                    key: 15,
                    port_priority: 255,
                    port: index as u16 + 1,
                    // Active, short timeout, aggregatable, in sync, collecting and distributing.
                    state: LacpState(0x3f),
                };
                let answer = Pdu::Lacp(Lacpdu { actor, partner: pdu.actor, collector_max_delay: 0 });
                link.send(&answer.to_frame(bond));
            }
        }
        lab.sw.bundles().unwrap()[0].active().map(|member| member.id).eq(active.iter().copied())
    });
}

#[test]
fn fast_ports_are_a_bundle_as_others_are() {
    let lab = Lab::new();
    let ids = [lab.add("a/eth1", 10, true), lab.add("a/eth2", 10, true)];
    let other = lab.add("b/eth1", 10, true);
    let mode = PortMode::Access { vlan: VlanId::new(10).unwrap() };
    let bundle = lab.sw.add_bundle(BundleConfig::new("a/bond0", mode, ids)).unwrap();
    let mut links = ids.map(|id| lab.guest(id, ALL));
    let mut far = lab.guest(other, ALL);
    aggregate(&lab, &mut links, &ids);

    // Each frame leaves by one link, whatever the other side floods.
    let mut came = [0, 0];
    for station in 0..64u8 {
        far.send(&frame(BROADCAST, [2, 0, 0, 0, 1, station], b"to the bundle"));
        lab.sw.ports().unwrap();
        for (link, came) in links.iter_mut().zip(&mut came) {
            *came +=
                std::iter::from_fn(|| link.recv()).filter(|(_, got)| got[14..] == *b"to the bundle").count();
        }
    }
    assert!(came[0] + came[1] == 64 && came[0] > 0 && came[1] > 0, "{came:?}");

    // What is left to the card passes undone, and is learnt on the bundle.
    let (header, whole) = tcp(30_000);
    links[1].send_with(&header, &whole);
    let (got, bytes) = lab.recv(&mut far).unwrap();
    assert_eq!((&got[..10], bytes), (&header[..], whole));
    let learnt = lab.sw.fdb().unwrap();
    assert_eq!(learnt.iter().find(|entry| entry.mac == Mac(A)).map(|entry| entry.port), Some(bundle));

    // A guest whose driver stops on one link is reached by the other.
    links[0].frontend.get_vring_base(0).unwrap();
    lab.until("the link is down", || !lab.port(ids[0]).fast.unwrap().running);
    aggregate(&lab, &mut links[1..], &ids[1..]);
    far.send(&frame(A, B, b"to the bundle"));
    assert_eq!(lab.recv(&mut links[1]).unwrap().1[14..], *b"to the bundle");
    lab.accounts();
}

#[test]
fn what_can_not_be_done_on_such_a_port_is_refused() {
    let lab = Lab::new();
    let (fast, plain) = (lab.add("fast", 10, true), lab.add("plain", 10, false));
    let refused = |result: Result<()>| match result.unwrap_err() {
        Error::FastPort { port, .. } => assert_eq!(port, "fast"),
        other => panic!("{other}"),
    };
    let slow = || Impairment::new().delay(Duration::from_millis(50));
    refused(lab.sw.impair(ImpairTarget::Port(fast), slow()).map(drop));
    refused(lab.sw.impair(ImpairTarget::Pair { from: fast, to: plain }, slow()).map(drop));
    refused(lab.sw.impair(ImpairTarget::Pair { from: plain, to: fast }, slow()).map(drop));
    lab.sw.impair(ImpairTarget::Port(plain), slow()).unwrap();
    let (all, named) = (FrameFilter::new(), FrameFilter::new().port("fast"));
    refused(lab.sw.frames(&all).map(drop));
    refused(lab.sw.frames(&named).map(drop));
    refused(lab.sw.recent_frames(&named).map(drop));
    assert_eq!(lab.sw.recent_frames(&all).unwrap().len(), 0);
    refused(lab.sw.recording(&named).map(drop));
    assert_eq!(lab.sw.recording(&all).unwrap().unseen_ports(), ["fast"]);
    lab.sw.frames(&FrameFilter::new().port("plain")).unwrap();
    let file = lab._dir.path().join("all.pcapng");
    refused(lab.sw.capture_to(&file, &named).map(drop));
    refused(lab.sw.capture_to(&file, &all).map(drop));
    refused(lab.sw.capture(named.clone()).map(drop));
    refused(lab.sw.capture(all.clone()).map(drop));
    drop(lab.sw.capture(FrameFilter::new().port("plain")).unwrap());
    refused(lab.sw.attach_channel(fast).map(drop));
    let told = lab.sw.frames(&named).unwrap_err().to_string();
    assert!(told.starts_with("switch sw: search the capture: port fast is a vhost-user port"), "{told}");
}

#[test]
fn garbage_from_a_guest_ends_its_own_port_at_most() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let plain = lab.add("plain", 10, false);
    let mut sound = lab.guest(b, ALL);
    let mut plain = lab.sw.attach_channel(plain).unwrap();
    let others_go_on = |sound: &mut Guest, plain: &mut Channel, what: &str| {
        while lab.recv(sound).is_some() {}
        plain.send(&frame(BROADCAST, B, what.as_bytes())).unwrap();
        assert_eq!(lab.recv(sound).unwrap().1[14..], *what.as_bytes());
        lab.accounts();
    };

    // What costs no more than its own frame.
    let mut bad = lab.guest(a, ALL);
    bad.submit(MEMORY as u64 - 10, 100, 0);
    bad.submit(u64::MAX - 3, 100, 0);
    bad.submit(0, u32::MAX, 0);
    bad.submit(0x20_0000, 5, 0);
    bad.submit(0x20_0000, 20, 0);
    bad.submit(0x20_0000, 1000, 2);
    bad.submit(0x20_0000, 1000, 1);
    bad.submit(0x20_0000, 64, 4);
    let (mut header, whole) = tcp(3000);
    header[8] = 0xff;
    header[9] = 0xff;
    bad.send_with(&header, &whole);
    bad.send(&frame(BROADCAST, A, b"still there"));
    lab.sw.ports().unwrap();
    assert_eq!(bad.sent_and_back(), 10, "all buffers came back: {:#?}", lab.port(a));
    assert_eq!(sound.recv().map(|(_, bytes)| bytes[14..25].to_vec()), Some(b"still there".to_vec()));
    let dropped = lab.port(a).counters.rx.dropped;
    assert_eq!(dropped[&DropReason::BadOffload], 1);
    assert!(dropped[&DropReason::BadDescriptor] >= 3, "{dropped:?}");
    others_go_on(&mut sound, &mut plain, "after bad buffers");

    // What makes a ring useless.
    bad.announce(1, 5000);
    lab.until("the ring is given up", || !lab.port(a).fast.unwrap().running);
    let problem = lab.port(a).fast.unwrap().problem.unwrap();
    assert!(problem.contains("available ring"), "{problem}");
    others_go_on(&mut sound, &mut plain, "after a ring without sense");
    drop(bad);

    // Whatever is in its memory.
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..200 {
        let mut bad = lab.guest(a, ALL);
        for _ in 0..random.usize(1..40) {
            let index = random.usize(0..2);
            let spot = [0, 0x4000, 0x4002, 0x8000][random.usize(0..4)] + random.u64(0..200);
            let bytes: Vec<u8> = (0..random.usize(1..60)).map(|_| random.u8(..)).collect();
            bad.memory.write_slice(&bytes, GuestAddress(guest::ring(index) + spot)).unwrap();
            if random.bool() {
                bad.announce(index, random.u16(0..80));
            }
            bad.kick(index);
        }
        bad.send(&frame(BROADCAST, A, b"?"));
        others_go_on(&mut sound, &mut plain, &format!("after round {round}"));
    }
}

#[test]
fn rings_are_stopped_and_started_as_a_guest_reboots() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let (mut a_guest, mut b_guest) = (lab.guest(a, ALL), lab.guest(b, ALL));
    for round in 0..3u8 {
        a_guest.send(&frame(BROADCAST, A, &[round; 30]));
        assert_eq!(lab.recv(&mut b_guest).unwrap().1[14..], [round; 30]);
        for index in 0..2 {
            a_guest.frontend.get_vring_base(index).unwrap();
        }
        let stopped = lab.port(a);
        assert!(stopped.connected && !stopped.fast.unwrap().running);
        for index in 0..2 {
            a_guest.set_up(index);
        }
        assert!(lab.port(a).fast.unwrap().running);
    }
    drop(a_guest);
    lab.until("the front end is gone", || !lab.port(a).connected);
    assert_eq!(lab.port(a).fast.unwrap(), FastState::default());
}

/// A message as QEMU sends it: version 1, and the wish to be told how it went.
fn request(code: u32, body: &[u8]) -> Vec<u8> {
    let words = [code, 9, body.len() as u32];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(body.iter().copied()).collect()
}

#[test]
fn rings_may_be_enabled_before_features_are_set_as_qemu_does() {
    let lab = Lab::new();
    let a = lab.add("a", 10, true);
    let mut socket = UnixStream::connect(lab.sw.socket_path(a).unwrap()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let enable = 0x1_0000_0000_u64.to_le_bytes();
    // In pieces, as a stream may have it.
    for piece in request(18, &enable).chunks(5) {
        socket.write_all(piece).unwrap();
        lab.sw.ports().unwrap();
    }
    let mut answer = [0; 20];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [18, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(lab.port(a).connected);
}

#[test]
fn a_front_end_that_talks_nonsense_is_let_go_and_can_come_back() {
    let lab = Lab::new();
    let a = lab.add("a", 10, true);
    let path = lab.sw.socket_path(a).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..100 {
        let mut socket = UnixStream::connect(&path).unwrap();
        let code = random.u32(0..45);
        let body: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
        let mut bytes = request(code, &body);
        if round % 3 == 0 {
            let at = random.usize(0..12);
            bytes[at] = random.u8(..);
        }
        // It may have been let go already.
        let _ = socket.write_all(&bytes);
        lab.sw.ports().unwrap();
    }
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(&request(2, &(1u64 << 63).to_le_bytes())).unwrap();
    let problem = lab.port(a).fast.unwrap().problem.unwrap();
    assert_eq!(problem, "vhost-user: features 0x8000000000000000, which were not offered");
    let mut guest = lab.guest(a, ALL);
    guest.send(&frame(BROADCAST, A, b"back"));
    lab.sw.ports().unwrap();
    assert_eq!(guest.sent_and_back(), 1);
    assert_eq!(lab.port(a).fast.unwrap().problem, None);
}

#[test]
fn rings_that_are_changed_while_they_run_are_looked_at_anew() {
    let lab = Lab::new();
    let (a, b) = (lab.add("a", 10, true), lab.add("b", 10, true));
    let (mut a_guest, mut b_guest) = (lab.guest(a, ALL), lab.guest(b, ALL));
    a_guest.place(1, MEMORY as u64 - 8);
    let problem = lab.port(a).fast.unwrap().problem;
    assert_eq!(problem.as_deref(), Some("the ring is not in the guest's memory"));
    assert!(!lab.port(a).fast.unwrap().running);
    a_guest.set_up(1);
    lab.until("the port runs again", || lab.port(a).fast.unwrap().running);
    a_guest.send(&frame(BROADCAST, A, b"again"));
    assert_eq!(lab.recv(&mut b_guest).unwrap().1[14..], *b"again");
    lab.accounts();
}

#[test]
fn kicks_that_never_end_hold_up_nobody() {
    let lab = Lab::new();
    let (a, b, c) = (lab.add("a", 10, true), lab.add("b", 10, false), lab.add("c", 10, false));
    let socket = UnixStream::connect(lab.sw.socket_path(a).unwrap()).unwrap();
    let zeroes = std::fs::File::open("/dev/zero").unwrap();
    let (fds, bytes) = ([zeroes.as_raw_fd()], request(12, &0u64.to_le_bytes()));
    let with = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &with, MsgFlags::empty(), None).unwrap();
    let (mut b, mut c) = (lab.sw.attach_channel(b).unwrap(), lab.sw.attach_channel(c).unwrap());
    for number in 0..20 {
        let sent = frame(BROADCAST, B, &[number; 50]);
        b.send(&sent).unwrap();
        assert_eq!(*c.recv(LIMIT).unwrap().unwrap(), *sent);
    }
    assert!(lab.port(a).connected);
}
