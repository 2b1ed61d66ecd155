//! What a router advertises.

use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::Ipv6Net;
use switch::Mac;

use crate::error::Error;

/// How many prefixes a router advertises at most: the host has an address in each.
pub const MAX_PREFIXES: usize = 2;

/// How many DNS servers an advertisement may have.
const MAX_DNS: usize = 16;

/// What a router advertises. Times are sent in whole seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaScope {
    /// The prefixes that are on the link and from which machines make their addresses, of 64 bits as Ethernet has them
    /// (RFC 4862, 5.5.3). One or two.
    pub prefixes: Vec<Ipv6Net>,
    /// How long an address of these prefixes is valid after an advertisement. 1 day unless said otherwise; Linux takes
    /// nothing below 2 hours for an address that it has (RFC 4862, 5.5.3, e).
    pub valid: Duration,
    /// How long it is used for new connections; not longer than `valid`. 4 hours unless said otherwise.
    pub preferred: Duration,
    /// The link's MTU in bytes, from 1280.
    pub mtu: Option<u32>,
    /// DNS servers (RFC 8106), valid for three intervals.
    pub dns: Vec<Ipv6Addr>,
    /// How long machines use the host as their default router, up to 9000 s. Zero, as it is unless said otherwise, is
    /// never: a host passes no packets on.
    pub router_lifetime: Duration,
    /// The longest time between two advertisements that nobody has asked for, 4 s to 1800 s. 600 s unless said otherwise.
    pub interval: Duration,
}

impl Default for RaScope {
    fn default() -> RaScope {
        RaScope {
            prefixes: Vec::new(),
            valid: Duration::from_secs(86400),
            preferred: Duration::from_secs(14400),
            mtu: None,
            dns: Vec::new(),
            router_lifetime: Duration::ZERO,
            interval: Duration::from_secs(600),
        }
    }
}

impl RaScope {
    pub(super) fn check(&self) -> Result<(), Error> {
        for prefix in &self.prefixes {
            let address = prefix.addr();
            let global =
                !address.is_multicast() && !address.is_unicast_link_local() && !address.is_unspecified();
            if prefix.prefix_len() != 64 || !global || prefix.trunc() != *prefix {
                return Err(Error::Prefix { prefix: *prefix });
            }
        }
        let within = |what, value: u64, expected: RangeInclusive<u64>| {
            let (low, high) = expected.clone().into_inner();
            let error = Error::Advertised { what, value, low, high };
            if expected.contains(&value) { Ok(()) } else { Err(error) }
        };
        within("prefixes", self.prefixes.len() as u64, 1..=MAX_PREFIXES as u64)?;
        within("DNS servers", self.dns.len() as u64, 0..=MAX_DNS as u64)?;
        within("seconds of validity", self.valid.as_secs(), 1..=u32::MAX.into())?;
        within("seconds of preference", self.preferred.as_secs(), 0..=self.valid.as_secs())?;
        within("bytes of MTU", self.mtu.unwrap_or(1280).into(), 1280..=65535)?;
        within("seconds as default router", self.router_lifetime.as_secs(), 0..=9000)?;
        within("seconds between advertisements", self.interval.as_secs(), 4..=1800)
    }
}

/// The link-local address of a MAC address (RFC 4291, 2.5.1).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    in_prefix("fe80::".parse().unwrap_or(Ipv6Addr::UNSPECIFIED), mac)
}

/// A MAC address's address in a prefix of 64 bits.
pub(super) fn in_prefix(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(prefix.to_bits() & !u128::from(u64::MAX) | u128::from(interface))
}
