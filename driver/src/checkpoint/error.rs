//! What can go wrong with checkpoints.

use std::path::PathBuf;
use std::time::Duration;

use crate::qemu::Version;

/// Why there is no checkpoint, or why none is restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// QEMU can't save a machine: a device that does not migrate, or no room.
    #[error("{machine} can't be saved, after {:.1} s: {said}", elapsed.as_secs_f64())]
    Save {
        /// The machine.
        machine: String,
        /// How long it took to find out.
        elapsed: Duration,
        /// What QEMU said.
        said: String,
    },
    /// A machine has a device whose state QEMU can't save.
    #[error("{machine} can't be saved: QEMU has no way to save the state of its device {device}")]
    Unmigratable {
        /// The machine.
        machine: String,
        /// The device: QEMU's path of it, or its kind.
        device: String,
    },
    /// This QEMU has not what saving needs, whatever its version says.
    #[error("{machine} can't be saved: {} ({version}) lacks {lacks}", program.display())]
    QemuTooOld {
        /// The machine.
        machine: String,
        /// The emulator.
        program: PathBuf,
        /// What it says of itself.
        version: Version,
        /// What it lacks.
        lacks: &'static str,
    },
    /// A machine that a checkpoint needs running is off, or has no agent to greet anew.
    #[error("{machine} can't be part of a checkpoint: {why}")]
    Unfit {
        /// The machine.
        machine: String,
        /// What it lacks.
        why: &'static str,
    },
    /// QEMU can't load a machine's state.
    #[error("{machine} can't be restored from {}, after {:.1} s: {said}", directory.display(), elapsed.as_secs_f64())]
    Load {
        /// The machine.
        machine: String,
        /// The checkpoint.
        directory: PathBuf,
        /// How long it took to find out.
        elapsed: Duration,
        /// What QEMU said.
        said: String,
    },
    /// The directory has no checkpoint that this version can read.
    #[error("{} is no checkpoint: {problem}", directory.display())]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file is not what it was when it was saved.
    #[error("the checkpoint {} is damaged: {file} {problem}; remove it with `rackless checkpoint rm`", directory.display())]
    Damaged {
        /// The checkpoint.
        directory: PathBuf,
        /// The file.
        file: String,
        /// How it differs.
        problem: String,
    },
    /// The checkpoint is of other machines than the lab has.
    #[error("the checkpoint {} is of the machines {}, and the lab has {}", directory.display(), saved.join(", "), wanted.join(", "))]
    OtherMachines {
        /// The checkpoint.
        directory: PathBuf,
        /// Those that it has.
        saved: Vec<String>,
        /// Those that were asked for.
        wanted: Vec<String>,
    },
    /// A limit that makes no sense.
    #[error(
        "RACKLESS_CHECKPOINTS_GIB is {asked:?}: expected how many GiB all checkpoints may take on disk, such as 20"
    )]
    Limit {
        /// The words.
        asked: String,
    },
    /// The checkpoint has not one of the machine's data disks.
    #[error("the checkpoint {} has no data disk {index} of {machine}", directory.display())]
    NoSuchDisk {
        /// The checkpoint.
        directory: PathBuf,
        /// The machine.
        machine: String,
        /// The disk's place in the machine's list, from 0.
        index: usize,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] cache::Error),
}
