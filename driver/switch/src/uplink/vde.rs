//! What a VDE client says when it connects: `request_v3` of VDE 2's switch, and the answer.
//!
//! Clients are libvdeplug's (`vde_plug`, QEMU's `-netdev vde`) and QEMU's own. They connect to the stream socket `ctl` of
//! the switch's directory and send, in the byte order of the machine: the magic number 0xfeedface and the version 3,
//! 32 bits each; a type of 32 bits, whose low byte is 0 for a data port and whose other bits are the number of the
//! port, 0 for any; the `sockaddr_un` of the datagram socket that they take frames on (110 bytes); a description for
//! people, with or without a NUL at its end. The answer is the `sockaddr_un` of the switch's datagram socket.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::vlan::PortMode;

/// The length of a Linux `sockaddr_un` in bytes: a family of 16 bits, and a path of 108 bytes.
const SOCKADDR_UN: usize = 110;

/// `AF_UNIX`.
const FAMILY: u16 = 1;

const MAGIC: u32 = 0xfeed_face;

const VERSION: u32 = 3;

/// The request without its description, in bytes.
const FIXED: usize = 12 + SOCKADDR_UN;

/// The longest description that is looked at, in bytes: libvdeplug's limit.
const DESCRIPTION: usize = 128;

/// The longest request, in bytes.
pub(crate) const LONGEST_REQUEST: usize = FIXED + DESCRIPTION;

/// Why a VDE client was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VdeRefusal {
    /// What it sent does not begin with the protocol's magic number.
    BadMagic,
    /// It speaks another version than 3.
    BadVersion,
    /// It asks for something other than a data port, such as the management's port.
    BadType,
    /// Its socket's address is no path in the file system.
    BadAddress,
    /// It left, or took longer than the handshake may take, before it had said what it wants.
    Unfinished,
    /// The port number that it asks for is above 255.
    BadNumber,
    /// The port number that it asks for is in use.
    NumberTaken,
    /// All places are taken.
    Full,
    /// Its datagram socket can't be connected to.
    Unreachable,
    /// The system gave the switch no socket for it.
    NoSocket,
}

impl fmt::Display for VdeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VdeRefusal::BadMagic => "the request does not begin with VDE's magic number",
            VdeRefusal::BadVersion => "the client does not speak version 3",
            VdeRefusal::BadType => "the client asks for something other than a data port",
            VdeRefusal::BadAddress => "the address of the client's socket is no path",
            VdeRefusal::Unfinished => "the client said too little in time",
            VdeRefusal::BadNumber => "the port number is above 255",
            VdeRefusal::NumberTaken => "the port number is in use",
            VdeRefusal::Full => "all ports are in use",
            VdeRefusal::Unreachable => "the client's datagram socket can't be connected to",
            VdeRefusal::NoSocket => "the system gave no datagram socket",
        })
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdeRequest {
    /// The number of the port that it wants, if it does not take any.
    pub number: Option<u8>,
    /// The datagram socket that it takes frames on.
    pub socket: PathBuf,
    /// What it says of itself, without control characters.
    pub description: String,
}

impl VdeRequest {
    /// Reads a request; `None` if it has not come whole. The description has no length: what came with the rest is it.
    ///
    /// # Errors
    /// Why the client is to be turned away. What can be told from the beginning is told before the rest has come.
    pub fn parse(bytes: &[u8]) -> Result<Option<VdeRequest>, VdeRefusal> {
        let word = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u32::from_ne_bytes(*word))
        };
        if word(0).is_some_and(|magic| magic != MAGIC) {
            return Err(VdeRefusal::BadMagic);
        }
        if word(4).is_some_and(|version| version != VERSION) {
            return Err(VdeRefusal::BadVersion);
        }
        let Some((fixed, description)) = bytes.split_at_checked(FIXED) else { return Ok(None) };
        let kind = word(8).unwrap_or_default();
        if kind & 0xff != 0 {
            return Err(VdeRefusal::BadType);
        }
        let number = match kind >> 8 {
            0 => None,
            number => Some(u8::try_from(number).map_err(|_| VdeRefusal::BadNumber)?),
        };
        let socket = path(&fixed[12..]).ok_or(VdeRefusal::BadAddress)?;
        let description = &description[..description.len().min(DESCRIPTION)];
        let end = description.iter().position(|byte| *byte == 0).unwrap_or(description.len());
        let description =
            String::from_utf8_lossy(&description[..end]).chars().filter(|c| !c.is_control()).collect();
        Ok(Some(VdeRequest { number, socket, description }))
    }
}

/// The path in a `sockaddr_un`, if it is one in the file system.
fn path(address: &[u8]) -> Option<PathBuf> {
    let (family, path) = address.split_first_chunk()?;
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    let is_path = u16::from_ne_bytes(*family) == FAMILY && end > 0;
    is_path.then(|| PathBuf::from(OsStr::from_bytes(&path[..end])))
}

