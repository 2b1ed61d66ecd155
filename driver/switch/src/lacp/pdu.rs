//! What is on the wire: LACPDUs and Marker PDUs (IEEE 802.1AX, 6.4.2 and 6.5.3), version 1.

use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// The group address of the Slow Protocols (IEEE 802.3, 57A.3), which no bridge forwards.
pub const SLOW_PROTOCOLS: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x02]);

/// The EtherType of the Slow Protocols (IEEE 802.3, 57A.4).
pub const ETHERTYPE: u16 = 0x8809;

/// The length of a LACPDU and of a Marker PDU, without the Ethernet header, in bytes.
pub const PDU_LENGTH: usize = 110;

const HEADER: usize = 14;
const SUBTYPE_LACP: u8 = 1;
const SUBTYPE_MARKER: u8 = 2;
const VERSION: u8 = 1;
const TLV_ACTOR: u8 = 1;
const TLV_PARTNER: u8 = 2;
const TLV_COLLECTOR: u8 = 3;
const TLV_MARKER: u8 = 1;
const TLV_MARKER_RESPONSE: u8 = 2;
const PORT_TLV_LENGTH: usize = 20;
const COLLECTOR_TLV_LENGTH: u8 = 16;
const MARKER_TLV_LENGTH: usize = 16;

/// One bit of a port's state, by its name in IEEE 802.1AX, 6.4.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum LacpBit {
    /// Sends LACPDUs without being asked (active).
    Activity = 0x01,
    /// Wants a LACPDU each second, and takes the link for dead after three.
    ShortTimeout = 0x02,
    /// May be in a bundle with other links. Without it the link is individual.
    Aggregation = 0x04,
    /// Has chosen its aggregator for this link.
    Synchronization = 0x08,
    /// Takes frames from this link.
    Collecting = 0x10,
    /// Sends frames to this link.
    Distributing = 0x20,
    /// Has heard no LACPDU and goes by its defaults.
    Defaulted = 0x40,
    /// Waits for a LACPDU that is overdue.
    Expired = 0x80,
}

impl LacpBit {
    const ALL: [LacpBit; 8] = [
        LacpBit::Activity,
        LacpBit::ShortTimeout,
        LacpBit::Aggregation,
        LacpBit::Synchronization,
        LacpBit::Collecting,
        LacpBit::Distributing,
        LacpBit::Defaulted,
        LacpBit::Expired,
    ];
}

/// The state octet of a port. As JSON it is the list of the bits that are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<LacpBit>", from = "Vec<LacpBit>")]
pub struct LacpState(
    /// The octet as sent.
    pub u8,
);

impl LacpState {
    /// Whether the bit is set.
    pub fn has(self, bit: LacpBit) -> bool {
        self.0 & bit as u8 != 0
    }

    /// With the bit set, or not.
    pub fn with(self, bit: LacpBit, on: bool) -> LacpState {
        LacpState(if on { self.0 | bit as u8 } else { self.0 & !(bit as u8) })
    }

    pub(crate) fn set(&mut self, bit: LacpBit, on: bool) {
        *self = self.with(bit, on);
    }
}

impl From<LacpState> for Vec<LacpBit> {
    fn from(state: LacpState) -> Vec<LacpBit> {
        LacpBit::ALL.into_iter().filter(|bit| state.has(*bit)).collect()
    }
}

impl From<Vec<LacpBit>> for LacpState {
    fn from(bits: Vec<LacpBit>) -> LacpState {
        bits.into_iter().fold(LacpState(0), |state, bit| state.with(bit, true))
    }
}

/// What a LACPDU says of one end of a link: who it is and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The priority of the system; the lower number comes first.
    pub system_priority: u16,
    /// The system's address.
    pub system: Mac,
    /// Ports of one system that may be in one bundle have one key.
    pub key: u16,
    /// The priority of the port; the lower number comes first.
    pub port_priority: u16,
    /// The port's number within its system.
    pub port: u16,
    /// How it is.
    pub state: LacpState,
}

impl PortInfo {
    /// Whether both are the same port of the same system with the same key, and both aggregatable or both individual:
    /// what the Receive machine compares.
    pub(crate) fn is_same_port(&self, other: &PortInfo) -> bool {
        let aggregation = |info: &PortInfo| info.state.has(LacpBit::Aggregation);
        let identity =
            |info: &PortInfo| (info.system_priority, info.system, info.key, info.port_priority, info.port);
        identity(self) == identity(other) && aggregation(self) == aggregation(other)
    }

