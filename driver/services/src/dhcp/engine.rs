//! The server's rules: a message and a time in, a reply out. No clock, no thread, no socket.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder};
use ipnet::Ipv4Net;
use serde::Serialize;
use switch::Mac;

use super::lease::{Held, Lease, LeaseState, Leases};
use super::options::{OPTIONS, only_what_is_read};
use super::reply::{DhcpReply, answer, destination, encode};
use super::scope::{DhcpScope, check_lease_time, wanted};
use crate::error::Error;

/// How long an offered address is kept for the client.
const OFFER_KEPT: Duration = Duration::from_secs(60);

/// The longest message in bytes: what fits with its headers into a packet of 1500.
const LONGEST: usize = 1472;

/// The magic cookie before the options (RFC 2131, 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// How many characters of a client's host name are kept.
const HOSTNAME: usize = 255;

/// Which clients a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Every client.
    All,
    /// The client with this MAC address.
    One(Mac),
}

impl Clients {
    fn holds(self, mac: Mac) -> bool {
        match self {
            Clients::All => true,
            Clients::One(one) => one == mac,
        }
    }
}

/// What a test may have the server do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpFault {
    /// No message is answered, nor changes anything: as if the server were gone.
    Ignore,
    /// Every DHCPREQUEST is answered with a DHCPNAK; offers are made.
    Nak,
    /// Every reply comes this much later.
    Delay(Duration),
}

impl DhcpFault {
    /// What it does to those clients, in words that follow the server's name.
    pub(super) fn of(self, clients: &str) -> String {
        match self {
            DhcpFault::Ignore => format!("ignores {clients}"),
            DhcpFault::Nak => format!("refuses {clients}"),
            DhcpFault::Delay(delay) => format!("answers {clients} {delay:?} later"),
        }
    }
}

/// What the server got and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DhcpCounters {
    /// Messages that came, whatever became of them.
    pub received: u64,
    /// Messages that are not DHCP from a client on this link: cut short, relayed, of another hardware type.
    pub malformed: u64,
    /// DHCPOFFERs made.
    pub offers: u64,
    /// DHCPACKs given.
    pub acks: u64,
    /// DHCPNAKs given.
    pub naks: u64,
    /// DHCPDISCOVERs of clients that there is no address for: no reservation, and no range or none left in it.
    pub no_address: u64,
    /// Messages that a fault left unanswered.
    pub ignored: u64,
}

/// A DHCPv4 server without its socket.
///
/// It is the only server of its link ("authoritative"): a client that asks for an address which it may not have is
/// refused at once, not left to its timeout; one that the server does not remember keeps an address that is free.
/// Clients are told apart by MAC address, so that an initrd and the system after it, which call themselves differently,
/// are one client. Relayed messages are not answered.
pub struct DhcpEngine {
    server: Ipv4Net,
    scope: DhcpScope,
    options: Vec<DhcpOption>,
    open: Vec<Ipv4Addr>,
    leases: Leases,
    faults: Vec<(u64, Clients, DhcpFault)>,
    next_fault: u64,
    counters: DhcpCounters,
}

impl DhcpEngine {
    /// A server with this address, in the subnet of this prefix.
    ///
    /// # Errors
    /// [`Error::OutsideSubnet`], [`Error::Twice`], [`Error::Range`], [`Error::LeaseTime`], [`Error::Mtu`],
    /// [`Error::Name`], [`Error::TooLong`].
    pub fn new(server: Ipv4Net, scope: DhcpScope) -> Result<DhcpEngine, Error> {
        scope.check(server)?;
        let engine = DhcpEngine {
            server,
            options: scope.options()?,
            open: scope.open_addresses(server),
            scope,
            leases: Leases::default(),
            faults: Vec::new(),
            next_fault: 0,
            counters: DhcpCounters::default(),
        };
        // The longest client identifier and host name that may come on top.
        let mut whole = answer(&Message::default(), MessageType::Ack, server.addr());
        engine.add_options(&mut whole, None, Mac([0; 6]), true);
        let length =
            encode(&whole).map_or(usize::MAX, |bytes| bytes.len().saturating_add(2 * (2 + HOSTNAME)));
        if length > LONGEST {
            return Err(Error::TooLong { server, length });
        }
        Ok(engine)
    }

    /// The server's address and prefix.
    pub fn server(&self) -> Ipv4Net {
        self.server
    }

    /// What a client's message, the payload of a UDP datagram, is answered with at a time.
    pub fn handle(&mut self, message: &[u8], now: Instant) -> Option<DhcpReply> {
        self.counters.received += 1;
        let Some((request, kind, mac)) = read(message) else {
            self.counters.malformed += 1;
            return None;
        };
        let faults: Vec<_> = self
            .faults
            .iter()
            .filter(|(_, clients, _)| clients.holds(mac))
            .map(|(.., fault)| *fault)
            .collect();
        if faults.contains(&DhcpFault::Ignore) {
            self.counters.ignored += 1;
            tracing::debug!(%mac, ?kind, "ignored, as a test wants");
            return None;
        }
        let nak = faults.contains(&DhcpFault::Nak) && kind == MessageType::Request;
        let mut reply = if nak {
            self.nak(&request, mac, "as a test wants")
        } else {
            self.rule(&request, kind, mac, now)
        }?;
        for fault in faults {
            if let DhcpFault::Delay(delay) = fault {
                reply.delay = delay;
            }
        }
        match reply.kind {
            MessageType::Offer => self.counters.offers += 1,
            MessageType::Nak => self.counters.naks += 1,
            _ => self.counters.acks += 1,
        }
        tracing::debug!(%mac, ?kind, answer = ?reply.kind, to = %reply.to, "DHCP");
        Some(reply)
    }

