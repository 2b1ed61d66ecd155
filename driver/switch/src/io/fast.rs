//! vhost-user ports on the switch's thread: frames between guests' memory and the forwarder.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{EARLY_FLUSH, Worker};
use crate::counters::DropReason;
use crate::error::Error;
use crate::event::{CloseReason, EventKind};
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::offload::Offload;
use crate::state::{FastState, FrameQueue};
use crate::vhost::{End, Session};
use crate::vlan::VlanId;

/// How many frames are taken from a guest before others have their turn.
const BATCH: usize = 64;

/// As many batches as a whole ring has: all that a guest can have sent when it is asked for.
pub(super) const BATCHES_OF_A_RING: usize = 1024 / BATCH;

/// What a waiting frame costs besides its bytes, roughly.
const OVERHEAD: usize = 64;

/// A vhost-user port.
#[derive(Default)]
pub(crate) struct FastPort {
    session: Option<Session>,
    /// What the guest has no buffers for yet.
    waiting: VecDeque<(Frame, Offload)>,
    cost: usize,
    /// Whether the guest may have more to send that it will not tell of.
    more: bool,
    /// How it was when that was last told.
    state: FastState,
}

impl FastPort {
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    pub(crate) fn state(&self) -> &FastState {
        &self.state
    }

    pub(crate) fn queue(&self) -> FrameQueue {
        FrameQueue { frames: self.waiting.len() as u64, bytes: self.cost as u64 }
    }

    /// The frames that wait, so that others of the same bytes can take their place.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.waiting.iter_mut().map(|(frame, _)| frame)
    }

    pub(crate) fn clear(&mut self) -> u64 {
        self.cost = 0;
        self.waiting.drain(..).count() as u64
    }

    /// The front end's connection, to wait for.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.session.as_ref().map(Session::socket)
    }

    /// The files of the guest's kicks, to wait for, with the ring of each.
    pub(crate) fn kicks(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.session.iter().flat_map(Session::kicks)
    }

    /// Whether there is something to do without waiting.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// False if too much waits already. A frame is taken whatever its size if nothing waits.
    fn push(&mut self, frame: Frame, offload: Offload, limit: usize) -> bool {
        let cost = frame.len() + OVERHEAD;
        if self.cost + cost > limit && !self.waiting.is_empty() {
            return false;
        }
        self.cost += cost;
        self.waiting.push_back((frame, offload));
        true
    }

    fn pop(&mut self) -> usize {
        let length = self.waiting.pop_front().map_or(0, |(frame, _)| frame.len());
        self.cost = self.cost.saturating_sub(length + OVERHEAD);
        length
    }
}

impl Worker {
    pub(super) fn fast(&mut self, id: PortId) -> Option<&mut FastPort> {
        self.ports.get_mut(id)?.fast.as_mut()
    }

    fn is_fast(&self, id: PortId) -> bool {
        self.ports.get(id).is_some_and(|port| port.fast.is_some())
    }

    /// Makes the socket the port's connection. Frames pass once both sides have agreed on how.
    pub(super) fn connect_fast(&mut self, id: PortId, socket: UnixStream) {
        let name = self.ports.get(id).map(|port| port.name.to_string()).unwrap_or_default();
        let session = match Session::new(socket) {
            Ok(session) => session,
            Err(error) => return self.tell(EventKind::AcceptFailed { port: id, name, error }),
        };
        let Some(fast) = self.fast(id) else { return };
        fast.session = Some(session);
        fast.state.problem = None;
        if let Some(counters) = self.forwarder.counters_mut(id) {
            counters.connections += 1;
        }
        self.tell(EventKind::Connected { port: id, name });
    }

    pub(super) fn close_fast(&mut self, id: PortId, why: CloseReason) {
        let Some(fast) = self.fast(id) else { return };
        if fast.session.take().is_none() {
            return;
        }
        fast.more = false;
        if let CloseReason::Failed { error } = &why {
            fast.state.problem = Some(error.clone());
        }
        let lost = fast.clear();
        self.count(id, |tx| tx.drop(DropReason::Disconnected, lost));
        if let Some(counters) = self.forwarder.counters_mut(id).filter(|_| why == CloseReason::Replaced) {
            counters.replaced += 1;
        }
        let name = self.ports.get(id).map(|port| port.name.to_string()).unwrap_or_default();
        self.tell(EventKind::Disconnected { port: id, name, why });
        self.fast_changed(id);
    }

    /// Goes on where a guest had more to send than its turn allowed. False if none had.
    pub(super) fn read_fast_on(&mut self) -> bool {
        let mut had = false;
        for id in (0..self.ports.end()).map(PortId) {
            if self.fast(id).is_some_and(|fast| fast.has_more()) {
                had = true;
                self.read_rings(id, 1);
                self.flush_above(EARLY_FLUSH);
            }
        }
        had
    }

    /// Does what the front end asks for and forwards what the guest sends, at most `reads` batches of it.
    pub(super) fn read_fast(&mut self, id: PortId, reads: usize) {
        let Some(session) = self.fast(id).and_then(|fast| fast.session.as_mut()) else { return };
        // First, so that a kick which comes while the rings are looked at is seen the next time.
        session.drain_kicks(None);
        match session.serve() {
            Ok(()) => {}
            Err(End::Closed) => {
                return self.close(id, CloseReason::PeerClosed { half_frame_bytes: 0 });
            }
            Err(End::Failed(error)) => return self.close(id, CloseReason::Failed { error }),
        }
        self.fast_changed(id);
        self.read_rings(id, reads);
    }

    /// The guest has kicked: it has something to send, or new buffers.
    pub(super) fn kicked(&mut self, id: PortId, ring: usize) {
        let Some(session) = self.fast(id).and_then(|fast| fast.session.as_mut()) else { return };
        session.drain_kicks(Some(ring));
        self.read_rings(id, 1);
    }

