//! A virtqueue (virtio 1.3, 2.7): buffers of the guest, filled or read, and given back.
//!
//! The crate `virtio-queue` keeps where a ring is and how far it has come. Buffers are found and given back by
//! [`super::buffers`]: all buffers of one frame have to be seen by the guest at once (5.1.6.4), and the crate gives back
//! one at a time.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::num::Wrapping;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::buffers::{Cursor, Filled, Parts, Piece};
use crate::counters::DropReason;
use crate::frame::{Frame, MAX_FRAME, MIN_FRAME};
use crate::io::Intake;
use crate::offload::{self, Offload};

/// The most buffers that a ring can have: what QEMU gives at most.
const MOST_BUFFERS: u16 = 1024;

/// What one of the guest's buffers held.
pub(crate) type Received = Result<(Frame, Offload), DropReason>;

/// How the ring's frames look, which follows from the features.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// The length of the header before each frame, in bytes.
    pub(super) header: usize,
    /// Whether a frame may fill more than one buffer.
    pub(super) mergeable: bool,
}

/// One ring.
pub(super) struct Ring {
    queue: Queue,
    kick: Option<File>,
    call: Option<File>,
    pub(super) enabled: bool,
    event_idx: bool,
    /// How many of the buffers that were given back the guest was told of.
    told: Wrapping<u16>,
    /// Empty between calls, and used again.
    done: Vec<(u16, u32)>,
}

/// The ring can't be used: what is in it makes no sense.
pub(super) type Broken = String;

impl Ring {
    pub(super) fn new() -> Result<Ring, Broken> {
        let queue = Queue::new(MOST_BUFFERS).map_err(|e| e.to_string())?;
        Ok(Ring {
            queue,
            kick: None,
            call: None,
            enabled: false,
            event_idx: false,
            told: Wrapping(0),
            done: Vec::new(),
        })
    }

    pub(super) fn set_event_idx(&mut self, event_idx: bool) {
        self.event_idx = event_idx;
        self.queue.set_event_idx(event_idx);
    }

    pub(super) fn set_size(&mut self, size: u32) -> Result<(), Broken> {
        let size = u16::try_from(size).map_err(|e| e.to_string())?;
        self.queue.try_set_size(size).map_err(|e| e.to_string())
    }

    pub(super) fn set_addresses(
        &mut self,
        descriptors: GuestAddress,
        used: GuestAddress,
        available: GuestAddress,
    ) -> Result<(), Broken> {
        let queue = &mut self.queue;
        let set = queue.try_set_desc_table_address(descriptors);
        let set = set.and_then(|()| queue.try_set_avail_ring_address(available));
        set.and_then(|()| queue.try_set_used_ring_address(used)).map_err(|e| e.to_string())
    }

    pub(super) fn set_base(&mut self, base: u32) {
        self.queue.set_next_avail(base as u16);
    }

    /// Starts the ring: the front end says by which file the guest's kicks come.
    pub(super) fn start(&mut self, kick: Option<OwnedFd>) -> Result<(), Broken> {
        self.kick = kick.map(non_blocking).transpose()?;
        self.queue.set_ready(self.kick.is_some());
        Ok(())
    }

    /// Stops it, and says where it stopped.
    pub(super) fn stop(&mut self) -> u16 {
        self.kick = None;
        self.call = None;
        self.queue.set_ready(false);
        self.queue.next_avail()
    }

    pub(super) fn set_call(&mut self, call: Option<OwnedFd>) -> Result<(), Broken> {
        self.call = call.map(non_blocking).transpose()?;
        Ok(())
    }

    pub(super) fn kick(&self) -> Option<&File> {
        self.kick.as_ref()
    }

    pub(super) fn is_running(&self) -> bool {
        self.enabled && self.queue.ready()
    }

    /// Looks at all of the ring before it is used for the first time, and goes on where the guest has seen it.
    pub(super) fn prepare(&mut self, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        if !self.queue.is_valid(memory) {
            return Err("the ring is not in the guest's memory".to_owned());
        }
        let used = self.queue.used_idx(memory, Ordering::Acquire).map_err(|e| e.to_string())?;
        self.queue.set_next_used(used.0);
        self.told = used;
        self.queue.enable_notification(memory).map(drop).map_err(|e| e.to_string())
    }

    /// Forgets the guest's kicks so far: its buffers are looked at anyway. One read takes all of them from an eventfd;
    /// a front end can give any other file, which may never be read to its end.
    pub(super) fn drain_kicks(&mut self) {
        if let Some(kick) = &mut self.kick {
            // Nothing to read is fine.
            let _ = kick.read(&mut [0; 8]);
        }
    }

    /// Takes at most `most` frames that the guest sends. True if there are no more, and the next one will come with a
    /// kick. As long as frames come, kicks are not asked for: they cost the guest more than they tell.
    pub(super) fn receive(
        &mut self,
        memory: &GuestMemoryMmap,
        layout: Layout,
        most: usize,
        intake: &mut Intake,
        frames: &mut Vec<Received>,
    ) -> Result<bool, Broken> {
        let parts = Parts::of(&self.queue, memory)?;
        let (mut done, mut quiet) = (std::mem::take(&mut self.done), false);
        let mut pieces = Vec::new();
        let mut next = Wrapping(self.queue.next_avail());
        while done.len() < most && !quiet {
            let given = usize::from(parts.given(next)?);
            if given == 0 {
                if !done.is_empty() {
                    break;
                }
                // Asked again if so: the guest may have sent before it knew that it should tell.
                quiet = !self.queue.enable_notification(memory).map_err(|e| e.to_string())?;
                continue;
            }
            for _ in 0..given.min(most - done.len()) {
                let head = parts.head(next)?;
                pieces.clear();
                let length = parts.buffer(head, Filled::ByGuest, &mut pieces);
                frames.push(length.and_then(|length| read(&pieces, length, layout.header, intake)));
                done.push((head, 0));
                next += 1;
            }
            self.queue.set_next_avail(next.0);
        }
        self.give_back(&parts, &done)?;
        done.clear();
        self.done = done;
        Ok(quiet)
    }

