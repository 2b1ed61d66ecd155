//! One connection of a front end: what was agreed on, and the two rings.

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::memory::Memory;
use super::message::{HEADER, Header, MOST_REGIONS, Request};
use super::ring::{Layout, Received, Ring};
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::io::Intake;
use crate::offload::{self, Accepted, Offload};

/// The ring that the guest receives from (virtio 1.3, 5.1.2).
const TO_GUEST: usize = 0;
/// The ring that the guest sends to.
const FROM_GUEST: usize = 1;

/// That the protocol's own features can be agreed on (`VHOST_USER_F_PROTOCOL_FEATURES`).
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// That requests can ask to be told how they went (`VHOST_USER_PROTOCOL_F_REPLY_ACK`).
const REPLY_ACK: u64 = 1 << 3;

/// What is offered to a guest: checksums and TCP segmentation in both directions. What is not here is not used: UDP
/// segmentation, congestion marks in TCP segmentation, more than one pair of rings, and logging of dirty pages, without
/// which QEMU refuses to migrate or to save the machine.
const OFFERED: u64 = bit(VIRTIO_F_VERSION_1)
    | bit(VIRTIO_NET_F_CSUM)
    | bit(VIRTIO_NET_F_GUEST_CSUM)
    | bit(VIRTIO_NET_F_GUEST_TSO4)
    | bit(VIRTIO_NET_F_GUEST_TSO6)
    | bit(VIRTIO_NET_F_HOST_TSO4)
    | bit(VIRTIO_NET_F_HOST_TSO6)
    | bit(VIRTIO_NET_F_MRG_RXBUF)
    | bit(VIRTIO_RING_F_EVENT_IDX)
    | bit(VIRTIO_RING_F_INDIRECT_DESC)
    | PROTOCOL_FEATURES;

const fn bit(feature: u32) -> u64 {
    1 << feature
}

/// A connected front end.
pub(crate) struct Session {
    socket: UnixStream,
    /// The message that is coming: its bytes and its file descriptors.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    features: u64,
    memory: Option<Memory>,
    rings: [Ring; 2],
    /// Whether the rings were looked at since they started.
    prepared: bool,
    /// Why they can't be used until they are started anew.
    broken: Option<String>,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub(crate) enum End {
    /// The front end closed it.
    Closed,
    /// What it said, or what the system said.
    Failed(String),
}

impl Session {
    /// A session in which nothing was said yet.
    pub(crate) fn new(socket: UnixStream) -> Result<Session, String> {
        socket.set_nonblocking(true).map_err(|e| e.to_string())?;
        Ok(Session {
            socket,
            bytes: Vec::new(),
            fds: Vec::new(),
            features: 0,
            memory: None,
            rings: [Ring::new()?, Ring::new()?],
            prepared: false,
            broken: None,
        })
    }

    /// What to poll: the connection.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What to poll besides: the files of the guest's kicks, with the ring of each.
    pub(crate) fn kicks(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let kicks = self.rings.iter().map(|ring| ring.kick().map(AsFd::as_fd));
        kicks.enumerate().filter_map(|(ring, kick)| Some((ring, kick?)))
    }

    /// Whether frames can pass: the guest's driver has started, and both rings are sound.
    pub(crate) fn is_running(&self) -> bool {
        self.prepared && self.broken.is_none()
    }

    /// Why no frames pass, if what the guest or the front end wrote is the reason.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The virtio features that the guest's driver agreed to.
    pub(crate) fn features(&self) -> u64 {
        self.features & !PROTOCOL_FEATURES
    }

    /// What the guest takes unfinished.
    pub(crate) fn accepted(&self) -> Accepted {
        let checksum = self.has(VIRTIO_NET_F_GUEST_CSUM);
        Accepted {
            checksum,
            tcp4: checksum && self.has(VIRTIO_NET_F_GUEST_TSO4),
            tcp6: checksum && self.has(VIRTIO_NET_F_GUEST_TSO6),
        }
    }

    fn has(&self, feature: u32) -> bool {
        self.features & bit(feature) != 0
    }

    fn layout(&self) -> Layout {
        let mergeable = self.has(VIRTIO_NET_F_MRG_RXBUF);
        // Before virtio 1.0 `num_buffers` was there with mergeable buffers only.
        let header = if mergeable || self.has(VIRTIO_F_VERSION_1) { offload::HEADER } else { 10 };
        Layout { header, mergeable }
    }

    /// Does what the front end asks, until it has no more to say for now.
    pub(crate) fn serve(&mut self) -> Result<(), End> {
        while let Some((header, request)) = self.next_request()? {
            let result = self.answer(header, request);
            if let Err(error) = result {
                if header.need_reply {
                    let _ = self.reply(header, &1u64.to_le_bytes());
                }
                return Err(End::Failed(format!("vhost-user: {error}")));
            }
            self.look();
        }
        Ok(())
    }

