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

/// A captured frame as the ring has it: one line of the cache. Its number follows from its place, the name of its port
/// from the port.
#[derive(Clone)]
pub(crate) struct Record {
    at_ns: u64,
    port: PortId,
    direction: Direction,
    /// Whether its bytes are those of the record before it, and charged there.
    shared: bool,
    dropped: Option<DropReason>,
    vlan: Option<VlanId>,
    bytes: Frame,
}

const _: () = assert!(size_of::<Record>() <= 72);

impl Record {
    pub(crate) fn new(
        at: Duration,
        port: PortId,
        direction: Direction,
        vlan: Option<VlanId>,
        dropped: Option<DropReason>,
        bytes: Frame,
    ) -> Record {
        let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        Record { at_ns, port, direction, shared: false, dropped, vlan, bytes }
    }

    /// The whole of it, for who gives it a number and a name.
    pub(crate) fn captured(&self, number: u64, port_name: Arc<str>) -> CapturedFrame {
        CapturedFrame {
            number,
            at: self.at(),
            port: self.port,
            port_name,
            direction: self.direction,
            vlan: self.vlan,
            dropped: self.dropped,
            bytes: self.bytes.clone(),
        }
    }

    fn at(&self) -> Duration {
        Duration::from_nanos(self.at_ns)
    }

    fn charge(&self) -> usize {
        if self.shared { OVERHEAD } else { OVERHEAD + self.bytes.len() }
    }
}

/// What a record costs besides its frame's bytes, roughly.
const OVERHEAD: usize = size_of::<Record>() + 32;

/// How many places for records are added at once at least: few enough not to keep a frame waiting.
const PLACES: usize = 2048;

/// And what part of those that there are, since all of these may have to be moved.
const PART: usize = 16;

/// How many frames may be without a place.
const FRESH: usize = 256;

/// The ring. The bytes of a frame that leaves by many ports are kept and charged once.
pub(crate) struct Ring {
    /// What came since [`Ring::settle`], in memory that stays warm: no frame waits until its record has a place.
    fresh: Vec<Record>,
    kept: VecDeque<Record>,
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
    pub(crate) fn push(&mut self, record: Record) {
        self.fresh.push(record);
        if self.fresh.len() >= FRESH {
            self.settle();
        }
    }

    /// Gives frames that came their places, and evicts what has none any more.
    pub(crate) fn settle(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.drain(..).for_each(|record| self.keep(record));
        self.fresh = fresh;
    }

    fn keep(&mut self, record: Record) {
        let shared = self.kept.back().is_some_and(|last| last.bytes.same(&record.bytes));
        let record = Record { shared, ..record };
        self.bytes += record.charge();
        if self.kept.len() == self.kept.capacity() {
            self.make_places(&record);
        }
        self.kept.push_back(record);
        while self.bytes > self.limit {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.charge();
            self.evicted += 1;
            self.evicted_until = Some(oldest.at());
        }
    }

    /// Adds places, and touches their memory: see the intake's chunks.
    fn make_places(&mut self, like: &Record) {
        let kept = self.kept.len();
        let more = PLACES.max(kept / PART);
        self.kept.reserve_exact(more);
        self.kept.resize(kept + more, like.clone());
        self.kept.truncate(kept);
    }

    /// A copy that can be searched by another thread; frames' bytes are shared. `name` knows the names of ports.
    pub(crate) fn snapshot(&self, name: impl Fn(PortId) -> Arc<str>) -> Snapshot {
        let numbered = (self.evicted..).zip(&self.kept);
        let frames = numbered.map(|(number, kept)| kept.captured(number, name(kept.port))).collect();
        Snapshot { frames, state: self.state() }
    }

    /// How many frames it was given so far, which is the number of the next one.
    pub(crate) fn given(&self) -> u64 {
        self.evicted + (self.kept.len() + self.fresh.len()) as u64
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

    fn frame(number: u64, bytes: &Frame) -> Record {
        Record::new(Duration::from_millis(number), PortId(0), Direction::In, None, None, bytes.clone())
    }

    fn snapshot(ring: &Ring) -> Snapshot {
        ring.snapshot(|_| "p".into())
    }

    #[test]
    fn eviction_bounds_memory_and_is_never_forgotten() {
        let mut ring = Ring::new(10 * (OVERHEAD + 100));
        for number in 0..25 {
            ring.push(frame(number, &Frame::new(&[0; 100])));
        }
        ring.settle();
        assert_eq!((ring.kept.len(), ring.evicted), (10, 15));
        let snapshot = snapshot(&ring);
        let numbers: Vec<u64> = snapshot.frames.iter().map(|frame| frame.number).collect();
        assert_eq!((numbers, ring.given()), ((15..25).collect(), 25));
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
        assert_eq!(snapshot(&ring).lost_to(&FrameFilter::new()), Some(Duration::from_millis(3)));
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
