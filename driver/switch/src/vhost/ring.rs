//! A virtqueue (virtio 1.3, 2.7): buffers of the guest, filled or read, and given back.
//!
//! The crate `virtio-queue` finds the buffers. They are given back here, since all buffers of one frame have to be seen
//! by the guest at once (5.1.6.4), and the crate gives back one at a time.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::num::Wrapping;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use virtio_queue::{Queue, QueueOwnedT, QueueT, Reader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

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
        let (mut done, mut quiet) = (std::mem::take(&mut self.done), false);
        while done.len() < most && !quiet {
            let Some((head, chain)) = self.next(memory)? else {
                if !done.is_empty() {
                    break;
                }
                // Asked again if so: the guest may have sent before it knew that it should tell.
                quiet = !self.queue.enable_notification(memory).map_err(|e| e.to_string())?;
                continue;
            };
            let reader = chain.reader::<()>(memory);
            let reader = reader.map_err(|_| DropReason::BadDescriptor);
            frames.push(reader.and_then(|reader| read(reader, layout.header, intake)));
            done.push((head, 0));
        }
        self.give_back(memory, &done)?;
        done.clear();
        self.done = done;
        Ok(quiet)
    }

    /// Writes a frame into the guest's buffers: how many it filled, or `None` if the guest has too few at present.
    pub(super) fn send(
        &mut self,
        memory: &GuestMemoryMmap,
        layout: Layout,
        frame: &Frame,
        offload: Offload,
        filled: &mut Vec<(u16, u32)>,
    ) -> Result<Option<Result<(), DropReason>>, Broken> {
        let start = self.queue.next_avail();
        let needed = layout.header + frame.len();
        let (mut buffers, mut room) = (Vec::new(), 0);
        while room < needed && (layout.mergeable || buffers.is_empty()) {
            let Some((head, chain)) = self.next(memory)? else {
                // Asked again: the guest may have added buffers before it knew that it should tell.
                if self.queue.enable_notification(memory).map_err(|e| e.to_string())? {
                    continue;
                }
                self.queue.set_next_avail(start);
                return Ok(None);
            };
            let writer = chain.writer::<()>(memory).map_err(|e| e.to_string())?;
            if writer.available_bytes() < layout.header {
                return Err(format!("a buffer for frames with {} bytes", writer.available_bytes()));
            }
            room += writer.available_bytes();
            buffers.push((head, writer));
        }
        if room < needed {
            self.queue.set_next_avail(start);
            return Ok(Some(Err(DropReason::TooLong)));
        }
        let mut header = offload.header(frame);
        header[10..12].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
        let mut rest = frame.as_ref();
        for (index, (head, mut writer)) in buffers.into_iter().enumerate() {
            let before = if index == 0 { &header[..layout.header] } else { &[] };
            let (now, later) = rest.split_at(rest.len().min(writer.available_bytes() - before.len()));
            let written = writer.write_all(before).and_then(|()| writer.write_all(now));
            written.map_err(|e| e.to_string())?;
            rest = later;
            filled.push((head, (before.len() + now.len()) as u32));
        }
        Ok(Some(Ok(())))
    }

    /// The guest's next buffer.
    fn next<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<(u16, virtio_queue::DescriptorChain<&'m GuestMemoryMmap>)>, Broken> {
        let available = self.queue.avail_idx(memory, Ordering::Acquire).map_err(|e| e.to_string())?;
        if available.0 == self.queue.next_avail() {
            return Ok(None);
        }
        let chain = self.queue.iter(memory).map_err(|e| e.to_string())?.next();
        let chain = chain.ok_or("the ring cannot be read")?;
        if chain.head_index() >= self.queue.size() {
            return Err(format!("descriptor {} of {}", chain.head_index(), self.queue.size()));
        }
        Ok(Some((chain.head_index(), chain)))
    }

    /// Gives buffers back, all at once, with the number of bytes that were written into each, and tells the guest if it
    /// wants to be told.
    pub(super) fn give_back(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &[(u16, u32)],
    ) -> Result<(), Broken> {
        if buffers.is_empty() {
            return Ok(());
        }
        let (ring, size) = (GuestAddress(self.queue.used_ring()), self.queue.size());
        let mut next = Wrapping(self.queue.next_used());
        let mut write = || -> Result<bool, vm_memory::GuestMemoryError> {
            for (head, bytes) in buffers {
                let at = GuestAddress(ring.0 + 4 + 8 * u64::from(next.0 % size));
                // Two numbers of 32 bits: the buffer's, and its length.
                let element = u64::from(*head) | u64::from(*bytes) << 32;
                memory.write_obj(element.to_le(), at)?;
                next += 1;
            }
            memory.store(next.0.to_le(), GuestAddress(ring.0 + 2), Ordering::Release)?;
            // The guest's wish is read after it can see the buffers, or both sides could wait for the other.
            fence(Ordering::SeqCst);
            let available = GuestAddress(self.queue.avail_ring());
            if !self.event_idx {
                let flags = u16::from_le(memory.load(available, Ordering::Relaxed)?);
                return Ok(flags & 1 == 0);
            }
            let at = GuestAddress(available.0 + 4 + 2 * u64::from(size));
            let wanted = Wrapping(u16::from_le(memory.load(at, Ordering::Relaxed)?));
            Ok(next - wanted - Wrapping(1) < next - self.told)
        };
        let wanted = write().map_err(|e| e.to_string())?;
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

/// Copies one frame out of the guest's memory.
fn read(mut buffer: Reader<'_>, header: usize, intake: &mut Intake) -> Received {
    let length = buffer.available_bytes().checked_sub(header).ok_or(DropReason::BadDescriptor)?;
    if length < MIN_FRAME {
        return Err(DropReason::Malformed);
    }
    if length > MAX_FRAME {
        return Err(DropReason::TooLong);
    }
    let mut before = [0; offload::HEADER];
    buffer.read_exact(&mut before[..header]).map_err(|_| DropReason::BadDescriptor)?;
    let frame = intake.frame(length, |bytes| buffer.read_exact(bytes));
    let frame = frame.map_err(|_| DropReason::BadDescriptor)?;
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