    /// Writes frames into the guest's buffers, in order, and appends what became of each to `results`. Fewer of them than
    /// frames mean that the guest has too few buffers for the next one.
    pub(super) fn send<'f>(
        &mut self,
        memory: &GuestMemoryMmap,
        layout: Layout,
        frames: impl Iterator<Item = &'f (Frame, Offload)>,
        results: &mut Vec<Result<(), DropReason>>,
    ) -> Result<(), Broken> {
        let parts = Parts::of(&self.queue, memory)?;
        let (mut done, mut pieces, mut buffers) = (std::mem::take(&mut self.done), Vec::new(), Vec::new());
        let mut given = parts.given(Wrapping(self.queue.next_avail()))?;
        for (frame, offload) in frames {
            let start = Wrapping(self.queue.next_avail());
            let (mut next, mut room) = (start, 0);
            let needed = layout.header + frame.len();
            pieces.clear();
            buffers.clear();
            while room < needed && (layout.mergeable || buffers.is_empty()) {
                if given == (next - start).0 {
                    // Asked again: the guest may have added buffers before it knew that it should tell.
                    self.queue.set_next_avail(next.0);
                    let more = self.queue.enable_notification(memory).map_err(|e| e.to_string())?;
                    self.queue.set_next_avail(start.0);
                    given = parts.given(start)?;
                    if more && given > (next - start).0 {
                        continue;
                    }
                    break;
                }
                let head = parts.head(next)?;
                let first = pieces.len();
                let length = parts.buffer(head, Filled::ByUs, &mut pieces).map_err(|e| e.to_string())?;
                if length < layout.header {
                    return Err(format!("a buffer for frames with {length} bytes"));
                }
                room += length;
                buffers.push((head, first, length));
                next += 1;
            }
            if room < needed && (layout.mergeable || buffers.is_empty()) {
                break;
            }
            if room < needed {
                results.push(Err(DropReason::TooLong));
                continue;
            }
            let mut header = offload.header(frame);
            header[10..12].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
            let (mut before, mut rest) = (&header[..layout.header], frame.as_ref());
            for (head, first, length) in &buffers {
                let mut cursor = Cursor::new(&pieces[*first..]);
                let (now, later) = rest.split_at(rest.len().min(length - before.len()));
                if !(cursor.write(before) && cursor.write(now)) {
                    return Err("a buffer shorter than its descriptors".to_owned());
                }
                done.push((*head, (before.len() + now.len()) as u32));
                (before, rest) = (&[], later);
            }
            given -= (next - start).0;
            self.queue.set_next_avail(next.0);
            results.push(Ok(()));
        }
        self.give_back(&parts, &done)?;
        done.clear();
        self.done = done;
        Ok(())
    }

    /// Gives buffers back, all at once, with the number of bytes that were written into each, and tells the guest if it
    /// wants to be told.
    fn give_back(&mut self, parts: &Parts<'_>, buffers: &[(u16, u32)]) -> Result<(), Broken> {
        if buffers.is_empty() {
            return Ok(());
        }
        let next = parts.give_back(Wrapping(self.queue.next_used()), buffers)?;
        // The guest's wish is read after it can see the buffers, or both sides could wait for the other.
        fence(Ordering::SeqCst);
        let wanted = parts.wants_call(self.event_idx, self.told, next)?;
        self.queue.set_next_used(next.0);
        self.told = next;
        if let Some(call) = self.call.as_mut().filter(|_| wanted) {
            // A counter that is full has told already.
            match call.write(&1u64.to_ne_bytes()) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies one frame out of the guest's memory: a buffer of `length` bytes with a header before the frame.
fn read(pieces: &[Piece<'_>], length: usize, header: usize, intake: &mut Intake) -> Received {
    let length = length.checked_sub(header).ok_or(DropReason::BadDescriptor)?;
    if length < MIN_FRAME {
        return Err(DropReason::Malformed);
    }
    if length > MAX_FRAME {
        return Err(DropReason::TooLong);
    }
    let mut cursor = Cursor::new(pieces);
    let mut before = [0; offload::HEADER];
    let whole = |whole: bool| whole.then_some(()).ok_or(DropReason::BadDescriptor);
    whole(cursor.read(&mut before[..header]))?;
    let frame = intake.frame(length, |bytes| whole(cursor.read(bytes)))?;
    let offload = Offload::parse(&before[..header], &frame).map_err(|_| DropReason::BadOffload)?;
    Ok((frame, offload))
}

/// The file, so that neither reading nor writing it ever waits.
fn non_blocking(fd: OwnedFd) -> Result<File, Broken> {
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let set = flags.and_then(|flags| fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)));
    set.map_err(|e| e.to_string())?;
    Ok(File::from(fd))
}
