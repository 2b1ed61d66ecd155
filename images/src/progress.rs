//! What a build tells while it goes on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A step of a build, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Waiting for another process that builds the same image.
    Waiting,
    /// Package lists are read.
    Index,
    /// Packages are downloaded.
    Download,
    /// Packages are unpacked and set up.
    Install,
    /// The root is packed by the builder of the root.
    Pack,
    /// The base image is copied and changed.
    Derive,
    /// The root becomes an ext4 file system.
    Filesystem,
    /// The small initrd is made.
    Initrd,
    /// The EFI system partition is filled.
    Esp,
    /// Digests are computed and the entry is put in place.
    Seal,
    /// The image is there.
    Done,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Waiting => "waiting",
            Phase::Index => "reading package lists",
            Phase::Download => "downloading packages",
            Phase::Install => "installing packages",
            Phase::Pack => "packing the root",
            Phase::Derive => "changing a copy of the base image",
            Phase::Filesystem => "making the root file system",
            Phase::Initrd => "making the initrd",
            Phase::Esp => "filling the EFI system partition",
            Phase::Seal => "computing digests",
            Phase::Done => "ready",
        })
    }
}

/// One piece of news. Its `Display` is a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The image.
    pub image: String,
    /// The phase that began, or goes on.
    pub phase: Phase,
    /// Since the build, or the wait, began.
    pub elapsed: Duration,
    /// More, such as who is waited for; may be empty.
    pub detail: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {} [{:>3} s] {}", self.image, self.elapsed.as_secs(), self.phase)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// Who is told.
pub(crate) type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// The clock and the listener of one build.
pub(crate) struct Reporter {
    image: String,
    started: Instant,
    listener: Option<Listener>,
}

impl Reporter {
    pub(crate) fn new(image: &str, listener: Option<Listener>) -> Reporter {
        Reporter { image: image.to_owned(), started: Instant::now(), listener }
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.detail(phase, "");
    }

    pub(crate) fn detail(&self, phase: Phase, detail: impl Into<String>) {
        if let Some(listener) = &self.listener {
            listener(&Progress {
                image: self.image.clone(),
                phase,
                elapsed: self.started.elapsed(),
                detail: detail.into(),
            });
        }
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }
}
