//! The memory that frames of stream ports are read into, and stay in for as long as anybody holds them.
//!
//! All ports are read one after the other into the same chunk, and the ring of the latest frames keeps what was read in
//! that order. So a chunk is free as a whole once the ring has got rid of its last frame, and is used again: no frame
//! costs an allocation, or memory that the process has not touched before. What else holds frames for long (a queue whose
//! peer does not read, an impairment) would keep a whole chunk for one of them; when too many are held,
//! [`Intake::is_short`] says so, and its frames are copied out.
#![allow(
    unsafe_code,
    reason = "the kernel fills memory that was not initialised before; BytesMut has to be told"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::net::{RecvFlags, recv};

use crate::frame::Frame;
use crate::stream::{BadLength, PREFIX, wire_length};

/// The length of a chunk, in bytes: the longest frame and the longest read fit several times.
const CHUNK: usize = 256 * 1024;

/// The most that is read at once, in bytes.
const MOST: usize = 64 * 1024;

/// The room that a read finds at least, in bytes. What a chunk has left beyond that is given up.
const LEAST: usize = 16 * 1024;

/// How much memory the kernel maps at once at least, in bytes.
const PAGE: usize = 4096;

/// The chunks of a switch.
pub(crate) struct Intake {
    /// What is left of the chunk that is read into: no bytes, and its room.
    open: BytesMut,
    /// The ends of chunks that are full, the oldest first. Such an end can take back its chunk once it is alone.
    full: VecDeque<BytesMut>,
    /// How many of them there should be at most.
    most: usize,
    short: bool,
}

/// What a read gave.
pub(crate) struct Intook {
    /// Bytes that were read; 0 at the stream's end.
    pub(crate) bytes: usize,
    /// Whole frames with their length prefixes.
    pub(crate) frames: Bytes,
    /// What follows them is no frame.
    pub(crate) bad: Option<BadLength>,
}

/// What was read of one port, and is not yet a frame.
#[derive(Default)]
pub(crate) struct Rest(Vec<u8>);

impl Rest {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Intake {
    /// About so many bytes of frames are held for long.
    pub(crate) fn new(bytes: usize) -> Intake {
        Intake { open: chunk(), full: VecDeque::new(), most: bytes / CHUNK + 8, short: false }
    }

    /// Reads of a socket once, without waiting, at most `limit` bytes.
    pub(crate) fn read(&mut self, socket: impl AsFd, rest: &mut Rest, limit: usize) -> io::Result<Intook> {
        let limit = limit.min(MOST);
        let mut room = self.take(rest.len() + limit.min(LEAST));
        room.extend_from_slice(&rest.0);
        let limit = limit.min(room.capacity() - rest.len());
        grow(&mut room, rest.len() + limit);
        let bytes = match recv(socket, &mut room[rest.len()..], RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => bytes,
            Err(errno) => {
                self.put_back(room);
                return Err(errno.into());
            }
        };
        room.truncate(rest.len() + bytes);
        let (whole, bad) = whole_frames(&room);
        let frames = if whole > 0 { room.split_to(whole).freeze() } else { Bytes::new() };
        rest.0.clear();
        rest.0.extend_from_slice(&room);
        self.put_back(room);
        Ok(Intook { bytes, frames, bad })
    }

