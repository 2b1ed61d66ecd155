//! A 48-bit MAC address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A 48-bit MAC address, written as `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(
    /// The six octets in the order in which they are sent.
    pub [u8; 6],
);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether this is a group address: broadcast or multicast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether this is one of 01:80:c2:00:00:00 to 0f, which no bridge forwards (IEEE 802.1Q, table 8-1): STP, pause,
    /// LACP, LLDP.
    pub fn is_reserved(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] <= 0x0f
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Mac, Error> {
        text.parse()
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac, Error> {
        let malformed = || Error::MalformedMac { text: text.to_owned() };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(malformed)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() { Err(malformed()) } else { Ok(Mac(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 1, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:ab:01:ff");
        assert_eq!("52:54:00:AB:01:ff".parse::<Mac>().unwrap(), mac);
        for wrong in ["", "52:54:00:ab:01", "52:54:00:ab:01:ff:00", "52:54:00:ab:01:+f", "5254:00:ab:01:ff:1"]
        {
            let error = wrong.parse::<Mac>().expect_err(wrong).to_string();
            assert!(error.contains("52:54:00:12:34:56"), "{error}");
        }
    }

    #[test]
    fn reserved_is_the_sixteen_addresses_only() {
        assert!(Mac([0x01, 0x80, 0xc2, 0, 0, 0x00]).is_reserved());
        assert!(Mac([0x01, 0x80, 0xc2, 0, 0, 0x0f]).is_reserved());
        assert!(!Mac([0x01, 0x80, 0xc2, 0, 0, 0x10]).is_reserved());
        assert!(!Mac::BROADCAST.is_reserved());
        assert!(Mac::BROADCAST.is_group());
        assert!(!Mac([0x52, 0x54, 0, 0, 0, 1]).is_group());
    }
}
