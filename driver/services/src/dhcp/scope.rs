//! What a DHCP server hands out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use dhcproto::v4::DhcpOption;
use dhcproto::{Name, v4};
use ipnet::Ipv4Net;
use switch::Mac;

use crate::error::Error;

/// How many addresses a range may have; so many clients at most are remembered besides those with reservations.
pub const MAX_RANGE: u64 = 4096;

/// What a DHCP server hands out: addresses, and options that go with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpScope {
    /// Who gets which address, by MAC address, whatever client identifier is sent.
    pub reservations: Vec<Reservation>,
    /// The addresses for clients without a reservation, first to last; without it they get none. Addresses that are
    /// reserved, the server's and the subnet's own two are left out.
    pub range: Option<RangeInclusive<Ipv4Addr>>,
    /// The lease time, in whole seconds. One hour unless said otherwise.
    pub lease_time: Duration,
    /// The default route's router (option 3).
    pub router: Option<Ipv4Addr>,
    /// The DNS servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The NTP servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// The MTU in bytes (option 26).
    pub mtu: Option<u16>,
    /// The clients' domain (option 15).
    pub domain: Option<String>,
    /// The domains to look names up in (option 119, RFC 3397).
    pub search: Vec<String>,
    /// Static routes: destination and router (option 121, RFC 3442). Since a client that takes these ignores the router of
    /// option 3, the default route is sent among them as well.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// One client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The client.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host name that it is told (option 12).
    pub hostname: Option<String>,
}

impl Default for DhcpScope {
    fn default() -> DhcpScope {
        DhcpScope {
            reservations: Vec::new(),
            range: None,
            lease_time: Duration::from_secs(3600),
            router: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            mtu: None,
            domain: None,
            search: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl DhcpScope {
    pub(super) fn check(&self, server: Ipv4Net) -> Result<(), Error> {
        let mut by_address = BTreeMap::from([(server.addr(), "the server".to_owned())]);
        let mut by_mac = BTreeMap::new();
        for Reservation { mac, address, hostname } in &self.reservations {
            let who = format!("the reservation of {}", hostname.clone().unwrap_or_else(|| mac.to_string()));
            if !is_client_address(server, *address) {
                return Err(Error::OutsideSubnet { server, what: who, address: *address });
            }
            let twice = |what: String, first, second| Error::Twice { server, what, first, second };
            if let Some(first) = by_address.insert(*address, who.clone()) {
                return Err(twice(address.to_string(), first, who));
            }
            if let Some(first) = by_mac.insert(*mac, who.clone()) {
                return Err(twice(mac.to_string(), first, who));
            }
            if let Some(name) = hostname {
                parse_name(name)?;
            }
        }
        if let Some(range) = &self.range {
            let (first, last) = (*range.start(), *range.end());
            let count = (u64::from(u32::from(last)) + 1).saturating_sub(u32::from(first).into());
            if !(1..=MAX_RANGE).contains(&count) {
                return Err(Error::Range { server, first, last, count });
            }
            for address in [first, last] {
                if !server.contains(&address) {
                    return Err(Error::OutsideSubnet { server, what: "the range".into(), address });
                }
            }
        }
        check_lease_time(server, self.lease_time)?;
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < 68) {
            return Err(Error::Mtu { server, mtu });
        }
        for name in self.domain.iter().chain(&self.search) {
            parse_name(name)?;
        }
        Ok(())
    }

    /// The options that a client gets if it asks for them, or for none in particular.
    pub(super) fn options(&self) -> Result<Vec<DhcpOption>, Error> {
        let mut options = Vec::new();
        options.extend(self.router.map(|router| DhcpOption::Router(vec![router])));
        if !self.dns.is_empty() {
            options.push(DhcpOption::DomainNameServer(self.dns.clone()));
        }
        if !self.ntp.is_empty() {
            options.push(DhcpOption::NtpServers(self.ntp.clone()));
        }
        options.extend(self.mtu.map(DhcpOption::InterfaceMtu));
        options.extend(self.domain.clone().map(DhcpOption::DomainName));
        if !self.search.is_empty() {
            let names = self.search.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
            options.push(DhcpOption::DomainSearch(names));
        }
        if !self.routes.is_empty() {
            let default = self.router.map(|router| (Ipv4Net::default(), router));
            // A destination's octets behind its prefix are not sent, and must be zero for the encoder.
            let routes = self.routes.iter().map(|(to, router)| (to.trunc(), *router));
            options.push(DhcpOption::ClasslessStaticRoute(routes.chain(default).collect()));
        }
        Ok(options)
    }

    pub(super) fn reservation(&self, mac: Mac) -> Option<&Reservation> {
        self.reservations.iter().find(|reservation| reservation.mac == mac)
    }

    /// The range's addresses that anyone may get.
    pub(super) fn open_addresses(&self, server: Ipv4Net) -> Vec<Ipv4Addr> {
        let Some(range) = &self.range else { return Vec::new() };
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        let all = (first..=last).map(Ipv4Addr::from);
        all.filter(|address| {
            is_client_address(server, *address)
                && *address != server.addr()
                && self.reservations.iter().all(|reservation| reservation.address != *address)
        })
        .collect()
    }
}

pub(super) fn check_lease_time(server: Ipv4Net, time: Duration) -> Result<(), Error> {
    let seconds = time.as_secs();
    if (1..u64::from(u32::MAX)).contains(&seconds) {
        Ok(())
    } else {
        Err(Error::LeaseTime { server, seconds })
    }
}

fn is_client_address(server: Ipv4Net, address: Ipv4Addr) -> bool {
    server.contains(&address) && address != server.network() && address != server.broadcast()
}

fn parse_name(name: &str) -> Result<Name, Error> {
    let parsed = Name::from_ascii(name);
    let mut parsed =
        parsed.map_err(|error| Error::Name { name: name.to_owned(), evidence: error.to_string() })?;
    if parsed.is_root() {
        return Err(Error::Name { name: name.to_owned(), evidence: "it has no label".into() });
    }
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// Whether a client that sent this list wants that option; one that sent none wants all.
pub(super) fn wanted(list: Option<&[v4::OptionCode]>, option: &DhcpOption) -> bool {
    list.is_none_or(|codes| codes.contains(&v4::OptionCode::from(option)))
}
