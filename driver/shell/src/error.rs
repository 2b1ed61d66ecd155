//! What can go wrong at a shell, with the line's last words.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What sort of thing the guest refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such file, program, user or directory.
    NotFound,
    /// Anything else that a command of the guest's says no to.
    Failed,
}

/// Anything that a [`Shell`](crate::Shell) can't do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No shell answered.
    #[error("{machine}: no shell answered on {line} within {:.1} s; {waiting_for}{}", elapsed.as_secs_f64(), quoted(last))]
    NoShell {
        /// Whose line.
        machine: String,
        /// What the line is.
        line: String,
        /// How long it was tried.
        elapsed: Duration,
        /// What was last waited for.
        waiting_for: String,
        /// The last lines of text.
        last: Vec<String>,
    },
    /// The guest says that user or password are wrong.
    #[error("{machine}: {line}: the login of {user:?} was refused{}", quoted(last))]
    LoginRefused {
        /// Whose line.
        machine: String,
        /// What the line is.
        line: String,
        /// Who was to be logged in.
        user: String,
        /// The last lines of text.
        last: Vec<String>,
    },
    /// The guest lacks programs that the channel stands on.
    #[error("{machine}: the guest's shell lacks {}, which the channel needs", tools.join(", "))]
    ToolsMissing {
        /// Whose shell.
        machine: String,
        /// Their names.
        tools: Vec<String>,
    },
    /// What came is not what was sent, again and again.
    #[error(
        "{machine}: {operation}: bytes were lost, changed or added on the line in each of {attempts} attempts, {:.1} s; \
         last: {evidence}{}", elapsed.as_secs_f64(), quoted(last)
    )]
    Damaged {
        /// Whose line.
        machine: String,
        /// What was under way.
        operation: String,
        /// How often it was asked for.
        attempts: u32,
        /// How long.
        elapsed: Duration,
        /// What was wrong with the last answer.
        evidence: String,
        /// The last lines of text.
        last: Vec<String>,
    },
    /// No answer comes any more.
    #[error(
        "{machine}: {operation}: the shell is silent: no answer to {attempts} requests in {:.1} s; was the guest \
         rebooted, or is it wedged?{}", elapsed.as_secs_f64(), quoted(last)
    )]
    Silent {
        /// Whose line.
        machine: String,
        /// What was under way.
        operation: String,
        /// How often it was asked for.
        attempts: u32,
        /// How long.
        elapsed: Duration,
        /// The last lines of text.
        last: Vec<String>,
    },
    /// The line ended.
    #[error("{machine}: {operation}: the line was closed ({reason}){}", quoted(last))]
    Closed {
        /// Whose line.
        machine: String,
        /// What was under way.
        operation: String,
        /// What the system said.
        reason: String,
        /// The last lines of text.
        last: Vec<String>,
    },
    /// All of it came, and it is not what the guest has.
    #[error("{machine}: {operation}: length or digest of what arrived is wrong: {problem}")]
    Digest {
        /// Whose line.
        machine: String,
        /// What was under way.
        operation: String,
        /// Both lengths or digests.
        problem: String,
    },
    /// A command took longer than it may. It was killed; the channel goes on.
    #[error("{machine}: {command} was killed at its limit of {:.1} s{}", limit.as_secs_f64(), quoted(output))]
    CommandTimeout {
        /// Whose shell.
        machine: String,
        /// The command.
        command: String,
        /// Its limit.
        limit: Duration,
        /// The last lines of its stdout and stderr.
        output: Vec<String>,
    },
    /// The guest's system said no.
    #[error("{machine}: {operation}: {message}")]
    Refused {
        /// Whose shell.
        machine: String,
        /// What was asked for.
        operation: String,
        /// The sort of refusal.
        refusal: Refusal,
        /// What the guest said.
        message: String,
    },
    /// A file of the host could not be read or written.
    #[error("{machine}: {operation}: {}: {source}", path.display())]
    HostFile {
        /// Whose shell.
        machine: String,
        /// What was under way.
        operation: String,
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
}

impl Error {
    /// A limit passed: of a command or an attachment, or the shell fell silent.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::NoShell { .. } | Self::Silent { .. } | Self::CommandTimeout { .. })
    }

    /// The shell has to be attached anew.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Silent { .. })
    }
}

fn quoted(lines: &[String]) -> impl fmt::Display {
    lines.iter().fold(String::new(), |text, line| text + "\n  line| " + line)
}
