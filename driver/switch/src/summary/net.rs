//! What is above Ethernet. IP, TCP, UDP, ICMP and ARP are read by etherparse, LACP and LLDP by ourselves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use etherparse::{EtherType, LaxPacketHeaders, NetHeaders, TransportHeader};

use crate::lacp::{self, Pdu};
use crate::lldp::{self, Lldpdu};
use crate::mac::Mac;

/// What is above Ethernet, as far as tests and messages need it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetSummary {
    /// An ARP request or answer about IPv4 (RFC 826).
    Arp(Arp),
    /// An IPv4 or IPv6 packet.
    Ip(Ip),
    /// A PDU of link aggregation (IEEE 802.1AX).
    Lacp(Pdu),
    /// An LLDPDU (IEEE 802.1AB).
    Lldp(Lldpdu),
}

/// An ARP request or answer about IPv4 (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 is a request, 2 an answer.
    pub operation: u16,
    /// The MAC address that the sender says it has.
    pub sender: Mac,
    /// The IPv4 address that the sender says it has.
    pub sender_ip: Ipv4Addr,
    /// The MAC address of the target; zero in most requests.
    pub target: Mac,
    /// The IPv4 address that is asked for or answered to.
    pub target_ip: Ipv4Addr,
}

/// An IPv4 or IPv6 header with what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// From.
    pub src: IpAddr,
    /// To.
    pub dst: IpAddr,
    /// The protocol number (IANA), 6 for TCP; for IPv6, after the extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Whether it is a fragment of a packet; its transport header is not read then.
    pub fragment: bool,
    /// The header above, if it is one of those and whole.
    pub transport: Option<Transport>,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp(Tcp),
    /// UDP (RFC 768).
    Udp(Udp),
    /// ICMP (RFC 792) or ICMPv6 (RFC 4443), as the addresses say.
    Icmp(Icmp),
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The port it comes from.
    pub src_port: u16,
    /// The port it goes to.
    pub dst_port: u16,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number, of use when `flags.ack`.
    pub ack: u32,
    /// The flags.
    pub flags: TcpFlags,
}

/// The flags of a TCP header that matter to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// A connection is asked for, or granted with `ack`.
    pub syn: bool,
    /// The acknowledgement number counts.
    pub ack: bool,
    /// No more data will come.
    pub fin: bool,
    /// There is no such connection.
    pub rst: bool,
    /// The data is to be handed on at once.
    pub psh: bool,
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// The port it comes from.
    pub src_port: u16,
    /// The port it goes to.
    pub dst_port: u16,
}

/// The first two octets of ICMP or ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// The type: 8 and 0 are the echo request and reply of ICMP, 128 and 129 those of ICMPv6.
    pub kind: u8,
    /// The code, which tells kinds of a type apart.
    pub code: u8,
}

impl NetSummary {
    /// Source and destination port, if it is TCP or UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self {
            NetSummary::Ip(Ip { transport: Some(Transport::Tcp(tcp)), .. }) => {
                Some((tcp.src_port, tcp.dst_port))
            }
            NetSummary::Ip(Ip { transport: Some(Transport::Udp(udp)), .. }) => {
                Some((udp.src_port, udp.dst_port))
            }
            _ => None,
        }
    }
}

/// What is above Ethernet, and where in the frame the bytes are that no header took. `at` is where it begins, right
/// after the EtherType. Protocols of the link are none behind a tag.
pub(super) fn read(
    ethertype: u16,
    frame: &[u8],
    at: usize,
    untagged: bool,
) -> (Option<NetSummary>, Range<usize>) {
    let all = at..frame.len();
    match EtherType(ethertype) {
        EtherType::ARP | EtherType::IPV4 | EtherType::IPV6 => {
            let headers = LaxPacketHeaders::from_ether_type(EtherType(ethertype), &frame[at..]);
            let rest = headers.payload.slice();
            let net = from_headers(&headers);
            match (&net, rest.len()) {
                (None, _) => (None, all),
                (Some(_), 0) => (net, frame.len()..frame.len()),
                (Some(_), length) => {
                    let start = rest.as_ptr().addr() - frame.as_ptr().addr();
                    (net, start..start + length)
                }
            }
        }
        EtherType(lldp::ETHERTYPE) if untagged => (Lldpdu::parse(frame).map(NetSummary::Lldp), all),
        EtherType(lacp::ETHERTYPE) if untagged => (Pdu::parse(frame).map(NetSummary::Lacp), all),
        _ => (None, all),
    }
}

