//! Calls about frames that crossed: the ring, captures to files, captures that a test looks at.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{ANSWER_WITHIN, Switch};
use crate::capture::{Capture, CaptureId, CaptureReport};
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::filter::FrameFilter;
use crate::io::Worker;
use crate::pcapng::Encoder;
use crate::recording::Recording;
use crate::ring::{CapturedFrame, Snapshot};
use crate::tap::{self, FrameCapture};

impl Switch {
    /// The frames that crossed, oldest first: what tests assert on.
    ///
    /// # Errors
    /// [`Error::Evicted`] if the ring no longer holds all of the time from the filter's `since` on (without one: from
    /// the switch's start), whether or not such a frame was among those evicted; [`Error::UnknownPort`] if the filter
    /// names a port that there never was; [`Error::FastPort`] if it names a vhost-user port, or names no port while the
    /// switch has one: an answer would leave out its frames.
    pub fn frames(&self, filter: &FrameFilter) -> Result<Vec<CapturedFrame>, Error> {
        let snapshot = self.snapshot(filter, true)?;
        if let Some(evicted_until) = snapshot.lost_to(filter) {
            return Err(Error::Evicted {
                switch: self.inner.name.to_string(),
                since: filter.since.unwrap_or_default(),
                evicted_until,
                evicted: snapshot.state.evicted,
                limit: snapshot.state.limit,
            });
        }
        Ok(snapshot.select(filter))
    }

    /// The frames that the ring still holds, oldest first, and nothing about those it does not: for diagnosis, not for
    /// assertions. Frames of vhost-user ports are not among them.
    ///
    /// # Errors
    /// [`Error::UnknownPort`] if the filter names a port that there never was; [`Error::FastPort`] if it names a
    /// vhost-user port.
    pub fn recent_frames(&self, filter: &FrameFilter) -> Result<Vec<CapturedFrame>, Error> {
        Ok(self.snapshot(filter, false)?.select(filter))
    }

    /// What the ring still holds, to be written to a file or sent away: for people to look at. Each port that the filter
    /// takes is an interface of the file, whether or not it had frames.
    ///
    /// # Errors
    /// As [`Switch::recent_frames`].
    pub fn recording(&self, filter: &FrameFilter) -> Result<Recording, Error> {
        let ports = self.ports()?;
        let Snapshot { frames, state } = self.snapshot(filter, false)?;
        let wanted = |name: &str| filter.ports.is_empty() || filter.ports.iter().any(|port| port == name);
        let (fast, seen): (Vec<_>, Vec<_>) =
            ports.into_iter().filter(|port| wanted(&port.name)).partition(|port| port.fast.is_some());
        let frames = frames.into_iter().filter(|frame| filter.matches(frame)).collect();
        Ok(Recording::new(
            Arc::clone(&self.inner.name),
            self.inner.clock.epoch,
            seen.into_iter().map(|port| (port.id, port.name.into())).collect(),
            fast.into_iter().map(|port| port.name).collect(),
            frames,
            state,
        ))
    }

    /// Writes frames to a pcapng file from now on, each port as an interface of its name. A disk that is too slow or
    /// full loses frames to this file and to nothing else; the report says how many, and so does an event.
    ///
    /// # Errors
    /// [`Error::Write`] if the file cannot be made; [`Error::UnknownPort`] if the filter names a port that there never
    /// was; [`Error::FastPort`] as [`Switch::frames`]. A capture of all ports that began before there was a vhost-user
    /// port goes on without that port.
    pub fn capture_to(&self, path: &Path, filter: &FrameFilter) -> Result<CaptureId, Error> {
        let encoder = Encoder::new(self.inner.clock.epoch, &self.inner.name, "");
        let (events, clock, failed_path) = (self.inner.events.clone(), self.inner.clock, path.to_owned());
        let on_error = move |error| {
            tracing::warn!(path = %failed_path.display(), %error, "the capture ends here");
            let kind = EventKind::CaptureFailed { path: failed_path, error };
            let _ = events.send(Event { at: clock.now(), kind });
        };
        let capture = File::create(path)
            .and_then(|file| Capture::start(path, file, filter.clone(), encoder, on_error))
            .map_err(|source| self.write_failed(path, source))?;
        let ports = filter.ports.clone();
        self.call("capture", move |worker| worker.add_capture(&ports, capture))?
    }

    /// Ends a capture, waits until it is on the file, and says how it went.
    ///
    /// # Errors
    /// [`Error::UnknownCapture`]; [`Error::Unresponsive`] if the disk takes too long.
    pub fn stop_capture(&self, id: CaptureId) -> Result<CaptureReport, Error> {
        let operation = "end a capture";
        let capture = self.call(operation, move |worker| worker.take_capture(id))??;
        capture.finish(ANSWER_WITHIN).ok_or_else(|| self.unresponsive(operation, ANSWER_WITHIN))
    }

    /// Captures what crosses from now on, in the form that it has on the wire of its port: what a step is to be judged
    /// by. While no capture is held, none costs anything.
    ///
    /// # Errors
    /// [`Error::UnknownPort`] if the filter names a port that there never was; [`Error::FastPort`] as [`Switch::frames`].
    pub fn capture(&self, filter: FrameFilter) -> Result<FrameCapture, Error> {
        let ports = filter.ports.clone();
        let (tap, inbox) = tap::pair(filter);
        let from = self.call("capture", move |worker| worker.add_tap(&ports, tap))??;
        Ok(FrameCapture::new(self.clone(), inbox, from))
    }

    /// Returns when all that peers had sent before has crossed, or has been dropped. A switch that has stopped has
    /// nothing more to come.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        match self.call("look at a capture", Worker::catch_up) {
            Err(Error::Stopped { .. }) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn epoch(&self) -> std::time::SystemTime {
        self.inner.clock.epoch
    }

    /// The ring. With `whole` it is an error if frames that the filter is about cannot be in it.
    fn snapshot(&self, filter: &FrameFilter, whole: bool) -> Result<Snapshot, Error> {
        let ports = filter.ports.clone();
        self.call("search the capture", move |worker| worker.snapshot(&ports, whole))?
    }
}
