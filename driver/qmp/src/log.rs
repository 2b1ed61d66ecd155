//! The traffic log, `qmp.jsonl`: a line per message, `{"ms": …, "direction": "in" or "out", "message": …}`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct TrafficLog {
    file: Option<Mutex<File>>,
    begun: Instant,
}

impl TrafficLog {
    pub(crate) fn open(path: Option<&Path>) -> io::Result<TrafficLog> {
        // Appended to: a machine that was started again goes on in the same log.
        let open = |path| File::options().create(true).append(true).open(path);
        Ok(TrafficLog { file: path.map(open).transpose()?.map(Mutex::new), begun: Instant::now() })
    }

    pub(crate) fn incoming(&self, line: &[u8]) {
        self.write("in", line);
    }

    pub(crate) fn outgoing(&self, line: &[u8]) {
        self.write("out", line);
    }

    fn write(&self, direction: &str, line: &[u8]) {
        let Some(file) = &self.file else { return };
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let message = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => text.to_owned(),
            Err(_) => serde_json::Value::from(text).to_string(),
        };
        let ms = self.begun.elapsed().as_millis();
        let entry = format!("{{\"ms\":{ms},\"direction\":\"{direction}\",\"message\":{message}}}\n");
        // A full disk must not end the conversation; whoever looks for the log sees where it stops.
        if let Err(error) = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(entry.as_bytes()) {
            tracing::debug!("qmp log: {error}");
        }
    }
}
