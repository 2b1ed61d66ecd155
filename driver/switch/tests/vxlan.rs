//! Switches joined over VXLAN: two of ours over the loopback, and one of ours with the kernel's `vxlan` device.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// For a frame that must not come: one that was sent later has come.
const NOTHING: Duration = Duration::from_millis(1);

struct Lab {
    sw: Switch,
    _dir: TempDir,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        Lab { sw: Switch::start(SwitchOptions::new("sw", dir.path())).unwrap(), _dir: dir }
    }

    fn access(&self, name: &str, vid: u16) -> Channel {
        let mode = PortMode::Access { vlan: VlanId::new(vid).unwrap() };
        let port = self.sw.add_port(PortConfig::new(name, mode)).unwrap();
        self.sw.attach_channel(port).unwrap()
    }

    fn uplink(&self, allowed: &str, local: SocketAddr, peer: SocketAddr, vni: u32) -> UplinkId {
        let mode = PortMode::Trunk { allowed: allowed.parse().unwrap(), native: None };
        let vni = Vni::new(vni).unwrap();
        self.sw.add_uplink(UplinkConfig::vxlan("spine", mode, local, peer, vni)).unwrap()
    }

    fn spine(&self) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.name == "spine").unwrap()
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.ports());
            thread::yield_now();
        }
    }
}

/// Addresses of the loopback that no other run uses: a test that binds the port of VXLAN must not meet another.
fn loopback(host: u8) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 1 + (high & 0x7f), low, host)), VXLAN_PORT)
}

fn frame(dst: u8, src: u8, length: usize) -> Vec<u8> {
    let mac = |n: u8| if n == 0xff { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, n] };
    let mut bytes = [mac(dst), mac(src)].concat();
    bytes.extend_from_slice(b"\x88\xb5");
    bytes.resize(length.max(MIN_FRAME), src);
    bytes
}

fn got(channel: &mut Channel) -> Vec<u8> {
    channel.recv(LIMIT).unwrap().expect("a frame").to_vec()
}

#[test]
fn two_switches_are_one_over_a_trunk_of_their_vlans() {
    let (left, right) = (Lab::new(), Lab::new());
    left.uplink("7-8", loopback(1), loopback(2), 42);
    right.uplink("7,9", loopback(2), loopback(1), 42);
    let (mut l7, mut l8) = (left.access("l7", 7), left.access("l8", 8));
    let (mut r7, mut r8) = (right.access("r7", 7), right.access("r8", 8));
    for length in [14, 1514, 9014, 65_000] {
        l7.send(&frame(0xff, 1, length)).unwrap();
        assert_eq!(got(&mut r7), frame(0xff, 1, length));
    }
    r7.send(&frame(1, 2, 1514)).unwrap();
    assert_eq!(got(&mut l7), frame(1, 2, 1514));
    // A VLAN that only one of the trunks carries, and then one that both do.
    l8.send(&frame(0xff, 3, 60)).unwrap();
    l7.send(&frame(0xff, 1, 61)).unwrap();
    assert_eq!(got(&mut r7).len(), 61);
    assert_eq!(r8.recv(NOTHING).unwrap(), None);
    assert_eq!(right.spine().counters.rx.dropped[&DropReason::VlanNotAllowed], 1);
    // What no datagram can take.
    l7.send(&frame(0xff, 1, 66_000)).unwrap();
    assert_eq!(left.spine().counters.tx.dropped[&DropReason::TooLong], 1);
    let state = left.sw.uplinks().unwrap().remove(0);
    assert_eq!((state.name.as_str(), state.port), ("spine", Some(left.spine().id)));
    assert_eq!(state.kind.to_string(), format!("vxlan 42 from {} to {}", loopback(1), loopback(2)));
    let tagged =
        left.sw.frames(&FrameFilter::new().port("spine").direction(Direction::Out).tagged(7)).unwrap();
    assert_eq!(tagged.len(), 6);
    left.sw.remove_uplink(state.id).unwrap();
    left.uplink("7-8", loopback(1), loopback(2), 42);
}

