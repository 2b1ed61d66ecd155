//! What goes wrong on the channel, in words for a reader at 3 a.m.

use super::shell_way::NoHandOver;
use agent_proto::message::FailureKind;
use std::path::PathBuf;
use std::time::Duration;

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The connection ended: QEMU or the agent's side of the stream is gone.
    #[error("the connection was closed ({0})")]
    Closed(String),
    /// Another agent process answers now.
    #[error("the agent was restarted{}", if *.same_boot { ", in the same boot" } else { ": the guest was booted again" })]
    Restarted {
        /// Whether the guest's boot id is still the same.
        same_boot: bool,
    },
    /// The agent could not read what came from the host.
    #[error("the agent dropped the session: {0}")]
    Dropped(String),
    /// The host could not read what came from the agent.
    #[error("the stream from the guest is damaged: {0}")]
    Damaged(String),
    /// The guest shuts down.
    #[error("the agent said goodbye: {0}")]
    Goodbye(String),
    /// The host opened another session.
    #[error("the host opened another session")]
    Replaced,
}

/// Anything that a [`Guest`](super::Guest) can't do.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No agent answered.
    #[error("{machine}: no agent answered over {transport} within {elapsed:.1?}; last: {last}")]
    NoAnswer {
        /// The machine.
        machine: String,
        /// The transport's name.
        transport: String,
        /// How long it was tried.
        elapsed: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// The agent in the guest is of another version.
    #[error(
        "{machine}: the agent speaks protocol {theirs}, this driver speaks {ours}: rebuild the agent disk"
    )]
    Version {
        /// The machine.
        machine: String,
        /// The driver's version.
        ours: u32,
        /// The agent's version.
        theirs: u32,
    },
    /// The guest can't take the agent over from its shell, which goes on.
    #[error("{machine}: no agent takes over from the shell: {reason} (after {elapsed:.1?})")]
    NoHandOver {
        /// The machine.
        machine: String,
        /// What it lacks.
        reason: NoHandOver,
        /// How long it was tried.
        elapsed: Duration,
    },
    /// The session ended while something was under way.
    #[error("{machine}: {operation}: the channel was lost after {elapsed:.1?}: {reason}")]
    Lost {
        /// The machine.
        machine: String,
        /// What was under way.
        operation: String,
        /// How long it was under way.
        elapsed: Duration,
        /// Why the session ended.
        reason: Lost,
    },
    /// The agent is connected and says nothing: the guest is wedged, paused or starved.
    #[error(
        "{machine}: {operation}: the agent is connected but silent for {elapsed:.1?}: is the guest wedged or paused?"
    )]
    Silent {
        /// The machine.
        machine: String,
        /// What was under way.
        operation: String,
        /// How long it was under way.
        elapsed: Duration,
    },
    /// A command took longer than it may. Its process group was killed; the channel goes on.
    #[error("{machine}: {command} was killed at its limit of {limit:.1?}{}", tail(.output))]
    CommandTimeout {
        /// The machine.
        machine: String,
        /// The command.
        command: String,
        /// Its limit.
        limit: Duration,
        /// The end of its stdout and stderr.
        output: String,
    },
    /// A condition did not come to be in time.
    #[error("{machine}: {condition}: not within {elapsed:.1?}, {attempts} looks; last:{}", tail(.evidence))]
    WaitTimeout {
        /// The machine.
        machine: String,
        /// What was waited for.
        condition: String,
        /// How long.
        elapsed: Duration,
        /// How often it was looked at.
        attempts: u32,
        /// What was seen last.
        evidence: String,
    },
    /// A condition can't come to be any more.
    #[error("{machine}: {condition}: impossible after {elapsed:.1?}:{}", tail(.evidence))]
    Impossible {
        /// The machine.
        machine: String,
        /// What was waited for.
        condition: String,
        /// How long.
        elapsed: Duration,
        /// What shows it, with status and journal of a failed unit.
        evidence: String,
    },
    /// The guest's system said no.
    #[error("{machine}: {operation}: {message} (after {elapsed:.1?})")]
    Refused {
        /// The machine.
        machine: String,
        /// What was asked for.
        operation: String,
        /// The sort of refusal.
        kind: FailureKind,
        /// What the guest said.
        message: String,
        /// How long it took.
        elapsed: Duration,
    },
    /// A command of the driver's own ended badly.
    #[error("{machine}: {operation}: {status}{}", tail(.output))]
    Command {
        /// The machine.
        machine: String,
        /// What it was for.
        operation: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// What arrived from the guest is not what it sent.
    #[error("{machine}: {operation}: digest or length of what arrived is wrong: bytes were lost on the way")]
    Digest {
        /// The machine.
        machine: String,
        /// What was under way.
        operation: String,
    },
    /// A file of the host could not be read or written.
    #[error("{machine}: {operation}: {}: {source}", .path.display())]
    HostFile {
        /// The machine.
        machine: String,
        /// What was under way.
        operation: String,
        /// The host's file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The shell's line failed.
    #[error("{source}")]
    Shell {
        /// How; it names machine, operation, time and the line's last words.
        source: shell::Error,
    },
    /// The way in has no such thing.
    #[error("{machine}: {operation} is unsupported over {way}, which is a shell: it needs the agent")]
    Unsupported {
        /// The machine.
        machine: String,
        /// What was asked for.
        operation: String,
        /// The way in.
        way: String,
    },
    /// The agent's answer fits no question.
    #[error("{machine}: {operation}: the agent gave an answer that makes no sense: {answer}")]
    Nonsense {
        /// The machine.
        machine: String,
        /// What was asked for.
        operation: String,
        /// The answer.
        answer: String,
    },
}

impl GuestError {
    /// A limit passed: of a command, a wait or a greeting, or the agent fell silent.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Shell { source } if source.is_timeout())
            || matches!(
                self,
                Self::NoAnswer { .. }
                    | Self::Silent { .. }
                    | Self::CommandTimeout { .. }
                    | Self::WaitTimeout { .. }
            )
    }

    /// The session is over.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. }) || matches!(self, Self::Shell { source } if source.is_lost())
    }
}

/// Evidence on lines of its own, or nothing.
fn tail(evidence: &str) -> String {
    let evidence = evidence.trim_end();
    if evidence.is_empty() {
        return String::new();
    }
    evidence.lines().fold(String::new(), |text, line| text + "\n    " + line)
}