    /// Forwards what the guest sends, at most `reads` batches of it, and fills its buffers.
    fn read_rings(&mut self, id: PortId, reads: usize) {
        let mut frames = std::mem::take(&mut self.received);
        self.fast_intake.rewind();
        for _ in 0..reads {
            let Some(fast) = self.ports.get_mut(id).and_then(|port| port.fast.as_mut()) else { break };
            let Some(session) = fast.session.as_mut() else { break };
            let quiet = session.receive(BATCH, &mut self.fast_intake, &mut frames);
            let broken = session.broken().is_some();
            fast.more = !quiet;
            let now = self.clock.now();
            for received in frames.drain(..) {
                match received {
                    Ok((frame, offload)) => self.forward(id, &frame, offload, now),
                    Err(reason) => self.count_bad(id, reason),
                }
            }
            if broken {
                self.fast_changed(id);
            }
            if quiet {
                break;
            }
        }
        self.received = frames;
        // The kick may have been for new buffers.
        self.flush_fast(id);
    }

    fn count_bad(&mut self, id: PortId, reason: DropReason) {
        if let Some(counters) = self.forwarder.counters_mut(id) {
            counters.rx.frames += 1;
            counters.rx.drop(reason);
        }
    }

    /// Whether frames pass may have changed: the port's link follows, and is told.
    fn fast_changed(&mut self, id: PortId) {
        let Some(port) = self.ports.get_mut(id) else { return };
        let Some(fast) = port.fast.as_mut() else { return };
        let session = fast.session.as_ref();
        let running = session.is_some_and(Session::is_running);
        let broken = session.and_then(Session::broken).map(str::to_owned);
        let problem = if running { None } else { broken.or_else(|| fast.state.problem.clone()) };
        let features = session.map_or(0, Session::features);
        let state = FastState { running, features, problem };
        if state == fast.state {
            return;
        }
        let (was_running, name) = (fast.state.running, port.name.to_string());
        fast.state = state.clone();
        if running != was_running {
            let lost = if running { 0 } else { fast.clear() };
            self.count(id, |tx| tx.drop(DropReason::Disconnected, lost));
            self.forwarder.set_link(id, running);
            self.link_changed(id);
        }
        self.tell(EventKind::FastChanged { port: id, name, state });
    }

    /// A copy of a frame on its way to a port: as it is to a guest that agreed to finish it, else finished.
    pub(super) fn deliver(
        &mut self,
        from: PortId,
        to: PortId,
        vlan: VlanId,
        (frame, offload): (&Frame, Offload),
        now: Duration,
    ) {
        let session = self.fast(to).map(|fast| fast.session.as_ref());
        let is_fast = session.is_some();
        let accepted = session.flatten().map(Session::accepted).unwrap_or_default();
        if offload.is_accepted(accepted) {
            return match is_fast {
                true => self.enqueue_fast(to, frame, offload),
                // The ring would keep a chunk that is not its own.
                false if self.is_fast(from) => self.depart(from, to, vlan, &frame.copied_out(), now),
                false => self.depart(from, to, vlan, frame, now),
            };
        }
        let frames = offload.finish(frame);
        // One copy was offered, and has become more.
        self.count(to, |tx| tx.offered += frames.len().saturating_sub(1) as u64);
        for frame in &frames {
            match is_fast {
                true => self.enqueue_fast(to, frame, Offload::NONE),
                false => self.depart(from, to, vlan, frame, now),
            }
        }
    }

    pub(super) fn enqueue_fast(&mut self, to: PortId, frame: &Frame, offload: Offload) {
        let limit = self.queue_bytes;
        let Some(fast) = self.fast(to) else { return };
        let reason = if !fast.state.running {
            DropReason::Disconnected
        } else if fast.push(frame.clone(), offload, limit) {
            return;
        } else {
            DropReason::QueueFull
        };
        self.count(to, |tx| tx.drop(reason, 1));
    }

    /// Writes what waits into the guest's buffers, as far as it has some.
    pub(super) fn flush_fast(&mut self, id: PortId) {
        let Some(fast) = self.fast(id) else { return };
        let Some(session) = fast.session.as_mut().filter(|_| !fast.waiting.is_empty()) else { return };
        let done = session.send(fast.waiting.iter());
        let lengths: Vec<usize> = done.iter().map(|_| fast.pop()).collect();
        let broken = fast.session.as_ref().is_some_and(|session| session.broken().is_some());
        for (result, length) in done.into_iter().zip(lengths) {
            self.count(id, |tx| match result {
                Ok(()) => {
                    tx.sent += 1;
                    tx.bytes += length as u64;
                }
                Err(reason) => tx.drop(reason, 1),
            });
        }
        if broken {
            self.fast_changed(id);
        }
    }

    /// That frames of this port can be looked at and changed.
    pub(super) fn not_fast(&self, operation: &'static str, id: PortId) -> Result<(), Error> {
        match self.ports.get(id) {
            Some(port) if port.fast.is_some() => {
                Err(Error::FastPort { switch: self.name.to_string(), operation, port: port.name.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// That none of these ports, or of all if none is named, is one whose frames nobody sees.
    pub(super) fn captured_ports(&self, operation: &'static str, names: &[String]) -> Result<(), Error> {
        let asked = |name: &str| names.is_empty() || names.iter().any(|other| other == name);
        let ids: Vec<PortId> =
            self.ports.iter().filter(|(_, port)| asked(&port.name)).map(|(id, _)| id).collect();
        ids.into_iter().try_for_each(|id| self.not_fast(operation, id))
    }
}
