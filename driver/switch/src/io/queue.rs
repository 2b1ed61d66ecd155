//! What waits for a port's peer: bounded, written many frames at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Write};

use crate::counters::DropReason;
use crate::frame::Frame;
use crate::state::FrameQueue;

/// What a queued frame costs besides its bytes, roughly: a queue of tiny frames must be bounded as well.
const OVERHEAD: usize = 64;

/// How many pieces are handed to the kernel at once: frames, or several that lie side by side.
const BATCH: usize = 128;

/// The wire form of all frames; those that lie side by side are one piece.
fn pieces(frames: &VecDeque<Frame>) -> impl Iterator<Item = &[u8]> {
    let mut frames = frames.iter().peekable();
    std::iter::from_fn(move || {
        let first = frames.next()?;
        let mut last = first;
        while let Some(next) = frames.next_if(|next| last.is_followed_by(next)) {
            last = next;
        }
        first.wire_up_to(last)
    })
}

/// What a write got rid of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Whole frames.
    pub(crate) frames: u64,
    /// Their bytes, without length prefixes.
    pub(crate) bytes: u64,
    /// Frames that the peer can't have, by reason. Only [`EgressQueue::send_each`] has any.
    pub(crate) dropped: BTreeMap<DropReason, u64>,
}

pub(crate) struct EgressQueue {
    frames: VecDeque<Frame>,
    /// How much of the first frame's wire form is written.
    head: usize,
    cost: usize,
    limit: usize,
}

impl EgressQueue {
    pub(crate) fn new(limit: usize) -> EgressQueue {
        EgressQueue { frames: VecDeque::new(), head: 0, cost: 0, limit }
    }

    /// False if the queue is full: the newest frame is the one that is lost (tail drop).
    pub(crate) fn push(&mut self, frame: Frame) -> bool {
        let cost = frame.wire().len() + OVERHEAD;
        if self.cost + cost > self.limit && !self.frames.is_empty() {
            return false;
        }
        self.cost += cost;
        self.frames.push_back(frame);
        true
    }

    /// Writes until the queue is empty or the peer's socket is full.
    pub(crate) fn write_to(&mut self, mut socket: impl Write) -> (Sent, io::Result<()>) {
        let mut sent = Sent::default();
        while !self.frames.is_empty() {
            match self.write_once(&mut socket) {
                Ok(0) => return (sent, Err(ErrorKind::WriteZero.into())),
                Ok(bytes) => self.advance(bytes, &mut sent),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return (sent, Err(error)),
            }
        }
        (sent, Ok(()))
    }

    /// Writes what one call takes, of a queue that is not empty.
    fn write_once(&self, socket: &mut impl Write) -> io::Result<usize> {
        // One frame at a time is what an idle switch has, and costs less this way.
        if self.frames.len() == 1 {
            return socket.write(&self.frames[0].wire()[self.head..]);
        }
        let mut slices = [IoSlice::new(&[]); BATCH];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces(&self.frames)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        slices[0].advance(self.head);
        socket.write_vectored(&slices[..count])
    }

    /// Sends one frame with each call, until the queue is empty or the peer takes no more; at most [`BATCH`] frames, so
    /// that a long queue holds up nobody.
    pub(crate) fn send_each(
        &mut self,
        mut send: impl FnMut(&[u8]) -> io::Result<Option<DropReason>>,
    ) -> (Sent, io::Result<()>) {
        let mut sent = Sent::default();
        for _ in 0..BATCH {
            let Some(frame) = self.frames.front() else { break };
            match send(frame) {
                Ok(None) => {
                    sent.frames += 1;
                    sent.bytes += frame.len() as u64;
                }
                Ok(Some(reason)) => *sent.dropped.entry(reason).or_default() += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return (sent, Err(error)),
            }
            self.cost -= frame.wire().len() + OVERHEAD;
            self.frames.pop_front();
        }
        (sent, Ok(()))
    }

    fn advance(&mut self, bytes: usize, sent: &mut Sent) {
        self.head += bytes;
        while let Some(frame) = self.frames.front().filter(|frame| frame.wire().len() <= self.head) {
            self.head -= frame.wire().len();
            self.cost -= frame.wire().len() + OVERHEAD;
            sent.frames += 1;
            sent.bytes += frame.len() as u64;
            self.frames.pop_front();
        }
    }