    fn parse(value: &[u8; PORT_TLV_LENGTH - 2]) -> PortInfo {
        let u16_at = |at: usize| u16::from_be_bytes([value[at], value[at + 1]]);
        let mut system = [0; 6];
        system.copy_from_slice(&value[2..8]);
        PortInfo {
            system_priority: u16_at(0),
            system: Mac(system),
            key: u16_at(8),
            port_priority: u16_at(10),
            port: u16_at(12),
            state: LacpState(value[14]),
        }
    }

    fn write(&self, tlv: u8, pdu: &mut Vec<u8>) {
        pdu.extend_from_slice(&[tlv, PORT_TLV_LENGTH as u8]);
        pdu.extend_from_slice(&self.system_priority.to_be_bytes());
        pdu.extend_from_slice(&self.system.0);
        pdu.extend_from_slice(&self.key.to_be_bytes());
        pdu.extend_from_slice(&self.port_priority.to_be_bytes());
        pdu.extend_from_slice(&self.port.to_be_bytes());
        pdu.extend_from_slice(&[self.state.0, 0, 0, 0]);
    }
}

/// A LACPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacpdu {
    /// What the sender says of itself.
    pub actor: PortInfo,
    /// What the sender believes of the receiver.
    pub partner: PortInfo,
    /// How long the sender may hold a frame back before it takes it, in tens of microseconds.
    pub collector_max_delay: u16,
}

/// A question "have you taken all that I sent before this?", or its answer, which repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The number of the port that asks.
    pub requester_port: u16,
    /// The system that asks.
    pub requester_system: Mac,
    /// What tells one question from the next.
    pub transaction: u32,
}

/// A PDU of link aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// Subtype 1.
    Lacp(Lacpdu),
    /// Subtype 2, a question.
    Marker(Marker),
    /// Subtype 2, an answer.
    MarkerResponse(Marker),
}

impl Pdu {
    /// Reads a whole Ethernet frame. `None` if it is not for the Slow Protocols, has another subtype, is shorter than
    /// a version 1 PDU, or has its parts elsewhere. A later version is read as version 1, as 802.1AX asks for.
    pub fn parse(frame: &[u8]) -> Option<Pdu> {
        let pdu = frame.get(HEADER..)?.first_chunk::<PDU_LENGTH>()?;
        if frame[..6] != SLOW_PROTOCOLS.0 || frame[12..HEADER] != ETHERTYPE.to_be_bytes() || pdu[1] < VERSION
        {
            return None;
        }
        let tlv = |at: usize, kind: u8| {
            (pdu[at] == kind && usize::from(pdu[at + 1]) == PORT_TLV_LENGTH)
                .then(|| pdu[at + 2..].first_chunk().map(PortInfo::parse))
                .flatten()
        };
        match (pdu[0], pdu[2]) {
            (SUBTYPE_LACP, _) => Some(Pdu::Lacp(Lacpdu {
                actor: tlv(2, TLV_ACTOR)?,
                partner: tlv(22, TLV_PARTNER)?,
                collector_max_delay: u16::from_be_bytes([pdu[44], pdu[45]]),
            })),
            (SUBTYPE_MARKER, TLV_MARKER) => Marker::parse(pdu).map(Pdu::Marker),
            (SUBTYPE_MARKER, TLV_MARKER_RESPONSE) => Marker::parse(pdu).map(Pdu::MarkerResponse),
            _ => None,
        }
    }

    /// The whole Ethernet frame, from this address.
    pub fn to_frame(&self, src: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + PDU_LENGTH);
        frame.extend_from_slice(&SLOW_PROTOCOLS.0);
        frame.extend_from_slice(&src.0);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        match self {
            Pdu::Lacp(pdu) => {
                frame.extend_from_slice(&[SUBTYPE_LACP, VERSION]);
                pdu.actor.write(TLV_ACTOR, &mut frame);
                pdu.partner.write(TLV_PARTNER, &mut frame);
                frame.extend_from_slice(&[TLV_COLLECTOR, COLLECTOR_TLV_LENGTH]);
                frame.extend_from_slice(&pdu.collector_max_delay.to_be_bytes());
            }
            Pdu::Marker(marker) => marker.write(TLV_MARKER, &mut frame),
            Pdu::MarkerResponse(marker) => marker.write(TLV_MARKER_RESPONSE, &mut frame),
        }
        // The rest is reserved, and a terminator, all zero.
        frame.resize(HEADER + PDU_LENGTH, 0);
        frame
    }
}

