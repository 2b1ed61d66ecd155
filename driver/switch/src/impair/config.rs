//! What an impairment is, as plain data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::forwarder::PortId;

/// The longest delay that is taken for one and not for a mistake.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// How many bytes may wait for a rate, unless [`Impairment::queue`] says otherwise.
pub(super) const RATE_QUEUE: u64 = 256 * 1024;

/// What an impairment is set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImpairTarget {
    /// All frames that leave by this port, towards its peer.
    Port(PortId),
    /// Frames that came in by the one port and leave by the other; not the way back. A frame that has an impairment of
    /// its pair and one of its port goes through the pair's first, then through the port's.
    Pair {
        /// The port they came in by.
        from: PortId,
        /// The port they leave by.
        to: PortId,
    },
}

/// Names an impairment so that it can be cleared. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImpairmentId(pub(crate) u64);

impl fmt::Display for ImpairmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the delays of frames spread around [`Impairment::delay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Evenly, from the amount below to the amount above.
    Uniform,
    /// Normally; the amount is the standard deviation. What would be less than no delay is none.
    Normal,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jitter {
    pub(super) amount: Duration,
    pub(super) distribution: Distribution,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Loss {
    Independent { ratio: f64 },
    Bursts { ratio: f64, mean_frames: f64 },
    GilbertElliott { p: f64, r: f64, good: f64, bad: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reorder {
    Ahead { ratio: f64 },
    HeldBack { ratio: f64, by: Duration },
}

/// What is wrong with a link: a value, to be set with [`crate::Switch::impair`].
///
/// A frame meets, in this order: loss, duplication, the rate with its queue, the delay with its jitter. Corruption and
/// reordering are decided with it. All chances are drawn from the seed ([`crate::SwitchOptions::seed`]), one draw after
/// the other for one frame after the other, whatever the time: the same seed, and the same frames, give the same
/// decisions.
///
/// ```
/// use std::time::Duration;
/// use switch::{Distribution, Impairment};
///
/// let dsl = Impairment::new()
///     .delay(Duration::from_millis(30))
///     .jitter(Duration::from_millis(5), Distribution::Normal)
///     .loss(0.01)
///     .rate(10_000_000);
/// assert_eq!(dsl.to_string(), "delay 30ms ±5ms (normal), loss 1 %, rate 10 Mbit/s");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Impairment {
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub(super) delay: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jitter: Option<Jitter>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) keep_order: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) loss: Option<Loss>,
    /// Bit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) corrupt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reorder: Option<Reorder>,
}

impl Impairment {
    /// Nothing yet.
    pub fn new() -> Impairment {
        Impairment::default()
    }

    /// Frames arrive this much later; an hour at most.
    pub fn delay(mut self, delay: Duration) -> Impairment {
        self.delay = delay;
        self
    }

    /// Each frame's delay is another one: `amount` is how far they spread, and at most the delay. Frames may overtake
    /// each other, unless [`Impairment::keep_order`] is said.
    pub fn jitter(mut self, amount: Duration, distribution: Distribution) -> Impairment {
        self.jitter = Some(Jitter { amount, distribution });
        self
    }

    /// A frame waits for the one before it, so that jitter makes nothing overtake; delays get longer by that.
    pub fn keep_order(mut self) -> Impairment {
        self.keep_order = true;
        self
    }

    /// Loses frames, each for itself with the probability `ratio`. Replaces any other loss.
    pub fn loss(mut self, ratio: f64) -> Impairment {
        self.loss = Some(Loss::Independent { ratio });
        self
    }

    /// Loses frames in bursts: `ratio` of all in the long run, `mean_frames` (1 at least) one after the other on
    /// average; the lengths are distributed geometrically (Gilbert's model). Replaces any other loss.
    pub fn loss_bursts(mut self, ratio: f64, mean_frames: f64) -> Impairment {
        self.loss = Some(Loss::Bursts { ratio, mean_frames });
        self
    }

    /// Loses frames by the model of Gilbert and Elliott: before each frame, a good link goes bad with the probability
    /// `p`, and a bad one good with `r`; then the frame is lost with the probability `good` or `bad`. Begins good.
    /// Replaces any other loss.
    pub fn loss_gilbert_elliott(mut self, p: f64, r: f64, good: f64, bad: f64) -> Impairment {
        self.loss = Some(Loss::GilbertElliott { p, r, good, bad });
        self
    }

    /// Lets `bits_per_second` through, counted as captures count: the frame without preamble, FCS and gap. What comes
    /// faster waits in a queue of 256 KiB, see [`Impairment::queue`].
    pub fn rate(mut self, bits_per_second: u64) -> Impairment {
        self.rate = Some(bits_per_second);
        self
    }

    /// How many bytes may wait for the rate. A frame for which there is no room is dropped
    /// ([`crate::DropReason::RateQueueFull`]); one that finds the queue empty is always taken.
    pub fn queue(mut self, bytes: u64) -> Impairment {
        self.queue = Some(bytes);
        self
    }