    /// Reads on; the next request if it is whole.
    fn next_request(&mut self) -> Result<Option<(Header, Request)>, End> {
        let failed = |error: &dyn ToString| End::Failed(error.to_string());
        let nonsense = |error: super::message::Nonsense| End::Failed(format!("vhost-user: {error}"));
        loop {
            let header = self.bytes.first_chunk().map(Header::parse).transpose().map_err(nonsense)?;
            let wanted = HEADER + header.map_or(0, |header| header.length);
            if let Some(header) = header.filter(|_| self.bytes.len() == wanted) {
                let request = header.request(&self.bytes[HEADER..], self.fds.len()).map_err(nonsense)?;
                self.bytes.clear();
                return Ok(Some((header, request)));
            }
            let have = self.bytes.len();
            self.bytes.resize(wanted, 0);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_REGIONS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut self.bytes[have..])];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let read = recvmsg(&self.socket, &mut into, &mut control, flags).map_err(io::Error::from);
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            self.bytes.truncate(have + read.as_ref().map_or(0, |read| read.bytes));
            if self.fds.len() > MOST_REGIONS {
                return Err(End::Failed(format!("vhost-user: {} file descriptors", self.fds.len())));
            }
            match read {
                Ok(read) if read.bytes == 0 => return Err(End::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn answer(&mut self, header: Header, request: Request) -> Result<(), String> {
        let fds = std::mem::take(&mut self.fds);
        if request.changes_rings() {
            // They are looked at anew, even while they run: what was true of the old ones need not be of these.
            self.prepared = false;
        }
        match request {
            Request::GetFeatures => return self.reply(header, &OFFERED.to_le_bytes()),
            Request::GetProtocolFeatures => return self.reply(header, &REPLY_ACK.to_le_bytes()),
            Request::GetBase { ring } => {
                self.prepared = false;
                self.broken = None;
                let base = self.ring(ring)?.stop();
                let state = [ring.to_le_bytes(), u32::from(base).to_le_bytes()].concat();
                return self.reply(header, &state);
            }
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) if features & !REPLY_ACK != 0 => {
                return Err(format!("protocol features {features:#x}, which were not offered"));
            }
            Request::SetProtocolFeatures(_) | Request::SetOwner | Request::SetError { .. } => {}
            Request::ResetOwner => {
                self.prepared = false;
                self.rings = [Ring::new()?, Ring::new()?];
            }
            Request::SetMemory(regions) => self.memory = Some(Memory::map(regions, fds)?),
            Request::SetSize { ring, size } => self.ring(ring)?.set_size(size)?,
            Request::SetAddresses { ring, addresses } => {
                let memory = self.memory.as_ref().ok_or("a ring's address before the memory")?;
                let at = |address| {
                    memory.guest_address(address).ok_or(format!("{address:#x} is not in the guest's memory"))
                };
                let (descriptors, used) = (at(addresses.descriptors)?, at(addresses.used)?);
                let available = at(addresses.available)?;
                self.ring(ring)?.set_addresses(descriptors, used, available)?;
            }
            Request::SetBase { ring, base } => self.ring(ring)?.set_base(base),
            Request::SetKick { ring } => {
                self.prepared = false;
                self.broken = None;
                self.ring(ring)?.start(fds.into_iter().next())?;
            }
            Request::SetCall { ring } => self.ring(ring)?.set_call(fds.into_iter().next())?,
            Request::Enable { ring, enable } => {
                self.prepared = false;
                self.ring(ring)?.enabled = enable;
            }
        }
        if header.need_reply { self.reply(header, &0u64.to_le_bytes()) } else { Ok(()) }
    }

    fn set_features(&mut self, features: u64) -> Result<(), String> {
        if features & !OFFERED != 0 {
            return Err(format!("features {:#x}, which were not offered", features & !OFFERED));
        }
        self.features = features;
        let event_idx = self.has(VIRTIO_RING_F_EVENT_IDX);
        for ring in &mut self.rings {
            ring.set_event_idx(event_idx);
            // Without the protocol's own features there is no request to enable a ring.
            ring.enabled |= features & PROTOCOL_FEATURES == 0;
        }
        Ok(())
    }

    /// Begins to use the rings once everything about them is known.
    fn look(&mut self) {
        if self.prepared || self.broken.is_some() || !self.rings.iter().all(Ring::is_running) {
            return;
        }
        let Some(memory) = &self.memory else { return };
        let prepared = self.rings.iter_mut().try_for_each(|ring| ring.prepare(&memory.map));
        self.prepared = prepared.is_ok();
        self.broken = prepared.err();
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring, String> {
        self.rings.get_mut(index as usize).ok_or(format!("ring {index}, and there are 2"))
    }

    /// An answer is small: a front end whose socket has no room for it reads none at all.
    fn reply(&mut self, header: Header, body: &[u8]) -> Result<(), String> {
        self.socket.write_all(&header.reply(body)).map_err(|e| e.to_string())
    }

    /// Forgets the guest's kicks of this ring so far, or of both.
    pub(crate) fn drain_kicks(&mut self, ring: Option<usize>) {
        let chosen = |index: usize| ring.is_none_or(|ring| ring == index);
        self.rings
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| chosen(*index))
            .for_each(|(_, r)| r.drain_kicks());
    }

    /// Takes at most `most` frames that the guest sends. True if there are no more, and the next one will come with a
    /// kick.
    pub(crate) fn receive(&mut self, most: usize, intake: &mut Intake, frames: &mut Vec<Received>) -> bool {
        let layout = self.layout();
        let Some(memory) = self.memory.as_ref().filter(|_| self.prepared && self.broken.is_none()) else {
            return true;
        };
        match self.rings[FROM_GUEST].receive(&memory.map, layout, most, intake, frames) {
            Ok(quiet) => quiet,
            Err(broken) => {
                self.broken = Some(broken);
                true
            }
        }
    }

    /// Writes frames into the guest's buffers, in order: what became of each. Fewer answers than frames mean that the
    /// guest has no room for the next one, and that it will kick when it has.
    pub(crate) fn send<'f>(
        &mut self,
        frames: impl Iterator<Item = &'f (Frame, Offload)>,
    ) -> Vec<Result<(), DropReason>> {
        let (layout, mut done) = (self.layout(), Vec::new());
        let Some(memory) = self.memory.as_ref().filter(|_| self.prepared && self.broken.is_none()) else {
            return done;
        };
        let written = self.rings[TO_GUEST].send(&memory.map, layout, frames, &mut done);
        self.broken = written.err();
        done
    }
}
