//! What is in a frame, for messages and for assertions. Slower than the switch's own look at it, and deeper.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::frame::{TPID_8021AD, TPID_8021Q, Tci};
use crate::lacp;
use crate::lldp::Lldpdu;
use crate::mac::Mac;

mod net;

pub use net::{Arp, Icmp, Ip, NetSummary, Tcp, TcpFlags, Transport, Udp};

/// A tag of a frame: 802.1Q (0x8100) or 802.1ad (0x88a8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireTag {
    /// The EtherType that announces it.
    pub tpid: u16,
    /// Priority and VLAN id.
    pub tci: Tci,
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
    /// What is above Ethernet, if it is known and whole enough to be read.
    pub net: Option<NetSummary>,
    /// Where in the frame that begins which is above the last header that was read, and where it ends: the data of TCP,
    /// without the padding of short frames.
    pub payload: Range<usize>,
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
        let (net, payload) = net::read(ethertype, frame, at + 2, tags.is_empty());
        Some(Summary { dst: mac(0)?, src: mac(6)?, tags, ethertype, net, payload, length: frame.len() })
    }

    /// The VLAN ids of the tags, the outermost first; 0 is a priority tag.
    pub fn vids(&self) -> Vec<u16> {
        self.tags.iter().map(|tag| tag.tci.vid()).collect()
    }

    /// What it says if it is ARP.
    pub fn arp(&self) -> Option<&Arp> {
        match &self.net {
            Some(NetSummary::Arp(arp)) => Some(arp),
            _ => None,
        }
    }

    /// Its header if it is IPv4 or IPv6.
    pub fn ip(&self) -> Option<&Ip> {
        match &self.net {
            Some(NetSummary::Ip(ip)) => Some(ip),
            _ => None,
        }
    }

    /// Its header if it is TCP.
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.ip()?.transport {
            Some(Transport::Tcp(tcp)) => Some(tcp),
            _ => None,
        }
    }

    /// Its header if it is UDP.
    pub fn udp(&self) -> Option<&Udp> {
        match &self.ip()?.transport {
            Some(Transport::Udp(udp)) => Some(udp),
            _ => None,
        }
    }

    /// Its type and code if it is ICMP or ICMPv6.
    pub fn icmp(&self) -> Option<&Icmp> {
        match &self.ip()?.transport {
            Some(Transport::Icmp(icmp)) => Some(icmp),
            _ => None,
        }
    }

    /// What it says if it is LLDP.
    pub fn lldp(&self) -> Option<&Lldpdu> {
        match &self.net {
            Some(NetSummary::Lldp(pdu)) => Some(pdu),
            _ => None,
        }
    }

    /// What it says if it is LACP.
    pub fn lacp(&self) -> Option<&lacp::Pdu> {
        match &self.net {
            Some(NetSummary::Lacp(pdu)) => Some(pdu),
            _ => None,
        }
    }

    /// Whether ARP or IP in the frame comes from, goes to, or asks for the address.
    pub fn mentions(&self, ip: IpAddr) -> bool {
        match &self.net {
            Some(NetSummary::Arp(arp)) => ip == arp.sender_ip || ip == arp.target_ip,
            Some(NetSummary::Ip(packet)) => ip == packet.src || ip == packet.dst,
            Some(NetSummary::Lacp(_) | NetSummary::Lldp(_)) | None => false,
        }
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
                lacp::ETHERTYPE => f.write_str("slow protocol, not read")?,
                crate::lldp::ETHERTYPE => f.write_str("LLDP, not read")?,
                other => write!(f, "EtherType {other:#06x}")?,
            },
        }
        write!(f, ", {} bytes", self.length)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, VlanId as EtherVlan};
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
        assert_eq!(summary.vids(), [100, 200, 4095]);
        assert!(summary.to_string().contains("tag 100, S-tag 200, tag 4095, EtherType 0x88b5"), "{summary}");
        assert_eq!(Summary::parse(&bytes[..bytes.len() - 6]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            ethertype in proptest::sample::select(vec![
                0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x8809, 0x88cc, 0x1234
            ]),
            version in proptest::option::of((4u8..=6, proptest::sample::select(vec![1u8, 6, 17, 44, 58]))),
        ) {
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            // Random bytes are seldom a packet: with version, length and protocol, more of them are.
            if let (Some((version, protocol)), true) = (version, bytes.len() >= 60) {
                bytes[14] = version << 4 | 5;
                bytes[if version == 6 { 20 } else { 23 }] = protocol;
            }
            if let Some(summary) = Summary::parse(&bytes) {
                prop_assert!(!summary.to_string().is_empty());
                prop_assert!(summary.payload.start <= summary.payload.end);
                prop_assert!(summary.payload.end <= bytes.len());
                prop_assert!(summary.payload.start >= 14 + 4 * summary.tags.len());
            }
        }
    }
}
