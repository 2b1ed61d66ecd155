//! DHCP in whole frames: clients without an address can neither be asked by ARP nor be spoken to by a usual stack.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr,
    UdpPacket, UdpRepr,
};
use switch::Mac;

use super::reply::DhcpReply;

/// The server's UDP port and the client's (RFC 2131, 4.1).
const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// A frame for a DHCP server.
pub(crate) enum DhcpFrame<'a> {
    /// It is none, or one for another host.
    Other,
    /// It is one, and this is the message; `None` if a checksum or a length is wrong.
    Message(Option<&'a [u8]>),
}

impl DhcpFrame<'_> {
    /// What a frame is to the server with these addresses.
    pub(crate) fn parse(frame: &[u8], mac: Mac, address: Ipv4Addr) -> DhcpFrame<'_> {
        let Some((ip, destination)) = ipv4(frame) else { return DhcpFrame::Other };
        let for_us = (destination == mac || destination == Mac::BROADCAST)
            && (ip.dst_addr() == address || ip.dst_addr().is_broadcast());
        let whole = !ip.more_frags() && ip.frag_offset() == 0;
        if !for_us || !whole || ip.next_header() != IpProtocol::Udp {
            return DhcpFrame::Other;
        }
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let sound = ip.verify_checksum();
        let payload = Ipv4Packet::new_unchecked(ip.into_inner()).payload();
        match payload.get(2..4) {
            Some(port) if port == SERVER.to_be_bytes() => {}
            _ => return DhcpFrame::Other,
        }
        let udp = UdpPacket::new_checked(payload).ok().filter(|_| sound);
        let udp = udp.filter(|udp| udp.verify_checksum(&from.into(), &to.into()));
        DhcpFrame::Message(udp.map(|udp| UdpPacket::new_unchecked(udp.into_inner()).payload()))
    }
}

fn ipv4(frame: &[u8]) -> Option<(Ipv4Packet<&[u8]>, Mac)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let destination = Mac(frame.dst_addr().0);
    let packet = EthernetFrame::new_unchecked(frame.into_inner()).payload();
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    (packet.version() == 4).then_some((packet, destination))
}

impl DhcpReply {
    /// The frame, from a server with these addresses.
    pub(crate) fn frame(&self, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
        let udp = UdpRepr { src_port: SERVER, dst_port: CLIENT };
        let datagram = udp.header_len() + self.message.len();
        let ip = Ipv4Repr {
            src_addr: address,
            dst_addr: self.to,
            next_header: IpProtocol::Udp,
            payload_len: datagram,
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(mac.0),
            dst_addr: EthernetAddress(self.mac.0),
            ethertype: EthernetProtocol::Ipv4,
        };
        let checksums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + datagram];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &checksums);
        let mut segment = UdpPacket::new_unchecked(packet.payload_mut());
        let fill = |payload: &mut [u8]| payload.copy_from_slice(&self.message);
        udp.emit(&mut segment, &address.into(), &self.to.into(), self.message.len(), fill, &checksums);
        bytes
    }
}
