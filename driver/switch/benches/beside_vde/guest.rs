//! A guest on a vhost-user port: the front end of the crate `vhost` in QEMU's place, and a virtio driver that does what
//! Linux's does: it kicks and is called when the other side wants it (virtio 1.3, 2.7.7), and has both rings in use at
//! once.
#![allow(unsafe_code, reason = "the crate's event files can't be borrowed as std's")]

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Result;

/// The length of `virtio_net_hdr` with `num_buffers`, in bytes.
pub(crate) const HEADER: usize = 12;

/// Places of each ring, as QEMU has them unless told otherwise.
const SIZE: u16 = 256;
const MEMORY: usize = 4 << 20;
/// Where QEMU would have the memory: any place but the guest's.
const FRONT_END: u64 = 0x7f12_0000_0000;
/// Where the parts of a ring are, after its descriptors.
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
/// What is received goes here, and what is sent comes from there.
const BUFFERS: u64 = 0x10_0000;
const BUFFER: u64 = 2048;
const OUT: u64 = 0x20_0000;
const WRITTEN_BY_DEVICE: u16 = 2;
/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL: u64 = 1 << 30;

/// What Linux agrees to.
fn features() -> u64 {
    let bits = [
        VIRTIO_F_VERSION_1,
        VIRTIO_NET_F_CSUM,
        VIRTIO_NET_F_GUEST_CSUM,
        VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_RING_F_EVENT_IDX,
    ];
    bits.into_iter().fold(PROTOCOL, |all, bit| all | 1 << bit)
}

/// One ring, from the driver's side.
struct Ring {
    memory: Arc<GuestMemoryMmap>,
    at: u64,
    kick: EventFd,
    call: EventFd,
    /// Buffers that the switch was given.
    given: u16,
    /// Buffers that came back and were looked at.
    seen: u16,
}

impl Ring {
    fn read(&self, at: u64) -> Result<u16> {
        Ok(self.memory.load(GuestAddress(self.at + at), Ordering::Acquire)?)
    }

    fn write(&self, at: u64, value: u16) -> Result {
        Ok(self.memory.store(value, GuestAddress(self.at + at), Ordering::Release)?)
    }

    fn describe(&self, slot: u16, address: u64, length: u32, flags: u16) -> Result {
        let at = self.at + 16 * u64::from(slot);
        self.memory.write_obj(address, GuestAddress(at))?;
        self.memory.write_obj(length, GuestAddress(at + 8))?;
        Ok(self.memory.write_obj([flags, 0], GuestAddress(at + 12))?)
    }

    fn give(&mut self, slot: u16) -> Result {
        self.write(AVAILABLE + 4 + 2 * u64::from(self.given % SIZE), slot)?;
        self.given = self.given.wrapping_add(1);
        Ok(())
    }

