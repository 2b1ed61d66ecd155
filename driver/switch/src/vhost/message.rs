//! Requests of a vhost-user front end, from bytes and to bytes.

use thiserror::Error;

/// The length of what precedes each message, in bytes: request, flags, size of the rest.
pub(super) const HEADER: usize = 12;

/// The longest rest of a message that is taken, in bytes: a memory table with [`MOST_REGIONS`] has 264.
const LONGEST: u32 = 1024;

/// The most regions of memory that one table can have (`VHOST_MEMORY_BASELINE_NREGIONS`).
pub(super) const MOST_REGIONS: usize = 8;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// In the place of a ring's number: no file descriptor comes with it.
const NO_FD: u64 = 1 << 8;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const RESET_OWNER: u32 = 4;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

/// Why a message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Nonsense {
    #[error("flags {0:#x}, which no request has")]
    Flags(u32),
    #[error("a message of {0} bytes")]
    Length(u32),
    #[error("request {0}, which was not offered")]
    Request(u32),
    #[error("request {request} with {bytes} bytes and {fds} file descriptors")]
    Body { request: u32, bytes: usize, fds: usize },
}

/// What comes before each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    request: u32,
    /// Whether the front end waits to be told how it went.
    pub(super) need_reply: bool,
    /// The length of what follows, in bytes.
    pub(super) length: usize,
}

/// A part of the guest's memory; its file comes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Where the guest has it.
    pub(super) guest: u64,
    /// Its length in bytes.
    pub(super) length: u64,
    /// Where the front end has it, which is how it names a ring's addresses.
    pub(super) front_end: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
}

/// Where a ring is, in the front end's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) used: u64,
    pub(super) available: u64,
}

/// What the front end asks for. `ring` is its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemory(Vec<Region>),
    SetSize { ring: u32, size: u32 },
    SetAddresses { ring: u32, addresses: Addresses },
    SetBase { ring: u32, base: u32 },
    GetBase { ring: u32 },
    SetKick { ring: u32 },
    SetCall { ring: u32 },
    SetError { ring: u32 },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    Enable { ring: u32, enable: bool },
}

