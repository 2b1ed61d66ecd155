//! Taps and NICs of the host as uplinks. Each test has a network namespace of its own: the host's network is not touched.

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{SetSockOpt, sockopt};
use nix::unistd::geteuid;
use pretty_assertions::assert_eq;
use switch::*;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

struct Lab {
    sw: Switch,
    _dir: TempDir,
}

impl Lab {
    /// Enters a namespace for the calling thread, which is the test's own.
    fn new() -> Lab {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this needs root");
        Lab::here()
    }

    fn here() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        Lab { sw: Switch::start(SwitchOptions::new("sw", dir.path())).unwrap(), _dir: dir }
    }

    fn port(&self, name: &str) -> PortState {
        self.sw.ports().unwrap().into_iter().find(|port| port.name == name).unwrap()
    }

    fn channel(&self, name: &str, mode: PortMode) -> Channel {
        let port = self.sw.add_port(PortConfig::new(name, mode)).unwrap();
        self.sw.attach_channel(port).unwrap()
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}; {:#?}", self.sw.ports());
            thread::yield_now();
        }
    }
}

fn access(vid: u16) -> PortMode {
    PortMode::Access { vlan: VlanId::new(vid).unwrap() }
}

fn trunk(allowed: &str) -> PortMode {
    PortMode::Trunk { allowed: allowed.parse().unwrap(), native: None }
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

/// The next UDP datagram with this payload, which must have the given length and a right checksum; its VLAN id.
fn datagram(channel: &mut Channel, payload: &[u8]) -> Option<u16> {
    let end = Instant::now() + LIMIT;
    while let Some(frame) = channel.recv(end.saturating_duration_since(Instant::now())).unwrap() {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
            (&packet.net, &packet.transport)
        else {
            continue;
        };
        if udp.payload() == payload {
            let right = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), payload).unwrap();
            assert_eq!(udp.checksum(), right, "the checksum is made");
            return packet.vlan_ids().first().map(|id| id.value());
        }
    }
    panic!("no such datagram");
}

/// A UDP datagram in a frame from 192.168.7.2 to 192.168.7.1.
fn to_the_host(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 2], [0x52, 0x54, 0, 0, 0, 1])
        .ipv4([192, 168, 7, 2], [192, 168, 7, 1], 64)
        .udp(7000, 7001)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Gives an interface the address 192.168.7.1, a neighbour 192.168.7.2, and a socket on them.
