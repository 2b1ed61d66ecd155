//! The frames of the last while, in memory, bounded, with a record of what had to go.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counters::DropReason;
use crate::filter::FrameFilter;
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::state::RingState;
use crate::summary::Summary;
use crate::vlan::VlanId;

/// Which way a frame crossed a port, as the switch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the port's peer to the switch.
    In,
    /// From the switch to the port's peer.
    Out,
}

/// A frame that came in by a port, or that went out by one. What was dropped on the way out never went out, and is only
/// counted.
#[derive(Clone, Debug)]
pub struct CapturedFrame {
    /// Its number among all captured frames of this switch.
    pub number: u64,
    /// When, since the switch started.
    pub at: Duration,
    /// The port.
    pub port: PortId,
    /// The port's name.
    pub port_name: Arc<str>,
    /// Which way.
    pub direction: Direction,
    /// The VLAN that the switch took it for; `None` if it was dropped on the way in.
    pub vlan: Option<VlanId>,
    /// Why it was dropped on the way in, if it was.
    pub dropped: Option<DropReason>,
    /// The frame as it was on this port's wire.
    pub bytes: Frame,
}

impl CapturedFrame {
    /// The frame read in depth; `None` if it ends within its header.
    pub fn summary(&self) -> Option<Summary> {
        Summary::parse(&self.bytes)
    }

    /// The bytes above the last header that can be read: the data of TCP, for example.
    pub fn payload(&self) -> &[u8] {
        self.summary().map_or(&[], |summary| &self.bytes[summary.payload])
    }
}

impl fmt::Display for CapturedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        write!(f, "{:.6} {} {direction} ", self.at.as_secs_f64(), self.port_name)?;
        if let Some(vlan) = self.vlan {
            write!(f, "(VLAN {vlan}) ")?;
        }
        match self.summary() {
            Some(summary) => summary.fmt(f)?,
            None => write!(f, "{:?}", self.bytes)?,
        }
        match self.dropped {
            Some(reason) => write!(f, ", dropped: {reason}"),
            None => Ok(()),
        }
    }
}

/// What a record costs besides its frame's bytes, roughly.
const OVERHEAD: usize = size_of::<CapturedFrame>() + 32;

/// How many frames may be without a place.
const FRESH: usize = 256;

struct Kept {
    frame: CapturedFrame,
    charge: usize,
}

/// The ring. The bytes of a frame that leaves by many ports are kept and charged once.
pub(crate) struct Ring {
    /// What came since [`Ring::settle`], in memory that stays warm: no frame waits until its record has a place.
    fresh: Vec<CapturedFrame>,
    kept: VecDeque<Kept>,
    bytes: usize,
    limit: usize,
    evicted: u64,
    evicted_until: Option<Duration>,
}

impl Ring {
    pub(crate) fn new(limit: usize) -> Ring {
        Ring { fresh: Vec::new(), kept: VecDeque::new(), bytes: 0, limit, evicted: 0, evicted_until: None }
    }

    /// Takes a frame. It can be read once [`Ring::settle`] was called.
    pub(crate) fn push(&mut self, frame: CapturedFrame) {
        self.fresh.push(frame);
        if self.fresh.len() >= FRESH {
            self.settle();
        }
    }

    /// Gives frames that came their places, and evicts what has none any more.
    pub(crate) fn settle(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.drain(..).for_each(|frame| self.keep(frame));
        self.fresh = fresh;
    }

    fn keep(&mut self, frame: CapturedFrame) {
        let shared = self.kept.back().is_some_and(|last| last.frame.bytes.same(&frame.bytes));
        let charge = if shared { OVERHEAD } else { OVERHEAD + frame.bytes.len() };
        self.bytes += charge;
        self.kept.push_back(Kept { frame, charge });
        while self.bytes > self.limit {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.charge;
            self.evicted += 1;
            self.evicted_until = Some(oldest.frame.at);
        }
    }

    /// A copy that can be searched by another thread; frames' bytes are shared.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { frames: self.kept.iter().map(|kept| kept.frame.clone()).collect(), state: self.state() }
    }

    pub(crate) fn state(&self) -> RingState {
        RingState {
            frames: self.kept.len() as u64,
            bytes: self.bytes as u64,
            limit: self.limit as u64,
            evicted: self.evicted,
            evicted_until: self.evicted_until,
        }
    }
}

pub(crate) struct Snapshot {
    pub(crate) frames: Vec<CapturedFrame>,
    pub(crate) state: RingState,
}

impl Snapshot {
    /// The end of what was evicted, if the filter asks about a time before it.
    pub(crate) fn lost_to(&self, filter: &FrameFilter) -> Option<Duration> {
        self.state.evicted_until.filter(|until| filter.since.unwrap_or_default() <= *until)
    }

    pub(crate) fn select(self, filter: &FrameFilter) -> Vec<CapturedFrame> {
        let mut frames = self.frames;
        frames.retain(|frame| filter.matches(frame));
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, bytes: &Frame) -> CapturedFrame {
        CapturedFrame {
            number,
            at: Duration::from_millis(number),
            port: PortId(0),
            port_name: "p".into(),
            direction: Direction::In,
            vlan: None,
            dropped: None,
            bytes: bytes.clone(),
        }
    }

    #[test]
    fn eviction_bounds_memory_and_is_never_forgotten() {
        let mut ring = Ring::new(10 * (OVERHEAD + 100));
        for number in 0..25 {
            ring.push(frame(number, &Frame::new(&[0; 100])));
        }
        ring.settle();
        assert_eq!((ring.kept.len(), ring.evicted), (10, 15));
        let snapshot = ring.snapshot();
        let since = |ms| FrameFilter::new().since(Duration::from_millis(ms));
        assert_eq!(snapshot.lost_to(&FrameFilter::new()), Some(Duration::from_millis(14)));
        assert_eq!(
            snapshot.lost_to(&since(14)),
            Some(Duration::from_millis(14)),
            "others may have had that time"
        );
        assert_eq!(snapshot.lost_to(&since(15)), None);
        assert_eq!(snapshot.select(&since(20)).len(), 5);
    }

    #[test]
    fn a_ring_too_small_for_one_frame_says_so() {
        let mut ring = Ring::new(0);
        ring.push(frame(3, &Frame::new(&[0; 100])));
        ring.settle();
        assert_eq!((ring.kept.len(), ring.bytes), (0, 0));
        assert_eq!(ring.snapshot().lost_to(&FrameFilter::new()), Some(Duration::from_millis(3)));
    }

    #[test]
    fn a_flooded_frame_is_charged_once() {
        let mut ring = Ring::new(1 << 20);
        let bytes = Frame::new(&[0; 9000]);
        for number in 0..32 {
            ring.push(frame(number, &bytes));
        }
        ring.settle();
        assert_eq!(ring.bytes, 9000 + 32 * OVERHEAD);
    }
}