impl Marker {
    fn parse(pdu: &[u8; PDU_LENGTH]) -> Option<Marker> {
        let mut system = [0; 6];
        system.copy_from_slice(&pdu[6..12]);
        (usize::from(pdu[3]) == MARKER_TLV_LENGTH).then(|| Marker {
            requester_port: u16::from_be_bytes([pdu[4], pdu[5]]),
            requester_system: Mac(system),
            transaction: u32::from_be_bytes([pdu[12], pdu[13], pdu[14], pdu[15]]),
        })
    }

    fn write(&self, tlv: u8, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&[SUBTYPE_MARKER, VERSION, tlv, MARKER_TLV_LENGTH as u8]);
        frame.extend_from_slice(&self.requester_port.to_be_bytes());
        frame.extend_from_slice(&self.requester_system.0);
        frame.extend_from_slice(&self.transaction.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    const SRC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn info(n: u8, state: u8) -> PortInfo {
        PortInfo {
            system_priority: 0x8000,
            system: Mac([2, 0, 0, 0, 0, n]),
            key: 0x0f00 | u16::from(n),
            port_priority: 255,
            port: u16::from(n),
            state: LacpState(state),
        }
    }

    /// Octet by octet as 802.1AX, figure 6-7 has it, so that a mistake in writing is not undone by one in reading.
    #[test]
    fn a_lacpdu_is_laid_out_as_the_standard_says() {
        let pdu = Pdu::Lacp(Lacpdu { actor: info(1, 0x3f), partner: info(2, 0x85), collector_max_delay: 7 });
        let frame = pdu.to_frame(SRC);
        let mut expected = b"\x01\x80\xc2\x00\x00\x02\x52\x54\x00\x00\x00\x01\x88\x09".to_vec();
        expected.extend_from_slice(b"\x01\x01");
        expected.extend_from_slice(
            b"\x01\x14\x80\x00\x02\x00\x00\x00\x00\x01\x0f\x01\x00\xff\x00\x01\x3f\x00\x00\x00",
        );
        expected.extend_from_slice(
            b"\x02\x14\x80\x00\x02\x00\x00\x00\x00\x02\x0f\x02\x00\xff\x00\x02\x85\x00\x00\x00",
        );
        expected.extend_from_slice(b"\x03\x10\x00\x07");
        expected.extend_from_slice(&[0; 12 + 2 + 50]);
        assert_eq!(frame.len(), 124);
        assert_eq!(frame, expected);
        assert_eq!(Pdu::parse(&frame), Some(pdu));
    }

    #[test]
    fn a_marker_is_laid_out_as_the_standard_says() {
        let marker = Marker { requester_port: 3, requester_system: SRC, transaction: 0x0102_0304 };
        for (pdu, tlv) in [(Pdu::Marker(marker), 1), (Pdu::MarkerResponse(marker), 2)] {
            let frame = pdu.to_frame(SRC);
            assert_eq!(&frame[14..18], [2, 1, tlv, 16]);
            assert_eq!(&frame[18..30], b"\x00\x03\x52\x54\x00\x00\x00\x01\x01\x02\x03\x04");
            assert_eq!((frame.len(), Pdu::parse(&frame)), (124, Some(pdu)));
        }
    }

    #[test]
    fn what_is_not_a_pdu_is_not_taken_for_one() {
        let good = Pdu::Lacp(Lacpdu { actor: info(1, 1), partner: info(2, 2), collector_max_delay: 0 })
            .to_frame(SRC);
        assert_eq!(Pdu::parse(&good[..123]), None, "cut short");
        // Destination, EtherType, subtype, version, types and lengths of the two parts.
        for (at, byte) in [(5, 3), (13, 8), (14, 10), (15, 0), (16, 2), (17, 19), (36, 1), (37, 21)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Pdu::parse(&bad), None, "octet {at}");
        }
        let mut later = good.clone();
        later[15] = 2;
        later.extend_from_slice(&[1; 40]);
        assert_eq!(Pdu::parse(&later), Pdu::parse(&good), "a later version is read as version 1");
    }

    #[test]
    fn state_is_json_by_name() {
        let state = LacpState(0x3d);
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(json, r#"["activity","aggregation","synchronization","collecting","distributing"]"#);
        assert_eq!(serde_json::from_str::<LacpState>(&json).unwrap(), state);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0usize..40) {
            let good =
                Pdu::Lacp(Lacpdu { actor: info(1, 1), partner: info(2, 2), collector_max_delay: 0 }).to_frame(SRC);
            let mut frame = good[..head].to_vec();
            frame.extend_from_slice(&bytes);
            if let Some(pdu) = Pdu::parse(&frame) {
                prop_assert_eq!(Pdu::parse(&pdu.to_frame(SRC)), Some(pdu));
            }
        }
    }
}
