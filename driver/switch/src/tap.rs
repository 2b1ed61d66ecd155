//! Captures that a test holds: what crossed during a step, to be counted and asserted on, or a stream of frames.
//!
//! The switch's thread judges each frame by the filter and puts it into a queue that is bounded in bytes; all else
//! happens where the test runs. What does not fit is counted, and whoever asks afterwards gets that as an error.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::filter::FrameFilter;
use crate::pcapng::{self, Encoder};
use crate::ring::CapturedFrame;
use crate::switch::Switch;

/// How much a capture holds unless said otherwise, in bytes.
const HOLD: u64 = 32 << 20;

/// What a held frame costs besides its bytes, roughly.
const OVERHEAD: u64 = 128;

/// How many frames an error shows.
const SHOWN: usize = 5;

type Predicate = Box<dyn FnMut(&CapturedFrame) -> bool + Send>;

/// What a capture's filter took since it began, whether or not there was room to hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCounters {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames of those that were not held, because there was no room.
    pub lost: u64,
}

struct Shared {
    limit: AtomicU64,
    /// What is held, in bytes with overhead.
    held: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
}

struct Tapped {
    frame: CapturedFrame,
    /// How many frames had been lost when this one came.
    lost: u64,
}

/// The switch's end of a capture.
pub(crate) struct Tap {
    filter: FrameFilter,
    queue: mpsc::UnboundedSender<Tapped>,
    shared: Arc<Shared>,
}

/// The test's end.
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<Tapped>,
    shared: Arc<Shared>,
}

/// Both ends of a new capture.
pub(crate) fn pair(filter: FrameFilter) -> (Tap, Inbox) {
    let shared = Arc::new(Shared {
        limit: AtomicU64::new(HOLD),
        held: AtomicU64::new(0),
        frames: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        lost: AtomicU64::new(0),
    });
    // The bound is `Shared::limit`, in bytes.
    let (sender, receiver) = mpsc::unbounded_channel();
    let tap = Tap { filter, queue: sender, shared: Arc::clone(&shared) };
    (tap, Inbox { queue: receiver, shared })
}

impl Tap {
    /// Takes a frame if the filter does and there is room.
    pub(crate) fn offer(&mut self, frame: &CapturedFrame) {
        if !self.filter.matches(frame) {
            return;
        }
        let shared = &*self.shared;
        shared.frames.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(frame.bytes.len() as u64, Ordering::Relaxed);
        let cost = cost(frame);
        if shared.held.load(Ordering::Relaxed) + cost > shared.limit.load(Ordering::Relaxed) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        shared.held.fetch_add(cost, Ordering::Relaxed);
        let lost = shared.lost.load(Ordering::Relaxed);
        // A capture that nobody holds any more is taken away by `is_open`.
        let frame = CapturedFrame { bytes: frame.bytes.copied_out(), ..frame.clone() };
        let _ = self.queue.send(Tapped { frame, lost });
    }

    /// Whether somebody holds the capture.
    pub(crate) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }
}

fn cost(frame: &CapturedFrame) -> u64 {
    frame.bytes.len() as u64 + OVERHEAD
}

impl Inbox {
    fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn limit(&self) -> u64 {
        self.shared.limit.load(Ordering::Relaxed)
    }

    /// The frame goes out of the bound.
    fn let_go(&self, frame: &CapturedFrame) {
        self.shared.held.fetch_sub(cost(frame), Ordering::Relaxed);
    }
}

/// A capture: what crossed since it began. It goes on until it is dropped or finished.
///
/// ```
/// # use switch::{Direction, FrameFilter, PortConfig, PortMode, Switch, SwitchOptions, VlanId};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let sw = Switch::start(SwitchOptions::new("rack", dir.path()))?;
/// # sw.add_port(PortConfig::new("agent-1/eth1", PortMode::Access { vlan: VlanId::new(1)? }))?;
/// let capture = sw.capture(FrameFilter::new().port("agent-1/eth1").direction(Direction::Out))?;
/// // … the step …
/// let crossed = capture.finish()?;
/// crossed.assert_none("no frame with tag 200 leaves by agent-1/eth1", |frame| {
///     frame.summary().is_some_and(|it| it.vids().contains(&200))
/// })?;
/// assert_eq!(crossed.count(|frame| frame.summary().is_some_and(|it| it.arp().is_some()))?, 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "a capture that is dropped captures nothing"]
pub struct FrameCapture {
    switch: Switch,
    inbox: Inbox,
    from: Duration,
    kept: Vec<CapturedFrame>,
    predicate: Option<Predicate>,
}

