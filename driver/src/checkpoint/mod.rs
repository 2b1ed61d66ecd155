//! Checkpoints: a whole lab as it was at one moment, in a directory, from which any number of labs go on.
//!
//! ```text
//! <directory>/manifest.json       what it is, and the digest of every file
//! <directory>/manifest.b3sum      the digest of that
//! <directory>/<machine>.state     QEMU's migration stream: the devices, and the memory where no file has it
//! <directory>/<machine>.ram       the guest's memory; restored machines share its pages until they write
//! <directory>/<machine>.qcow2     what the machine has written to its disk
//! <directory>/<machine>.data-0.qcow2, …: the same of its data disks
//! <directory>/<machine>.vars.fd   its UEFI variables, if it has any
//! ```
//!
//! Saving stops all machines, lets QEMU migrate each to a file, copies memory and disks, and lets the machines go on.
//! Restoring starts each QEMU with an overlay of its own on the saved disk and a private mapping of the saved memory,
//! and lets all go on together once all are loaded. The agents, which were in the middle of a session, are greeted
//! anew; clocks are set; a generation id tells the kernels to reseed their random numbers.

mod error;
mod learnt;
mod manifest;
mod restore;
mod save;
mod store;

pub use error::CheckpointError;
pub(crate) use manifest::SavedNic;
pub use manifest::{Checkpoint, Manifest, SavedMachine};
pub use store::{Entry, Listed, Store};

#[cfg(test)]
mod tests;
