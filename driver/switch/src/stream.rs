//! QEMU's stream framing: each frame is preceded by its length, 32 bits, big-endian (`net/stream.c`).

use std::fmt;

use crate::frame::{Frame, MAX_FRAME, MIN_FRAME};

/// The length of the length prefix, in bytes.
pub const PREFIX: usize = 4;

/// How much is read at once, in bytes. The prefixes make reading one frame at a time cost two system calls each.
const READ: usize = 64 * 1024;

/// A length prefix that cannot be one: shorter than an Ethernet header or longer than [`MAX_FRAME`]. The stream is out
/// of step, and nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// What the prefix says, in bytes.
    pub length: u32,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a length prefix of {} bytes; frames have {MIN_FRAME} to {MAX_FRAME}", self.length)
    }
}

/// The length of the frame that the bytes begin with, together with its prefix, if all of it is there.
pub(crate) fn wire_length(bytes: &[u8]) -> Result<Option<usize>, BadLength> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix);
    if !(MIN_FRAME..=MAX_FRAME).contains(&(length as usize)) {
        return Err(BadLength { length });
    }
    let length = PREFIX + length as usize;
    Ok((bytes.len() >= length).then_some(length))
}

/// Cuts a byte stream into frames. Memory is fixed whatever comes in.
pub struct StreamDecoder {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for StreamDecoder {
    fn default() -> StreamDecoder {
        StreamDecoder { buffer: vec![0; READ + PREFIX + MAX_FRAME].into(), start: 0, end: 0 }
    }
}

impl StreamDecoder {
    /// An empty decoder.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// Where to read the next bytes into: at least 64 KiB if [`StreamDecoder::next_frame`] was called until it answered
    /// `None`.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were read into [`StreamDecoder::space`].
    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`BadLength`], from then on always.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadLength> {
        let pending = &self.buffer[self.start..self.end];
        let Some(length) = wire_length(pending)? else { return Ok(None) };
        let frame = Frame::from_wire(&pending[..length]);
        self.start += length;
        Ok(Some(frame))
    }

    /// Bytes that were read and are not yet a frame.
    pub fn pending(&self) -> usize {
        self.end - self.start
    }
}

impl fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamDecoder").field("pending", &self.pending()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the bytes in the given pieces, over and over, and collects the frames until the end or an error.
    fn decode(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<BadLength>, usize) {
        let (mut decoder, mut frames) = (StreamDecoder::new(), Vec::new());
        let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let piece = (*pieces.next().unwrap()).min(rest.len());
            let space = decoder.space();
            let piece = piece.min(space.len());
            space[..piece].copy_from_slice(&rest[..piece]);
            decoder.filled(piece);
            rest = &rest[piece..];
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(bad) => return (frames, Some(bad), decoder.pending()),
                }
            }
        }
        (frames, None, decoder.pending())
    }

    #[test]
    fn limits_are_a_header_and_what_qemu_takes() {
        for (length, fine) in
            [(0, false), (13, false), (14, true), (69_632, true), (69_633, false), (u32::MAX, false)]
        {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(PREFIX + (length as usize).min(MAX_FRAME), 7);
            let (frames, bad, _) = decode(&bytes, &[READ]);
            assert_eq!((frames.len(), bad), (usize::from(fine), (!fine).then_some(BadLength { length })));
        }
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_however_the_stream_is_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 14..3000), 0..12),
            pieces in proptest::collection::vec(1usize..5000, 1..8),
            cut in 0usize..20,
        ) {
            let mut bytes: Vec<u8> = frames.iter().flat_map(|frame| Frame::new(frame).wire().to_vec()).collect();
            let cut = cut.min(bytes.len());
            bytes.truncate(bytes.len() - cut);
            let (decoded, bad, pending) = decode(&bytes, &pieces);
            prop_assert_eq!(bad, None);
            let whole = if cut == 0 { frames.len() } else { frames.len() - 1 };
            prop_assert_eq!(decoded.len() >= whole.saturating_sub(1), true);
            prop_assert_eq!(&decoded[..], &frames[..decoded.len()]);
            let used: usize = decoded.iter().map(|frame| frame.len() + PREFIX).sum();
            prop_assert_eq!(used + pending, bytes.len());
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            pieces in proptest::collection::vec(1usize..2000, 1..4),
        ) {
            let (frames, bad, pending) = decode(&bytes, &pieces);
            let used: usize = frames.iter().map(|frame| frame.len() + PREFIX).sum();
            prop_assert!(used + pending <= bytes.len());
            prop_assert!(bad.is_some() || used + pending == bytes.len());
        }
    }
}
