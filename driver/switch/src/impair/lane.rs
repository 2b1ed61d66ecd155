//! One impairment at work: which frames it takes, and when each may go on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::{Chance, Lot};
use super::config::{Impairment, RATE_QUEUE, Reorder};
use crate::counters::DropReason;

/// What an impairment did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImpairmentCounters {
    /// Frames that met it.
    pub frames: u64,
    /// Of these, how many it lost.
    pub lost: u64,
    /// Frames, copies included, that found the queue of the rate full.
    pub queue_full: u64,
    /// Frames in which a bit was flipped.
    pub corrupted: u64,
    /// Copies that it made.
    pub duplicated: u64,
    /// Frames that were sent ahead or held back.
    pub reordered: u64,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// When the frame may go on, and its copy if it has one; or why it may not.
    pub(super) copies: [Option<Result<Duration, DropReason>>; 2],
    /// A random number that says which bit is to be flipped, if one is.
    pub(super) corrupt: Option<u64>,
    /// It is sent ahead or held back.
    pub(super) reordered: bool,
}

pub(super) struct Lane {
    pub(super) impairment: Impairment,
    pub(super) counters: ImpairmentCounters,
    chance: Chance,
    /// When the last frame will have left the rate's queue.
    busy_until: Duration,
    /// What the whole nanoseconds of `busy_until` leave out, as a multiple of 1 ns divided by the rate.
    remainder: u128,
    /// The latest time that a frame was given, for keeping the order.
    latest: Duration,
}

impl Lane {
    pub(super) fn new(impairment: Impairment, seed: u64, key: &str) -> Lane {
        Lane {
            impairment,
            counters: ImpairmentCounters::default(),
            chance: Chance::new(seed, key),
            busy_until: Duration::ZERO,
            remainder: 0,
            latest: Duration::ZERO,
        }
    }

    /// Judges a frame of so many bytes that comes at `now`.
    pub(super) fn judge(&mut self, bytes: usize, now: Duration) -> Verdict {
        let lot = self.chance.draw(&self.impairment);
        self.counters.frames += 1;
        if lot.lost {
            self.counters.lost += 1;
            return Verdict {
                copies: [Some(Err(DropReason::ImpairmentLoss)), None],
                corrupt: None,
                reordered: false,
            };
        }
        let first = self.schedule(bytes, now, &lot, 0);
        let second = lot.duplicate.then(|| self.schedule(bytes, now, &lot, 1));
        self.counters.duplicated += u64::from(lot.duplicate);
        let goes_on = first.is_ok() || matches!(second, Some(Ok(_)));
        let reordered = lot.reorder && goes_on;
        self.counters.reordered += u64::from(reordered);
        Verdict { copies: [Some(first), second], corrupt: lot.corrupt.filter(|_| goes_on), reordered }
    }

    /// When a copy of a frame may go on, if there is room for it.
    fn schedule(
        &mut self,
        bytes: usize,
        now: Duration,
        lot: &Lot,
        copy: usize,
    ) -> Result<Duration, DropReason> {
        let sent = match self.impairment.rate {
            Some(rate) => self.serialize(bytes, now, rate)?,
            None => now,
        };
        let delay = match (lot.reorder, self.impairment.reorder) {
            (true, Some(Reorder::Ahead { .. })) => Duration::ZERO,
            (true, Some(Reorder::HeldBack { by, .. })) => lot.delays[copy] + by,
            _ => lot.delays[copy],
        };
        let mut due = sent + delay;
        if self.impairment.keep_order {
            due = due.max(self.latest);
            self.latest = due;
        }
        Ok(due)
    }

    /// Puts a frame behind those that wait for the rate: when its last bit will be on the wire.
    fn serialize(&mut self, bytes: usize, now: Duration, rate: u64) -> Result<Duration, DropReason> {
        const BITS_AND_NANOS: u128 = 8 * 1_000_000_000;
        let rate = u128::from(rate);
        if self.busy_until <= now {
            self.busy_until = now;
            self.remainder = 0;
        }
        let backlog = (self.busy_until - now).as_nanos() * rate / BITS_AND_NANOS;
        let limit = u128::from(self.impairment.queue.unwrap_or(RATE_QUEUE));
        if backlog > 0 && backlog + bytes as u128 > limit {
            self.counters.queue_full += 1;
            return Err(DropReason::RateQueueFull);
        }
        let nanos = bytes as u128 * BITS_AND_NANOS + self.remainder;
        self.remainder = nanos % rate;
        self.busy_until += Duration::from_nanos((nanos / rate) as u64);
        Ok(self.busy_until)
    }
}
