//! What is on the wire: LLDPDUs (IEEE 802.1AB, clause 8), with the VLAN TLVs of IEEE 802.1Q, annex D.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// The group address "nearest bridge" (802.1AB, table 7-1), which no bridge forwards.
pub const NEAREST_BRIDGE: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

/// The other two group addresses of that table: nearest non-TPMR bridge, nearest customer bridge.
const OTHER_GROUPS: [Mac; 2] = [Mac([0x01, 0x80, 0xc2, 0, 0, 0x03]), Mac([0x01, 0x80, 0xc2, 0, 0, 0])];

/// The EtherType of LLDP (802.1AB, table 7-3).
pub const ETHERTYPE: u16 = 0x88cc;

/// The longest text of a TLV, in bytes (802.1AB, 8.5.2 to 8.5.7).
pub const MAX_TEXT: usize = 255;

/// The longest name of a VLAN, in bytes (802.1Q, D.2.3).
const MAX_VLAN_NAME: usize = 32;

/// The longest LLDPDU that is sent, in bytes: what a frame without jumbo carries.
const MAX_PDU: usize = 1500;

const HEADER: usize = 14;

const END: u8 = 0;
const CHASSIS_ID: u8 = 1;
const PORT_ID: u8 = 2;
const TIME_TO_LIVE: u8 = 3;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;
const SYSTEM_DESCRIPTION: u8 = 6;
const ORGANIZATION: u8 = 127;

const CHASSIS_MAC: u8 = 4;
const CHASSIS_LOCAL: u8 = 7;
const PORT_MAC: u8 = 3;
const PORT_INTERFACE: u8 = 5;
const PORT_LOCAL: u8 = 7;

/// The prefix of IEEE 802.1's own TLVs, and the subtypes of those that are read.
const OUI_8021: [u8; 3] = [0x00, 0x80, 0xc2];
const PORT_VLAN_ID: u8 = 1;
const VLAN_NAME: u8 = 3;

/// Who the sender is (802.1AB, 8.5.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChassisId {
    /// A MAC address, as switches and lldpd send it.
    Mac(Mac),
    /// A text of the sender's own, as systemd-networkd sends it.
    Local(String),
    /// Any other kind.
    Other {
        /// The kind.
        subtype: u8,
        /// The octets.
        value: Vec<u8>,
    },
}

/// Which of its ports the sender speaks by (802.1AB, 8.5.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortIdentity {
    /// A MAC address.
    Mac(Mac),
    /// The name of an interface.
    Interface(String),
    /// A text of the sender's own.
    Local(String),
    /// Any other kind.
    Other {
        /// The kind.
        subtype: u8,
        /// The octets.
        value: Vec<u8>,
    },
}

/// A VLAN and what the sender calls it (802.1Q, D.2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanName {
    /// The VLAN's id.
    pub vid: u16,
    /// Its name, at most 32 bytes.
    pub name: String,
}

/// A TLV that is not read further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherTlv {
    /// Its type, 4 to 127; 127 begins with an organization's prefix and a subtype.
    pub kind: u8,
    /// Its octets, at most 511.
    pub value: Vec<u8>,
}

/// What one LLDPDU says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lldpdu {
    /// Who sends it.
    pub chassis: ChassisId,
    /// By which of its ports.
    pub port: PortIdentity,
    /// For how long it holds, in seconds; 0 takes back what was said before.
    pub ttl: u16,
    /// What the port is called.
    pub port_description: Option<String>,
    /// What the system is called.
    pub system_name: Option<String>,
    /// What kind of system it is.
    pub system_description: Option<String>,
    /// The VLAN of untagged frames (802.1Q, D.2.1); 0 is none.
    pub port_vlan: Option<u16>,
    /// The VLANs of the port and their names, as many as there was room for.
    pub vlan_names: Vec<VlanName>,
    /// What else there was.
    pub other: Vec<OtherTlv>,
}