    /// Flips one bit of a frame with the probability `ratio`: behind the addresses, the tags and the EtherType, so that
    /// the frame arrives where it should, in its VLAN, and it is the receiver's checksums that have to notice.
    pub fn corrupt(mut self, ratio: f64) -> Impairment {
        self.corrupt = Some(ratio);
        self
    }

    /// Sends a frame twice with the probability `ratio`. Both copies go through rate and delay.
    pub fn duplicate(mut self, ratio: f64) -> Impairment {
        self.duplicate = Some(ratio);
        self
    }

    /// Sends a frame ahead of those that are delayed, with the probability `ratio`: it skips the delay, of which there
    /// must be one. Replaces [`Impairment::hold_back`].
    pub fn reorder(mut self, ratio: f64) -> Impairment {
        self.reorder = Some(Reorder::Ahead { ratio });
        self
    }

    /// Holds a frame back with the probability `ratio`: it is delayed by `by` more, and others pass it. Replaces
    /// [`Impairment::reorder`].
    pub fn hold_back(mut self, ratio: f64, by: Duration) -> Impairment {
        self.reorder = Some(Reorder::HeldBack { ratio, by });
        self
    }

    /// What keeps it from being set, one sentence for each mistake; empty if it is sound.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if *self == Impairment::default() {
            problems.push("it impairs nothing: say delay, loss, rate …, or clear the impairment".to_owned());
        }
        for (what, ratio) in self.ratios() {
            if !(0.0..=1.0).contains(&ratio) {
                problems.push(format!("{what} is a ratio from 0 to 1, not {ratio} (5 % is 0.05)"));
            }
        }
        if let Some(Loss::Bursts { ratio, mean_frames }) = self.loss {
            if !mean_frames.is_finite() || mean_frames < 1.0 {
                problems.push(format!("a burst has one frame at least on average, not {mean_frames}"));
            } else if (0.0..=1.0).contains(&ratio) && gilbert(ratio, mean_frames).0 > 1.0 {
                problems.push(format!(
                    "bursts of {mean_frames} frames on average can lose {} at most, not {}: make them longer",
                    Percent(mean_frames / (mean_frames + 1.0)),
                    Percent(ratio),
                ));
            }
        }
        match (self.rate, self.queue) {
            (Some(0), _) => problems.push("a rate of 0 bit/s lets nothing through: use a partition".into()),
            (None, Some(_)) => problems.push("there is a queue, but no rate to wait for".into()),
            (Some(_), Some(0)) => problems.push("a queue of 0 bytes holds nothing".into()),
            _ => {}
        }
        let held = match self.reorder {
            Some(Reorder::HeldBack { by, .. }) => by,
            _ => Duration::ZERO,
        };
        for (what, time) in [("delay", self.delay), ("hold_back", held)] {
            if time > LONGEST_DELAY {
                problems.push(format!("{what} is an hour at most, not {time:?}"));
            }
        }
        if let Some(Jitter { amount, .. }) = self.jitter.filter(|jitter| jitter.amount > self.delay) {
            let delay = self.delay;
            problems.push(format!("a jitter of {amount:?} needs a delay of that at least, not {delay:?}"));
        }
        match self.reorder {
            Some(Reorder::Ahead { .. }) if self.delay.is_zero() => {
                problems
                    .push("reorder sends frames ahead of delayed ones: give a delay, or hold_back".into());
            }
            Some(Reorder::HeldBack { by: Duration::ZERO, .. }) => {
                problems.push("hold_back needs a time by which frames are held back".into());
            }
            _ => {}
        }
        if self.reorder.is_some() && self.keep_order {
            problems.push("it asks for reordered frames and to keep their order".into());
        }
        problems
    }

    fn ratios(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let loss = match self.loss {
            None => Vec::new(),
            Some(Loss::Independent { ratio }) | Some(Loss::Bursts { ratio, .. }) => vec![("loss", ratio)],
            Some(Loss::GilbertElliott { p, r, good, bad }) => {
                vec![("loss: p", p), ("loss: r", r), ("loss: good", good), ("loss: bad", bad)]
            }
        };
        let reorder = self.reorder.map(|reorder| match reorder {
            Reorder::Ahead { ratio } => ("reorder", ratio),
            Reorder::HeldBack { ratio, .. } => ("hold_back", ratio),
        });
        let corrupt = self.corrupt.map(|ratio| ("corrupt", ratio));
        let duplicate = self.duplicate.map(|ratio| ("duplicate", ratio));
        loss.into_iter().chain(corrupt).chain(duplicate).chain(reorder)
    }
}

/// The probabilities of Gilbert's model, good to bad and bad to good, for a share of lost frames and a mean length of
/// bursts. The first is above 1 where there is no such model.
pub(super) fn gilbert(ratio: f64, mean_frames: f64) -> (f64, f64) {
    let r = 1.0 / mean_frames;
    let p = if ratio == 0.0 { 0.0 } else { ratio * r / (1.0 - ratio) };
    (p, r)
}

struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the dust of binary fractions: 0.07 * 100 is 7.000000000000001.
        write!(f, "{} %", (self.0 * 1e8).round() / 1e6)
    }
}

