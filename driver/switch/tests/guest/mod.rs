//! A guest on a vhost-user port: the front end of the crate `vhost` in QEMU's place, and a virtio driver by hand.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const SIZE: u16 = 64;
pub(crate) const MEMORY: usize = 4 << 20;
/// Where QEMU would have the memory: any place but the guest's.
pub(crate) const FRONT_END: u64 = 0x7f12_0000_0000;

pub(crate) const CSUM: u64 = 1;
pub(crate) const GUEST_CSUM: u64 = 1 << 1;
pub(crate) const GUEST_TSO4: u64 = 1 << 7;
pub(crate) const HOST_TSO4: u64 = 1 << 11;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PROTOCOL: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
/// What Linux agrees to.
pub(crate) const ALL: u64 = CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4 | MRG_RXBUF | EVENT_IDX | VERSION_1;

const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x10_0000;
const BUFFER: u64 = 2048;
const OUT: u64 = 0x20_0000;

pub(crate) struct Guest {
    pub(crate) frontend: Frontend,
    pub(crate) memory: GuestMemoryMmap,
    kick: Vec<EventFd>,
    call: Vec<EventFd>,
    header: usize,
    posted: u16,
    sent: u16,
    seen: u16,
}

/// Where a ring's parts are, in the guest's addresses.
pub(crate) fn ring(index: usize) -> u64 {
    0x1_0000 * (1 + index as u64)
}

impl Guest {
    /// Connects, agrees to `features` and starts both rings, with `buffers` of 2 KiB to receive into.
    pub(crate) fn start(socket: &Path, features: u64, buffers: u16) -> Guest {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let mut frontend = Frontend::connect(socket, 2).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(features & !offered, 0, "{offered:#x} is offered");
        let protocol = frontend.get_protocol_features().unwrap();
        assert_eq!(protocol, VhostUserProtocolFeatures::REPLY_ACK);
        frontend.set_protocol_features(protocol).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(features | PROTOCOL).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let mut guest = Guest {
            frontend,
            memory,
            kick: vec![event(), event()],
            call: vec![event(), event()],
            header: if features & (MRG_RXBUF | VERSION_1) != 0 { 12 } else { 10 },
            posted: 0,
            sent: 0,
            seen: 0,
        };
        guest.share(&file);
        (0..2).for_each(|index| guest.set_up(index));
        guest.post(buffers);
        guest
    }

    fn share(&self, file: &File) {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: FRONT_END,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).unwrap();
    }

    /// Starts a ring where the driver is.
    pub(crate) fn set_up(&mut self, index: usize) {
        let base = if index == 0 { self.posted_and_used() } else { self.sent };
        self.frontend.set_vring_num(index, SIZE).unwrap();
        self.frontend.set_vring_base(index, base).unwrap();
        self.place(index, ring(index) + USED);
        self.frontend.set_vring_kick(index, &self.kick[index]).unwrap();
        self.frontend.set_vring_call(index, &self.call[index]).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    /// Says where a ring is, its used part at an address of its own.
    pub(crate) fn place(&self, index: usize, used: u64) {
        let at = FRONT_END + ring(index);
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: at,
            used_ring_addr: FRONT_END + used,
            avail_ring_addr: at + AVAILABLE,
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &config).unwrap();
    }

    fn posted_and_used(&self) -> u16 {
        self.read(ring(0) + USED + 2)
    }

    fn read(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    fn write(&self, at: u64, value: u16) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Describes a buffer; `flags` 2 is one that the switch writes into.
    pub(crate) fn describe(&self, index: usize, slot: u16, address: u64, length: u32, flags: u16) {
        let at = ring(index) + 16 * u64::from(slot);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.write(at + 12, flags);
        self.write(at + 14, 0);
    }

    fn offer(&self, index: usize, count: u16, slot: u16) {
        self.write(ring(index) + AVAILABLE + 4 + 2 * u64::from(count % SIZE), slot);
    }

    /// Says that there are this many buffers, whatever is in them.
    pub(crate) fn announce(&self, index: usize, count: u16) {
        self.write(ring(index) + AVAILABLE + 2, count);
        self.kick(index);
    }

    pub(crate) fn kick(&self, index: usize) {
        self.kick[index].write(1).unwrap();
    }

    /// Gives the switch more buffers to write into.
    pub(crate) fn post(&mut self, buffers: u16) {
        for _ in 0..buffers {
            let slot = self.posted % SIZE;
            self.describe(0, slot, BUFFERS + BUFFER * u64::from(slot), BUFFER as u32, 2);
            self.offer(0, self.posted, slot);
            self.posted = self.posted.wrapping_add(1);
        }
        self.announce(0, self.posted);
    }

    /// Sends a frame with the offloads of `header`, from one buffer.
    pub(crate) fn send_with(&mut self, header: &[u8; 10], frame: &[u8]) {
        let buffer = [&header[..], &[0; 2][..self.header - 10], frame].concat();
        self.send_raw(&buffer);
    }

    pub(crate) fn send_raw(&mut self, buffer: &[u8]) {
        // Room for what is still on its way: 8 buffers of 96 KiB.
        let address = OUT + 0x1_8000 * u64::from(self.sent % 8);
        self.memory.write_slice(buffer, GuestAddress(address)).unwrap();
        self.submit(address, buffer.len() as u32, 0);
    }

    /// Gives the switch a buffer to read from, wherever it is.
    pub(crate) fn submit(&mut self, address: u64, length: u32, flags: u16) {
        let slot = self.sent % SIZE;
        self.describe(1, slot, address, length, flags);
        self.offer(1, self.sent, slot);
        self.sent = self.sent.wrapping_add(1);
        self.announce(1, self.sent);
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; 10], frame);
    }

    /// How many sent buffers came back.
    pub(crate) fn sent_and_back(&self) -> u16 {
        self.read(ring(1) + USED + 2)
    }

    /// The next frame with its header, if the switch wrote one; its buffers are given to the switch again.
    pub(crate) fn recv(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let used = self.posted_and_used();
        if used == self.seen {
            return None;
        }
        let (mut bytes, first) = (Vec::new(), self.seen);
        let mut left = 1;
        while left > 0 {
            assert_ne!(used, self.seen, "all buffers of a frame are there at once");
            let at = ring(0) + USED + 4 + 8 * u64::from(self.seen % SIZE);
            let (slot, length): (u32, u32) = (
                self.memory.read_obj(GuestAddress(at)).unwrap(),
                self.memory.read_obj(GuestAddress(at + 4)).unwrap(),
            );
            let mut part = vec![0; length as usize];
            self.memory.read_slice(&mut part, GuestAddress(BUFFERS + BUFFER * u64::from(slot))).unwrap();
            if bytes.is_empty() && self.header == 12 {
                left = u16::from_le_bytes([part[10], part[11]]);
            }
            bytes.extend(part);
            self.seen = self.seen.wrapping_add(1);
            left -= 1;
        }
        // A call is wanted for the next one.
        self.write(ring(0) + AVAILABLE + 4 + 2 * u64::from(SIZE), self.seen);
        self.post(self.seen.wrapping_sub(first));
        let frame = bytes.split_off(self.header);
        Some((bytes, frame))
    }

    /// Waits until the switch calls about received frames.
    pub(crate) fn wait_for_call(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.call[0].read().is_err() {
            assert!(Instant::now() < end, "no call within 30 s");
            std::thread::yield_now();
        }
    }
}
