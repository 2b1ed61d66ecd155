//! What is in a frame, for messages and for assertions. Slower than the switch's own look at it, and deeper.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{EtherType, LaxPacketHeaders, NetHeaders, TransportHeader};

use crate::frame::{TPID_8021AD, TPID_8021Q, Tci};
use crate::mac::Mac;

/// A tag of a frame: 802.1Q (0x8100) or 802.1ad (0x88a8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireTag {
    /// The EtherType that announces it.
    pub tpid: u16,
    /// Priority and VLAN id.
    pub tci: Tci,
}

/// What is above Ethernet, as far as messages need it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetSummary {
    /// An ARP request or answer about IPv4 (RFC 826).
    Arp {
        /// 1 is a request, 2 an answer.
        operation: u16,
        /// The MAC address that the sender says it has.
        sender: Mac,
        /// The IPv4 address that the sender says it has.
        sender_ip: Ipv4Addr,
        /// The IPv4 address that is asked for or answered to.
        target_ip: Ipv4Addr,
    },
    /// An IPv4 or IPv6 packet.
    Ip {
        /// From.
        src: IpAddr,
        /// To.
        dst: IpAddr,
        /// The protocol number (IANA), 6 for TCP; for IPv6, after the extension headers.
        protocol: u8,
        /// Source and destination port of TCP and UDP.
        ports: Option<(u16, u16)>,
    },
}

/// A frame, read as far as it goes. Its text form is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The destination address.
    pub dst: Mac,
    /// The source address.
    pub src: Mac,
    /// All tags, the outermost first.
    pub tags: Vec<WireTag>,
    /// The EtherType after the tags.
    pub ethertype: u16,
    /// What is above Ethernet, if it is ARP or IP and whole enough to be read.
    pub net: Option<NetSummary>,
    /// The length of the frame in bytes.
    pub length: usize,
}

impl Summary {
    /// Reads a frame; `None` if it ends within its Ethernet header or its tags.
    pub fn parse(frame: &[u8]) -> Option<Summary> {
        let mac = |at: usize| Some(Mac(frame.get(at..at + 6)?.try_into().ok()?));
        let u16_at = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        let (mut at, mut tags) = (12, Vec::new());
        let mut ethertype = u16_at(at)?;
        while matches!(ethertype, TPID_8021Q | TPID_8021AD) {
            tags.push(WireTag { tpid: ethertype, tci: Tci(u16_at(at + 2)?) });
            at += 4;
            ethertype = u16_at(at)?;
        }
        let net = net(ethertype, &frame[at + 2..]);
        Some(Summary { dst: mac(0)?, src: mac(6)?, tags, ethertype, net, length: frame.len() })
    }

    /// Whether ARP or IP in the frame comes from, goes to, or asks for the address.
    pub fn mentions(&self, ip: IpAddr) -> bool {
        match &self.net {
            Some(NetSummary::Arp { sender_ip, target_ip, .. }) => ip == *sender_ip || ip == *target_ip,
            Some(NetSummary::Ip { src, dst, .. }) => ip == *src || ip == *dst,
            None => false,
        }
    }
}

fn net(ethertype: u16, payload: &[u8]) -> Option<NetSummary> {
    if !matches!(EtherType(ethertype), EtherType::ARP | EtherType::IPV4 | EtherType::IPV6) {
        return None;
    }
    let headers = LaxPacketHeaders::from_ether_type(EtherType(ethertype), payload);
    let ports = match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => Some((tcp.source_port, tcp.destination_port)),
        Some(TransportHeader::Udp(udp)) => Some((udp.source_port, udp.destination_port)),
        _ => None,
    };
    match headers.net? {
        NetHeaders::Arp(arp) => {
            let arp = arp.try_eth_ipv4().ok()?;
            Some(NetSummary::Arp {
                operation: arp.operation.0,
                sender: Mac(arp.sender_mac),
                sender_ip: arp.sender_ipv4.into(),
                target_ip: arp.target_ipv4.into(),
            })
        }
        NetHeaders::Ipv4(ip, extensions) => Some(NetSummary::Ip {
            src: Ipv4Addr::from(ip.source).into(),
            dst: Ipv4Addr::from(ip.destination).into(),
            protocol: extensions.next_header(ip.protocol).unwrap_or(ip.protocol).0,
            ports,
        }),
        NetHeaders::Ipv6(ip, extensions) => Some(NetSummary::Ip {
            src: ip.source_addr().into(),
            dst: ip.destination_addr().into(),
            protocol: extensions.next_header(ip.next_header).unwrap_or(ip.next_header).0,
            ports,
        }),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}, ", self.src, self.dst)?;
        for tag in &self.tags {
            let kind = if tag.tpid == TPID_8021AD { "S-tag" } else { "tag" };
            write!(f, "{kind} {}, ", tag.tci.vid())?;
        }
        match &self.net {
            Some(net) => net.fmt(f)?,
            None => match self.ethertype {
                length @ 0..=1500 => write!(f, "802.3 length {length}")?,
                0x8809 => f.write_str("slow protocol (LACP)")?,
                0x88cc => f.write_str("LLDP")?,
                other => write!(f, "EtherType {other:#06x}")?,
            },
        }
        write!(f, ", {} bytes", self.length)
    }
}