fn from_headers(headers: &LaxPacketHeaders<'_>) -> Option<NetSummary> {
    let transport = headers.transport.as_ref().and_then(transport);
    match headers.net.as_ref()? {
        NetHeaders::Arp(arp) => {
            let arp = arp.try_eth_ipv4().ok()?;
            Some(NetSummary::Arp(Arp {
                operation: arp.operation.0,
                sender: Mac(arp.sender_mac),
                sender_ip: arp.sender_ipv4.into(),
                target: Mac(arp.target_mac),
                target_ip: arp.target_ipv4.into(),
            }))
        }
        NetHeaders::Ipv4(ip, extensions) => Some(NetSummary::Ip(Ip {
            src: Ipv4Addr::from(ip.source).into(),
            dst: Ipv4Addr::from(ip.destination).into(),
            protocol: extensions.next_header(ip.protocol).unwrap_or(ip.protocol).0,
            ttl: ip.time_to_live,
            fragment: ip.is_fragmenting_payload(),
            transport,
        })),
        NetHeaders::Ipv6(ip, extensions) => Some(NetSummary::Ip(Ip {
            src: ip.source_addr().into(),
            dst: ip.destination_addr().into(),
            protocol: extensions.next_header(ip.next_header).unwrap_or(ip.next_header).0,
            ttl: ip.hop_limit,
            fragment: extensions.is_fragmenting_payload(),
            transport,
        })),
    }
}

fn transport(header: &TransportHeader) -> Option<Transport> {
    match header {
        TransportHeader::Tcp(tcp) => Some(Transport::Tcp(Tcp {
            src_port: tcp.source_port,
            dst_port: tcp.destination_port,
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
            flags: TcpFlags { syn: tcp.syn, ack: tcp.ack, fin: tcp.fin, rst: tcp.rst, psh: tcp.psh },
        })),
        TransportHeader::Udp(udp) => {
            Some(Transport::Udp(Udp { src_port: udp.source_port, dst_port: udp.destination_port }))
        }
        TransportHeader::Icmpv4(icmp) => first_octets(&icmp.to_bytes()),
        TransportHeader::Icmpv6(icmp) => first_octets(&icmp.to_bytes()),
        TransportHeader::Igmp(_) => None,
    }
}

fn first_octets(header: &[u8]) -> Option<Transport> {
    let [kind, code, ..] = *header else { return None };
    Some(Transport::Icmp(Icmp { kind, code }))
}

impl fmt::Display for NetSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetSummary::Arp(arp) => arp.fmt(f),
            NetSummary::Ip(ip) => ip.fmt(f),
            NetSummary::Lacp(Pdu::Lacp(pdu)) => {
                let (actor, partner) = (pdu.actor, pdu.partner);
                write!(
                    f,
                    "LACP {} port {} state {:#04x}, partner {} port {} state {:#04x}",
                    actor.system, actor.port, actor.state.0, partner.system, partner.port, partner.state.0
                )
            }
            NetSummary::Lacp(_) => f.write_str("LACP marker"),
            NetSummary::Lldp(pdu) => pdu.fmt(f),
        }
    }
}

impl fmt::Display for Arp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            1 => write!(f, "ARP who has {}, tell {}", self.target_ip, self.sender_ip),
            2 => write!(f, "ARP {} is at {}", self.sender_ip, self.sender),
            other => write!(f, "ARP operation {other}"),
        }
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            1 => f.write_str("ICMP")?,
            6 => f.write_str("TCP")?,
            17 => f.write_str("UDP")?,
            58 => f.write_str("ICMPv6")?,
            other => write!(f, "IP protocol {other}")?,
        }
        let Ip { src, dst, .. } = self;
        let ends = |f: &mut fmt::Formatter<'_>, from: u16, to: u16| match src {
            IpAddr::V4(_) => write!(f, " {src}:{from} > {dst}:{to}"),
            IpAddr::V6(_) => write!(f, " [{src}]:{from} > [{dst}]:{to}"),
        };
        match self.transport {
            Some(Transport::Tcp(tcp)) => {
                ends(f, tcp.src_port, tcp.dst_port)?;
                tcp.flags.fmt(f)
            }
            Some(Transport::Udp(udp)) => ends(f, udp.src_port, udp.dst_port),
            Some(Transport::Icmp(icmp)) => {
                match icmp.name(src.is_ipv6()) {
                    Some(name) => write!(f, " {name}")?,
                    None => write!(f, " type {} code {}", icmp.kind, icmp.code)?,
                }
                write!(f, " {src} > {dst}")
            }
            None => {
                write!(f, " {src} > {dst}")?;
                if self.fragment { f.write_str(" (fragment)") } else { Ok(()) }
            }
        }
    }
}

