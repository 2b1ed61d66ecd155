//! What can go wrong with a board. The driver adds what the console said last, and where its log is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Line;
use crate::lock::Holder;
use crate::rfc2217::Refusal;

/// Whose business an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The host, the lab's wiring, or the board's file.
    Infra,
    /// A deadline passed.
    Timeout,
}

/// One mistake in a board's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The key, `serial.speed`; empty where there is none.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("the board's file: {source}")]
    File {
        /// Why, with the path.
        source: std::io::Error,
    },
    /// What it says is no board.
    #[error("{}", lines(file, problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// Somebody else has it.
    #[error("{board} is in use: {holder}; it was waited for {:.1} s. The lock is {}", waited.as_secs_f64(), lock.display())]
    Locked {
        /// The board.
        board: String,
        /// Who, as the lock's file says.
        holder: Holder,
        /// How long it was waited for.
        waited: Duration,
        /// The lock.
        lock: PathBuf,
    },
    /// The lock can't be used.
    #[error("{board}: its lock {}: {source}", lock.display())]
    LockFile {
        /// The board.
        board: String,
        /// The lock.
        lock: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The line can't be opened.
    #[error("{board}: its serial line {line}: {source}")]
    Line {
        /// The board.
        board: String,
        /// The line.
        line: Line,
        /// Why.
        source: std::io::Error,
    },
    /// The serial server does not do what it is asked for.
    #[error("{board}: its serial line {line}: {refusal}")]
    Refused {
        /// The board.
        board: String,
        /// The line.
        line: Line,
        /// What it refuses.
        refusal: Refusal,
    },
    /// The serial server was connected to, and did not answer.
    #[error(
        "{board}: its serial line {line} was connected, and {:.1} s later the server had not confirmed {open}",
        elapsed.as_secs_f64()
    )]
    ServerSilent {
        /// The board.
        board: String,
        /// The line.
        line: Line,
        /// How long it was waited for.
        elapsed: Duration,
        /// What is missing.
        open: String,
    },
    /// A power command failed, or took too long.
    #[error("{board}: turning its power {operation}: {source}")]
    Power {
        /// The board.
        board: String,
        /// `on`, `off`, `off and on`, or what else was done.
        operation: &'static str,
        /// How, with the command and its last words.
        source: Box<process::Error>,
    },
    /// The command for the power's state printed something else.
    #[error(
        "{board}: `{command}` should have said whether it is on: neither {is_on} nor {is_off} is in {said:?}, or both are"
    )]
    PowerUnknown {
        /// The board.
        board: String,
        /// The command.
        command: String,
        /// What says that it is on.
        is_on: String,
        /// What says that it is off.
        is_off: String,
        /// What it said.
        said: String,
    },
    /// The power is not as it was turned.
    #[error("{board}: its power was turned {wanted}, and {:.1} s later it was not {wanted}", elapsed.as_secs_f64())]
    PowerStuck {
        /// The board.
        board: String,
        /// What it was to be: `on` or `off`.
        wanted: &'static str,
        /// How long it was waited for.
        elapsed: Duration,
    },
    /// A step of the dialogue did not come.
    #[error(
        "{board}: step {step} of its boot dialogue waited for {expected}, which did not come within {:.1} s",
        elapsed.as_secs_f64()
    )]
    Dialogue {
        /// The board.
        board: String,
        /// The step, from 1.
        step: usize,
        /// What it expects.
        expected: String,
        /// How long it was waited for.
        elapsed: Duration,
    },
    /// The line ended in the middle of a dialogue.
    #[error(
        "{board}: its line was closed while step {step} of its boot dialogue waited for {expected}: {reason}"
    )]
    Closed {
        /// The board.
        board: String,
        /// The step, from 1.
        step: usize,
        /// What it expects.
        expected: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Whose business it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::ServerSilent { .. } | Self::PowerStuck { .. } | Self::Dialogue { .. } => Class::Timeout,
            _ => Class::Infra,
        }
    }
}

fn lines(file: &std::path::Path, problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{}: {problem}", file.display(), problem.line);
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// ` (did you mean "speed"?)` when one of the known names is near, else nothing.
pub(crate) fn did_you_mean<S: AsRef<str>>(found: &str, known: &[S]) -> String {
    let allowed = (found.chars().count() / 3).clamp(1, 3);
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(found, name.as_ref()), name.as_ref()));
    let nearest = near.filter(|&(distance, _)| distance <= allowed).min();
    nearest.map_or_else(String::new, |(_, name)| format!(" (did you mean {name:?}?)"))
}
