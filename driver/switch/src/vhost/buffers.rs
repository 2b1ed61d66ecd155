//! A virtqueue's parts in the guest's memory, and the buffers that it speaks of (virtio 1.3, 2.7).
//!
//! The ring's own memory is looked up once for many frames, which is why the crate `virtio-queue` does not walk the rings
//! here: it looks up each number, and allocates for each buffer. All access is the crate `vm-memory`'s, which knows the
//! bounds; what the guest writes meanwhile can be wrong, not unsound.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::ring::Broken;
use crate::counters::DropReason;

/// The most descriptors of one buffer: as many as the longest ring has places (2.7.5.3.1).
const MOST_DESCRIPTORS: usize = 1024;

/// The length of a descriptor, in bytes.
const DESCRIPTOR: usize = size_of::<Descriptor>();

/// A part of the guest's memory.
pub(super) type Piece<'m> = VolatileSlice<'m, ()>;

/// Who fills a buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    ByGuest,
    ByUs,
}

/// A ring's parts.
pub(super) struct Parts<'m> {
    memory: &'m GuestMemoryMmap,
    size: u16,
    descriptors: Piece<'m>,
    available: Piece<'m>,
    used: Piece<'m>,
}

impl<'m> Parts<'m> {
    pub(super) fn of(queue: &Queue, memory: &'m GuestMemoryMmap) -> Result<Parts<'m>, Broken> {
        let size = queue.size();
        let places = usize::from(size);
        let part = |address: u64, length: usize| {
            memory.get_slice(GuestAddress(address), length).map_err(|e| e.to_string())
        };
        Ok(Parts {
            memory,
            size,
            descriptors: part(queue.desc_table(), DESCRIPTOR * places)?,
            // Flags, index, places, and at the end the other side's wish.
            available: part(queue.avail_ring(), 4 + 2 * places + 2)?,
            used: part(queue.used_ring(), 4 + 8 * places + 2)?,
        })
    }

    fn number(part: &Piece<'m>, at: usize, ordering: Ordering) -> Result<u16, Broken> {
        part.load::<u16>(at, ordering).map(u16::from_le).map_err(|e| e.to_string())
    }

    /// How many buffers the guest has given, from `next` on; no more than the ring has places.
    pub(super) fn given(&self, next: Wrapping<u16>) -> Result<u16, Broken> {
        let given = (Wrapping(Self::number(&self.available, 2, Ordering::Acquire)?) - next).0;
        if given > self.size {
            return Err(format!("{given} buffers in an available ring of {}", self.size));
        }
        Ok(given)
    }

    /// The first descriptor of the buffer in this place.
    pub(super) fn head(&self, place: Wrapping<u16>) -> Result<u16, Broken> {
        let at = 4 + 2 * usize::from(place.0 % self.size);
        let head = Self::number(&self.available, at, Ordering::Relaxed)?;
        if head >= self.size {
            return Err(format!("descriptor {head} of {}", self.size));
        }
        Ok(head)
    }

    /// Appends the pieces of a buffer to `pieces`: its length in bytes.
    ///
    /// # Errors
    /// [`DropReason::BadDescriptor`] if its descriptors make no sense, or lead out of the guest's memory.
    pub(super) fn buffer(
        &self,
        head: u16,
        filled: Filled,
        pieces: &mut Vec<Piece<'m>>,
    ) -> Result<usize, DropReason> {
        let bad = DropReason::BadDescriptor;
        let (mut table, mut next, mut length) = (self.descriptors, head, 0usize);
        let mut is_indirect = false;
        for _ in 0..MOST_DESCRIPTORS {
            let at = DESCRIPTOR * usize::from(next);
            let descriptor: Descriptor = table.get_ref(at).map_err(|_| bad)?.load();
            let bytes = descriptor.len() as usize;
            if descriptor.refers_to_indirect_table() {
                // A table in a table, or one that goes on outside of it, is forbidden (2.7.5.3.1).
                if is_indirect || descriptor.has_next() || !bytes.is_multiple_of(DESCRIPTOR) {
                    return Err(bad);
                }
                is_indirect = true;
                table = self.memory.get_slice(descriptor.addr(), bytes).map_err(|_| bad)?;
                next = 0;
                continue;
            }
            // What the guest is to read comes first in a buffer, and then what it is to write.
            let is_ours = descriptor.is_write_only() == (filled == Filled::ByUs);
            if !is_ours && filled == Filled::ByGuest {
                return Ok(length);
            }
            if is_ours {
                length = length.checked_add(bytes).ok_or(bad)?;
                for piece in self.memory.get_slices(descriptor.addr(), bytes) {
                    pieces.push(piece.map_err(|_| bad)?);
                }
            }
            if !descriptor.has_next() {
                return Ok(length);
            }
            next = descriptor.next();
        }
        Err(bad)
    }

    /// Puts buffers from `next` on into the used ring, each with the number of bytes that were written into it, so that
    /// the guest sees all of them at once.
    pub(super) fn give_back(
        &self,
        mut next: Wrapping<u16>,
        buffers: &[(u16, u32)],
    ) -> Result<Wrapping<u16>, Broken> {
        for (head, bytes) in buffers {
            let at = 4 + 8 * usize::from(next.0 % self.size);
            // Two numbers of 32 bits: the buffer's, and its length.
            let element = u64::from(*head) | u64::from(*bytes) << 32;
            self.used.get_ref(at).map_err(|e| e.to_string())?.store(element.to_le());
            next += 1;
        }
        self.used.store(next.0.to_le(), 2, Ordering::Release).map_err(|e| e.to_string())?;
        Ok(next)
    }

    /// Whether the guest wants to be told now that buffers from `told` to `next` came back.
    pub(super) fn wants_call(
        &self,
        event_idx: bool,
        told: Wrapping<u16>,
        next: Wrapping<u16>,
    ) -> Result<bool, Broken> {
        if !event_idx {
            return Ok(Self::number(&self.available, 0, Ordering::Relaxed)? & 1 == 0);
        }
        let wish = 4 + 2 * usize::from(self.size);
        let wish = Wrapping(Self::number(&self.available, wish, Ordering::Relaxed)?);
        Ok(next - wish - Wrapping(1) < next - told)
    }
}

/// Goes through pieces of memory as if they were one.
pub(super) struct Cursor<'p, 'm> {
    pieces: std::slice::Iter<'p, Piece<'m>>,
    rest: Option<Piece<'m>>,
}

impl<'p, 'm> Cursor<'p, 'm> {
    pub(super) fn new(pieces: &'p [Piece<'m>]) -> Cursor<'p, 'm> {
        Cursor { pieces: pieces.iter(), rest: None }
    }

    /// At most `most` bytes that lie side by side; `None` at the end.
    fn next(&mut self, most: usize) -> Option<Piece<'m>> {
        let piece = self.rest.take().or_else(|| self.pieces.next().copied())?;
        if piece.len() <= most {
            return Some(piece);
        }
        let (now, later) = piece.split_at(most).ok()?;
        self.rest = Some(later);
        Some(now)
    }

    /// Fills `bytes`; false if there are too few.
    pub(super) fn read(&mut self, mut bytes: &mut [u8]) -> bool {
        while !bytes.is_empty() {
            let Some(piece) = self.next(bytes.len()) else { return false };
            let copied = piece.copy_to(bytes);
            bytes = &mut bytes[copied..];
        }
        true
    }

    /// Writes all of `bytes`; false if there is no room for them.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(piece) = self.next(bytes.len()) else { return false };
            piece.copy_from(bytes);
            bytes = &bytes[piece.len()..];
        }
        true
    }
}
