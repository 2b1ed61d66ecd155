//! Ethernet frames: the 18 bytes the switch looks at, and the tag it pushes and pops.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::mac::Mac;
use crate::stream::{PREFIX, wire_length};
use crate::vlan::VlanId;

/// The shortest frame that has a header: two addresses and an EtherType, in bytes.
pub const MIN_FRAME: usize = 14;

/// The longest frame that QEMU's stream backend takes, in bytes (`NET_BUFSIZE`: 4 KiB + 64 KiB). A longer one makes it
/// drop the connection.
pub const MAX_FRAME: usize = 69_632;

/// The EtherType of a customer VLAN tag (IEEE 802.1Q), the only tag that this switch acts upon.
pub(crate) const TPID_8021Q: u16 = 0x8100;

/// The EtherType of a service tag (802.1ad, "QinQ"), which is payload here.
pub(crate) const TPID_8021AD: u16 = 0x88a8;

pub(crate) const TAG: usize = 4;
pub(crate) const ADDRESSES: usize = 12;

/// The tag control information of an 802.1Q tag: priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tci(
    /// The 16 bits as sent.
    pub u16,
);

impl Tci {
    /// The VLAN id with 0 for "only a priority".
    pub fn vid(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority (PCP), 0 to 7.
    pub fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// Whether the frame may be dropped first (DEI).
    pub fn drop_eligible(self) -> bool {
        self.0 & 0x1000 != 0
    }

    fn with_vlan(self, vlan: VlanId) -> Tci {
        Tci(self.0 & 0xf000 | vlan.get())
    }
}

/// What the switch reads of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The destination address.
    pub dst: Mac,
    /// The source address.
    pub src: Mac,
    /// The outermost tag, if the frame begins with an 802.1Q one (0x8100).
    pub tag: Option<Tci>,
    /// The EtherType after that tag.
    pub ethertype: u16,
}

impl Header {
    /// Reads the header; `None` if the frame ends within it.
    pub fn parse(frame: &[u8]) -> Option<Header> {
        let u16_at = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let dst = Mac(frame.get(..6)?.try_into().ok()?);
        let src = Mac(frame.get(6..ADDRESSES)?.try_into().ok()?);
        let outer = u16_at(ADDRESSES)?;
        if outer == TPID_8021Q {
            Some(Header { dst, src, tag: Some(Tci(u16_at(14)?)), ethertype: u16_at(16)? })
        } else {
            Some(Header { dst, src, tag: None, ethertype: outer })
        }
    }
}

/// The form in which a frame leaves a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Byte for byte as it came in.
    AsReceived,
    /// With an 802.1Q tag of the frame's VLAN; a priority that came in is kept.
    Tagged,
    /// Without the tag that it came in with.
    Untagged,
}

/// A whole Ethernet frame (no FCS), shared between queues and captures without copying.
#[derive(Clone)]
pub struct Frame {
    /// The frame with its length prefix, alone or among others that were read with it.
    memory: Bytes,
    start: u32,
    end: u32,
    /// Whether it keeps a chunk of a switch from being used again.
    chunked: bool,
}

impl Frame {
    /// Copies the bytes of a frame. The length must not be above [`MAX_FRAME`] if it is to be sent.
    pub fn new(bytes: &[u8]) -> Frame {
        Frame::concat(&[bytes])
    }

    /// Copies a frame together with its length prefix.
    pub(crate) fn from_wire(wire: &[u8]) -> Frame {
        Frame::from_shared(Bytes::copy_from_slice(wire))
    }

    /// Takes a frame together with its length prefix, without copying.
    pub(crate) fn from_shared(wire: Bytes) -> Frame {
        Frame { start: 0, end: wire.len() as u32, memory: wire, chunked: false }
    }

