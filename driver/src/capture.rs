//! What crosses the lab's switch: captures for tests to judge by, and files of single ports.

use std::path::PathBuf;

use switch::{FrameCapture, FrameFilter};

use crate::{Error, Lab};

impl Lab {
    /// Captures what crosses from now on: what a step is to be judged by. Ports are called `machine/nic`, and frames are
    /// as they were on the wire of their port, with its tags.
    ///
    /// # Errors
    /// [`Error::Switch`] if the filter names a port that there never was.
    pub fn capture(&self, filter: FrameFilter) -> Result<FrameCapture, Error> {
        Ok(self.switch().capture(filter)?)
    }

    /// Writes all that crosses one port (`server-1/eth1`) from now on to a file of its own among the artefacts,
    /// `net/server-1.eth1.pcapng`; where it is. It goes on until the end of the lab.
    ///
    /// # Errors
    /// [`Error::Switch`] if there never was such a port, or if the file cannot be made.
    pub fn capture_port(&self, port: &str) -> Result<PathBuf, Error> {
        let filter = FrameFilter::new().port(port);
        // Before there is a file: a port that there never was has none.
        self.switch().recent_frames(&filter)?;
        let path = self.artifacts().join("net").join(format!("{}.pcapng", port.replace('/', ".")));
        self.switch().capture_to(&path, &filter)?;
        Ok(path)
    }
}