impl Lldpdu {
    /// Reads a whole Ethernet frame without tags. `None` if it is not LLDP, or if the LLDPDU is to be discarded by
    /// 802.1AB, 9.2.7.7: it has to begin with chassis, port and time to live, each of them once, and no TLV may be
    /// longer than what there is.
    pub fn parse(frame: &[u8]) -> Option<Lldpdu> {
        let dst = Mac(*frame.first_chunk()?);
        if dst != NEAREST_BRIDGE && !OTHER_GROUPS.contains(&dst)
            || frame.get(12..HEADER)? != ETHERTYPE.to_be_bytes()
        {
            return None;
        }
        let mut tlvs = Tlvs { rest: frame.get(HEADER..)? };
        let mut next = |kind: u8| tlvs.next()?.ok().filter(|tlv| tlv.0 == kind).map(|tlv| tlv.1);
        let chassis = ChassisId::parse(next(CHASSIS_ID)?)?;
        let port = PortIdentity::parse(next(PORT_ID)?)?;
        let ttl = u16::from_be_bytes(*next(TIME_TO_LIVE)?.first_chunk()?);
        let mut pdu = Lldpdu::new(chassis, port, ttl);
        for tlv in tlvs {
            let (kind, value) = tlv.ok()?;
            match kind {
                CHASSIS_ID | PORT_ID | TIME_TO_LIVE => return None,
                PORT_DESCRIPTION => first(&mut pdu.port_description, value),
                SYSTEM_NAME => first(&mut pdu.system_name, value),
                SYSTEM_DESCRIPTION => first(&mut pdu.system_description, value),
                ORGANIZATION => pdu.take_organization(value),
                _ => pdu.other.push(OtherTlv { kind, value: value.to_vec() }),
            }
        }
        Some(pdu)
    }

    /// One that says no more than it must.
    pub fn new(chassis: ChassisId, port: PortIdentity, ttl: u16) -> Lldpdu {
        Lldpdu {
            chassis,
            port,
            ttl,
            port_description: None,
            system_name: None,
            system_description: None,
            port_vlan: None,
            vlan_names: Vec::new(),
            other: Vec::new(),
        }
    }

    fn take_organization(&mut self, value: &[u8]) {
        match value {
            [prefix @ .., subtype, high, low]
                if *prefix == OUI_8021 && *subtype == PORT_VLAN_ID && self.port_vlan.is_none() =>
            {
                self.port_vlan = Some(u16::from_be_bytes([*high, *low]));
            }
            [a, b, c, VLAN_NAME, high, low, length, name @ ..]
                if [*a, *b, *c] == OUI_8021
                    && name.len() == usize::from(*length)
                    && name.len() <= MAX_VLAN_NAME =>
            {
                let (vid, name) = (u16::from_be_bytes([*high, *low]), text(name));
                self.vlan_names.push(VlanName { vid, name });
            }
            _ => self.other.push(OtherTlv { kind: ORGANIZATION, value: value.to_vec() }),
        }
    }

    /// The whole Ethernet frame, from this address to [`NEAREST_BRIDGE`]. Texts that are too long are cut; names of VLANs
    /// and other TLVs for which a frame of 1500 bytes has no room are left out.
    pub fn to_frame(&self, src: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + 256);
        frame.extend_from_slice(&NEAREST_BRIDGE.0);
        frame.extend_from_slice(&src.0);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        let (subtype, value) = self.chassis.octets();
        push(&mut frame, CHASSIS_ID, &[&[subtype], value]);
        let (subtype, value) = self.port.octets();
        push(&mut frame, PORT_ID, &[&[subtype], value]);
        push(&mut frame, TIME_TO_LIVE, &[&self.ttl.to_be_bytes()]);
        let texts = [
            (PORT_DESCRIPTION, &self.port_description),
            (SYSTEM_NAME, &self.system_name),
            (SYSTEM_DESCRIPTION, &self.system_description),
        ];
        for (kind, text) in texts {
            if let Some(text) = text {
                push(&mut frame, kind, &[cut(text, MAX_TEXT).as_bytes()]);
            }
        }
        if let Some(vid) = self.port_vlan {
            push(&mut frame, ORGANIZATION, &[&OUI_8021, &[PORT_VLAN_ID], &vid.to_be_bytes()]);
        }
        // After the port's VLAN: what else there was may have a second one, and the first counts.
        for OtherTlv { kind, value } in &self.other {
            push(&mut frame, *kind, &[value]);
        }
        for VlanName { vid, name } in &self.vlan_names {
            let name = cut(name, MAX_VLAN_NAME).as_bytes();
            let length = [name.len() as u8];
            push(&mut frame, ORGANIZATION, &[&OUI_8021, &[VLAN_NAME], &vid.to_be_bytes(), &length, name]);
        }
        frame.extend_from_slice(&[END, 0]);
        frame
    }
}