impl fmt::Display for NetSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetSummary::Arp { operation: 1, sender_ip, target_ip, .. } => {
                write!(f, "ARP who has {target_ip}, tell {sender_ip}")
            }
            NetSummary::Arp { operation: 2, sender, sender_ip, .. } => {
                write!(f, "ARP {sender_ip} is at {sender}")
            }
            NetSummary::Arp { operation, .. } => write!(f, "ARP operation {operation}"),
            NetSummary::Ip { src, dst, protocol, ports } => {
                match protocol {
                    1 => f.write_str("ICMP")?,
                    6 => f.write_str("TCP")?,
                    17 => f.write_str("UDP")?,
                    58 => f.write_str("ICMPv6")?,
                    other => write!(f, "IP protocol {other}")?,
                }
                match ports {
                    Some((from, to)) if src.is_ipv6() => write!(f, " [{src}]:{from} > [{dst}]:{to}"),
                    Some((from, to)) => write!(f, " {src}:{from} > {dst}:{to}"),
                    None => write!(f, " {src} > {dst}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, PacketBuilder, VlanId as EtherVlan};
    use proptest::prelude::*;

    use super::*;

    const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

    #[test]
    fn one_line_says_what_crossed() {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ethernet2(A, B).single_vlan(EtherVlan::try_new(200).unwrap()).ipv4(
            [10, 0, 0, 1],
            [10, 0, 0, 2],
            64,
        );
        ip.tcp(40000, 2379, 0, 1000).write(&mut bytes, b"x").unwrap();
        let summary = Summary::parse(&bytes).unwrap();
        assert_eq!(
            summary.to_string(),
            "52:54:00:00:00:01 > 52:54:00:00:00:02, tag 200, TCP 10.0.0.1:40000 > 10.0.0.2:2379, 59 bytes"
        );
        assert!(
            summary.mentions("10.0.0.2".parse().unwrap()) && !summary.mentions("10.0.0.3".parse().unwrap())
        );

        let mut bytes = Vec::new();
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &A,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        );
        PacketBuilder::ethernet2(A, [0xff; 6]).arp(arp.unwrap()).write(&mut bytes).unwrap();
        assert_eq!(
            Summary::parse(&bytes).unwrap().to_string(),
            "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who has 10.0.0.2, tell 10.0.0.1, 42 bytes"
        );
    }

    #[test]
    fn every_tag_is_listed() {
        let mut bytes = [B, A].concat();
        bytes.extend_from_slice(b"\x81\x00\x00\x64\x88\xa8\x00\xc8\x81\x00\x0f\xff\x88\xb5....");
        let summary = Summary::parse(&bytes).unwrap();
        assert_eq!(summary.tags.iter().map(|tag| tag.tci.vid()).collect::<Vec<_>>(), [100, 200, 4095]);
        assert!(summary.to_string().contains("tag 100, S-tag 200, tag 4095, EtherType 0x88b5"), "{summary}");
        assert_eq!(Summary::parse(&bytes[..bytes.len() - 6]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            ethertype in proptest::sample::select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x1234]),
        ) {
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            if let Some(summary) = Summary::parse(&bytes) {
                prop_assert!(!summary.to_string().is_empty());
            }
        }
    }
}
