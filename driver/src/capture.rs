//! What crosses the lab's switch: captures for tests to judge by, and the files that are left of it.

use std::path::{Path, PathBuf};

use serde_json::json;
use switch::{CaptureReport, FrameCapture, FrameFilter, Recording, Switch};

use crate::supervisor::Event;
use crate::{Error, Lab};

/// What is left of the frames that crossed a lab's switch, in `net/` among the artefacts. The switch holds the latest in
/// memory in any case; no file has frames of vhost-user ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Captures {
    /// No file, after a failure neither.
    Off,
    /// The latest frames, when the lab is diagnosed: `<lab>.pcapng` with all ports, and a file for each port. All
    /// together are at most about twice as long as the switch's ring, 128 MiB.
    #[default]
    Ring,
    /// All frames from the start to the end, in `<lab>.pcapng`, which has no bound.
    Whole,
}

impl Captures {
    /// Begins to write all frames, if that is wanted. To be called before there are ports: beside a vhost-user port it
    /// would be refused, and one that comes later is left out.
    pub(crate) fn begin(self, switch: &Switch, net: &Path) -> Result<(), Error> {
        if self == Self::Whole {
            switch.capture_to(&port_file(net, switch.name()), &FrameFilter::new())?;
        }
        Ok(())
    }
}

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
        let path = port_file(&self.artifacts().join("net"), port);
        self.switch().capture_to(&path, &filter)?;
        Ok(path)
    }

    /// Writes the latest frames to files, as far as that was asked for. What the test has captured itself stays.
    pub(crate) async fn keep_frames(&self) {
        if self.captures() != Captures::Ring {
            return;
        }
        let recording = match self.switch().recording(&FrameFilter::new()) {
            Ok(recording) => recording,
            Err(error) => return tracing::warn!(%error, "the latest frames could not be kept"),
        };
        let (frames, missing) = (recording.frames().len(), recording.missing());
        let unseen = recording.unseen_ports().to_owned();
        let (net, name) = (self.artifacts().join("net"), self.name().to_owned());
        let written = tokio::task::spawn_blocking(move || write_files(&recording, &net, &name));
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::warn!(%error, "the latest frames could not be kept"),
            Err(error) => return tracing::warn!(%error, "the latest frames could not be kept"),
        }
        let mut text = format!("net/{}.pcapng: the latest {frames} frames", self.name());
        if missing > 0 {
            text += &format!("; {missing} older ones are missing");
        }
        if !unseen.is_empty() {
            text += &format!("; none of vhost-user ports: {}", unseen.join(", "));
        }
        let data = json!({ "frames": frames, "missing": missing, "unseen": unseen });
        self.context().supervisor.event(Event { kind: "capture", machine: None, text, data });
    }

    /// Tells how the captures to files ended.
    pub(crate) fn tell_captured(&self, reports: &[CaptureReport]) {
        for report in reports {
            let CaptureReport { path, frames, bytes, lost, error } = report;
            let path = path.strip_prefix(self.artifacts()).unwrap_or(path).display();
            let mut text = format!("{path}: {frames} frames, {bytes} bytes");
            if *lost > 0 {
                text += &format!("; {lost} frames are missing, since the disk was too slow or full");
            }
            if let Some(error) = error {
                text += &format!("; it ends early: {error}");
            }
            let data = json!(report);
            self.context().supervisor.event(Event { kind: "capture", machine: None, text, data });
        }
    }

    fn captures(&self) -> Captures {
        self.context().captures
    }
}

/// The file of one port, or of the whole switch.
fn port_file(net: &Path, port: &str) -> PathBuf {
    net.join(format!("{}.pcapng", port.replace('/', ".")))
}

/// One file with all ports, and one for each. One that is there is not of the ring: it is what the test wanted.
fn write_files(recording: &Recording, net: &Path, lab: &str) -> Result<(), switch::Error> {
    let all = port_file(net, lab);
    if !all.exists() {
        recording.write_pcapng(&all)?;
    }
    for port in recording.ports() {
        let file = port_file(net, port);
        if !file.exists() {
            recording.of_port(port).write_pcapng(&file)?;
        }
    }
    Ok(())
}