    /// The frames that follow each other in a part of a chunk, each with its length prefix.
    pub(crate) fn all_in(memory: Bytes) -> impl Iterator<Item = Frame> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let length = wire_length(&memory[start..]).ok().flatten()?;
            let range = start..start + length;
            start = range.end;
            let memory = memory.clone();
            Some(Frame { memory, start: range.start as u32, end: range.end as u32, chunked: true })
        })
    }

    /// The frame that is all of a part of a chunk, with its length prefix.
    pub(crate) fn chunked(wire: Bytes) -> Frame {
        Frame { chunked: true, ..Frame::from_shared(wire) }
    }

    /// The frame with its length prefix, as QEMU's stream backend has it.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.memory[self.start as usize..self.end as usize]
    }

    /// The wire form of this frame and of those that come after it, up to `last`, as one piece; `None` if they don't lie
    /// side by side.
    pub(crate) fn wire_up_to(&self, last: &Frame) -> Option<&[u8]> {
        self.memory.get(self.start as usize..last.end as usize)
    }

    /// Whether `next` lies behind this one in the same memory.
    pub(crate) fn is_followed_by(&self, next: &Frame) -> bool {
        self.end == next.start && self.shares_memory(next)
    }

    /// Whether both are the same memory.
    pub(crate) fn same(&self, other: &Frame) -> bool {
        (self.start, self.end) == (other.start, other.end) && self.shares_memory(other)
    }

    fn shares_memory(&self, other: &Frame) -> bool {
        (self.memory.as_ptr(), self.memory.len()) == (other.memory.as_ptr(), other.memory.len())
    }

    /// Whether it keeps a chunk of a switch from being used again.
    pub(crate) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// The same in memory of its own.
    pub(crate) fn copied_out(&self) -> Frame {
        if self.chunked { Frame::from_wire(self.wire()) } else { self.clone() }
    }

    /// The frame in another form, for a frame whose header is `header` and whose VLAN is `vlan`.
    pub fn in_form(&self, form: Form, header: &Header, vlan: VlanId) -> Frame {
        let (addresses, rest) = self.split_at(ADDRESSES);
        let payload = if header.tag.is_some() { &rest[TAG..] } else { rest };
        match form {
            Form::AsReceived => self.clone(),
            Form::Untagged => Frame::concat(&[addresses, payload]),
            Form::Tagged => {
                let tci = header.tag.unwrap_or(Tci(0)).with_vlan(vlan);
                let tag = [TPID_8021Q.to_be_bytes(), tci.0.to_be_bytes()].concat();
                Frame::concat(&[addresses, &tag, payload])
            }
        }
    }

    /// The frame with one bit flipped behind its addresses, tags and EtherType, so that nothing but its payload changes.
    /// Which one follows from `position`. `None` if there is no payload.
    pub(crate) fn with_flipped_bit(&self, position: u64) -> Option<Frame> {
        let is_tag = |at: usize| {
            let tpid = self.get(at..at + 2).map(|tpid| u16::from_be_bytes([tpid[0], tpid[1]]));
            matches!(tpid, Some(TPID_8021Q | TPID_8021AD))
        };
        let mut payload = ADDRESSES;
        while is_tag(payload) {
            payload += TAG;
        }
        payload += 2;
        let bits = 8 * (self.len().checked_sub(payload)? as u64);
        let bit = position.checked_rem(bits)?;
        let mut wire = self.wire().to_vec();
        wire[PREFIX + payload + (bit / 8) as usize] ^= 1 << (bit % 8);
        Some(Frame::from_shared(wire.into()))
    }

    fn concat(parts: &[&[u8]]) -> Frame {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut wire = Vec::with_capacity(PREFIX + length);
        wire.extend_from_slice(&(length as u32).to_be_bytes());
        for part in parts {
            wire.extend_from_slice(part);
        }
        Frame::from_shared(wire.into())
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.wire()[PREFIX..]
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Frame {}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes:", self.len())?;
        for byte in self.iter().take(32) {
            write!(f, " {byte:02x}")?;
        }
        f.write_str(if self.len() > 32 { " …)" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNTAGGED: &[u8] = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x00payload";

    #[test]
    fn tag_is_pushed_after_the_addresses_and_popped_again() {
        let frame = Frame::new(UNTAGGED);
        let vlan = VlanId::new(0x123).unwrap();
        let tagged = frame.in_form(Form::Tagged, &Header::parse(&frame).unwrap(), vlan);
        assert_eq!(&tagged[12..18], b"\x81\x00\x01\x23\x08\x00");
        assert_eq!(tagged.wire()[..4], (tagged.len() as u32).to_be_bytes());
        let header = Header::parse(&tagged).unwrap();
        assert_eq!(header.tag.map(Tci::vid), Some(0x123));
        assert_eq!(tagged.in_form(Form::Untagged, &header, vlan), frame);
    }

    #[test]
    fn a_priority_tag_is_filled_in_not_doubled() {
        let frame =
            Frame::new(b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x81\x00\xb0\x00\x08\x00payload");
        let header = Header::parse(&frame).unwrap();
        let tci = header.tag.unwrap();
        assert_eq!((tci.vid(), tci.priority(), tci.drop_eligible()), (0, 5, true));
        let tagged = frame.in_form(Form::Tagged, &header, VlanId::new(200).unwrap());
        assert_eq!(&tagged[12..18], b"\x81\x00\xb0\xc8\x08\x00");
        assert_eq!(tagged.len(), frame.len());
    }

    #[test]
    fn a_tag_cut_short_is_no_header() {
        for end in 0..18 {
            let tagged = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x81\x00\x00\x01\x08\x00";
            assert_eq!(Header::parse(&tagged[..end]), None, "{end} bytes");
            assert_eq!(Header::parse(&UNTAGGED[..end]).is_some(), end >= MIN_FRAME, "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), tpid in any::<bool>(), vid in 1u16..4095
        ) {
            let mut bytes = bytes;
            if tpid && bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&TPID_8021Q.to_be_bytes());
            }
            let frame = Frame::new(&bytes);
            if let Some(header) = Header::parse(&frame) {
                let vlan = VlanId::new(vid).unwrap();
                let tagged = frame.in_form(Form::Tagged, &header, vlan);
                let of_tagged = Header::parse(&tagged).unwrap();
                prop_assert_eq!(of_tagged.tag.unwrap().vid(), vid);
                prop_assert_eq!(
                    tagged.in_form(Form::Untagged, &of_tagged, vlan),
                    if header.tag.is_some() { frame.in_form(Form::Untagged, &header, vlan) } else { frame }
                );
            }
        }
    }
}
