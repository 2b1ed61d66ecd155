//! Frames: what finds, delimits and checks the pieces on the byte pipe.
//!
//! ```text
//! 0   4 bytes  magic: D7 'R' 'k', then the kind
//! 4   u32 LE   length of the payload
//! 8   u64 LE   nonce of the session, 0 for a hello
//! 16  u32 LE   sequence number in this session and direction, 0 for a hello
//! 20  u32 LE   CRC-32 (ISO-HDLC) of bytes 3 to 19 and of the payload
//! 24  payload
//! ```
//!
//! Zero bytes between frames are skipped. A message longer than a frame is sent as [`Kind::Part`]s and a last
//! [`Kind::Message`].

use crate::hello::Hello;
use crate::message::Stream;

/// Bytes of a frame's header.
pub const HEADER: usize = 24;
/// Bytes of the largest frame, header included. Writes of 64 KiB were seen to hang vhost-user-vsock; one frame is
/// one write at most.
pub const MAX_FRAME: usize = 32 * 1024;
/// Bytes of data in the largest bulk frame: the frame without header, request id and stream.
pub const MAX_BULK: usize = MAX_FRAME - HEADER - BULK_HEADER;
/// Bytes of the largest hello's payload.
pub const MAX_HELLO: usize = 1024;
/// Bytes of the longest message that is put together from parts.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// So many zero bytes complete any frame that was cut off.
pub const RESYNC: usize = MAX_FRAME;

const BULK_HEADER: usize = 5;
const MAX_PAYLOAD: usize = MAX_FRAME - HEADER;
const MAGIC: [u8; 3] = [0xD7, b'R', b'k'];

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`Hello`].
    Hello = b'H',
    /// A part of a message; more follows.
    Part = b'P',
    /// A message, or the last part of one.
    Message = b'M',
    /// Bytes of a stream: request id (u32 LE), stream (u8), data.
    Bulk = b'B',
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Part, Self::Message, Self::Bulk].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a session can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes where a frame should begin are not one.
    #[error("byte {offset} of the stream begins no frame (found {found:02x?})")]
    NoFrame {
        /// Bytes received before it.
        offset: u64,
        /// The first bytes of what is there.
        found: Vec<u8>,
    },
    /// A header says more than a frame can hold.
    #[error("the frame at byte {offset} claims {length} bytes, more than {MAX_PAYLOAD}")]
    TooLong {
        /// Bytes received before it.
        offset: u64,
        /// The length in its header.
        length: u32,
    },
    /// Header or payload were altered on the way.
    #[error("the frame at byte {offset} fails its CRC: bytes were lost or altered on the way")]
    Crc {
        /// Bytes received before it.
        offset: u64,
    },
    /// A frame of another session.
    #[error("the frame at byte {offset} belongs to session {found:016x}, not to {expected:016x}")]
    Session {
        /// Bytes received before it.
        offset: u64,
        /// The session that is open.
        expected: u64,
        /// The session in the header.
        found: u64,
    },
    /// Frames were lost or repeated.
    #[error(
        "frame {found} came where frame {expected} was due, at byte {offset}: frames were lost or repeated"
    )]
    Sequence {
        /// Bytes received before it.
        offset: u64,
        /// The sequence number that was due.
        expected: u32,
        /// The one that came.
        found: u32,
    },
    /// A bulk frame without its own header, or of no known stream.
    #[error("the bulk frame at byte {offset} names no stream")]
    Bulk {
        /// Bytes received before it.
        offset: u64,
    },
    /// Parts that add up to more than [`MAX_MESSAGE`].
    #[error("a message grew past {MAX_MESSAGE} bytes at byte {offset}")]
    MessageTooLong {
        /// Bytes received before it.
        offset: u64,
    },
}

/// Writes the frames of one direction of one session.
#[derive(Debug, Clone)]
pub struct Encoder {
    session: u64,
    sequence: u32,
}

impl Encoder {
    /// An encoder for a session that has just been opened.
    #[must_use]
    pub fn new(session: u64) -> Self {
        Self { session, sequence: 0 }
    }