/// Goes through TLVs to the one that ends them, or to the end of the frame (802.1AB lets either end a PDU); an error is
/// one that is longer than what there is.
struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), ()>;

    fn next(&mut self) -> Option<Result<(u8, &'a [u8]), ()>> {
        let (header, rest) = self.rest.split_first_chunk::<2>()?;
        let header = u16::from_be_bytes(*header);
        let (kind, length) = ((header >> 9) as u8, usize::from(header & 0x1ff));
        // What follows the end is padding.
        self.rest = &[];
        if kind == END {
            return None;
        }
        if length > rest.len() {
            return Some(Err(()));
        }
        let (value, rest) = rest.split_at(length);
        self.rest = rest;
        Some(Ok((kind, value)))
    }
}

/// Adds a TLV if there is room for it and for the end.
fn push(frame: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > 0x1ff || frame.len() + 2 + length + 2 > HEADER + MAX_PDU {
        return;
    }
    frame.extend_from_slice(&(u16::from(kind) << 9 | length as u16).to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// A text that is said twice counts once.
fn first(field: &mut Option<String>, value: &[u8]) {
    if field.is_none() {
        *field = Some(text(value));
    }
}

/// The text's beginning, at most so many bytes of it, in whole characters.
fn cut(text: &str, length: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    &text[..ends.take_while(|end| *end <= length).last().unwrap_or(0)]
}

/// A subtype and its octets, of which there must be 1 to 255.
fn identity(value: &[u8]) -> Option<(u8, &[u8])> {
    let (subtype, value) = value.split_first()?;
    (1..=MAX_TEXT).contains(&value.len()).then_some((*subtype, value))
}

fn mac(value: &[u8]) -> Option<Mac> {
    Some(Mac(value.try_into().ok()?))
}

fn utf8(value: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(value).ok()?.to_owned())
}

impl ChassisId {
    fn parse(value: &[u8]) -> Option<ChassisId> {
        let (subtype, value) = identity(value)?;
        let known = match subtype {
            CHASSIS_MAC => mac(value).map(ChassisId::Mac),
            CHASSIS_LOCAL => utf8(value).map(ChassisId::Local),
            _ => None,
        };
        Some(known.unwrap_or_else(|| ChassisId::Other { subtype, value: value.to_vec() }))
    }

    fn octets(&self) -> (u8, &[u8]) {
        match self {
            ChassisId::Mac(mac) => (CHASSIS_MAC, &mac.0),
            ChassisId::Local(text) => (CHASSIS_LOCAL, cut(text, MAX_TEXT).as_bytes()),
            ChassisId::Other { subtype, value } => (*subtype, value),
        }
    }
}

impl PortIdentity {
    fn parse(value: &[u8]) -> Option<PortIdentity> {
        let (subtype, value) = identity(value)?;
        let known = match subtype {
            PORT_MAC => mac(value).map(PortIdentity::Mac),
            PORT_INTERFACE => utf8(value).map(PortIdentity::Interface),
            PORT_LOCAL => utf8(value).map(PortIdentity::Local),
            _ => None,
        };
        Some(known.unwrap_or_else(|| PortIdentity::Other { subtype, value: value.to_vec() }))
    }

    fn octets(&self) -> (u8, &[u8]) {
        match self {
            PortIdentity::Mac(mac) => (PORT_MAC, &mac.0),
            PortIdentity::Interface(text) => (PORT_INTERFACE, cut(text, MAX_TEXT).as_bytes()),
            PortIdentity::Local(text) => (PORT_LOCAL, cut(text, MAX_TEXT).as_bytes()),
            PortIdentity::Other { subtype, value } => (*subtype, value),
        }
    }
}

fn other(f: &mut fmt::Formatter<'_>, subtype: u8, value: &[u8]) -> fmt::Result {
    write!(f, "subtype {subtype} {}", value.escape_ascii())
}

impl fmt::Display for ChassisId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChassisId::Mac(mac) => mac.fmt(f),
            ChassisId::Local(text) => write!(f, "{}", text.escape_debug()),
            ChassisId::Other { subtype, value } => other(f, *subtype, value),
        }
    }
}