    /// Forgets what is not yet begun (a frame that is partly written must be finished, or the stream is out of step)
    /// and answers how many frames that were.
    pub(crate) fn clear(&mut self) -> u64 {
        let keep = usize::from(self.head > 0);
        let lost = self.frames.len() - keep;
        self.frames.truncate(keep);
        self.cost = self.frames.iter().map(|frame| frame.wire().len() + OVERHEAD).sum();
        lost as u64
    }

    /// The frames, so that others of the same bytes can take their place.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.frames.iter_mut()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn state(&self) -> FrameQueue {
        FrameQueue { frames: self.frames.len() as u64, bytes: self.cost as u64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A socket that takes the given numbers of bytes, one after the other, and is full in between.
    struct Moody<'a> {
        taken: &'a mut Vec<u8>,
        moods: &'a mut VecDeque<usize>,
    }

    impl Write for Moody<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.moods.pop_front() {
                None | Some(0) => Err(ErrorKind::WouldBlock.into()),
                Some(room) => {
                    let taken = room.min(bytes.len());
                    self.taken.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let whole: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.write(&whole)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_by_one_each_frame_is_sent_dropped_or_kept() {
        let mut queue = EgressQueue::new(100_000);
        for length in 14..64 + BATCH as u8 {
            assert!(queue.push(Frame::new(&vec![length; usize::from(length)])));
        }
        let (mut taken, mut call) = (Vec::new(), 0);
        let mut send = |frame: &[u8]| {
            call += 1;
            match call {
                3 => Err(ErrorKind::Interrupted.into()),
                5 => Ok(Some(DropReason::TooLong)),
                8 => Err(ErrorKind::WouldBlock.into()),
                _ => {
                    taken.push(frame.len());
                    Ok(None)
                }
            }
        };
        let (sent, result) = queue.send_each(&mut send);
        assert!(result.is_ok());
        let dropped = BTreeMap::from([(DropReason::TooLong, 1)]);
        assert_eq!(sent, Sent { frames: 5, bytes: 14 + 15 + 16 + 18 + 19, dropped });
        let (sent, _) = queue.send_each(&mut send);
        assert_eq!(sent.frames, BATCH as u64, "no more at once, so that others get their turn");
        while !queue.is_empty() {
            queue.send_each(&mut send).1.unwrap();
        }
        assert_eq!((taken.len(), queue.cost()), (BATCH + 49, 0));
        assert!(taken.is_sorted() && !taken.contains(&17), "in order, without the one that was dropped");
        queue.push(Frame::new(&[0; 14]));
        let (sent, result) = queue.send_each(|_| Err(ErrorKind::BrokenPipe.into()));
        assert_eq!((sent, result.unwrap_err().kind()), (Sent::default(), ErrorKind::BrokenPipe));
        assert!(!queue.is_empty(), "what was not sent is counted by whoever closes the connection");
    }

    proptest! {
        #[test]
        fn what_was_taken_in_goes_out_in_order_and_is_counted(
            lengths in proptest::collection::vec(14usize..300, 0..300),
            moods in proptest::collection::vec(0usize..4000, 0..40),
            clear_after in proptest::option::of(0usize..10),
        ) {
            let (mut taken, mut moods) = (Vec::new(), VecDeque::from(moods));
            let mut queue = EgressQueue::new(20_000);
            let mut accepted = Vec::new();
            for length in &lengths {
                let frame = Frame::new(&vec![*length as u8; *length]);
                if queue.push(frame.clone()) {
                    accepted.push(frame);
                }
                prop_assert!(queue.cost() <= 20_000);
            }
            let (mut frames, mut lost, mut round) = (0, 0, 0);
            while !queue.is_empty() {
                if clear_after == Some(round) {
                    lost += queue.clear();
                }
                round += 1;
                if moods.is_empty() {
                    moods.push_back(100_000);
                }
                let (sent, result) = queue.write_to(Moody { taken: &mut taken, moods: &mut moods });
                prop_assert!(result.is_ok());
                frames += sent.frames;
            }
            prop_assert_eq!(frames + lost, accepted.len() as u64);
            prop_assert_eq!(queue.cost(), 0);
            let expected: Vec<u8> =
                accepted.iter().take(frames as usize).flat_map(|frame| frame.wire().to_vec()).collect();
            prop_assert_eq!(taken, expected);
        }
    }
}
