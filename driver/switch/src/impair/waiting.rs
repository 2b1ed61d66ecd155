//! The frames that wait for their time: in order of time, bounded for each port.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::ImpairmentId;
use super::{Parcel, Stage};
use crate::forwarder::PortId;
use crate::state::FrameQueue;

/// What a waiting frame costs besides its bytes, roughly.
const OVERHEAD: u64 = 128;

pub(super) struct Waiting {
    pub(super) parcel: Parcel,
    /// The impairment that makes it wait.
    pub(super) by: ImpairmentId,
    /// What comes after.
    pub(super) next: Stage,
}

pub(super) struct TimingQueue {
    /// By time; those of one time in the order in which they came.
    frames: BTreeMap<(Duration, u64), Waiting>,
    came: u64,
    loads: BTreeMap<PortId, FrameQueue>,
    /// What may wait for one port, in bytes.
    limit: u64,
}

impl TimingQueue {
    pub(super) fn new(limit: usize) -> TimingQueue {
        TimingQueue { frames: BTreeMap::new(), came: 0, loads: BTreeMap::new(), limit: limit as u64 }
    }

    /// False if too much waits for the port already.
    pub(super) fn push(&mut self, due: Duration, waiting: Waiting) -> bool {
        let load = self.loads.entry(waiting.parcel.to).or_default();
        let cost = cost(&waiting);
        if load.bytes + cost > self.limit && load.frames > 0 {
            return false;
        }
        load.frames += 1;
        load.bytes += cost;
        self.frames.insert((due, self.came), waiting);
        self.came += 1;
        true
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.frames.values_mut()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.frames.keys().next().map(|(due, _)| *due)
    }

    /// The first frame whose time has come by `now`, and its time.
    pub(super) fn pop(&mut self, now: Duration) -> Option<(Duration, Waiting)> {
        let first = self.frames.first_entry().filter(|first| first.key().0 <= now)?;
        let ((due, _), waiting) = first.remove_entry();
        self.lighten(&waiting);
        Some((due, waiting))
    }

    /// Takes out what `which` chooses, in order of time.
    pub(super) fn take(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.frames).into_iter().partition(|(_, waiting)| which(waiting));
        self.frames = left.into_iter().collect();
        let taken: Vec<Waiting> = taken.into_iter().map(|(_, waiting)| waiting).collect();
        taken.iter().for_each(|waiting| self.lighten(waiting));
        taken
    }

    fn lighten(&mut self, waiting: &Waiting) {
        if let Some(load) = self.loads.get_mut(&waiting.parcel.to) {
            load.frames -= 1;
            load.bytes -= cost(waiting);
        }
    }

    pub(super) fn load(&self, port: PortId) -> FrameQueue {
        self.loads.get(&port).copied().unwrap_or_default()
    }
}

fn cost(waiting: &Waiting) -> u64 {
    waiting.parcel.frame.len() as u64 + OVERHEAD
}