    /// Shows the switch what it was given since `before`, and kicks if it wants to be.
    fn show(&self, before: u16) -> Result {
        self.write(AVAILABLE + 2, self.given)?;
        fence(Ordering::SeqCst);
        let wanted = self.read(USED + 4 + 8 * u64::from(SIZE))?;
        if self.given.wrapping_sub(wanted).wrapping_sub(1) < self.given.wrapping_sub(before) {
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// The next buffer that came back, and how much was written into it.
    fn next(&mut self) -> Result<Option<(u16, usize)>> {
        if self.read(USED + 2)? == self.seen {
            return Ok(None);
        }
        let at = self.at + USED + 4 + 8 * u64::from(self.seen % SIZE);
        let [slot, length]: [u32; 2] = self.memory.read_obj(GuestAddress(at))?;
        self.seen = self.seen.wrapping_add(1);
        Ok(Some((u16::try_from(slot)?, length as usize)))
    }

    /// Asks to be called for the next buffer; true if it is there already.
    fn ask(&self) -> Result<bool> {
        self.write(AVAILABLE + 4 + 2 * u64::from(SIZE), self.seen)?;
        fence(Ordering::SeqCst);
        Ok(self.read(USED + 2)? != self.seen)
    }
}

/// The half that receives. The connection ends with it.
pub(crate) struct Receiver {
    ring: Ring,
    _front_end: Frontend,
    bytes: Vec<u8>,
}

/// The half that sends, always the same packet.
pub(crate) struct Sender {
    ring: Ring,
    length: u32,
}

/// Connects, and starts both rings.
pub(crate) fn plug(socket: &Path) -> Result<(Receiver, Sender)> {
    let file = tempfile::tempfile()?;
    file.set_len(MEMORY as u64)?;
    let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file.try_clone()?, 0)));
    let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files([range])?);
    let mut front_end = Frontend::connect(socket, 2)?;
    front_end.set_owner()?;
    front_end.get_features()?;
    let protocol = front_end.get_protocol_features()?;
    front_end.set_protocol_features(protocol)?;
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front_end.set_features(features())?;
    front_end.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: FRONT_END,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }])?;
    let mut start = |index: usize| -> Result<Ring> {
        let at = 0x1_0000 * (1 + index as u64);
        let (kick, call) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        front_end.set_vring_num(index, SIZE)?;
        front_end.set_vring_base(index, 0)?;
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: FRONT_END + at,
            used_ring_addr: FRONT_END + at + USED,
            avail_ring_addr: FRONT_END + at + AVAILABLE,
            log_addr: None,
        };
        front_end.set_vring_addr(index, &config)?;
        front_end.set_vring_kick(index, &kick)?;
        front_end.set_vring_call(index, &call)?;
        front_end.set_vring_enable(index, true)?;
        Ok(Ring { memory: Arc::clone(&memory), at, kick, call, given: 0, seen: 0 })
    };
    let (mut to_guest, mut from_guest) = (start(0)?, start(1)?);
    for slot in 0..SIZE {
        to_guest.describe(slot, BUFFERS + BUFFER * u64::from(slot), BUFFER as u32, WRITTEN_BY_DEVICE)?;
        to_guest.give(slot)?;
    }
    to_guest.show(0)?;
    // Nobody waits for what was sent to come back.
    from_guest.write(AVAILABLE + 4 + 2 * u64::from(SIZE), u16::MAX)?;
    from_guest.seen = 0;
    let receiver = Receiver { ring: to_guest, _front_end: front_end, bytes: Vec::new() };
    Ok((receiver, Sender { ring: from_guest, length: 0 }))
}

impl Sender {
    /// Sends the packet: a `virtio_net_hdr`, and the frame. It has to be the same each time, or none may be under way.
    pub(crate) fn send(&mut self, header: &[u8; HEADER], frame: &[u8]) -> Result {
        let length = u32::try_from(HEADER + frame.len())?;
        if self.length != length {
            self.ring.memory.write_slice(header, GuestAddress(OUT))?;
            self.ring.memory.write_slice(frame, GuestAddress(OUT + HEADER as u64))?;
            (0..SIZE).try_for_each(|slot| self.ring.describe(slot, OUT, length, 0))?;
            self.length = length;
        }
        let back = self.ring.read(USED + 2)?;
        if self.ring.given.wrapping_sub(back) >= SIZE {
            return Err("the switch does not take what is sent".into());
        }
        let before = self.ring.given;
        self.ring.give(before % SIZE)?;
        self.ring.show(before)
    }
}

impl Receiver {
    /// Takes the frames that have come.
    pub(crate) fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result {
        // First, so that a call which comes while the ring is looked at is seen the next time.
        let _ = self.ring.call.read();
        let before = self.ring.given;
        let mut left = 0;
        loop {
            while let Some((slot, length)) = self.ring.next()? {
                let start = self.bytes.len();
                self.bytes.resize(start + length, 0);
                let from = GuestAddress(BUFFERS + BUFFER * u64::from(slot));
                self.ring.memory.read_slice(&mut self.bytes[start..], from)?;
                if start == 0 {
                    left = u16::from_le_bytes([self.bytes[10], self.bytes[11]]);
                }
                left -= 1;
                if left == 0 {
                    take(&self.bytes[HEADER..]);
                    self.bytes.clear();
                }
                self.ring.give(slot)?;
            }
            if !self.ring.ask()? {
                break;
            }
        }
        if self.ring.given == before { Ok(()) } else { self.ring.show(before) }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring has the file open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.call.as_raw_fd()) }
    }
}
