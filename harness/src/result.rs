//! `started` and `result.json`: the marks before and after a test. A directory with the first and without the second
//! belongs to a test that still runs, or whose process was killed.

use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{Class, Error};

/// Version of the form of `result.json`.
pub const SCHEMA: u32 = 1;

/// `started`: written before a test's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Version of this form.
    pub schema: u32,
    /// Name of the run.
    pub run: String,
    /// Name of the suite.
    pub suite: String,
    /// Full name of the test.
    pub test: String,
    /// When the test began.
    pub started: jiff::Timestamp,
    /// Process that runs it.
    pub pid: u32,
    /// Seed of everything random in the test.
    pub seed: u64,
}

/// `result.json`: written after everything has been torn down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// What `started` said.
    #[serde(flatten)]
    pub started: Started,
    /// Whether the test passed.
    pub passed: bool,
    /// Why it failed; absent when it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Real time of the test with its diagnosis and teardown, without a hold, in milliseconds.
    pub elapsed_ms: u64,
    /// Its deadline, scaled, in milliseconds.
    pub deadline_ms: u64,
    /// For how long the deadline stood still, in milliseconds.
    pub stood_still_ms: u64,
    /// Steps in the order they began.
    pub steps: Vec<StepRecord>,
    /// How each subject ended, in the order of teardown.
    pub teardown: Vec<TeardownRecord>,
    /// Files that the test left, relative to its directory.
    pub artifacts: Vec<String>,
}

/// Why a test failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Who has to look at it.
    pub class: Class,
    /// How the test ended: an error, a panic, its deadline …
    pub cause: Cause,
    /// The steps it was in, outermost first.
    pub step: Vec<String>,
    /// The error and its causes, outermost first.
    pub chain: Vec<String>,
    /// Where it panicked, as `file:line:column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The backtrace, from the test's own frames on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// What else went wrong: panics in the background, a teardown that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub besides: Vec<String>,
}

/// What ended a test that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its body returned an error.
    Error,
    /// Its body panicked.
    Panic,
    /// A background task of the test panicked; the body itself was fine.
    BackgroundPanic,
    /// Its deadline passed.
    Deadline,
    /// A signal came.
    Signal,
    /// One of its subjects died.
    Death,
    /// The body was fine, but something could not be torn down.
    Lingering,
    /// The test passed, but its result could not be written.
    Unwritten,
    /// The test blocked its thread, and the watchdog ended it.
    Wedged,
}

/// One step of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// Index in the list of the step it was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// When it began, in milliseconds since the test did.
    pub started_ms: u64,
    /// How long it took, or had taken when it was interrupted, in milliseconds.
    pub elapsed_ms: u64,
    /// How it ended.
    pub outcome: StepOutcome,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// Still going on.
    Running,
    /// Fine.
    Ok,
    /// With an error.
    Failed,
    /// The test ended within it: panic, deadline, signal, death.
    Interrupted,
}

/// How a subject ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeardownRecord {
    /// Name of the subject.
    pub subject: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// What lingered, or why it could not be ended; absent when all went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TestResult {
    /// Reads a `result.json`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or is not of this form.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        serde_json::from_slice(&text).map_err(|error| Error::io("understand", path)(error.into()))
    }
}

/// Writes a JSON file so that a reader sees it whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|error| Error::io("write", path)(error.into()))?;
    text.push(b'\n');
    write_whole(path, &text)
}

pub(crate) fn write_whole(path: &Path, text: &[u8]) -> Result<(), Error> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.tmp", std::process::id()));
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)).map_err(Error::io("write", path))
}

/// All files below `dir`, relative to it, sorted.
pub(crate) fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => found.extend(
                    entry.path().strip_prefix(dir).ok().map(|path| path.to_string_lossy().into_owned()),
                ),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}
