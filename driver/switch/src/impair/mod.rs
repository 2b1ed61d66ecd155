//! Impairments: what a bad link does to frames, repeatable from a seed.
//!
//! All of it is pure: the clock is passed in, and what becomes of frames is written to a list. [`config`] is the value
//! that a test gives, [`chance`] the decisions that do not depend on the time, [`lane`] one impairment with its rate,
//! [`waiting`] the frames in between; [`Shaper`] puts them together for a switch.

mod chance;
mod config;
mod lane;
mod waiting;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::config::{Distribution, ImpairTarget, Impairment, ImpairmentId};
pub use self::lane::ImpairmentCounters;
use self::lane::Lane;
use self::waiting::{TimingQueue, Waiting};
use crate::counters::DropReason;
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::state::{FrameQueue, ImpairmentState};
use crate::vlan::VlanId;

/// A copy of a frame on its way to a port's queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parcel {
    pub(crate) from: PortId,
    pub(crate) to: PortId,
    pub(crate) vlan: VlanId,
    pub(crate) frame: Frame,
}

/// What became of a copy, for the port's counters and its queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    Leaves(Parcel),
    Dropped(PortId, DropReason),
    Corrupted(PortId),
    Duplicated(PortId),
    Reordered(PortId),
}

/// How far a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pair,
    Port,
    Out,
}

struct Rule {
    id: ImpairmentId,
    lane: Lane,
}

/// The impairments of a switch, and the frames that wait because of them.
pub(crate) struct Shaper {
    seed: u64,
    rules: BTreeMap<ImpairTarget, Rule>,
    /// How often each target was impaired: one that is impaired again must not see the same luck again.
    times_set: BTreeMap<ImpairTarget, u64>,
    next: u64,
    waiting: TimingQueue,
}

impl Shaper {
    /// `limit` bytes may wait for each port.
    pub(crate) fn new(seed: u64, limit: usize) -> Shaper {
        Shaper {
            seed,
            rules: BTreeMap::new(),
            times_set: BTreeMap::new(),
            next: 0,
            waiting: TimingQueue::new(limit),
        }
    }

    /// Whether it would let every frame through as it is.
    pub(crate) fn is_idle(&self) -> bool {
        self.rules.is_empty() && self.waiting.next_due().is_none()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Sets an impairment in place of what the target had. `key` is the target's name, the same in each run. What
    /// waited because of the old one goes on at once.
    pub(crate) fn set(
        &mut self,
        target: ImpairTarget,
        key: &str,
        impairment: Impairment,
        now: Duration,
        fates: &mut Vec<Fate>,
    ) -> ImpairmentId {
        self.release(now, fates);
        self.remove(target, now, fates);
        let times_set = self.times_set.entry(target).or_default();
        *times_set += 1;
        let lane = Lane::new(impairment, self.seed, &format!("{key}#{times_set}"));
        let id = ImpairmentId(self.next);
        self.next += 1;
        self.rules.insert(target, Rule { id, lane });
        id
    }

    /// Clears an impairment: what it was set on, if there is one. What waited because of it goes on at once.
    pub(crate) fn clear(
        &mut self,
        id: ImpairmentId,
        now: Duration,
        fates: &mut Vec<Fate>,
    ) -> Option<ImpairTarget> {
        let target = self.rules.iter().find(|(_, rule)| rule.id == id).map(|(target, _)| *target)?;
        self.release(now, fates);
        self.remove(target, now, fates);
        Some(target)
    }

    fn remove(&mut self, target: ImpairTarget, now: Duration, fates: &mut Vec<Fate>) {
        let Some(rule) = self.rules.remove(&target) else { return };
        for waiting in self.waiting.take(|waiting| waiting.by == rule.id) {
            self.pass(waiting.parcel, waiting.next, now, fates);
        }
    }

    /// Takes a copy of a frame that is to leave by a port.
    pub(crate) fn offer(&mut self, parcel: Parcel, now: Duration, fates: &mut Vec<Fate>) {
        // It must not pass those whose time has come and which nobody has released yet.
        self.release(now, fates);
        self.pass(parcel, Stage::Pair, now, fates);
    }

    /// Lets the frames go on whose time has come.
    pub(crate) fn release(&mut self, now: Duration, fates: &mut Vec<Fate>) {
        while let Some((due, waiting)) = self.waiting.pop(now) {
            // At the time at which it should have gone on: a thread that wakes up late must not add up.
            self.pass(waiting.parcel, waiting.next, due, fates);
        }
    }

    /// When the next frame's time comes.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.waiting.next_due()
    }

    /// The frames that wait, so that others of the same bytes can take their place.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.waiting.all().map(|waiting| &mut waiting.parcel.frame)
    }

    /// Drops what waits for a port, and says how many frames that were.
    pub(crate) fn discard(&mut self, port: PortId) -> u64 {
        match self.waiting.load(port).frames {
            0 => 0,
            _ => self.waiting.take(|waiting| waiting.parcel.to == port).len() as u64,
        }
    }

    /// What waits for a port.
    pub(crate) fn load(&self, port: PortId) -> FrameQueue {
        self.waiting.load(port)
    }

    pub(crate) fn state(&self) -> Vec<ImpairmentState> {
        let mut states: Vec<ImpairmentState> = self
            .rules
            .iter()
            .map(|(target, rule)| ImpairmentState {
                id: rule.id,
                target: *target,
                impairment: rule.lane.impairment.clone(),
                counters: rule.lane.counters,
            })
            .collect();
        states.sort_by_key(|state| state.id);
        states
    }

    fn pass(&mut self, mut parcel: Parcel, stage: Stage, now: Duration, fates: &mut Vec<Fate>) {
        let to = parcel.to;
        let (target, next) = match stage {
            Stage::Pair => (ImpairTarget::Pair { from: parcel.from, to }, Stage::Port),
            Stage::Port => (ImpairTarget::Port(to), Stage::Out),
            Stage::Out => return fates.push(Fate::Leaves(parcel)),
        };
        let Some(rule) = self.rules.get_mut(&target) else { return self.pass(parcel, next, now, fates) };
        let by = rule.id;
        let verdict = rule.lane.judge(parcel.frame.len(), now);
        if let Some(frame) = verdict.corrupt.and_then(|position| parcel.frame.with_flipped_bit(position)) {
            parcel.frame = frame;
            rule.lane.counters.corrupted += 1;
            fates.push(Fate::Corrupted(to));
        }
        if verdict.reordered {
            fates.push(Fate::Reordered(to));
        }
        if verdict.copies[1].is_some() {
            fates.push(Fate::Duplicated(to));
        }
        for copy in verdict.copies.into_iter().flatten() {
            match copy {
                Err(reason) => fates.push(Fate::Dropped(to, reason)),
                Ok(due) if due <= now => self.pass(parcel.clone(), next, now, fates),
                Ok(due) => {
                    if !self.waiting.push(due, Waiting { parcel: parcel.clone(), by, next }) {
                        fates.push(Fate::Dropped(to, DropReason::DelayQueueFull));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