    /// A frame of `length` bytes that `fill` writes.
    pub(crate) fn frame<E>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Frame, E> {
        let mut room = self.take(PREFIX + length);
        grow(&mut room, PREFIX + length);
        room[..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
        let filled = fill(&mut room[PREFIX..]);
        let frame = filled.map(|()| Frame::chunked(room.split().freeze()));
        self.put_back(room);
        frame
    }

    /// Goes back to the beginning of the chunk if nobody holds any of it: the next frames find memory that is in the
    /// caches.
    pub(crate) fn rewind(&mut self) {
        // If not, it is used on from where it is.
        let _alone = self.open.try_reclaim(CHUNK);
    }

    /// Room for so many bytes.
    fn take(&mut self, needed: usize) -> BytesMut {
        if self.open.capacity() < needed {
            self.turn();
        }
        std::mem::take(&mut self.open)
    }

    /// Takes back what is left of a chunk; bytes in it are forgotten.
    fn put_back(&mut self, mut room: BytesMut) {
        room.clear();
        self.open = room;
    }

    /// Goes on to the next chunk: one that nobody holds any more, or a new one.
    fn turn(&mut self) {
        let end = std::mem::take(&mut self.open);
        let free = self.full.iter_mut().position(|end| end.try_reclaim(CHUNK));
        let free = free.and_then(|index| self.full.remove(index));
        self.open = free.unwrap_or_else(chunk);
        self.short = self.full.len() >= self.most;
        // Beyond what is to be held, a chunk's memory goes with its frames.
        if !self.short {
            self.full.push_back(end);
        }
    }

    /// Whether more chunks are held than there should be, since this was asked last.
    pub(crate) fn is_short(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    /// Has the memory ready that the next frames will need, while nobody waits for a frame.
    pub(crate) fn prepare(&mut self) {
        if self.open.capacity() < LEAST {
            self.turn();
        }
    }
}

/// A new chunk, without bytes. All of its memory is zeroes, and is touched here. Where the
/// kernel mapped a page for every other frame, frames at such places were late by a quarter (measured, frames of 1514 bytes),
/// although it was done after the one before had left.
fn chunk() -> BytesMut {
    let mut chunk = BytesMut::zeroed(CHUNK);
    for at in (0..CHUNK).step_by(PAGE) {
        chunk[at] = std::hint::black_box(0);
    }
    chunk.clear();
    chunk
}

/// Makes a chunk's room this long. What is in it then are zeroes, or bytes of earlier frames.
fn grow(room: &mut BytesMut, length: usize) {
    assert!(length <= room.capacity(), "{length} bytes of {}", room.capacity());
    // SAFETY: it is within the capacity, and all of a chunk was initialised when it was made.
    unsafe { room.set_len(length) };
}

/// How many bytes at the beginning are whole frames, and what is wrong after them.
fn whole_frames(bytes: &[u8]) -> (usize, Option<BadLength>) {
    let mut whole = 0;
    loop {
        match wire_length(&bytes[whole..]) {
            Ok(Some(length)) => whole += length,
            Ok(None) => return (whole, None),
            Err(bad) => return (whole, Some(bad)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    /// How many chunks there are, open or full.
    fn chunks(intake: &Intake) -> usize {
        intake.full.len() + 1
    }

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_chunk_is_used_again_when_its_last_frame_is_gone() {
        let (mut peer, socket) = pair();
        let (mut intake, mut rest) = (Intake::new(8 * CHUNK), Rest::default());
        let frame = Frame::new(&[7; 1500]);
        let mut ring = VecDeque::new();
        for number in 0..10_000 {
            peer.write_all(frame.wire()).unwrap();
            let read = intake.read(&socket, &mut rest, MOST).unwrap();
            ring.extend(Frame::all_in(read.frames));
            assert_eq!(ring.len(), (number + 1).min(701), "{number}");
            if ring.len() > 700 {
                ring.pop_front();
            }
            intake.prepare();
            assert!(!intake.is_short());
        }
        assert!(ring.iter().all(|kept| *kept == frame), "none was written over");
        let needed = (700 * frame.wire().len()).div_ceil(CHUNK - LEAST - frame.wire().len()) + 2;
        assert!(chunks(&intake) <= needed, "{} chunks for 700 frames", chunks(&intake));
    }

    #[test]
    fn frames_that_are_held_for_ever_are_told_of_and_cost_no_other_chunk_its_place() {
        let (mut peer, socket) = pair();
        let (mut intake, mut rest) = (Intake::new(0), Rest::default());
        let frame = Frame::new(&[7; 60_000]);
        let (mut held, mut short) = (Vec::new(), 0);
        for _ in 0..100 {
            peer.write_all(frame.wire()).unwrap();
            let before = held.len();
            while held.len() == before {
                held.extend(Frame::all_in(intake.read(&socket, &mut rest, MOST).unwrap().frames));
                short += usize::from(intake.is_short());
            }
        }
        assert!(short > 10, "told {short} times");
        assert_eq!(chunks(&intake), intake.most + 1, "what is beyond goes with its frames");
        held = held.iter().map(Frame::copied_out).collect();
        for _ in 0..100 {
            peer.write_all(frame.wire()).unwrap();
            while intake.read(&socket, &mut rest, MOST).unwrap().frames.is_empty() {}
            assert!(!intake.is_short());
        }
        assert!(held.iter().all(|kept| *kept == frame));
    }

    #[test]
    fn the_end_and_nonsense_are_told_with_the_frames_before_them() {
        let (mut peer, socket) = pair();
        let (mut intake, mut rest) = (Intake::new(0), Rest::default());
        let frame = Frame::new(&[7; 60]);
        peer.write_all(frame.wire()).unwrap();
        peer.write_all(&[0, 0, 0, 1, 9, 9]).unwrap();
        let read = intake.read(&socket, &mut rest, MOST).unwrap();
        assert_eq!(Frame::all_in(read.frames).collect::<Vec<_>>(), [frame]);
        assert_eq!(read.bad, Some(BadLength { length: 1 }));
        drop(peer);
        let mut rest = Rest::default();
        let read = intake.read(&socket, &mut rest, MOST).unwrap();
        assert_eq!((read.bytes, read.frames.len(), read.bad, rest.len()), (0, 0, None, 0));
    }

    proptest! {
        #[test]
        fn frames_of_many_ports_arrive_whole_however_their_streams_are_cut(
            streams in proptest::collection::vec(
                proptest::collection::vec((14usize..3000, any::<u8>()), 0..30), 1..4),
            pieces in proptest::collection::vec((0usize..4, 1usize..5000, 1usize..9000), 1..30),
            kept in 0usize..40,
        ) {
            let mut intake = Intake::new(0);
            let frames: Vec<Vec<Frame>> = streams
                .iter()
                .map(|stream| stream.iter().map(|(length, byte)| Frame::new(&vec![*byte; *length])).collect())
                .collect();
            let mut ports: Vec<_> = frames
                .iter()
                .map(|frames| {
                    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.wire().to_vec()).collect();
                    (pair(), Rest::default(), bytes, 0)
                })
                .collect();
            let mut came: Vec<Vec<Frame>> = frames.iter().map(|_| Vec::new()).collect();
            let mut pieces = pieces.iter().cycle();
            while ports.iter().any(|(_, _, bytes, sent)| *sent < bytes.len()) {
                let (port, piece, limit) = pieces.next().unwrap();
                // Each has its turn, whatever the pieces say.
                for index in std::iter::once(port % frames.len()).chain(0..frames.len()) {
                    let ((peer, socket), rest, bytes, sent) = &mut ports[index];
                    let piece = (*piece).min(bytes.len() - *sent);
                    peer.write_all(&bytes[*sent..*sent + piece]).unwrap();
                    *sent += piece;
                    let mut left = piece;
                    while left > 0 {
                        let read = intake.read(&*socket, rest, *limit).unwrap();
                        prop_assert_eq!(read.bad, None);
                        prop_assert!(read.bytes <= *limit);
                        left -= read.bytes;
                        // Some keep theirs in the chunks, as the ring does, others not.
                        came[index].extend(Frame::all_in(read.frames).map(|frame| match frame.len() % 40 < kept {
                            true => frame,
                            false => frame.copied_out(),
                        }));
                    }
                    intake.prepare();
                }
            }
            prop_assert_eq!(came, frames);
            prop_assert!(ports.iter().all(|(_, rest, _, _)| rest.len() == 0));
        }
    }
}