    fn rule(&mut self, request: &Message, kind: MessageType, mac: Mac, now: Instant) -> Option<DhcpReply> {
        match kind {
            MessageType::Discover => self.discover(request, mac, now),
            MessageType::Request => self.request(request, mac, now),
            MessageType::Inform => self.reply(request, MessageType::Ack, None, mac),
            MessageType::Decline => {
                let until = now + self.scope.lease_time;
                let held = self.held(mac, address_option(request)?)?;
                (held.state, held.until) = (LeaseState::Declined, until);
                None
            }
            MessageType::Release => {
                let held = self.held(mac, request.ciaddr()).filter(|held| held.state == LeaseState::Bound)?;
                (held.state, held.until) = (LeaseState::Released, now);
                None
            }
            _ => None,
        }
    }

    fn discover(&mut self, request: &Message, mac: Mac, now: Instant) -> Option<DhcpReply> {
        let Some(address) = self.choose(mac, address_option(request), now) else {
            self.counters.no_address += 1;
            tracing::debug!(%mac, "no address for this client");
            return None;
        };
        // A client that begins anew keeps what it has until it asks for it, so that its lease is not cut short.
        let bound = self.leases.get(mac).is_some_and(|held| {
            held.address == address && held.state == LeaseState::Bound && now < held.until
        });
        if !bound {
            self.hold(request, mac, address, LeaseState::Offered, now + OFFER_KEPT);
        }
        self.reply(request, MessageType::Offer, Some(address), mac)
    }