#[test]
fn garbage_and_strangers_are_counted_and_harm_nobody() {
    let lab = Lab::new();
    lab.uplink("7", loopback(11), loopback(12), 42);
    let mut station = lab.access("station", 7);
    let [peer, stranger] =
        [12, 13].map(|host| UdpSocket::bind(SocketAddr::new(loopback(host).ip(), 0)).unwrap());
    let send = |from: &UdpSocket, bytes: &[u8]| from.send_to(bytes, loopback(11)).unwrap();
    let tagged = [&frame(0xff, 9, 14)[..12], b"\x81\x00\x00\x07\x88\xb5tagged"].concat();
    let datagram = |vni: u32| [&Vni::new(vni).unwrap().header()[..], &tagged].concat();
    send(&stranger, &datagram(42));
    send(&peer, b"");
    send(&peer, b"\x08\0\0");
    send(&peer, &[0; 60]);
    send(&peer, &datagram(43));
    send(&peer, &Vni::new(42).unwrap().header());
    send(&peer, &datagram(42));
    assert_eq!(got(&mut station), [&frame(0xff, 9, 14)[..], b"tagged"].concat());
    lab.until("all have come", || lab.spine().counters.rx.frames == 7);
    let rx = lab.spine().counters.rx;
    assert_eq!(rx.dropped[&DropReason::NotFromPeer], 1);
    assert_eq!(rx.dropped[&DropReason::BadEncapsulation], 3);
    assert_eq!(rx.dropped[&DropReason::OtherNetwork], 1);
    assert_eq!(rx.dropped[&DropReason::Malformed], 1);
    assert_eq!(rx.forwarded, 1);
    // A peer that is not there: each datagram is answered by an error, and the port stays.
    for n in 0..100 {
        station.send(&frame(0xff, 1, 60 + n)).unwrap();
    }
    assert_eq!(lab.spine().counters.tx.sent, 100);
    assert!(lab.spine().connected);
}

#[test]
fn what_can_not_be_is_told_with_its_remedy() {
    let lab = Lab::new();
    let told = |local: &str, peer: &str| {
        let mode = PortMode::Access { vlan: VlanId::new(1).unwrap() };
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        lab.sw
            .add_uplink(UplinkConfig::vxlan("spine", mode, local, peer, Vni::new(1).unwrap()))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        told("127.0.0.1:0", "[::1]:4789"),
        "switch sw, uplink spine: cannot take VXLAN on 127.0.0.1:0 for [::1]:4789: both addresses must be IPv4 or both \
         IPv6, and the peer's needs a port"
    );
    let not_ours = told("192.0.2.1:4789", "127.0.0.1:4789");
    assert!(not_ours.ends_with("`ip address` lists them"), "{not_ours}");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let in_use = told(&taken.local_addr().unwrap().to_string(), "127.0.0.1:4789");
    assert!(in_use.contains("another uplink or program has it"), "{in_use}");
    assert_eq!(lab.sw.ports().unwrap(), []);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the switch's crates start no programs, so `process` is not theirs"
)]
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{script}: {}\n{text}", output.status);
    text
}

/// The stack of another namespace, with the kernel's `vxlan` device, pings the address of a scripted station behind our
/// switch.
#[test]
#[ignore = "needs root, a kernel with vxlan and veth, iproute2 and iputils-ping"]
fn the_kernels_vxlan_device_is_a_peer() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
    let (ready, other) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let kernel = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(gettid()).unwrap();
        may_go.recv_timeout(LIMIT).unwrap();
        shell(
            "ip address add 192.0.2.1/24 dev far0
             ip link set far0 up
             ip link add vx0 type vxlan id 42 local 192.0.2.1 remote 192.0.2.2 dstport 4789
             ip link set vx0 address 52:54:00:00:00:01 mtu 1450 up
             ip address add 192.168.7.1/24 dev vx0
             ip neighbour add 192.168.7.2 lladdr 52:54:00:00:00:02 dev vx0",
        );
        shell("ping -c3 -i0.2 -W5 -s1400 192.168.7.2")
    });
    let other = other.recv_timeout(LIMIT).unwrap();
    shell(&format!(
        "ip link add near0 type veth peer name far0 netns {other}
         ip address add 192.0.2.2/24 dev near0
         ip link set near0 up"
    ));
    let lab = Lab::new();
    let mode = PortMode::Access { vlan: VlanId::new(7).unwrap() };
    let [local, peer] = [2, 1].map(|host| SocketAddr::new(Ipv4Addr::new(192, 0, 2, host).into(), VXLAN_PORT));
    lab.sw
        .add_uplink(UplinkConfig::vxlan("spine", mode, local, peer, Vni::new(42).unwrap()))
        .expect("an uplink in this thread's namespace");
    go.send(()).unwrap();
    let mut station = lab.access("station", 7);
    // Answers every echo request by swapping the addresses and making it a reply.
    thread::spawn(move || {
        let mut answered = 0;
        while answered < 3 {
            let mut frame = got(&mut station);
            if frame[12..14] != [8, 0] || frame[23] != 1 {
                continue;
            }
            let (dst, src) = (frame[..6].to_vec(), frame[6..12].to_vec());
            frame[..6].copy_from_slice(&src);
            frame[6..12].copy_from_slice(&dst);
            let (from, to) = (frame[26..30].to_vec(), frame[30..34].to_vec());
            frame[26..30].copy_from_slice(&to);
            frame[30..34].copy_from_slice(&from);
            frame[34] = 0;
            // 8 less in the sum's first byte is 8 more in its complement's.
            let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
            station.send(&frame).unwrap();
            answered += 1;
        }
    });
    let said = kernel.join().expect("the kernel's side");
    assert!(said.contains("3 received"), "{said}");
}
