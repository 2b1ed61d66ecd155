//! What can go wrong between us and a monitor.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the QMP client. Each names the machine, and the command where there is one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The socket could not be connected to.
    #[error("{machine}: could not connect to QMP at {}: {reason}", .path.display())]
    Connect {
        /// Whose monitor.
        machine: String,
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        reason: String,
    },
    /// The traffic log could not be made.
    #[error("{machine}: could not open the QMP log {}: {reason}", .path.display())]
    Log {
        /// Whose monitor.
        machine: String,
        /// The log.
        path: PathBuf,
        /// The kernel's answer.
        reason: String,
    },
    /// What is at the other end did not greet as QEMU does.
    #[error("{machine}: no QMP greeting within {:.1} s; {got}", .elapsed.as_secs_f64())]
    NoGreeting {
        /// Whose monitor.
        machine: String,
        /// How long was waited.
        elapsed: Duration,
        /// What came instead.
        got: String,
    },
    /// QEMU did not answer in time. The connection stays usable; a late answer is passed over.
    #[error("{machine}: QMP `{command}` was not answered within {:.1} s; last event: {last_event}", .limit.as_secs_f64())]
    Timeout {
        /// Whose monitor.
        machine: String,
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
        /// The last event before, as evidence of life.
        last_event: String,
    },
    /// An awaited event did not come.
    #[error("{machine}: QMP event {awaited} did not come within {:.1} s; last event: {last_event}", .limit.as_secs_f64())]
    NoEvent {
        /// Whose monitor.
        machine: String,
        /// What was waited for.
        awaited: String,
        /// The limit.
        limit: Duration,
        /// The last event that did come.
        last_event: String,
    },
    /// QEMU refused the command.
    #[error("{machine}: QMP `{command}` failed: {description} ({class})")]
    Refused {
        /// Whose monitor.
        machine: String,
        /// The command.
        command: String,
        /// `GenericError`, `CommandNotFound`, `DeviceNotFound`…
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// The connection ended: QEMU exited or was killed, as a rule. Its stderr and the machine's console say why.
    #[error("{machine}: QMP connection lost {:.1} s after it was made ({reason}){}; last event: {last_event}",
        .after.as_secs_f64(), .command.as_ref().map(|command| format!(" with `{command}` unanswered")).unwrap_or_default())]
    Lost {
        /// Whose monitor.
        machine: String,
        /// The command that was waiting for its answer.
        command: Option<String>,
        /// The age of the connection.
        after: Duration,
        /// How it ended.
        reason: String,
        /// The last event before.
        last_event: String,
    },
    /// The answer has another shape than the schema that the types were made from. `execute_raw` gives it as it is.
    #[error("{machine}: QMP `{command}` answered in a shape that is not known ({reason}): {answer}")]
    Shape {
        /// Whose monitor.
        machine: String,
        /// The command.
        command: String,
        /// What does not fit.
        reason: String,
        /// The answer, shortened.
        answer: String,
    },
}

impl Error {
    /// Whether QEMU does not know the command at all.
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Error::Refused { class, .. } if class == "CommandNotFound")
    }

    /// Whether the connection is gone.
    pub fn is_lost(&self) -> bool {
        matches!(self, Error::Lost { .. })
    }

    pub(crate) fn connect(machine: &str, path: &std::path::Path, error: &io::Error) -> Error {
        Error::Connect { machine: machine.into(), path: path.into(), reason: error.to_string() }
    }
}