    /// DHCPREQUEST in all its four meanings (RFC 2131, 4.3.2).
    fn request(&mut self, request: &Message, mac: Mac, now: Instant) -> Option<DhcpReply> {
        let chosen = match request.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        };
        if chosen.is_some_and(|server| server != self.server.addr()) {
            // Another server was chosen: the offer is void.
            if self.leases.get(mac).is_some_and(|held| held.state == LeaseState::Offered) {
                self.leases.remove(mac);
            }
            return None;
        }
        let asked = Some(request.ciaddr()).filter(|address| !address.is_unspecified());
        let Some(asked) = asked.or_else(|| address_option(request)) else {
            return self.nak(request, mac, "no address was asked for");
        };
        if chosen.is_none() && self.leases.get(mac).is_some_and(|held| held.revoked) {
            self.leases.remove(mac);
            return self.nak(request, mac, "the lease was ended");
        }
        if !self.may_have(mac, asked, now) {
            return self.nak(request, mac, "this client may not have this address");
        }
        self.hold(request, mac, asked, LeaseState::Bound, now + self.scope.lease_time);
        self.reply(request, MessageType::Ack, Some(asked), mac)
    }

    /// The address for a client (RFC 2131, 4.3.1): reserved, its last one, the one that it would like, a fresh one, or
    /// the one that has been free for longest.
    fn choose(&self, mac: Mac, liked: Option<Ipv4Addr>, now: Instant) -> Option<Ipv4Addr> {
        let reserved = self.scope.reservation(mac).map(|reservation| reservation.address);
        let last = self.leases.get(mac).map(|held| held.address);
        let known =
            [reserved, last, liked].into_iter().flatten().find(|address| self.may_have(mac, *address, now));
        let fresh = || self.open.iter().find(|address| self.leases.holder(**address).is_none());
        let longest_free = || {
            let free = self.open.iter().filter(|address| self.leases.free_for(**address, mac, now));
            free.min_by_key(|address| self.leases.holder(**address).map(|(_, held)| held.until))
        };
        known.or_else(|| fresh().or_else(longest_free).copied())
    }

    fn may_have(&self, mac: Mac, address: Ipv4Addr, now: Instant) -> bool {
        if !self.leases.free_for(address, mac, now) {
            return false;
        }
        match self.scope.reservation(mac).map(|reservation| reservation.address) {
            Some(reserved) if reserved == address => true,
            // Whoever could have the reserved address gets no other.
            Some(reserved) if self.leases.free_for(reserved, mac, now) => false,
            _ => self.open.binary_search(&address).is_ok(),
        }
    }

    fn hold(&mut self, request: &Message, mac: Mac, address: Ipv4Addr, state: LeaseState, until: Instant) {
        let hostname = match request.opts().get(OptionCode::Hostname) {
            Some(DhcpOption::Hostname(name)) => Some(name.chars().take(HOSTNAME).collect()),
            _ => None,
        };
        self.leases.put(mac, Held { address, hostname, state, until, revoked: false });
    }

    fn held(&mut self, mac: Mac, address: Ipv4Addr) -> Option<&mut Held> {
        self.leases.get_mut(mac).filter(|held| held.address == address)
    }

    fn reply(
        &self,
        request: &Message,
        kind: MessageType,
        address: Option<Ipv4Addr>,
        mac: Mac,
    ) -> Option<DhcpReply> {
        let mut reply = answer(request, kind, self.server.addr());
        if let Some(address) = address {
            reply.set_yiaddr(address);
        }
        let list = match request.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(codes)) => Some(codes.as_slice()),
            _ => None,
        };
        self.add_options(&mut reply, list, mac, address.is_some());
        let (to, to_mac) = destination(&reply, kind, mac);
        Some(DhcpReply { kind, message: encode(&reply)?, to, mac: to_mac, delay: Duration::ZERO })
    }

    fn nak(&self, request: &Message, mac: Mac, why: &str) -> Option<DhcpReply> {
        let mut reply = answer(request, MessageType::Nak, self.server.addr());
        reply.opts_mut().insert(DhcpOption::Message(why.to_owned()));
        let (to, mac) = destination(&reply, MessageType::Nak, mac);
        let message = encode(&reply)?;
        Some(DhcpReply { kind: MessageType::Nak, message, to, mac, delay: Duration::ZERO })
    }

    fn add_options(&self, reply: &mut Message, list: Option<&[OptionCode]>, mac: Mac, leased: bool) {
        let name = self.scope.reservation(mac).and_then(|reservation| reservation.hostname.clone());
        let options = reply.opts_mut();
        options.insert(DhcpOption::SubnetMask(self.server.netmask()));
        if leased {
            let seconds = u32::try_from(self.scope.lease_time.as_secs()).unwrap_or(u32::MAX);
            options.insert(DhcpOption::AddressLeaseTime(seconds));
            // The times that RFC 2131, 4.4.5, has as usual.
            options.insert(DhcpOption::Renewal(seconds / 2));
            options.insert(DhcpOption::Rebinding(seconds - seconds.div_ceil(8)));
        }
        let broadcast = DhcpOption::BroadcastAddr(self.server.broadcast());
        let more = self.options.iter().cloned().chain([broadcast]).chain(name.map(DhcpOption::Hostname));
        for option in more.filter(|option| wanted(list, option)) {
            options.insert(option);
        }
    }

    /// The leases by MAC address, those that ended too.
    pub fn leases(&self, now: Instant) -> Vec<Lease> {
        self.leases.list(now)
    }

    /// Ends a client's lease now. The client is told when it next asks: a renewal is refused, and it begins anew.
    ///
    /// # Errors
    /// [`Error::NoLease`].
    pub fn expire(&mut self, mac: Mac, now: Instant) -> Result<(), Error> {
        let known = || self.leases.list(now).iter().map(|lease| lease.mac.to_string()).collect::<Vec<_>>();
        if self.leases.get(mac).is_none() {
            return Err(Error::NoLease { server: self.server, mac, known: known().join(", ") });
        }
        if let Some(held) = self.leases.get_mut(mac) {
            (held.state, held.until, held.revoked) = (LeaseState::Expired, now, true);
        }
        Ok(())
    }

    /// Gives leases from now on for another time.
    ///
    /// # Errors
    /// [`Error::LeaseTime`].
    pub fn set_lease_time(&mut self, time: Duration) -> Result<(), Error> {
        check_lease_time(self.server, time)?;
        self.scope.lease_time = time;
        Ok(())
    }

    /// Has the server do something wrong until [`DhcpEngine::heal`] of the number that is returned. Of two delays for one
    /// client the later one holds.
    pub fn inject(&mut self, clients: Clients, fault: DhcpFault) -> u64 {
        self.next_fault += 1;
        self.faults.push((self.next_fault, clients, fault));
        self.next_fault
    }

    /// Ends a fault; one that has ended already may be ended again.
    pub fn heal(&mut self, fault: u64) {
        self.faults.retain(|(id, ..)| *id != fault);
    }

    /// What the server got and gave.
    pub fn counters(&self) -> DhcpCounters {
        self.counters
    }
}

fn address_option(request: &Message) -> Option<Ipv4Addr> {
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

/// A client's message, its type and its sender.
fn read(bytes: &[u8]) -> Option<(Message, MessageType, Mac)> {
    if bytes.get(OPTIONS - COOKIE.len()..OPTIONS) != Some(&COOKIE[..]) {
        return None;
    }
    let bytes = only_what_is_read(bytes)?;
    let message = Message::decode(&mut Decoder::new(&bytes)).ok()?;
    let kind = message.opts().msg_type()?;
    // The length first: `chaddr` panics for more than its 16 octets.
    let ethernet = message.hlen() == 6 && message.htype() == HType::Eth;
    if message.opcode() != Opcode::BootRequest || !ethernet || !message.giaddr().is_unspecified() {
        return None;
    }
    let mac = Mac(message.chaddr().try_into().ok()?);
    (!mac.is_group()).then_some((message, kind, mac))
}