struct Rate(u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate >= 1_000_000_000 => write!(f, "{} Gbit/s", rate as f64 / 1e9),
            rate if rate >= 1_000_000 => write!(f, "{} Mbit/s", rate as f64 / 1e6),
            rate if rate >= 1000 => write!(f, "{} kbit/s", rate as f64 / 1e3),
            rate => write!(f, "{rate} bit/s"),
        }
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.delay.is_zero() {
            let jitter = self.jitter.map(|jitter| match jitter.distribution {
                Distribution::Uniform => format!(" ±{:?} (uniform)", jitter.amount),
                Distribution::Normal => format!(" ±{:?} (normal)", jitter.amount),
            });
            let order = if self.keep_order { ", in order" } else { "" };
            parts.push(format!("delay {:?}{}{order}", self.delay, jitter.unwrap_or_default()));
        }
        match self.loss {
            None => {}
            Some(Loss::Independent { ratio }) => parts.push(format!("loss {}", Percent(ratio))),
            Some(Loss::Bursts { ratio, mean_frames }) => {
                parts.push(format!("loss {} in bursts of {mean_frames} frames", Percent(ratio)));
            }
            Some(Loss::GilbertElliott { p, r, good, bad }) => {
                let [p, r, good, bad] = [p, r, good, bad].map(Percent);
                parts.push(format!("loss (Gilbert-Elliott) p {p}, r {r}, good {good}, bad {bad}"));
            }
        }
        parts.extend(self.rate.map(|rate| format!("rate {}", Rate(rate))));
        parts.extend(self.queue.map(|bytes| format!("queue {bytes} B")));
        parts.extend(self.corrupt.map(|ratio| format!("corrupt {}", Percent(ratio))));
        parts.extend(self.duplicate.map(|ratio| format!("duplicate {}", Percent(ratio))));
        match self.reorder {
            None => {}
            Some(Reorder::Ahead { ratio }) => parts.push(format!("reorder {}", Percent(ratio))),
            Some(Reorder::HeldBack { ratio, by }) => {
                parts.push(format!("hold back {} by {by:?}", Percent(ratio)));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn mistakes_are_named() {
        let new = Impairment::new;
        for (impairment, problem) in [
            (new(), "it impairs nothing: say delay, loss, rate …, or clear the impairment"),
            (new().loss(5.0), "loss is a ratio from 0 to 1, not 5 (5 % is 0.05)"),
            (new().loss(f64::NAN), "loss is a ratio from 0 to 1, not NaN (5 % is 0.05)"),
            (new().corrupt(-0.1), "corrupt is a ratio from 0 to 1, not -0.1 (5 % is 0.05)"),
            (new().duplicate(1.1), "duplicate is a ratio from 0 to 1, not 1.1 (5 % is 0.05)"),
            (
                new().loss_gilbert_elliott(0.1, 2.0, 0.0, 1.0),
                "loss: r is a ratio from 0 to 1, not 2 (5 % is 0.05)",
            ),
            (new().loss_bursts(0.1, 0.5), "a burst has one frame at least on average, not 0.5"),
            (
                new().loss_bursts(0.9, 4.0),
                "bursts of 4 frames on average can lose 80 % at most, not 90 %: make them longer",
            ),
            (new().rate(0), "a rate of 0 bit/s lets nothing through: use a partition"),
            (new().queue(1000), "there is a queue, but no rate to wait for"),
            (new().rate(1).queue(0), "a queue of 0 bytes holds nothing"),
            (new().delay(3_600_001 * MS), "delay is an hour at most, not 3600.001s"),
            (
                new().delay(MS).jitter(2 * MS, Distribution::Uniform),
                "a jitter of 2ms needs a delay of that at least, not 1ms",
            ),
            (new().reorder(0.1), "reorder sends frames ahead of delayed ones: give a delay, or hold_back"),
            (new().hold_back(0.1, Duration::ZERO), "hold_back needs a time by which frames are held back"),
            (
                new().delay(MS).reorder(0.1).keep_order(),
                "it asks for reordered frames and to keep their order",
            ),
        ] {
            assert_eq!(impairment.problems(), [problem]);
        }
        assert_eq!(new().loss(2.0).rate(0).problems().len(), 2);
    }

    #[test]
    fn an_impairment_is_told_and_survives_json() {
        let all = Impairment::new()
            .delay(50 * MS)
            .jitter(10 * MS, Distribution::Uniform)
            .loss_bursts(0.07, 5.0)
            .rate(2_500_000)
            .queue(10_000)
            .corrupt(0.001)
            .duplicate(0.02)
            .hold_back(0.5, 3 * MS);
        assert_eq!(all.problems(), [""; 0]);
        assert_eq!(
            all.to_string(),
            "delay 50ms ±10ms (uniform), loss 7 % in bursts of 5 frames, rate 2.5 Mbit/s, queue 10000 B, \
             corrupt 0.1 %, duplicate 2 %, hold back 50 % by 3ms",
        );
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Impairment>(&json).unwrap(), all);
        let loss = serde_json::to_string(&Impairment::new().loss(0.25)).unwrap();
        assert_eq!(loss, r#"{"loss":{"model":"independent","ratio":0.25}}"#);
    }
}
