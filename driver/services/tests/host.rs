//! A host on a real switch, and a client of this process on another port: no privileges.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable};
use pretty_assertions::assert_eq;
use services::{Clients, DhcpScope, DhcpServer, Host, HostOptions, LeaseState, RaScope, Reservation};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;
use switch::{Channel, Mac, PortConfig, PortMode, ServiceFaultChange, Switch, SwitchOptions, VlanId};

const LIMIT: Duration = Duration::from_secs(30);
const MAC: Mac = Mac([0x52, 0x54, 0, 1, 1, 1]);

struct Lab {
    sw: Switch,
    host: Host,
    _dir: tempfile::TempDir,
}

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
    let host =
        Host::start(&sw, HostOptions::new("services", vlan(7), "192.168.7.254/24".parse().unwrap())).unwrap();
    Lab { sw, host, _dir: dir }
}

impl Lab {
    fn client(&self, name: &str, vid: u16) -> Channel {
        let port = self.sw.add_port(PortConfig::new(name, PortMode::Access { vlan: vlan(vid) })).unwrap();
        self.sw.attach_channel(port).unwrap()
    }

    fn dhcp(&self) -> DhcpServer {
        let address = "192.168.7.1".parse().unwrap();
        let reservations = vec![Reservation { mac: MAC, address, hostname: None }];
        self.host.serve_dhcp(DhcpScope { reservations, ..DhcpScope::default() }).unwrap()
    }
}

fn ethernet(ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let header =
        EthernetRepr { src_addr: EthernetAddress(MAC.0), dst_addr: EthernetAddress::BROADCAST, ethertype };
    let mut frame = vec![0; header.buffer_len() + payload.len()];
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame[header.buffer_len()..].copy_from_slice(payload);
    frame
}

fn arp_request() -> Vec<u8> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(MAC.0),
        source_protocol_addr: Ipv4Addr::new(192, 168, 7, 1),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: Ipv4Addr::new(192, 168, 7, 254),
    };
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    ethernet(EthernetProtocol::Arp, &bytes)
}

fn discover() -> Vec<u8> {
    let (from, to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let mut message = Message::new(from, from, from, from, &MAC.0);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    let message = message.to_vec().unwrap();
    let udp = UdpRepr { src_port: 68, dst_port: 67 };
    let length = udp.header_len() + message.len();
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: 64,
    };
    let mut bytes = vec![0; ip.buffer_len() + length];
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    ip.emit(&mut packet, &checksums);
    let mut segment = UdpPacket::new_unchecked(packet.payload_mut());
    udp.emit(
        &mut segment,
        &from.into(),
        &to.into(),
        message.len(),
        |into| into.copy_from_slice(&message),
        &checksums,
    );
    ethernet(EthernetProtocol::Ipv4, &bytes)
}

fn arp_answer(client: &mut Channel) -> ArpRepr {
    let frame = client.recv(LIMIT).unwrap().expect("an answer");
    ArpRepr::parse(
        &ArpPacket::new_checked(EthernetFrame::new_checked(&frame[..]).unwrap().payload()).unwrap(),
    )
    .unwrap()
}

#[test]
fn it_answers_arp_in_its_own_vlan_only() {
    let lab = lab();
    let (mut inside, mut outside) = (lab.client("inside", 7), lab.client("outside", 8));
    outside.send(&arp_request()).unwrap();
    inside.send(&arp_request()).unwrap();
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. } =
        arp_answer(&mut inside)
    else {
        panic!("not ARP of Ethernet and IPv4")
    };
    assert_eq!(operation, ArpOperation::Reply);
    assert_eq!((Mac(source_hardware_addr.0), source_protocol_addr), (lab.host.mac(), lab.host.address()));
    assert_eq!(outside.recv(Duration::from_millis(1)).unwrap().as_deref(), None);
}

