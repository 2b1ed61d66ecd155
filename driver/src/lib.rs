//! Machines, labs, consoles, guests: what drives QEMU. Knows nothing of Kubernetes, and nothing of the harness
//! that runs the test: [`Supervisor`] is all that it sees of it.
//!
//! A [`Lab`] is made from a [`spec::LabSpec`]: plain data that says what each machine is, and into which port of
//! the switch each of its NICs is plugged. A [`Machine`] has the verbs.

pub mod checkpoint;
pub mod console;
pub mod control;
pub mod guest;
pub mod qemu;
pub mod spec;

mod capture;
mod death;
mod disk;
mod error;
mod fault;
mod journal;
mod lab;
mod machine;
mod poll;
mod start;
mod supervisor;
mod uplink;
mod vsock_way;

/// Boards: what a machine is made of that is not in QEMU.
pub use board;
pub use capture::Captures;
pub use death::{Cause, Died};
pub use error::{Error, Kind};
pub use fault::Fault;
pub use journal::JournalEntry;
pub use lab::{Lab, LabOptions};
pub use machine::{
    Command, CopyFrom, CopyTo, Execute, Fail, Machine, Reboot, Shutdown, Succeed, WaitFile, WaitPort,
    WaitReady, WaitShutdown, WaitUnit, WaitUnixSocket, WaitUntilFails, WaitUntilSucceeds,
};
pub use poll::poll_until;
pub use start::{After, Condition};
pub use supervisor::{BootTurn, Event, Supervisor, Unsupervised};
pub use uplink::Uplink;
pub use vsock_way::{has_vhost_user_vsock, has_vsock};

/// The examples of `docs/uplinks.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/uplinks.md")]
mod uplinks_doc {}
