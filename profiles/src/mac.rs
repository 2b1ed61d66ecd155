//! Hardware addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A 48-bit Ethernet address; printed in lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address of a NIC that the profile gives none: `52:54:00`, the last two bytes of the machine's address in
    /// the network `cluster`, and the NIC's place in `nics`, counted from 1.
    ///
    /// It depends on no order of machines, so that a machine that is added changes no other, and a reader of a capture
    /// sees whose frame it is: 192.168.200.3 on its second NIC is `52:54:00:c8:03:02`.
    pub fn derived(cluster: IpAddr, nic: u8) -> Self {
        let (high, low) = match cluster {
            IpAddr::V4(v4) => (v4.octets()[2], v4.octets()[3]),
            IpAddr::V6(v6) => (v6.octets()[14], v6.octets()[15]),
        };
        Self([0x52, 0x54, 0x00, high, low, nic])
    }

    /// Whether a machine may have it as its own: neither a group address nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not six bytes of two hexadecimal digits with colons between.
#[derive(Debug, thiserror::Error)]
#[error("not a MAC address; expected six bytes like 52:54:00:12:34:56")]
pub struct BadMac;

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or(BadMac)?, 16).map_err(|_| BadMac)?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(BadMac) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac: MacAddr = "52:54:00:C8:03:02".parse().unwrap();
        assert_eq!(mac, MacAddr::derived("192.168.200.3".parse().unwrap(), 2));
        assert_eq!(mac.to_string(), "52:54:00:c8:03:02");
    }

    #[test]
    fn only_six_bytes_of_two_digits() {
        for bad in
            ["", "52:54:00:c8:03", "52:54:00:c8:03:02:01", "+2:54:00:c8:03:02", "5:254:00:c8:03:02", "é:é"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_and_zeros_are_nobodys() {
        assert!(!MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!MacAddr([0; 6]).is_unicast());
        assert!(MacAddr([0x52, 0x54, 0, 0, 0, 1]).is_unicast());
    }
}