impl Icmp {
    /// What the commonest types are called (RFC 792, RFC 4443, RFC 4861).
    fn name(self, v6: bool) -> Option<&'static str> {
        Some(match (v6, self.kind) {
            (false, 8) | (true, 128) => "echo request",
            (false, 0) | (true, 129) => "echo reply",
            (false, 3) | (true, 1) => "destination unreachable",
            (false, 11) | (true, 3) => "time exceeded",
            (true, 2) => "packet too big",
            (true, 133) => "router solicitation",
            (true, 134) => "router advertisement",
            (true, 135) => "neighbour solicitation",
            (true, 136) => "neighbour advertisement",
            _ => return None,
        })
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags =
            [(self.syn, "SYN"), (self.fin, "FIN"), (self.rst, "RST"), (self.psh, "PSH"), (self.ack, "ACK")];
        let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if set.is_empty() { Ok(()) } else { write!(f, " [{}]", set.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder};
    use pretty_assertions::assert_eq;

    use super::*;
    use crate::summary::Summary;

    const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
    const ECHO: IcmpEchoHeader = IcmpEchoHeader { id: 1, seq: 2 };

    fn v4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 61)
    }

    fn v6() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let mut addresses = [[0; 16]; 2];
        (addresses[0][0], addresses[0][15], addresses[1][0], addresses[1][15]) = (0xfd, 1, 0xfd, 2);
        PacketBuilder::ethernet2(A, B).ipv6(addresses[0], addresses[1], 255)
    }

    fn text(frame: &[u8]) -> String {
        Summary::parse(frame).unwrap().net.unwrap().to_string()
    }

    #[test]
    fn headers_are_read_and_the_padding_is_no_payload() {
        let mut frame = Vec::new();
        v4().tcp(40000, 2379, 7, 1000).syn().ack(8).write(&mut frame, b"hello").unwrap();
        let length = frame.len();
        frame.resize(64, 0);
        let summary = Summary::parse(&frame).unwrap();
        assert_eq!((&frame[summary.payload.clone()], summary.payload.end), (&b"hello"[..], length));
        let tcp = summary.tcp().unwrap();
        let flags = TcpFlags { syn: true, ack: true, ..TcpFlags::default() };
        assert_eq!(*tcp, Tcp { src_port: 40000, dst_port: 2379, seq: 7, ack: 8, flags });
        assert_eq!((summary.ip().unwrap().ttl, summary.udp(), summary.icmp()), (61, None, None));
        assert_eq!(summary.net.as_ref().and_then(NetSummary::ports), Some((40000, 2379)));
        assert_eq!(text(&frame), "TCP 10.0.0.1:40000 > 10.0.0.2:2379 [SYN ACK]");
    }

    #[test]
    fn each_protocol_has_its_line() {
        let mut frame = Vec::new();
        v6().udp(546, 547).write(&mut frame, b"").unwrap();
        assert_eq!(text(&frame), "UDP [fd00::1]:546 > [fd00::2]:547");
        assert!(Summary::parse(&frame).unwrap().payload.is_empty());

        let mut frame = Vec::new();
        v4().icmpv4(Icmpv4Type::EchoRequest(ECHO)).write(&mut frame, b"x").unwrap();
        assert_eq!(text(&frame), "ICMP echo request 10.0.0.1 > 10.0.0.2");
        let mut frame = Vec::new();
        v6().icmpv6(Icmpv6Type::EchoReply(ECHO)).write(&mut frame, b"x").unwrap();
        assert_eq!(text(&frame), "ICMPv6 echo reply fd00::1 > fd00::2");
        let summary = Summary::parse(&frame).unwrap();
        assert_eq!(summary.icmp(), Some(&Icmp { kind: 129, code: 0 }));
        assert_eq!(&frame[summary.payload], b"x");
    }

    #[test]
    fn of_a_fragment_no_ports_are_made_up() {
        let mut frame = Vec::new();
        v4().udp(1, 2).write(&mut frame, b"....").unwrap();
        // An offset of 8 bytes: what looks like a UDP header is data.
        frame[21] = 1;
        let summary = Summary::parse(&frame).unwrap();
        let ip = summary.ip().unwrap();
        assert_eq!((ip.fragment, ip.transport), (true, None));
        assert_eq!(text(&frame), "UDP 10.0.0.1 > 10.0.0.2 (fragment)");
    }
}
