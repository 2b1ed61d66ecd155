//! `harness.log`: the tracing of each test in its own file.

use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::context::{Context, current};
use crate::{Error, Settings};

/// Sends tracing to the tests' logs. A subscriber that is there already stays.
pub(crate) fn install(settings: &Settings) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| Error::Setting {
        setting: "--log or RACKLESS_LOG".into(),
        value: settings.log.clone(),
        expected: error.to_string(),
    })?;
    // An error says that the program has a subscriber of its own.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_timer(SinceStart)
        .with_writer(Routed::new)
        .try_init();
    Ok(())
}

/// `[  12.345]`: seconds since the test began, as in the consoles' logs.
struct SinceStart;

impl FormatTime for SinceStart {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let elapsed = current().map(|context| context.begun.elapsed()).unwrap_or_default();
        write!(writer, "[{:>8.3}]", elapsed.as_secs_f64())
    }
}

/// Writes to the log of the test that the thread works for; to nowhere between tests.
struct Routed(Option<Arc<Context>>);

impl Routed {
    fn new() -> Self {
        Self(current())
    }
}

impl Write for Routed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            // An event comes in one write; the file is written to without a lock.
            Some(context) => context.log.file().write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