#[test]
fn it_answers_a_ping() {
    let lab = lab();
    let mut client = lab.client("client", 7);
    // It learns the asker's address by this.
    client.send(&arp_request()).unwrap();
    arp_answer(&mut client);
    let checks = ChecksumCapabilities::default();
    let echo = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: b"hello" };
    let (src_addr, dst_addr) = (Ipv4Addr::new(192, 168, 7, 1), lab.host.address());
    let header = Ipv4Repr {
        src_addr,
        dst_addr,
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; header.buffer_len() + echo.buffer_len()];
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &checks);
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[header.buffer_len()..]), &checks);
    let mut frame = ethernet(EthernetProtocol::Ipv4, &bytes);
    frame[..6].copy_from_slice(&lab.host.mac().0);
    client.send(&frame).unwrap();
    let answer = loop {
        let frame = client.recv(LIMIT).unwrap().expect("an answer").to_vec();
        let frame = EthernetFrame::new_checked(&frame).unwrap();
        if frame.ethertype() == EthernetProtocol::Ipv4 {
            break frame.payload().to_vec();
        }
    };
    let answered = Ipv4Packet::new_checked(&answer).unwrap();
    let packet = Icmpv4Packet::new_checked(answered.payload()).unwrap();
    assert_eq!(
        Icmpv4Repr::parse(&packet, &checks),
        Ok(Icmpv4Repr::EchoReply { ident: 7, seq_no: 1, data: b"hello" })
    );
    assert_eq!((answered.src_addr(), answered.dst_addr()), (dst_addr, src_addr));
}

#[test]
fn an_offer_crosses_the_switch_and_may_be_late() {
    let lab = lab();
    let dhcp = lab.dhcp();
    let mut client = lab.client("client", 7);
    let delay = Duration::from_millis(100);
    let slow = dhcp.delay(Clients::All, delay).unwrap();
    let asked = Instant::now();
    client.send(&discover()).unwrap();
    let frame = client.recv(LIMIT).unwrap().expect("an offer");
    assert!(asked.elapsed() >= delay);
    slow.heal();
    assert_eq!(lab.sw.state().unwrap().service_faults, [], "its guard has healed it");
    let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
    assert_eq!(ethernet.dst_addr(), EthernetAddress(MAC.0));
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(ip.verify_checksum() && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    let offer = Message::decode(&mut Decoder::new(udp.payload())).unwrap();
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(192, 168, 7, 1));
    assert_eq!(dhcp.lease(MAC).unwrap().unwrap().state, LeaseState::Offered);
    // The switch tells it to whoever asks for its state.
    let services = lab.sw.state().unwrap().services;
    let [told] = services.as_slice() else { panic!("one service, not {services:?}") };
    assert_eq!((told.port, told.service.as_str()), (lab.host.port(), "dhcp"));
    assert_eq!(told.state["counters"]["offers"], 1);
    let lease = &told.state["leases"][0];
    assert_eq!((&lease["mac"], &lease["address"]), (&"52:54:00:01:01:01".into(), &"192.168.7.1".into()));
    assert_eq!(lease["state"], "offered");
    assert!(lease["expires_in_s"].as_u64().is_some_and(|seconds| seconds < 60), "{lease}");
}

