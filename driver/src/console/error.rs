//! What can go wrong with a console.

use std::time::Duration;

use super::stage::Stage;

/// An error of a console. Each has the machine's last lines, for these mostly say why.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsoleError {
    /// The awaited text did not come in time.
    #[error(
        "{machine}: the console did not show /{pattern}/ within {:.1} s; stage {stage}, {:.1} s after power-on{}",
        .elapsed.as_secs_f64(), .age.as_secs_f64(), quoted(.tail)
    )]
    Timeout {
        /// Whose console.
        machine: String,
        /// What was waited for.
        pattern: String,
        /// How long was waited.
        elapsed: Duration,
        /// Time since power-on.
        age: Duration,
        /// The stage of the boot.
        stage: Stage,
        /// The last lines.
        tail: Vec<String>,
    },
    /// The console was closed before the awaited text came: QEMU ended, as a rule.
    #[error(
        "{machine}: the console was closed before it showed /{pattern}/; stage {stage}, {:.1} s after power-on{}",
        .age.as_secs_f64(), quoted(.tail)
    )]
    Closed {
        /// Whose console.
        machine: String,
        /// What was waited for.
        pattern: String,
        /// Time since power-on.
        age: Duration,
        /// The stage of the boot.
        stage: Stage,
        /// The last lines.
        tail: Vec<String>,
    },
    /// Nothing can be typed: the console is closed, or the guest has not read what was typed before.
    #[error("{machine}: could not type on the console: {reason}{}", quoted(.tail))]
    Send {
        /// Whose console.
        machine: String,
        /// Why.
        reason: &'static str,
        /// The last lines.
        tail: Vec<String>,
    },
}

impl ConsoleError {
    /// Whether time ran out, as against the console being gone.
    pub fn is_timeout(&self) -> bool {
        matches!(self, ConsoleError::Timeout { .. })
    }
}

fn quoted(tail: &[String]) -> String {
    if tail.is_empty() {
        return "; it printed nothing".to_owned();
    }
    tail.iter().fold("; its last lines:".to_owned(), |text, line| text + "\n  | " + line)
}
