//! What can go wrong, said so that whoever reads it at night knows which machine, which operation, how long,
//! the last evidence, and where the artefacts are.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::CheckpointError;
use crate::console::{ConsoleError, Stage};
use crate::death::Died;
use crate::guest::GuestError;
use crate::qemu::{MINIMUM, Version};

/// Whose fault an error is, as far as the driver can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the test tests did not do what it should.
    Product,
    /// The host, QEMU or the driver: not what is tested.
    Infra,
    /// A deadline passed.
    Timeout,
    /// A guest died on its own.
    GuestCrash,
}

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No emulator.
    #[error(
        "QEMU is missing: `{}` is neither a file nor on the PATH; `cargo xtask setup` installs it, \
         or name one in RACKLESS_QEMU", program.display()
    )]
    QemuMissing {
        /// What was looked for.
        program: PathBuf,
    },
    /// The emulator lacks what the driver stands on.
    #[error(
        "QEMU is too old: `{}` is version {version}, and {MINIMUM} is the oldest with `-netdev stream`; \
         name a newer one in RACKLESS_QEMU", program.display()
    )]
    QemuTooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: Version,
    },
    /// The program named as emulator is something else.
    #[error("`{}` does not say that it is QEMU: it printed {said:?} to --version", program.display())]
    QemuUnknown {
        /// The program.
        program: PathBuf,
        /// What it printed.
        said: String,
    },
    /// No UEFI firmware.
    #[error(
        "UEFI firmware (OVMF) is missing: `cargo xtask setup` installs it, or name its two files in \
         RACKLESS_FIRMWARE_CODE and RACKLESS_FIRMWARE_VARS; looked at {}",
        list(looked_at)
    )]
    FirmwareMissing {
        /// Every place.
        looked_at: Vec<PathBuf>,
    },
    /// A word in `RACKLESS_ACCEL` that means nothing.
    #[error("RACKLESS_ACCEL is {asked:?}: expected `kvm`, `tcg` or `auto`")]
    AccelUnknown {
        /// The word.
        asked: String,
    },
    /// KVM was asked for and can't be had.
    #[error("RACKLESS_ACCEL asks for KVM, but /dev/kvm can't be opened: {source}")]
    KvmUnusable {
        /// Why.
        source: std::io::Error,
    },
    /// A word in `RACKLESS_CHANNEL` that means nothing, or a channel that this host can't have.
    #[error("RACKLESS_CHANNEL is {asked:?}: {why}")]
    ChannelUnavailable {
        /// The word.
        asked: String,
        /// What is missing.
        why: String,
    },
    /// A helper program failed.
    #[error("{operation}: {source}")]
    Tool {
        /// What was being done.
        operation: &'static str,
        /// How it failed.
        source: process::Error,
    },
    /// A machine's disk image can't be used.
    #[error("{machine}: the disk image can't be used: {source}")]
    Image {
        /// The machine.
        machine: String,
        /// Why.
        source: std::io::Error,
    },
    /// `qemu-img` made no overlay.
    #[error("{machine}: no overlay at {}: {said}{}", path.display(), full_disk_hint(said))]
    Overlay {
        /// The machine.
        machine: String,
        /// Where it was to be.
        path: PathBuf,
        /// What qemu-img said.
        said: String,
    },
    /// A file of the run could not be made, read or written.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A spec that can't be run.
    #[error("{machine}: {problem}")]
    Spec {
        /// The machine.
        machine: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No machine of that name.
    #[error("no machine {name:?} in this lab: it has {}", if known.is_empty() { "none".into() } else { known.join(", ") })]
    NoSuchMachine {
        /// The name.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// QEMU did not come up.
    #[error(
        "{machine}: QEMU did not start ({waiting_for}, {:.1} s): {said}; its output is in {}",
        elapsed.as_secs_f64(), log.display()
    )]
    Start {
        /// The machine.
        machine: String,
        /// The step that was not reached.
        waiting_for: &'static str,
        /// Time since it was spawned.
        elapsed: Duration,
        /// Its last words.
        said: String,
        /// Its output.
        log: PathBuf,
    },
    /// A machine is not running.
    #[error("{machine}: {operation} needs a running machine, and it is off{}", waiting(waits_for.as_deref()))]
    Off {
        /// The machine.
        machine: String,
        /// The operation.
        operation: String,
        /// What it waits for before it starts by itself, if it does.
        waits_for: Option<String>,
    },
    /// A machine without an agent or a shell was asked for something that needs one.
    #[error("{machine}: {operation} needs the agent or a shell, and this machine only has a console")]
    NoAgent {
        /// The machine.
        machine: String,
        /// The operation.
        operation: String,
    },
    /// A machine of another kind could do it, and this one never can.
    #[error("{machine}: {operation} is unsupported: {why}")]
    Unsupported {
        /// The machine.
        machine: String,
        /// The operation.
        operation: String,
        /// What is in the way.
        why: String,
    },
    /// A board could not be had, or its line or power did not do what they should. The source names the board.
    #[error("{machine}: {source}{}\n  artefacts: {}", quoted("console", console), artifacts.display())]
    Board {
        /// The machine that it is.
        machine: String,
        /// What went wrong.
        source: Box<board::Error>,
        /// The last console lines.
        console: Vec<String>,
        /// The machine's artefacts, with `console.log`.
        artifacts: PathBuf,
    },
    /// A NIC that was to be fast is not.
    #[error(
        "{machine}/{nic}: QEMU does not use vhost-user on this NIC after {:.1} s: {problem}; QEMU said: {said}\n  \
         artefacts: {}", elapsed.as_secs_f64(), artifacts.display()
    )]
    FastNic {
        /// The machine.
        machine: String,
        /// The NIC.
        nic: String,
        /// How long it was waited for.
        elapsed: Duration,
        /// What the switch knows.
        problem: String,
        /// QEMU's last words.
        said: String,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A machine died.
    #[error(transparent)]
    Died(Box<Died>),
    /// A boot stage was not reached in time.
    #[error(
        "{machine}: did not reach the stage {wanted} within {:.1} s; it stopped at {reached}{}\n  artefacts: {}",
        elapsed.as_secs_f64(), quoted("console", evidence), artifacts.display()
    )]
    Boot {
        /// The machine.
        machine: String,
        /// The stage that was waited for.
        wanted: Stage,
        /// The last stage that was seen.
        reached: Stage,
        /// Time since power-on.
        elapsed: Duration,
        /// The last console lines, or the last thing that the boot waited for.
        evidence: Vec<String>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// The guest channel failed. The source names machine and operation.
    #[error("{source}\n  artefacts: {}", artifacts.display())]
    Guest {
        /// How it failed.
        source: Box<GuestError>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A command should have succeeded.
    #[error(
        "{machine}: `{command}` ended with {status} after {:.1} s{}{}\n  artefacts: {}",
        elapsed.as_secs_f64(), quoted("stdout", stdout), quoted("stderr", stderr), artifacts.display()
    )]
    CommandFailed {
        /// The machine.
        machine: String,
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// How long it ran.
        elapsed: Duration,
        /// The last lines of its standard output.
        stdout: Vec<String>,
        /// The last lines of its standard error.
        stderr: Vec<String>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A command should have failed.
    #[error(
        "{machine}: `{command}` succeeded after {:.1} s and should have failed{}\n  artefacts: {}",
        elapsed.as_secs_f64(), quoted("stdout", stdout), artifacts.display()
    )]
    CommandSucceeded {
        /// The machine.
        machine: String,
        /// The command.
        command: String,
        /// How long it ran.
        elapsed: Duration,
        /// The last lines of its standard output.
        stdout: Vec<String>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A unit is in another state than it must be in.
    #[error(
        "{machine}: {unit} is {is}, and must be {wanted} (asked for {:.1} s){}\n  artefacts: {}",
        elapsed.as_secs_f64(), quoted("systemctl status", last), artifacts.display()
    )]
    UnitState {
        /// The machine.
        machine: String,
        /// The unit.
        unit: String,
        /// The `ActiveState` that it must have.
        wanted: String,
        /// The one that it has.
        is: String,
        /// How long it took to ask.
        elapsed: Duration,
        /// The last lines of what `systemctl status` says.
        last: Vec<String>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A condition did not come true in time.
    #[error(
        "{machine}: {operation} was not so after {:.1} s and {attempts} attempts{}\n  artefacts: {}",
        elapsed.as_secs_f64(), quoted("last attempt", last), artifacts.display()
    )]
    Condition {
        /// The machine.
        machine: String,
        /// What was waited for.
        operation: String,
        /// How long.
        elapsed: Duration,
        /// How often it was tried.
        attempts: u64,
        /// What the last attempt printed.
        last: Vec<String>,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// A wait on the console failed. The source names the machine.
    #[error("{source}\n  artefacts: {}", artifacts.display())]
    Console {
        /// How.
        source: ConsoleError,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// The guest's journal did not say what was waited for.
    #[error(
        "{machine}: no entry of its journal said `{pattern}` within {:.1} s; {entries} came, besides {left_out} too long \
         to keep{}\n  journal: {}",
        elapsed.as_secs_f64(), quoted("last entries", last), file.display()
    )]
    Journal {
        /// The machine.
        machine: String,
        /// What was waited for.
        pattern: String,
        /// How long.
        elapsed: Duration,
        /// How many entries came.
        entries: u64,
        /// How many were left out.
        left_out: u64,
        /// The last ones.
        last: Vec<String>,
        /// The file with all of them.
        file: PathBuf,
    },
    /// QEMU refused or did not answer. The source names the machine.
    #[error("{source}, while {operation}\n  artefacts: {}", artifacts.display())]
    Qmp {
        /// What was being done.
        operation: String,
        /// How it failed.
        source: qmp::Error,
        /// The machine's artefacts.
        artifacts: PathBuf,
    },
    /// The virtual switch.
    #[error("the virtual switch: {source}")]
    Switch {
        /// How it failed.
        source: switch::Error,
    },
    /// The run's directory.
    #[error("the run's directory: {source}")]
    Run {
        /// How it failed.
        source: process::Error,
    },
    /// A checkpoint can't be made or restored.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Something of a lab outlived its teardown.
    #[error("after the teardown of {lab} there is still: {}", what.join("; "))]
    Lingering {
        /// The lab.
        lab: String,
        /// What lingers.
        what: Vec<String>,
    },
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::CommandFailed { .. }
            | Self::CommandSucceeded { .. }
            | Self::UnitState { .. }
            | Self::NoSuchMachine { .. } => Kind::Product,
            Self::Boot { .. } | Self::Condition { .. } | Self::Journal { .. } => Kind::Timeout,
            Self::Console { source, .. } if source.is_timeout() => Kind::Timeout,
            Self::Guest { source, .. } if source.is_timeout() => Kind::Timeout,
            Self::Died(died) => died.cause.kind(),
            Self::Board { source, .. } if source.class() == board::Class::Timeout => Kind::Timeout,
            Self::Switch { source } if source.is_assertion() => Kind::Product,
            _ => Kind::Infra,
        }
    }

    /// For `map_err`: a file operation that failed.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}

impl From<switch::Error> for Error {
    fn from(source: switch::Error) -> Self {
        Self::Switch { source }
    }
}

/// Lines of evidence, indented under a label; nothing when there are none.
pub(crate) fn quoted(label: &str, lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        let _ = write!(text, "\n  {label}| {line}");
    }
    text
}

/// The last `count` lines of some output.
pub(crate) fn last_lines(output: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&l| l.to_owned()).collect()
}

fn list(paths: &[PathBuf]) -> impl fmt::Display {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn waiting(for_what: Option<&str>) -> String {
    for_what.map_or_else(String::new, |what| format!(", and waits for {what}"))
}

fn full_disk_hint(said: &str) -> &'static str {
    if said.contains("No space left") {
        "; free some space, or set RACKLESS_ARTIFACTS to a larger disk"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