#[test]
fn a_fault_outlives_its_guard_and_whoever_heals_the_switchs_faults_finds_it() {
    let lab = lab();
    let dhcp = lab.dhcp();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    lab.sw.watch_service_faults(move |fault, change| {
        telling.lock().unwrap().push((format!("{} {}", fault.service, fault.what), fault.client, change));
    });
    drop(dhcp.ignore(Clients::One(MAC)).unwrap());
    let mut client = lab.client("client", 7);
    client.send(&discover()).unwrap();
    let faults = lab.sw.state().unwrap().service_faults;
    let [fault] = faults.as_slice() else { panic!("one fault, not {faults:?}") };
    assert_eq!((fault.port, fault.what.as_str()), (lab.host.port(), "ignores 52:54:00:01:01:01"));
    assert!(fault.since <= lab.sw.now());
    let end = Instant::now() + LIMIT;
    while dhcp.counters().unwrap().ignored == 0 {
        assert!(Instant::now() < end, "the client is not ignored");
        std::thread::yield_now();
    }

    lab.sw.heal_service_fault(fault.id).unwrap();
    assert_eq!(lab.sw.state().unwrap().service_faults, []);
    client.send(&discover()).unwrap();
    client.recv(LIMIT).unwrap().expect("an offer");

    // A guard whose fault is over already has nothing to do, nor has one whose host is gone.
    let refusal = dhcp.refuse(Clients::All).unwrap();
    lab.sw.heal_service_fault(lab.sw.state().unwrap().service_faults[0].id).unwrap();
    refusal.heal();
    dhcp.expire(MAC).unwrap();
    let slow = dhcp.delay(Clients::All, Duration::from_secs(5)).unwrap();
    lab.host.stop().unwrap();
    slow.heal();
    assert_eq!(lab.sw.state().unwrap().service_faults, []);
    let (one, all) = (Some(MAC), None);
    let expected = [
        ("ignores 52:54:00:01:01:01", one, ServiceFaultChange::Begins),
        ("ignores 52:54:00:01:01:01", one, ServiceFaultChange::Ends),
        ("refuses all clients", all, ServiceFaultChange::Begins),
        ("refuses all clients", all, ServiceFaultChange::Ends),
        ("ended the lease of 52:54:00:01:01:01", one, ServiceFaultChange::Happened),
        ("answers all clients 5s later", all, ServiceFaultChange::Begins),
        ("answers all clients 5s later", all, ServiceFaultChange::Ends),
    ];
    let expected =
        expected.map(|(what, client, change)| (format!("DHCP of services {what}"), client, change));
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn a_damaged_message_is_counted() {
    let lab = lab();
    let dhcp = lab.dhcp();
    let mut client = lab.client("client", 7);
    let mut damaged = discover();
    *damaged.last_mut().unwrap() ^= 1;
    client.send(&damaged).unwrap();
    client.send(&discover()).unwrap();
    client.recv(LIMIT).unwrap().expect("an offer");
    let counters = dhcp.counters().unwrap();
    assert_eq!((counters.received, counters.malformed, counters.offers), (2, 1, 1));
}

#[test]
fn it_advertises_itself_and_answers_at_its_ipv6_address() {
    let lab = lab();
    let mut client = lab.client("client", 7);
    let scope = RaScope { prefixes: vec!["fd00:7::/64".parse().unwrap()], ..RaScope::default() };
    let router = lab.host.serve_ra(scope).unwrap();
    let received = client.recv(LIMIT).unwrap().expect("an advertisement that nobody has asked for");
    let frame = EthernetFrame::new_checked(&received[..]).unwrap();
    assert_eq!((Mac(frame.src_addr().0), frame.dst_addr().0), (lab.host.mac(), [0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(router.counters().unwrap().multicast, 1);

    // Neighbour solicitation for its address in the prefix.
    let (from, target) = ("fd00:7::1".parse().unwrap(), router.addresses()[1]);
    let request = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: Some(EthernetAddress(MAC.0).into()),
    });
    let length = request.buffer_len();
    let header = Ipv6Repr {
        src_addr: from,
        dst_addr: target,
        next_header: IpProtocol::Icmpv6,
        payload_len: length,
        hop_limit: 255,
    };
    let mut bytes = vec![0; header.buffer_len() + length];
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
    header.emit(&mut packet);
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    request.emit(&from, &target, &mut message, &ChecksumCapabilities::default());
    client.send(&ethernet(EthernetProtocol::Ipv6, &bytes)).unwrap();
    let received = client.recv(LIMIT).unwrap().expect("an answer");
    let packet =
        Ipv6Packet::new_checked(EthernetFrame::new_checked(&received[..]).unwrap().payload()).unwrap();
    assert_eq!((packet.src_addr(), packet.dst_addr()), (target, from));
    router.stop().unwrap();
    assert!(router.counters().unwrap_err().to_string().contains("it advertises nothing"));
}

#[test]
fn it_ends_with_its_guard_and_says_so() {
    let lab = lab();
    let dhcp = lab.dhcp();
    let Lab { sw, host, .. } = &lab;
    let twice = Host::start(sw, HostOptions::new("services", vlan(7), "192.168.7.253/24".parse().unwrap()));
    assert_eq!(
        twice.unwrap_err().to_string(),
        "host services: add its port: switch sw: there is a port services already"
    );
    let network = Host::start(sw, HostOptions::new("x", vlan(7), "192.168.7.0/24".parse().unwrap()));
    assert!(matches!(network, Err(services::Error::Address { .. })));
    sw.remove_port(host.port()).unwrap();
    let end = Instant::now() + LIMIT;
    let error = loop {
        match dhcp.leases() {
            Err(error) => break error.to_string(),
            Ok(_) => assert!(Instant::now() < end, "the host notices that its port is gone"),
        }
    };
    assert_eq!(error, "host services: read the leases: the host does not run: the switch closed its port");

    let other =
        Host::start(sw, HostOptions::new("other", vlan(7), "192.168.7.253/24".parse().unwrap())).unwrap();
    other.stop().unwrap();
    assert!(sw.ports().unwrap().iter().all(|port| port.name != "other"));
}
