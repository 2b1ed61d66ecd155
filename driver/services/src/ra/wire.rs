//! Router solicitations and advertisements as frames.

use std::net::Ipv6Addr;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr,
};
use switch::Mac;

use super::scope::{RaScope, link_local};

/// All nodes and all routers of the link (RFC 4291, 2.7.1), and their MAC addresses (RFC 2464, 7).
const ALL_NODES: (Mac, Ipv6Addr) =
    (Mac([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const ALL_ROUTERS: Mac = Mac([0x33, 0x33, 0, 0, 0, 2]);

/// The hop limit by which a packet is known to come from the link itself.
const HOP_LIMIT: u8 = 255;

/// The hop limit that machines are told to use.
const CURRENT_HOP_LIMIT: u8 = 64;

/// The option for DNS servers (RFC 8106, 5.1).
const RDNSS: u8 = 25;

/// The length of an advertisement without its options in bytes.
const HEADER: usize = 16;

/// Who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Solicitation {
    /// A machine with an address.
    From(Mac, Ipv6Addr),
    /// One without.
    Anonymous,
    /// Nobody who may be answered.
    Malformed,
}

/// A frame as a solicitation for the router with this MAC address; `None` if it is something else.
pub(super) fn solicitation(frame: &[u8], router: Mac) -> Option<Solicitation> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let to = Mac(ethernet.dst_addr().0);
    if ethernet.ethertype() != EthernetProtocol::Ipv6 || (to != router && to != ALL_ROUTERS) {
        return None;
    }
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    if ip.version() != 6 || ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let (from, destination) = (ip.src_addr(), ip.dst_addr());
    if ip.payload().first() != Some(&Icmpv6Message::RouterSolicit.into()) {
        return None;
    }
    let sound = |packet: &Icmpv6Packet<&[u8]>| {
        let repr = Icmpv6Repr::parse(&from, &destination, packet, &ChecksumCapabilities::default());
        match repr {
            Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr })) => {
                packet.msg_code() == 0 && !(from.is_unspecified() && lladdr.is_some())
            }
            _ => false,
        }
    };
    let whole = Icmpv6Packet::new_checked(ip.payload()).is_ok_and(|packet| sound(&packet));
    let sender = Mac(ethernet.src_addr().0);
    Some(match whole && ip.hop_limit() == HOP_LIMIT && !sender.is_group() && !from.is_multicast() {
        false => Solicitation::Malformed,
        true if from.is_unspecified() => Solicitation::Anonymous,
        true => Solicitation::From(sender, from),
    })
}

/// The frame of an advertisement from a router, to one machine or to all.
pub(super) fn advertisement(router: Mac, scope: &RaScope, to: Option<(Mac, Ipv6Addr)>) -> Vec<u8> {
    let (mac, destination) = to.unwrap_or(ALL_NODES);
    let source = link_local(router);
    let message = message(router, scope);
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.len(),
        hop_limit: HOP_LIMIT,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(router.0),
        dst_addr: EthernetAddress(mac.0),
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + message.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet);
    packet.payload_mut().copy_from_slice(&message);
    Icmpv6Packet::new_unchecked(packet.payload_mut()).fill_checksum(&source, &destination);
    bytes
}

/// The ICMPv6 message without its checksum (RFC 4861, 4.2).
fn message(router: Mac, scope: &RaScope) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[0] = Icmpv6Message::RouterAdvert.into();
    message[4] = CURRENT_HOP_LIMIT;
    let lifetime = u16::try_from(scope.router_lifetime.as_secs()).unwrap_or(u16::MAX);
    message[6..8].copy_from_slice(&lifetime.to_be_bytes());
    let mut add = |option: NdiscOptionRepr<'_>| {
        let at = message.len();
        message.resize(at + option.buffer_len(), 0);
        option.emit(&mut NdiscOption::new_unchecked(&mut message[at..]));
    };
    add(NdiscOptionRepr::SourceLinkLayerAddr(EthernetAddress(router.0).into()));
    if let Some(mtu) = scope.mtu {
        add(NdiscOptionRepr::Mtu(mtu));
    }
    for prefix in &scope.prefixes {
        let seconds = |time: Duration| smoltcp::time::Duration::from_secs(time.as_secs());
        add(NdiscOptionRepr::PrefixInformation(NdiscPrefixInformation {
            prefix_len: prefix.prefix_len(),
            flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
            valid_lifetime: seconds(scope.valid),
            preferred_lifetime: seconds(scope.preferred),
            prefix: prefix.addr(),
        }));
    }
    if !scope.dns.is_empty() {
        let lifetime = u32::try_from(3 * scope.interval.as_secs()).unwrap_or(u32::MAX);
        let mut data = vec![0, 0];
        data.extend(lifetime.to_be_bytes());
        data.extend(scope.dns.iter().flat_map(Ipv6Addr::octets));
        // In units of 8 bytes, type and length included.
        let length = u8::try_from((2 + data.len()) / 8).unwrap_or(u8::MAX);
        add(NdiscOptionRepr::Unknown { type_: RDNSS, length, data: &data });
    }
    message
}