impl fmt::Debug for FrameCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameCapture").field("switch", &self.switch.name()).field("from", &self.from).finish()
    }
}

impl FrameCapture {
    pub(crate) fn new(switch: Switch, inbox: Inbox, from: Duration) -> FrameCapture {
        FrameCapture { switch, inbox, from, kept: Vec::new(), predicate: None }
    }

    /// Takes only those of the filter's frames that this says yes to as well. It runs where the test runs, not on the
    /// switch's thread: what it says no to takes room until the capture is looked at. [`FrameCapture::counters`] is of
    /// the filter alone.
    pub fn matching(
        mut self,
        predicate: impl FnMut(&CapturedFrame) -> bool + Send + 'static,
    ) -> FrameCapture {
        self.predicate = Some(Box::new(predicate));
        self
    }

    /// How much it may hold, in bytes, from here on; 32 MiB unless said otherwise.
    pub fn hold_bytes(self, bytes: u64) -> FrameCapture {
        self.inbox.shared.limit.store(bytes, Ordering::Relaxed);
        self
    }

    /// What the filter took so far, all that peers have sent before this call included.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn counters(&self) -> Result<CaptureCounters, Error> {
        self.switch.settle()?;
        let Shared { frames, bytes, lost, .. } = &*self.inbox.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(CaptureCounters { frames: read(frames), bytes: read(bytes), lost: read(lost) })
    }

    /// What crossed since the capture began, all that peers have sent before this call included. The capture goes on.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn so_far(&mut self) -> Result<Crossed, Error> {
        self.switch.settle()?;
        while let Ok(tapped) = self.inbox.queue.try_recv() {
            self.keep(tapped.frame);
        }
        Ok(Crossed {
            switch: self.switch.clone(),
            from: self.from,
            until: self.switch.now(),
            lost: self.inbox.lost(),
            limit: self.inbox.limit(),
            frames: self.kept.clone(),
        })
    }

    /// Ends the capture: what crossed since it began, all that peers have sent before this call included.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn finish(mut self) -> Result<Crossed, Error> {
        self.so_far()
    }

    /// Waits until a frame crosses that the predicate says yes to, one of those that have crossed already included. It is
    /// called once for each frame, in order. `what` is for the error. Runs under tokio.
    ///
    /// # Errors
    /// [`Error::NeverCrossed`] if none did within `limit`, or before the switch stopped; [`Error::CaptureLost`] if it may
    /// have been lost.
    pub async fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut predicate: impl FnMut(&CapturedFrame) -> bool,
    ) -> Result<CapturedFrame, Error> {
        if let Some(frame) = self.kept.iter().find(|frame| predicate(frame)) {
            return Ok(frame.clone());
        }
        let search = async {
            while let Some(Tapped { frame, .. }) = self.inbox.queue.recv().await {
                if self.keep(frame.clone()) && predicate(&frame) {
                    return Some(frame);
                }
            }
            None
        };
        if let Ok(Some(frame)) = tokio::time::timeout(limit, search).await {
            return Ok(frame);
        }
        // One that was sent before the limit may be on its way.
        let seen = self.kept.len();
        let crossed = self.so_far()?;
        match crossed.frames[seen..].iter().find(|frame| predicate(frame)) {
            Some(frame) => Ok(frame.clone()),
            None => Err(crossed.whole().err().unwrap_or_else(|| crossed.never(what))),
        }
    }

    /// The frames one by one as they cross, those so far first. The stream holds what it has not given out yet.
    pub fn into_stream(self) -> FrameStream {
        let FrameCapture { switch, inbox, kept, predicate, .. } = self;
        FrameStream { switch: switch.name().to_owned(), inbox, kept: kept.into(), predicate, told: 0 }
    }

    /// Keeps a frame if it matches.
    fn keep(&mut self, frame: CapturedFrame) -> bool {
        let matches = self.predicate.as_mut().is_none_or(|predicate| predicate(&frame));
        if matches {
            self.kept.push(frame);
        } else {
            self.inbox.let_go(&frame);
        }
        matches
    }
}

/// What crossed during a capture.
#[must_use = "what crossed is there to be counted or asserted on"]
#[derive(Clone, Debug)]
pub struct Crossed {
    switch: Switch,
    from: Duration,
    until: Duration,
    lost: u64,
    limit: u64,
    frames: Vec<CapturedFrame>,
}

impl Crossed {
    /// All frames, in the order in which they crossed.
    ///
    /// # Errors
    /// [`Error::CaptureLost`] if some are missing.
    pub fn frames(&self) -> Result<&[CapturedFrame], Error> {
        self.whole()?;
        Ok(&self.frames)
    }