fn station(interface: &str) -> UdpSocket {
    shell(&format!(
        "ip link set {interface} address 52:54:00:00:00:01 up
         ip address add 192.168.7.1/24 dev {interface}
         ip neighbour replace 192.168.7.2 lladdr 52:54:00:00:00:02 dev {interface}"
    ));
    let socket = UdpSocket::bind("192.168.7.1:7001").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

#[test]
fn an_interface_that_can_not_be_had_is_told_with_its_remedy() {
    let lab = Lab::here();
    let told = |config| lab.sw.add_uplink(config).unwrap_err().to_string();
    let long = told(UplinkConfig::tap("lan", access(1), "a-name-that-is-too-long"));
    assert!(long.contains("uplink lan") && long.contains("1 to 15 bytes"), "{long}");
    let none = told(UplinkConfig::nic("lan", access(1), "rackless-none"));
    assert!(
        none.ends_with("`ip link` lists the interfaces that there are") || none.contains("CAP_NET_RAW"),
        "{none}"
    );
    if !geteuid().is_root() {
        let nic = told(UplinkConfig::nic("lan", access(1), "lo"));
        assert!(
            nic.contains("cannot open the interface lo") && nic.contains("this needs CAP_NET_RAW"),
            "{nic}"
        );
        let tap = told(UplinkConfig::tap("lan", access(1), "rack0"));
        assert!(tap.contains("/dev/net/tun: ") && tap.contains("; "), "{tap}");
    }
    assert_eq!(lab.sw.uplinks().unwrap(), []);
}

#[test]
#[ignore = "needs root, /dev/net/tun and iproute2"]
fn a_tap_is_a_port() {
    let lab = Lab::new();
    let uplink = lab.sw.add_uplink(UplinkConfig::tap("host", trunk("7"), "rack%d")).unwrap();
    let state = lab.sw.uplink(uplink).unwrap();
    assert_eq!(state.kind, UplinkKind::Tap { interface: "rack0".into() });
    let busy = lab.sw.add_uplink(UplinkConfig::tap("again", access(7), "rack0")).unwrap_err().to_string();
    assert!(busy.ends_with("another program has this tap open"), "{busy}");
    lab.sw.remove_uplink(uplink).unwrap();
    assert!(!shell("ip link").contains("rack0"));

    lab.sw.add_uplink(UplinkConfig::tap("host", access(7), "rack0")).unwrap();
    let host = station("rack0");
    let mut other = lab.channel("other", trunk("7"));
    host.send_to(b"from the host", "192.168.7.2:7000").unwrap();
    assert_eq!(datagram(&mut other, b"from the host"), Some(7));
    let frame = to_the_host(b"to the host");
    other.send(&[&frame[..12], b"\x81\x00\x00\x07", &frame[12..]].concat()).unwrap();
    let mut received = [0; 100];
    let bytes = host.recv(&mut received).unwrap();
    assert_eq!(&received[..bytes], b"to the host");
    // Down: nothing passes, and it is said why.
    shell("ip link set rack0 down");
    other.send(&[&frame[..12], b"\x81\x00\x00\x07", &frame[12..]].concat()).unwrap();
    assert_eq!(lab.port("host").counters.tx.dropped[&DropReason::InterfaceDown], 1);
    // Gone: the port has no link.
    shell("ip link del rack0");
    lab.until("its end is noticed", || !lab.port("host").connected);
}

#[test]
#[ignore = "needs root, iproute2 and a kernel with veth"]
fn a_nic_is_a_port_with_its_tags_and_checksums() {
    let lab = Lab::new();
    shell("ip link add nic0 type veth peer name far0 && ip link set nic0 up");
    let mut seen = lab.channel("seen", trunk("7"));
    let uplink = lab.sw.add_uplink(UplinkConfig::nic("wire", access(7), "nic0")).unwrap();
    let far = station("far0");
    // The kernel leaves the checksum of this one to the NIC, and a veth makes none.
    far.send_to(b"odd", "192.168.7.2:7000").unwrap();
    assert_eq!(datagram(&mut seen, b"odd"), Some(7));
    let frame = to_the_host(b"to the far end");
    seen.send(&[&frame[..12], b"\x81\x00\x00\x07", &frame[12..]].concat()).unwrap();
    let mut received = [0; 100];
    let bytes = far.recv(&mut received).unwrap();
    assert_eq!(&received[..bytes], b"to the far end");
    // What the switch sent does not come back, or the address would have moved.
    let at =
        |sw: &Switch| sw.fdb().unwrap().into_iter().find(|entry| entry.mac == Mac([0x52, 0x54, 0, 0, 0, 2]));
    assert_eq!(at(&lab.sw).unwrap().port, lab.port("seen").id);
    assert!(lab.port("wire").counters.rx.dropped.is_empty(), "{:?}", lab.port("wire").counters.rx);
    // Ten datagrams that the kernel leaves to the NIC to cut: no wire takes that, and it is said.
    sockopt::UdpGsoSegment.set(&far, &100).unwrap();
    far.send_to(&[1; 1000], "192.168.7.2:7000").unwrap();
    lab.until("it is seen for what it is", || {
        lab.port("wire").counters.rx.dropped.get(&DropReason::Merged) == Some(&1)
    });
    lab.sw.remove_uplink(uplink).unwrap();

    // Tagged frames: a second switch sends them by the other end of the veth, and the kernel takes the tags off.
    let ends = [("near", "nic0"), ("far", "far0")];
    for (name, interface) in ends {
        lab.sw.add_uplink(UplinkConfig::nic(name, trunk("7-9"), interface)).unwrap();
    }
    lab.sw.set_admin(lab.port("far").id, false).unwrap();
    let second = Lab::here();
    second.sw.add_uplink(UplinkConfig::nic("far", trunk("7-9"), "far0")).unwrap();
    let (mut nine, mut here) = (second.channel("nine", access(9)), lab.channel("here", access(9)));
    let mut sent = vec![0xff; 6];
    sent.extend([0x52, 0x54, 0, 0, 0, 5, 0x88, 0xb5]);
    sent.resize(1514, 0x5a);
    nine.send(&sent).unwrap();
    assert_eq!(here.recv(LIMIT).unwrap().expect("the frame").to_vec(), sent);
    let tagged = FrameFilter::new().port("near").direction(Direction::In).tagged(9);
    assert_eq!(lab.sw.frames(&tagged).unwrap().len(), 1);
    // Longer than the link takes: said, not cut.
    sent.resize(4000, 0x5a);
    nine.send(&sent).unwrap();
    second.until("it is refused", || {
        let port = second.port("far");
        port.counters.tx.dropped.get(&DropReason::TooLong) == Some(&1)
    });
    shell("ip link set far0 down");
    nine.send(&sent[..100]).unwrap();
    second.until("it is down", || {
        second.port("far").counters.tx.dropped.get(&DropReason::InterfaceDown) == Some(&1)
    });
    shell("ip link del far0");
    nine.send(&sent[..100]).unwrap();
    second.until("it is gone", || !second.port("far").connected);
}