impl Request {
    /// Whether it changes where a ring is or what it means. A guest's QEMU does so before it starts them.
    pub(super) fn changes_rings(&self) -> bool {
        use Request::{SetAddresses, SetBase, SetFeatures, SetMemory, SetSize};
        matches!(self, SetFeatures(_) | SetMemory(_) | SetSize { .. } | SetAddresses { .. } | SetBase { .. })
    }
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<Header, Nonsense> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (request, flags, length) = (word(0), word(4), word(8));
        if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
            return Err(Nonsense::Flags(flags));
        }
        if length > LONGEST {
            return Err(Nonsense::Length(length));
        }
        Ok(Header { request, need_reply: flags & NEED_REPLY != 0, length: length as usize })
    }

    /// The bytes of an answer to this.
    pub(super) fn reply(self, body: &[u8]) -> Vec<u8> {
        let words = [self.request, VERSION | REPLY, body.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads what follows. `fds` is how many file descriptors came with it.
    pub(super) fn request(self, body: &[u8], fds: usize) -> Result<Request, Nonsense> {
        let wrong = Nonsense::Body { request: self.request, bytes: body.len(), fds };
        let fields = |count: usize| (body.len() == 8 * count && fds == 0).then_some(()).ok_or(wrong);
        let number = |at: usize| {
            body.get(8 * at..8 * at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or(wrong)
        };
        // Two numbers of 32 bits: a ring's, and what is said of it.
        let pair = || fields(1).and_then(|()| number(0)).map(|both| (both as u32, (both >> 32) as u32));
        let with_fd = || {
            let value = number(0)?;
            let expected = if value & NO_FD == 0 { 1 } else { 0 };
            let right = body.len() == 8 && fds == expected;
            right.then_some((value & 0xff) as u32).ok_or(wrong)
        };
        match self.request {
            GET_FEATURES => fields(0).map(|()| Request::GetFeatures),
            SET_FEATURES => fields(1).and_then(|()| number(0)).map(Request::SetFeatures),
            SET_OWNER => fields(0).map(|()| Request::SetOwner),
            RESET_OWNER => fields(0).map(|()| Request::ResetOwner),
            SET_MEM_TABLE => {
                let count = number(0)? as u32 as usize;
                let right = count <= MOST_REGIONS && body.len() == 8 + 32 * count && fds == count;
                if !right {
                    return Err(wrong);
                }
                let region = |index: usize| {
                    let at = |field: usize| number(1 + 4 * index + field);
                    Ok(Region { guest: at(0)?, length: at(1)?, front_end: at(2)?, offset: at(3)? })
                };
                (0..count).map(region).collect::<Result<_, _>>().map(Request::SetMemory)
            }
            SET_VRING_NUM => pair().map(|(ring, size)| Request::SetSize { ring, size }),
            SET_VRING_ADDR => {
                fields(5)?;
                let addresses =
                    Addresses { descriptors: number(1)?, used: number(2)?, available: number(3)? };
                Ok(Request::SetAddresses { ring: number(0)? as u32, addresses })
            }
            SET_VRING_BASE => pair().map(|(ring, base)| Request::SetBase { ring, base }),
            GET_VRING_BASE => pair().map(|(ring, _)| Request::GetBase { ring }),
            SET_VRING_KICK => with_fd().map(|ring| Request::SetKick { ring }),
            SET_VRING_CALL => with_fd().map(|ring| Request::SetCall { ring }),
            SET_VRING_ERR => with_fd().map(|ring| Request::SetError { ring }),
            GET_PROTOCOL_FEATURES => fields(0).map(|()| Request::GetProtocolFeatures),
            SET_PROTOCOL_FEATURES => fields(1).and_then(|()| number(0)).map(Request::SetProtocolFeatures),
            SET_VRING_ENABLE => match pair()? {
                (ring, enable @ (0 | 1)) => Ok(Request::Enable { ring, enable: enable == 1 }),
                _ => Err(wrong),
            },
            other => Err(Nonsense::Request(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(request: u32, flags: u32, length: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&request.to_le_bytes());
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn request(code: u32, body: &[u8], fds: usize) -> Result<Request, Nonsense> {
        Header::parse(&header(code, 1, body.len() as u32))?.request(body, fds)
    }

    #[test]
    fn headers_are_taken_and_answered() {
        let asked = Header::parse(&header(SET_FEATURES, 9, 8)).unwrap();
        assert_eq!((asked.need_reply, asked.length), (true, 8));
        assert_eq!(asked.reply(&[7]), [2, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(Header::parse(&header(1, 2, 0)), Err(Nonsense::Flags(2)), "another version");
        assert_eq!(Header::parse(&header(1, 5, 0)), Err(Nonsense::Flags(5)), "an answer");
        assert_eq!(Header::parse(&header(1, 1, 1025)), Err(Nonsense::Length(1025)));
    }

    #[test]
    fn requests_need_the_right_length_and_file_descriptors() {
        let word = 0x1_0000_0003_u64.to_le_bytes();
        assert_eq!(request(SET_VRING_NUM, &word, 0), Ok(Request::SetSize { ring: 3, size: 1 }));
        assert_eq!(request(SET_VRING_ENABLE, &word, 0), Ok(Request::Enable { ring: 3, enable: true }));
        assert!(request(SET_VRING_ENABLE, &0x2_0000_0000_u64.to_le_bytes(), 0).is_err());
        assert!(request(SET_VRING_NUM, &word, 1).is_err());
        assert!(request(SET_VRING_NUM, &word[..7], 0).is_err());
        assert_eq!(request(SET_VRING_KICK, &1u64.to_le_bytes(), 1), Ok(Request::SetKick { ring: 1 }));
        assert!(request(SET_VRING_KICK, &1u64.to_le_bytes(), 0).is_err());
        assert_eq!(request(SET_VRING_CALL, &0x101u64.to_le_bytes(), 0), Ok(Request::SetCall { ring: 1 }));
        assert!(request(SET_VRING_CALL, &0x101u64.to_le_bytes(), 1).is_err());
        assert_eq!(request(24, &[], 0), Err(Nonsense::Request(24)));
    }

    #[test]
    fn a_memory_table_has_a_file_for_each_region() {
        let fields: Vec<u8> = [1u64, 0x10, 0x20, 0x30, 0x40].iter().flat_map(|n| n.to_le_bytes()).collect();
        let region = Region { guest: 0x10, length: 0x20, front_end: 0x30, offset: 0x40 };
        assert_eq!(request(SET_MEM_TABLE, &fields, 1), Ok(Request::SetMemory(vec![region])));
        assert!(request(SET_MEM_TABLE, &fields, 0).is_err());
        assert!(request(SET_MEM_TABLE, &fields[..8], 1).is_err());
        let many: Vec<u8> = [9u64].iter().chain([0; 36].iter()).flat_map(|n| n.to_le_bytes()).collect();
        assert!(request(SET_MEM_TABLE, &many, 9).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            start in any::<[u8; HEADER]>(), code in 0u32..45, flags in 0u32..16,
            body in proptest::collection::vec(any::<u8>(), 0..300), fds in 0usize..12
        ) {
            let _ = Header::parse(&start);
            if let Ok(header) = Header::parse(&header(code, flags, body.len() as u32)) {
                let _ = header.request(&body, fds);
            }
        }
    }
}
