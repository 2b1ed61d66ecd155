//! Calls about captures that a test looks at.

use super::Switch;
use crate::error::Error;
use crate::filter::FrameFilter;
use crate::io::Worker;
use crate::tap::{self, FrameCapture};

impl Switch {
    /// Captures what crosses from now on, in the form that it has on the wire of its port: what a step is to be judged
    /// by. While no capture is held, none costs anything.
    ///
    /// # Errors
    /// [`Error::UnknownPort`] if the filter names a port that there never was.
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
}
