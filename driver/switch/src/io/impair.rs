//! Impairments on the switch's thread: between the forwarder's choice of a port and that port's queue.

use std::time::Duration;

use super::{EARLY_FLUSH, Worker};
use crate::counters::{DropReason, TxCounters};
use crate::error::Error;
use crate::event::EventKind;
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::impair::{Fate, ImpairTarget, Impairment, ImpairmentId, Parcel};
use crate::state::ImpairmentState;
use crate::vlan::VlanId;

impl Worker {
    /// Sends a copy of a frame on its way to a port's queue: at once, later, or never.
    pub(super) fn depart(&mut self, from: PortId, to: PortId, vlan: VlanId, frame: &Frame, now: Duration) {
        if self.shaper.is_idle() {
            return self.enqueue(to, Some(vlan), frame, now);
        }
        let mut fates = std::mem::take(&mut self.fates);
        self.shaper.offer(Parcel { from, to, vlan, frame: frame.clone() }, now, &mut fates);
        self.settle(fates, now);
    }

    /// Lets the frames go on whose time has come.
    pub(super) fn release(&mut self, now: Duration) {
        if self.shaper.next_due().is_some_and(|due| due <= now) {
            let mut fates = std::mem::take(&mut self.fates);
            self.shaper.release(now, &mut fates);
            self.settle(fates, now);
        }
    }

    /// Drops what is delayed at a port.
    pub(super) fn discard_delayed(&mut self, id: PortId, reason: DropReason) {
        let lost = self.shaper.discard(id);
        self.count(id, |tx| tx.drop(reason, lost));
    }

    /// Counts what became of frames, and queues those that leave. The list's memory is used again.
    fn settle(&mut self, mut fates: Vec<Fate>, now: Duration) {
        for fate in fates.drain(..) {
            match fate {
                // One that began while the frame was delayed.
                Fate::Leaves(parcel)
                    if self.forwarder.is_partitioned(parcel.from, parcel.to, parcel.vlan) =>
                {
                    self.count(parcel.to, |tx| tx.drop(DropReason::Partition, 1));
                }
                Fate::Leaves(parcel) => {
                    self.enqueue(parcel.to, Some(parcel.vlan), &parcel.frame, now);
                    // Much may leave at once, when an impairment is cleared.
                    if self.connection(parcel.to).is_some_and(|peer| peer.queue.cost() > EARLY_FLUSH) {
                        self.flush(parcel.to);
                    }
                }
                Fate::Dropped(port, reason) => self.count(port, |tx| tx.drop(reason, 1)),
                Fate::Corrupted(port) => self.count(port, |tx| tx.corrupted += 1),
                Fate::Duplicated(port) => self.count(port, |tx| tx.duplicated += 1),
                Fate::Reordered(port) => self.count(port, |tx| tx.reordered += 1),
            }
        }
        self.fates = fates;
    }

    pub(super) fn count(&mut self, port: PortId, count: impl FnOnce(&mut TxCounters)) {
        if let Some(counters) = self.forwarder.counters_mut(port) {
            count(&mut counters.tx);
        }
    }

    pub(crate) fn impair(
        &mut self,
        target: ImpairTarget,
        impairment: Impairment,
    ) -> Result<ImpairmentId, Error> {
        let operation = "impair";
        let key = match target {
            ImpairTarget::Port(port) => self.name_of(operation, port)?,
            ImpairTarget::Pair { from, to } => {
                format!("{} to {}", self.name_of(operation, from)?, self.name_of(operation, to)?)
            }
        };
        match target {
            ImpairTarget::Port(port) => self.not_fast(operation, port)?,
            ImpairTarget::Pair { from, to } => {
                self.not_fast(operation, from).and_then(|()| self.not_fast(operation, to))?;
            }
        }
        let mut problems = impairment.problems();
        if matches!(target, ImpairTarget::Pair { from, to } if from == to) {
            problems.push("no frame leaves by the port that it came in by".to_owned());
        }
        if !problems.is_empty() {
            return Err(Error::Impairment { switch: self.name.to_string(), target: key, problems });
        }
        // What was sent before is spared.
        self.catch_up();
        let (now, seed) = (self.clock.now(), self.shaper.seed());
        let mut fates = std::mem::take(&mut self.fates);
        let id = self.shaper.set(target, &key, impairment.clone(), now, &mut fates);
        self.settle(fates, now);
        self.tell(EventKind::Impaired { id, target, impairment, seed });
        Ok(id)
    }

    pub(crate) fn clear_impairment(&mut self, id: ImpairmentId) -> Result<(), Error> {
        self.catch_up();
        let now = self.clock.now();
        let mut fates = std::mem::take(&mut self.fates);
        let target = self.shaper.clear(id, now, &mut fates);
        self.settle(fates, now);
        let unknown = || Error::UnknownImpairment { switch: self.name.to_string(), id: id.0 };
        let target = target.ok_or_else(unknown)?;
        self.tell(EventKind::ImpairmentCleared { id, target });
        Ok(())
    }

    pub(crate) fn clear_all_impairments(&mut self) -> usize {
        let ids: Vec<ImpairmentId> = self.shaper.state().into_iter().map(|state| state.id).collect();
        ids.into_iter().filter(|id| self.clear_impairment(*id).is_ok()).count()
    }

    pub(crate) fn impairments(&mut self) -> Vec<ImpairmentState> {
        self.catch_up();
        self.shaper.state()
    }
}
