//! VXLAN's header (RFC 7348, 5): eight bytes of UDP payload before the frame.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::counters::DropReason;
use crate::error::Error;

/// The UDP port that IANA gave to VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// The length of the header in bytes.
pub const VXLAN_HEADER: usize = 8;

/// The flag that says that the VNI is one.
const VALID: u8 = 0x08;

/// A VXLAN network identifier, 24 bits: which of many networks between two addresses a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Vni(u32);

impl Vni {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::VniOutOfRange`] above 16777215.
    pub fn new(vni: u32) -> Result<Vni, Error> {
        if vni < 1 << 24 { Ok(Vni(vni)) } else { Err(Error::VniOutOfRange { vni }) }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The header of this network's datagrams.
    pub fn header(self) -> [u8; VXLAN_HEADER] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [VALID, 0, 0, 0, a, b, c, 0]
    }

    /// The frame in a datagram of this network. What RFC 7348 reserves is ignored, as it demands.
    ///
    /// # Errors
    /// [`DropReason::BadEncapsulation`] if the header is cut short or its VNI not valid; [`DropReason::OtherNetwork`].
    pub fn frame(self, datagram: &[u8]) -> Result<&[u8], DropReason> {
        let Some(([flags, _, _, _, vni @ .., _], frame)) = datagram.split_first_chunk::<VXLAN_HEADER>()
        else {
            return Err(DropReason::BadEncapsulation);
        };
        let [a, b, c] = *vni;
        if flags & VALID == 0 {
            return Err(DropReason::BadEncapsulation);
        }
        if u32::from_be_bytes([0, a, b, c]) != self.0 {
            return Err(DropReason::OtherNetwork);
        }
        Ok(frame)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = Error;

    fn try_from(vni: u32) -> Result<Vni, Error> {
        Vni::new(vni)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_is_that_of_the_rfc() {
        let vni = Vni::new(0x12_34_56).unwrap();
        assert_eq!(vni.header(), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(vni.frame(b"\x08\0\0\0\x12\x34\x56\0frame"), Ok(&b"frame"[..]));
        assert_eq!(
            vni.frame(b"\xff\xff\xff\xff\x12\x34\x56\xfff"),
            Ok(&b"f"[..]),
            "reserved bits are ignored"
        );
        assert_eq!(vni.frame(b"\xf7\0\0\0\x12\x34\x56\0frame"), Err(DropReason::BadEncapsulation));
        assert_eq!(vni.frame(b"\x08\0\0\0\x12\x34\x57\0frame"), Err(DropReason::OtherNetwork));
        assert_eq!(vni.frame(b"\x08\0\0\0\x12\x34\x56"), Err(DropReason::BadEncapsulation));
    }

    #[test]
    fn ids_have_24_bits() {
        assert!(Vni::new(0).is_ok() && Vni::new(0xff_ffff).is_ok());
        let told = Vni::new(1 << 24).unwrap_err().to_string();
        assert!(told.contains("16777216") && told.contains("16777215"), "{told}");
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(vni in 0u32..1 << 24, frame in proptest::collection::vec(any::<u8>(), 0..100)) {
            let vni = Vni::new(vni).unwrap();
            let datagram = [&vni.header()[..], &frame].concat();
            prop_assert_eq!(vni.frame(&datagram), Ok(&frame[..]));
        }
    }
}
