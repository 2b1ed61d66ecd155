//! `events.jsonl`: what happened in a test, one JSON object a line.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use fs_err::File;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the test began.
    pub t_ms: u64,
    /// What kind of thing happened: `step`, `stage`, `command`, `fault`, `death`, `panic`, `budget`, `verdict` …
    pub kind: String,
    /// The machine it happened to, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// For a reader.
    pub text: String,
    /// For a program.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

/// Writes the events of one test. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct Events {
    started: Instant,
    file: Arc<Mutex<File>>,
}

impl Events {
    pub(crate) fn create(path: &Path, started: Instant) -> Result<Self, Error> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        Ok(Self { started, file: Arc::new(Mutex::new(file)) })
    }

    /// Records an event. A full disk loses it; it never fails a test.
    pub fn record(&self, kind: &str, machine: Option<&str>, text: impl Into<String>, data: Value) {
        let t_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let event =
            Event { t_ms, kind: kind.into(), machine: machine.map(str::to_owned), text: text.into(), data };
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write for one line, straight to the kernel: what was recorded survives a SIGKILL.
        if let Err(error) = file.write_all(&line) {
            tracing::warn!(%error, "an event was lost");
        }
    }
}