    /// The session's nonce.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Appends a hello frame, which belongs to no session.
    pub fn hello(out: &mut Vec<u8>, hello: &Hello) {
        put(out, Kind::Hello, 0, 0, &[&hello.to_bytes()]);
    }

    /// Appends a message (postcard bytes), in parts if it is longer than a frame.
    pub fn message(&mut self, out: &mut Vec<u8>, message: &[u8]) {
        let mut rest = message;
        while rest.len() > MAX_PAYLOAD {
            let (part, tail) = rest.split_at(MAX_PAYLOAD);
            self.put(out, Kind::Part, &[part]);
            rest = tail;
        }
        self.put(out, Kind::Message, &[rest]);
    }

    /// Appends stream data, in as many frames as it takes.
    pub fn bulk(&mut self, out: &mut Vec<u8>, request: u32, stream: Stream, data: &[u8]) {
        let mut header = [0; BULK_HEADER];
        header[..4].copy_from_slice(&request.to_le_bytes());
        header[4] = stream as u8;
        for chunk in data.chunks(MAX_BULK) {
            self.put(out, Kind::Bulk, &[&header, chunk]);
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, kind: Kind, payload: &[&[u8]]) {
        put(out, kind, self.session, self.sequence, payload);
        self.sequence = self.sequence.wrapping_add(1);
    }
}

fn put(out: &mut Vec<u8>, kind: Kind, session: u64, sequence: u32, payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|piece| piece.len()).sum();
    debug_assert!(length <= MAX_PAYLOAD);
    let start = out.len();
    out.reserve(HEADER + length);
    out.extend_from_slice(&MAGIC);
    out.push(kind as u8);
    out.extend_from_slice(&u32::try_from(length).expect("a frame is short").to_le_bytes());
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[start + 3..]);
    for piece in payload {
        crc.update(piece);
    }
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    for piece in payload {
        out.extend_from_slice(piece);
    }
}

/// A whole and checked frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A hello, in or out of a session.
    Hello(Hello),
    /// A message's postcard bytes.
    Message(Vec<u8>),
    /// Bytes of a stream.
    Bulk {
        /// The request that they belong to.
        request: u32,
        /// Which of its streams.
        stream: Stream,
        /// The bytes.
        data: &'a [u8],
    },
}

/// Finds frames in the bytes of one direction.
///
/// It begins by scanning: everything but hellos is noise. [`Decoder::open`] makes it strict; an error makes it scan
/// again.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are done with.
    start: usize,
    /// Bytes that went through before `buffer`.
    passed: u64,
    session: Option<(u64, u32)>,
    parts: Vec<u8>,
}

struct Header {
    kind: Kind,
    length: usize,
    session: u64,
    sequence: u32,
    crc: u32,
}

impl Decoder {
    /// A decoder that scans for a hello.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.buffer.len() || self.start > MAX_FRAME) {
            self.passed += self.start as u64;
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// From here on every frame must be the next one of session `nonce`.
    pub fn open(&mut self, nonce: u64) {
        self.session = Some((nonce, 0));
        self.parts.clear();
    }

    /// From here on everything but hellos is noise.
    pub fn close(&mut self) {
        self.session = None;
        self.parts.clear();
    }