impl fmt::Display for PortIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortIdentity::Mac(mac) => mac.fmt(f),
            PortIdentity::Interface(text) | PortIdentity::Local(text) => write!(f, "{}", text.escape_debug()),
            PortIdentity::Other { subtype, value } => other(f, *subtype, value),
        }
    }
}

impl fmt::Display for Lldpdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LLDP ")?;
        match &self.system_name {
            Some(name) => write!(f, "{}", name.escape_debug())?,
            None => self.chassis.fmt(f)?,
        }
        write!(f, " port {}, {} s", self.port, self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    const SRC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);

    fn full() -> Lldpdu {
        Lldpdu {
            port_description: Some("server-1/eth1".into()),
            system_name: Some("rack".into()),
            system_description: Some("switch".into()),
            port_vlan: Some(100),
            vlan_names: vec![VlanName { vid: 200, name: "VLAN0200".into() }],
            other: vec![OtherTlv { kind: 7, value: vec![0, 4, 0, 4] }],
            ..Lldpdu::new(ChassisId::Mac(SRC), PortIdentity::Interface("eth1".into()), 121)
        }
    }

    /// Octet by octet as 802.1AB, 8.4 and 8.5, and 802.1Q, D.2 have it, so that a mistake in writing is not undone by
    /// one in reading.
    #[test]
    fn an_lldpdu_is_laid_out_as_the_standard_says() {
        let frame = full().to_frame(SRC);
        let mut expected = b"\x01\x80\xc2\x00\x00\x0e\x02\x00\x00\x00\x00\x01\x88\xcc".to_vec();
        expected.extend_from_slice(b"\x02\x07\x04\x02\x00\x00\x00\x00\x01");
        expected.extend_from_slice(b"\x04\x05\x05eth1");
        expected.extend_from_slice(b"\x06\x02\x00\x79");
        expected.extend_from_slice(b"\x08\x0dserver-1/eth1");
        expected.extend_from_slice(b"\x0a\x04rack");
        expected.extend_from_slice(b"\x0c\x06switch");
        expected.extend_from_slice(b"\xfe\x06\x00\x80\xc2\x01\x00\x64");
        expected.extend_from_slice(b"\x0e\x04\x00\x04\x00\x04");
        expected.extend_from_slice(b"\xfe\x0f\x00\x80\xc2\x03\x00\xc8\x08VLAN0200\x00\x00");
        assert_eq!(frame, expected);
        assert_eq!(Lldpdu::parse(&frame), Some(full()));
        assert_eq!(full().to_string(), "LLDP rack port eth1, 121 s");
    }

    #[test]
    fn what_is_to_be_discarded_is() {
        let good = full().to_frame(SRC);
        // Destination, EtherType, types and lengths of the three that must come first.
        for (at, byte) in [(5, 1), (13, 0xcd), (14, 4), (15, 1), (23, 2), (24, 1), (30, 8), (31, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Lldpdu::parse(&bad), None, "octet {at}");
        }
        let end = good.len() - 2;
        for again in [&b"\x02\x02\x07x"[..], b"\x04\x02\x07x", b"\x06\x02\x00\x01", b"\x0a\x08short"] {
            let bad = [&good[..end], again].concat();
            assert_eq!(Lldpdu::parse(&bad), None, "{again:?}");
        }
        assert_eq!(Lldpdu::parse(&good[..end]), Some(full()), "the end of the frame is one");
        let padded = [&good[..], &[0xff; 40]].concat();
        assert_eq!(Lldpdu::parse(&padded), Some(full()), "what follows the end is padding");
    }

    #[test]
    fn of_what_is_said_twice_the_first_counts_and_is_written_first() {
        let good = full().to_frame(SRC);
        let twice = b"\xfe\x06\x00\x80\xc2\x01\x00\x65\x0a\x05other";
        let read = Lldpdu::parse(&[&good[..good.len() - 2], twice].concat()).unwrap();
        assert_eq!((read.port_vlan, read.system_name.as_deref()), (Some(100), Some("rack")));
        assert_eq!(Lldpdu::parse(&read.to_frame(SRC)), Some(read));
    }

    #[test]
    fn an_ordinary_frame_holds_it_whatever_there_is_to_say() {
        let long = "ü".repeat(200);
        let pdu = Lldpdu {
            port_description: Some(long.clone()),
            system_name: Some(long.clone()),
            system_description: Some(long.clone()),
            vlan_names: (1..=4094).map(|vid| VlanName { vid, name: long.clone() }).collect(),
            ..full()
        };
        let frame = pdu.to_frame(SRC);
        assert!(frame.len() <= 1514, "{}", frame.len());
        let read = Lldpdu::parse(&frame).unwrap();
        assert_eq!(read.system_name.unwrap(), "ü".repeat(127));
        assert!(read.vlan_names.len() > 10, "{}", read.vlan_names.len());
        assert_eq!(read.vlan_names[0], VlanName { vid: 1, name: "ü".repeat(16) });
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 1..20)
    }

    fn tlv() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let kind = prop_oneof![0u8..10, Just(127)];
        let org = prop_oneof![Just(vec![]), Just(vec![0, 0x80, 0xc2, 1]), Just(vec![0, 0x80, 0xc2, 3])];
        (kind, org, value()).prop_map(|(kind, org, value)| (kind, [org, value].concat()))
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_what_was_read_is_written_again(
            chassis in value(), port in value(), tlvs in proptest::collection::vec(tlv(), 0..8),
            cut in 0usize..200, noise in proptest::option::of((0usize..120, any::<u8>())),
        ) {
            let mut frame = [&NEAREST_BRIDGE.0[..], &SRC.0, &ETHERTYPE.to_be_bytes()].concat();
            push(&mut frame, CHASSIS_ID, &[&[chassis[0] % 8], &chassis]);
            push(&mut frame, PORT_ID, &[&[port[0] % 8], &port]);
            push(&mut frame, TIME_TO_LIVE, &[&[0, 9]]);
            for (kind, value) in &tlvs {
                push(&mut frame, *kind, &[value]);
            }
            if let Some((at, byte)) = noise && let Some(octet) = frame.get_mut(at) {
                *octet = byte;
            }
            frame.truncate(frame.len() - cut.min(frame.len()) * usize::from(cut % 2 == 0));
            if let Some(pdu) = Lldpdu::parse(&frame) {
                prop_assert!(!pdu.to_string().is_empty());
                // Text that is no UTF-8 may grow past its limit when it is written again.
                let again = Lldpdu::parse(&pdu.to_frame(SRC)).expect("what was written is one");
                prop_assert_eq!((&again.chassis, &again.port, again.ttl), (&pdu.chassis, &pdu.port, pdu.ttl));
                prop_assert_eq!(again.port_vlan, pdu.port_vlan);
                prop_assert_eq!(again.vlan_names.len(), pdu.vlan_names.len());
                prop_assert_eq!(again.other, pdu.other);
            }
        }
    }
}
