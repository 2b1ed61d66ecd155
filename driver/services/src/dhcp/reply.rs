//! A reply, and where it goes.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Encodable, v4};
use switch::Mac;

/// The shortest message in bytes: BOOTP's (RFC 951), which some clients and relays insist on.
const SHORTEST: usize = 300;

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpReply {
    /// What it says, for the log.
    pub kind: MessageType,
    /// The message: what is in the UDP datagram.
    pub message: Vec<u8>,
    /// The IPv4 address that it goes to.
    pub to: Ipv4Addr,
    /// The MAC address that it goes to: a client that has no address yet cannot be asked for it by ARP.
    pub mac: Mac,
    /// How long it is to be held back, if a test wants so.
    pub delay: Duration,
}

/// The beginning of a reply to `request` (RFC 2131, table 3).
pub(super) fn answer(request: &Message, kind: MessageType, server: Ipv4Addr) -> Message {
    let mut reply = request.clone();
    reply.clear_sname();
    reply.clear_fname();
    reply.set_opcode(Opcode::BootReply).set_hops(0).set_secs(0);
    reply.set_siaddr(Ipv4Addr::UNSPECIFIED).set_yiaddr(Ipv4Addr::UNSPECIFIED);
    if matches!(kind, MessageType::Offer | MessageType::Nak) {
        reply.set_ciaddr(Ipv4Addr::UNSPECIFIED);
    }
    let mut options = v4::DhcpOptions::new();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(server));
    // RFC 6842: what the client calls itself comes back.
    if let Some(id) = request.opts().get(v4::OptionCode::ClientIdentifier) {
        options.insert(id.clone());
    }
    reply.set_opts(options);
    reply
}

/// The bytes of a message; `None` if the library cannot write it, for which there is no known reason.
pub(super) fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes =
        message.to_vec().inspect_err(|error| tracing::warn!(%error, "a DHCP reply was not written")).ok()?;
    bytes.resize(bytes.len().max(SHORTEST), 0);
    Some(bytes)
}

/// Where a reply goes (RFC 2131, 4.1), to a client on the server's own link.
pub(super) fn destination(reply: &Message, kind: MessageType, mac: Mac) -> (Ipv4Addr, Mac) {
    if kind == MessageType::Nak {
        (Ipv4Addr::BROADCAST, Mac::BROADCAST)
    } else if !reply.ciaddr().is_unspecified() {
        (reply.ciaddr(), mac)
    } else if reply.flags().broadcast() || reply.yiaddr().is_unspecified() {
        (Ipv4Addr::BROADCAST, Mac::BROADCAST)
    } else {
        (reply.yiaddr(), mac)
    }
}