    /// The next whole frame, `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// When the session can't go on. The decoder scans from there: call again to find a hello in what is buffered.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        loop {
            let Some((nonce, sequence)) = self.session else {
                return Ok(self.scan().map(Frame::Hello));
            };
            while self.buffer.get(self.start) == Some(&0) {
                self.start += 1;
            }
            let header = match self.header() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.fail(error)),
            };
            let body = self.start + HEADER;
            let end = body + header.length;
            if self.buffer.len() < end {
                return Ok(None);
            }
            let offset = self.offset();
            if let Some(error) = self.refuse(&header, end, nonce, sequence) {
                return Err(self.fail(error));
            }
            self.start = end;
            if header.kind != Kind::Hello {
                self.session = Some((nonce, sequence.wrapping_add(1)));
            }
            match header.kind {
                Kind::Hello => match Hello::from_bytes(&self.buffer[body..end]) {
                    Some(hello) => return Ok(Some(Frame::Hello(hello))),
                    None => continue,
                },
                Kind::Part | Kind::Message => {
                    if self.parts.len() + header.length > MAX_MESSAGE {
                        return Err(self.fail(FrameError::MessageTooLong { offset }));
                    }
                    self.parts.extend_from_slice(&self.buffer[body..end]);
                    if header.kind == Kind::Message {
                        return Ok(Some(Frame::Message(std::mem::take(&mut self.parts))));
                    }
                }
                Kind::Bulk => {
                    let stream = self.buffer[body..end].get(4).copied().and_then(Stream::from_byte);
                    let Some(stream) = stream else {
                        return Err(self.fail(FrameError::Bulk { offset }));
                    };
                    let id = self.buffer[body..body + 4].try_into().expect("four bytes");
                    let data = &self.buffer[body + BULK_HEADER..end];
                    return Ok(Some(Frame::Bulk { request: u32::from_le_bytes(id), stream, data }));
                }
            }
        }
    }

    fn offset(&self) -> u64 {
        self.passed + self.start as u64
    }

    /// Leaves the session; what is buffered, but for the first byte of the bad frame, is scanned.
    fn fail(&mut self, error: FrameError) -> FrameError {
        self.close();
        self.start = (self.start + 1).min(self.buffer.len());
        error
    }

    fn refuse(&self, header: &Header, end: usize, nonce: u64, sequence: u32) -> Option<FrameError> {
        let offset = self.offset();
        if !self.intact(header, end) {
            return Some(FrameError::Crc { offset });
        }
        if header.kind == Kind::Hello {
            return None;
        }
        if header.session != nonce {
            return Some(FrameError::Session { offset, expected: nonce, found: header.session });
        }
        (header.sequence != sequence).then_some(FrameError::Sequence {
            offset,
            expected: sequence,
            found: header.sequence,
        })
    }

    fn intact(&self, header: &Header, end: usize) -> bool {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.buffer[self.start + 3..self.start + 20]);
        crc.update(&self.buffer[self.start + HEADER..end]);
        crc.finalize() == header.crc
    }

    /// The header at `start`; `None` if it isn't all there yet.
    fn header(&self) -> Result<Option<Header>, FrameError> {
        let here = &self.buffer[self.start..];
        let offset = self.offset();
        let seen = here.len().min(MAGIC.len());
        let kind = here.get(3).map(|byte| Kind::from_byte(*byte));
        if here[..seen] != MAGIC[..seen] || kind == Some(None) {
            return Err(FrameError::NoFrame { offset, found: here[..here.len().min(16)].to_vec() });
        }
        let (Some(Some(kind)), Some(raw)) = (kind, here.get(..HEADER)) else {
            return Ok(None);
        };
        let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"));
        let length = word(4);
        let limit = if kind == Kind::Hello { MAX_HELLO } else { MAX_PAYLOAD };
        if length as usize > limit {
            return Err(FrameError::TooLong { offset, length });
        }
        Ok(Some(Header {
            kind,
            length: length as usize,
            session: u64::from_le_bytes(raw[8..16].try_into().expect("eight bytes")),
            sequence: word(16),
            crc: word(20),
        }))
    }

    /// The next hello, past any noise.
    fn scan(&mut self) -> Option<Hello> {
        loop {
            let skip = self.buffer[self.start..].iter().position(|byte| *byte == MAGIC[0]);
            let Some(skip) = skip else {
                self.start = self.buffer.len();
                return None;
            };
            self.start += skip;
            match self.header() {
                Ok(None) => return None,
                Ok(Some(header)) if header.kind == Kind::Hello => {
                    let end = self.start + HEADER + header.length;
                    if self.buffer.len() < end {
                        return None;
                    }
                    if self.intact(&header, end) {
                        let hello = Hello::from_bytes(&self.buffer[self.start + HEADER..end]);
                        self.start = end;
                        if hello.is_some() {
                            return hello;
                        }
                        continue;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
            self.start += 1;
        }
    }
}
