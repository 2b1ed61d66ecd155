//! What follows the answer to a shell request, from the lab to the client: pieces of output, then how it ended.
//!
//! A kind (one byte), a length (four bytes, big-endian), the bytes.

use std::io::{self, Read};

const OUTPUT: u8 = 1;
const ENDED: u8 = 2;
/// The longest piece in bytes; what is longer is damage.
const MAX_PIECE: usize = 1024 * 1024;

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// What the command printed on its terminal.
    Output(Vec<u8>),
    /// The command ended; nothing follows. Its exit code, or 128 and the signal's number, as shells count.
    Ended(u8),
}

impl Piece {
    /// As it goes over the wire.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Output(bytes) => (OUTPUT, bytes.as_slice()),
            Self::Ended(code) => (ENDED, std::slice::from_ref(code)),
        };
        let mut bytes = Vec::with_capacity(5 + body.len());
        bytes.push(kind);
        bytes.extend(u32::try_from(body.len()).expect("a piece below 4 GiB").to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// `UnexpectedEof` when the lab went away, `InvalidData` for what is no piece.
    pub fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        reader.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "the lab sent what is no piece of output");
        if length > MAX_PIECE {
            return Err(damaged());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        match (head[0], body.as_slice()) {
            (OUTPUT, _) => Ok(Self::Output(body)),
            (ENDED, [code]) => Ok(Self::Ended(*code)),
            _ => Err(damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_as_they_went() {
        let sent = [Piece::Output(b"one\r\n".to_vec()), Piece::Output(Vec::new()), Piece::Ended(137)];
        let bytes: Vec<u8> = sent.iter().flat_map(Piece::to_bytes).collect();
        assert_eq!(bytes[..10], *b"\x01\0\0\0\x05one\r\n");
        let mut reader = bytes.as_slice();
        for piece in sent {
            assert_eq!(Piece::read(&mut reader).unwrap(), piece);
        }
        assert_eq!(Piece::read(&mut reader).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn damage_is_told() {
        for damaged in [&b"\x03\0\0\0\0"[..], b"\x02\0\0\0\0", b"\x02\0\0\0\x02ab", b"\x01\xff\xff\xff\xff"] {
            assert_eq!(Piece::read(&mut { damaged }).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