/// The answer: the `sockaddr_un` of the switch's datagram socket. `None` if the path is too long for one.
pub(crate) fn answer(socket: &Path) -> Option<[u8; SOCKADDR_UN]> {
    let path = socket.as_os_str().as_bytes();
    let mut address = [0; SOCKADDR_UN];
    address[..2].copy_from_slice(&FAMILY.to_ne_bytes());
    // The last byte stays 0.
    address[2..SOCKADDR_UN - 1].get_mut(..path.len())?.copy_from_slice(path);
    Some(address)
}

/// How a VDE switch is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdeConfig {
    /// Its directory, in which the socket `ctl` is. Made if it is not there, for this user alone, and removed with the
    /// uplink; whoever may enter one that is there may connect. By default it is in the switch's own, named after the
    /// uplink.
    pub dir: Option<PathBuf>,
    /// The ports that a client gets only by asking for their number, 1 to 255, and their modes. All others have the
    /// uplink's.
    pub numbered: BTreeMap<u8, PortMode>,
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    fn request(kind: u32, socket: &[u8], description: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC.to_ne_bytes(), VERSION.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(FAMILY.to_ne_bytes());
        bytes.extend(socket);
        bytes.resize(FIXED, 0);
        bytes.extend(description);
        bytes
    }

    #[test]
    fn what_libvdeplug_sends_is_understood() {
        let asked =
            |kind| VdeRequest::parse(&request(kind, b"/run/vde/.00042-00001", b"vdeplug: user=root pid=42"));
        let any = VdeRequest {
            number: None,
            socket: "/run/vde/.00042-00001".into(),
            description: "vdeplug: user=root pid=42".into(),
        };
        assert_eq!(asked(0), Ok(Some(any.clone())));
        assert_eq!(asked(3 << 8), Ok(Some(VdeRequest { number: Some(3), ..any.clone() })));
        assert_eq!(asked(255 << 8), Ok(Some(VdeRequest { number: Some(255), ..any })));
        assert_eq!(asked(256 << 8), Err(VdeRefusal::BadNumber));
        assert_eq!(asked(1), Err(VdeRefusal::BadType), "the management's port");
        assert_eq!(asked(u32::MAX), Err(VdeRefusal::BadType));
    }

    #[test]
    fn a_request_in_pieces_is_waited_for_and_nonsense_is_not() {
        let whole = request(0, b"/s", b"");
        for end in 0..whole.len() {
            assert_eq!(VdeRequest::parse(&whole[..end]), Ok(None), "{end} bytes");
        }
        assert_eq!(VdeRequest::parse(b"GET / HTTP/1.1"), Err(VdeRefusal::BadMagic));
        let other_version = [MAGIC.to_ne_bytes(), 2_u32.to_ne_bytes()].concat();
        assert_eq!(VdeRequest::parse(&other_version), Err(VdeRefusal::BadVersion));
    }

    #[test]
    fn only_a_path_is_an_address() {
        let longest = [b'/'; 108];
        assert!(VdeRequest::parse(&request(0, &longest, b"")).is_ok());
        assert_eq!(VdeRequest::parse(&request(0, b"", b"")), Err(VdeRefusal::BadAddress));
        assert_eq!(VdeRequest::parse(&request(0, b"\0abstract", b"")), Err(VdeRefusal::BadAddress));
        let mut inet = request(0, b"/s", b"");
        inet[12..14].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(VdeRequest::parse(&inet), Err(VdeRefusal::BadAddress));
    }

    #[test]
    fn a_description_ends_at_its_nul_and_has_no_escape_codes() {
        let told = |description: &[u8]| {
            VdeRequest::parse(&request(0, b"/s", description)).unwrap().unwrap().description
        };
        assert_eq!(told(b"qemu\0rest"), "qemu");
        assert_eq!(told(b"\x1b[31mred\n\xff"), "[31mred\u{fffd}");
        assert_eq!(told(&[b'x'; 1000]).len(), DESCRIPTION);
    }

    #[test]
    fn an_answer_is_an_address_that_a_client_can_connect_to() {
        let answered = answer(Path::new("/run/vde/001")).unwrap();
        assert_eq!(path(&answered), Some("/run/vde/001".into()));
        assert!(answer(Path::new(&"x".repeat(107))).is_some_and(|address| address[109] == 0));
        assert_eq!(answer(Path::new(&"x".repeat(108))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_not(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), begin in 0usize..4
        ) {
            let whole = request(0, b"/s", &bytes);
            let mut bytes = bytes;
            let kept = [0, 8, 14, FIXED][begin].min(bytes.len());
            bytes[..kept].copy_from_slice(&whole[..kept]);
            if let Ok(Some(request)) = VdeRequest::parse(&bytes) {
                let path = request.socket.as_os_str().as_bytes();
                prop_assert!((1..=108).contains(&path.len()) && !path.contains(&0));
                prop_assert!(request.description.chars().count() <= DESCRIPTION);
                prop_assert!(request.number != Some(0));
            }
        }
    }
}