    /// How many frames the predicate says yes to.
    ///
    /// # Errors
    /// [`Error::CaptureLost`] if some are missing.
    pub fn count(&self, predicate: impl FnMut(&CapturedFrame) -> bool) -> Result<usize, Error> {
        self.whole()?;
        Ok(self.frames.iter().map(predicate).filter(|yes| *yes).count())
    }

    /// That the predicate says yes to no frame. `what` says what should be, for the error: "no frame with tag 200 leaves
    /// by agent-1/eth1".
    ///
    /// # Errors
    /// [`Error::CrossedAfterAll`] with the first of those frames; [`Error::CaptureLost`] if some are missing.
    pub fn assert_none(
        &self,
        what: &str,
        mut predicate: impl FnMut(&CapturedFrame) -> bool,
    ) -> Result<(), Error> {
        let wrong: Vec<&CapturedFrame> = self.frames.iter().filter(|frame| predicate(frame)).collect();
        if wrong.is_empty() {
            return self.whole();
        }
        Err(Error::CrossedAfterAll {
            switch: self.switch.name().to_owned(),
            what: what.to_owned(),
            count: wrong.len(),
            frames: self.frames.len(),
            from: self.from,
            until: self.until,
            first: wrong.iter().take(SHOWN).map(ToString::to_string).collect(),
        })
    }

    /// The first frame that the predicate says yes to. `what` says what it is, for the error: "an ARP request of
    /// server-1".
    ///
    /// # Errors
    /// [`Error::NeverCrossed`] with the last frames that did; [`Error::CaptureLost`] if it may have been lost.
    pub fn assert_some(
        &self,
        what: &str,
        mut predicate: impl FnMut(&CapturedFrame) -> bool,
    ) -> Result<&CapturedFrame, Error> {
        match self.frames.iter().find(|frame| predicate(frame)) {
            Some(frame) => Ok(frame),
            None => Err(self.whole().err().unwrap_or_else(|| self.never(what))),
        }
    }

    /// Writes the frames to a pcapng file; what is missing is said in its comment.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_pcapng(&self, path: &Path) -> Result<(), Error> {
        let comment = match self.lost {
            0 => String::new(),
            lost => format!("{lost} frames are missing: the capture was full"),
        };
        let mut encoder = Encoder::new(self.switch.epoch(), self.switch.name(), &comment);
        let mut write = || pcapng::write(&mut File::create(path)?, &mut encoder, &self.frames);
        write().map_err(|source| Error::Write {
            switch: self.switch.name().to_owned(),
            path: path.to_owned(),
            source,
        })
    }

    fn whole(&self) -> Result<(), Error> {
        match self.lost {
            0 => Ok(()),
            lost => {
                Err(Error::CaptureLost { switch: self.switch.name().to_owned(), lost, limit: self.limit })
            }
        }
    }

    fn never(&self, what: &str) -> Error {
        let last = &self.frames[self.frames.len().saturating_sub(SHOWN)..];
        Error::NeverCrossed {
            switch: self.switch.name().to_owned(),
            what: what.to_owned(),
            frames: self.frames.len(),
            from: self.from,
            until: self.until,
            last: last.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Frames as they cross. An error says how many are missing at that place, and the stream goes on; it ends when the
/// switch stops.
#[must_use = "a stream does nothing unless it is polled"]
pub struct FrameStream {
    switch: String,
    inbox: Inbox,
    kept: VecDeque<CapturedFrame>,
    predicate: Option<Predicate>,
    told: u64,
}

impl FrameStream {
    /// That frames are missing before this place, if that was not said yet.
    fn missing(&mut self, lost: u64) -> Option<Error> {
        let more = lost.checked_sub(self.told).filter(|more| *more > 0)?;
        self.told = lost;
        Some(Error::CaptureLost { switch: self.switch.clone(), lost: more, limit: self.inbox.limit() })
    }
}

impl Stream for FrameStream {
    type Item = Result<CapturedFrame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = self.kept.pop_front() {
                self.inbox.let_go(&frame);
                return Poll::Ready(Some(Ok(frame)));
            }
            let end = match self.inbox.queue.poll_recv(context) {
                Poll::Ready(Some(Tapped { frame, lost })) => {
                    if self.predicate.as_mut().is_some_and(|predicate| !predicate(&frame)) {
                        self.inbox.let_go(&frame);
                    } else {
                        self.kept.push_back(frame);
                    }
                    match self.missing(lost) {
                        Some(error) => return Poll::Ready(Some(Err(error))),
                        None => continue,
                    }
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            };
            let lost = self.inbox.lost();
            return self.missing(lost).map_or(end, |error| Poll::Ready(Some(Err(error))));
        }
    }
}
