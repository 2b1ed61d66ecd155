//! What can go wrong in the harness itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the harness. Each variant says what was being done, for how long, and what was seen last.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A condition did not come true within its limit.
    #[error("{what}: not within {} ({attempts} attempts); the last one said: {last}", human(*.limit))]
    Timeout {
        /// What was waited for.
        what: String,
        /// The limit that was in force.
        limit: Duration,
        /// How many attempts were made.
        attempts: u32,
        /// What the last attempt answered.
        last: String,
    },
    /// The test asks for more memory than it can ever get on this host.
    #[error(
        "{who} needs {needs_mib} MiB of memory, but this host has {has_mib} MiB for tests ({basis}); make the lab \
         smaller, or say with RACKLESS_MEMORY how much tests may use"
    )]
    DoesNotFit {
        /// The test that asked.
        who: String,
        /// What it asked for, in MiB.
        needs_mib: u64,
        /// What tests may use in all, in MiB.
        has_mib: u64,
        /// How that figure came about.
        basis: String,
    },
    /// A test asked for a second share of the budget while it held a first one.
    #[error(
        "{who} already holds {held_mib} MiB and asks for {asked_mib} MiB more: two tests that do so can wait for each \
         other for ever; ask for the whole sum at once, or release the first grant"
    )]
    BudgetHeld {
        /// The test that asked.
        who: String,
        /// What it holds, in MiB.
        held_mib: u64,
        /// What it asked for, in MiB.
        asked_mib: u64,
    },
    /// A setting has a value that cannot be understood.
    #[error("{setting} is `{value}`: {expected}")]
    Setting {
        /// The flag or variable.
        setting: String,
        /// The value found.
        value: String,
        /// What would have been accepted.
        expected: String,
    },
    /// The suite itself is wrong, for instance two tests have one name.
    #[error("suite `{suite}`: {reason}")]
    Suite {
        /// Name of the suite.
        suite: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory for sockets and locks of this user cannot be trusted.
    #[error("{} cannot hold the locks of this user's tests: {reason}", .path.display())]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why it was refused.
        reason: String,
    },
    /// The operating system refused an operation on a file.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// The operation, as a verb: "create", "lock".
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an [`Error::Io`] with what was done to which file.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// A duration as a reader wants it: `850 ms`, `12.3 s`, `4 min 5 s`.
pub(crate) fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..=119 => format!("{:.1} s", duration.as_secs_f64()),
        120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [(850, "850 ms"), (12_340, "12.3 s"), (245_000, "4 min 5 s"), (7_260_000, "2 h 1 min")];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }
}
