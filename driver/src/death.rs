//! How machines die, and how the first cause is kept.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::console::{Finding, FindingKind, Stage};
use crate::error::{Kind, quoted};

/// Why a machine is dead although nobody asked for it.
#[derive(Debug, Clone)]
pub enum Cause {
    /// QEMU ended.
    QemuExited {
        /// How: an exit code or a signal.
        status: String,
        /// The last lines of its own output.
        said: Vec<String>,
    },
    /// The guest told QEMU of its kernel's panic (pvpanic).
    GuestPanicked,
    /// The guest powered itself off.
    UnexpectedShutdown {
        /// QMP's reason, such as `guest-shutdown`.
        reason: String,
    },
    /// The guest reset itself.
    UnexpectedReset {
        /// QMP's reason, such as `guest-reset`.
        reason: String,
    },
    /// The console shows something that no test survives.
    Console(Finding),
    /// The agent closed its port while the guest was up.
    AgentLost,
    /// A board has no power, and nobody here turned it off.
    PowerLost,
    /// A board's serial line was closed.
    LineLost,
    /// A board did not boot: its boot loader or its login did not answer as its file says.
    NotBooted {
        /// What was waited for.
        why: String,
        /// Whose fault that is.
        kind: Kind,
    },
    /// It was to start after something else, and could not: see [`MachineSpec::after`](crate::spec::MachineSpec::after).
    NotStarted {
        /// What it waited for.
        waited_for: String,
        /// Why it did not come about, or why the start failed.
        why: String,
        /// Whose fault that is.
        kind: Kind,
    },
}

impl Cause {
    /// Whether the guest's kernel has panicked, so that nothing in the guest answers any more.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        match self {
            Self::GuestPanicked => true,
            Self::Console(finding) => finding.kind == FindingKind::KernelPanic,
            _ => false,
        }
    }

    /// Whose fault it is: QEMU's end, a lost agent, line or power are the infrastructure's, all else is the guest's.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::QemuExited { .. } | Self::AgentLost | Self::PowerLost | Self::LineLost => Kind::Infra,
            Self::NotStarted { kind, .. } | Self::NotBooted { kind, .. } => *kind,
            _ => Kind::GuestCrash,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QemuExited { status, said } => {
                write!(f, "QEMU ended on its own ({status}){}", quoted("qemu", said))
            }
            Self::GuestPanicked => f.write_str("the guest's kernel panicked"),
            Self::UnexpectedShutdown { reason } => {
                write!(f, "the guest powered itself off ({reason}), and nobody asked for it")
            }
            Self::UnexpectedReset { reason } => {
                write!(f, "the guest reset itself ({reason}), and nobody asked for it")
            }
            Self::Console(finding) => write!(f, "{finding}"),
            Self::NotStarted { waited_for, why, .. } => {
                write!(f, "it was to start after {waited_for}, and did not: {why}")
            }
            Self::PowerLost => f.write_str(
                "its power is off, and nobody here turned it off: somebody else did, or its supply failed",
            ),
            Self::LineLost => f.write_str("its serial line was closed at the other end"),
            Self::NotBooted { why, .. } => write!(f, "it did not boot: {why}"),
            Self::AgentLost => f.write_str("the agent in the guest closed its port while the guest was up"),
        }
    }
}

/// The death of one machine.
#[derive(Debug, Clone)]
pub struct Died {
    /// The machine.
    pub machine: String,
    /// Why.
    pub cause: Cause,
    /// The last stage of boot that it reached.
    pub stage: Stage,
    /// Time since it was powered on.
    pub after: Duration,
    /// The last console lines.
    pub console: Vec<String>,
    /// The machine's artefacts.
    pub artifacts: PathBuf,
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.cause, Cause::NotStarted { .. }) {
            return write!(f, "{}: {}\n  artefacts: {}", self.machine, self.cause, self.artifacts.display());
        }
        write!(
            f,
            "{}: died {:.1} s after power-on, at the stage {}: {}{}\n  artefacts: {}",
            self.machine,
            self.after.as_secs_f64(),
            self.stage,
            self.cause,
            quoted("console", &self.console),
            self.artifacts.display()
        )
    }
}

impl std::error::Error for Died {}
