//! Child processes under the rules of the driver.
//!
//! A test that boots machines must leave nothing behind, however it ends: by return, panic, deadline,
//! Ctrl-C, SIGTERM or SIGKILL. This crate has the one way to start a child in the whole workspace:
//!
//! * **One thread spawns.** It lives as long as the process, because the kernel ties the parent-death signal
//!   to the *thread* that forked (`prctl(2)`, `PR_SET_PDEATHSIG`): set from a pool thread, the child dies when
//!   that thread retires.
//! * **A process group each**, so that a signal meant for the test does not reach QEMU before its state was
//!   dumped, and so that a child goes together with everything it started.
//! * **SIGKILL on the parent's death**, set between fork and exec, then a check that the parent is still there.
//! * **The group ends with its leader.** When the leader has exited, what is left of its group is killed before
//!   the leader is reaped; until then the kernel can't hand out the group's number again.
//! * **A run directory** ([`RunDir`]) with a lock and the children's pids and start times. What a killed owner
//!   left behind (grandchildren, sockets) is cleared by the next start ([`reap_stale`]).
//!
//! [`spawn`] is for what lives on (QEMU, daemons); [`run`], [`run_blocking`] and [`run_streaming`] are for tools
//! that end within a limit.
//!
//! ```
//! use std::time::Duration;
//! let output = process::run_blocking(process::Command::new("echo").arg("hello"), Duration::from_secs(10))?
//!     .checked()?;
//! assert_eq!(output.stdout_text(), "hello\n");
//! # Ok::<(), process::Error>(())
//! ```

mod child;
mod command;
mod death;
mod error;
mod identity;
mod latch;
mod reap;
mod run;
mod rundir;
mod spawner;

pub use child::Child;
pub use command::{Command, CommandLine, Stdio};
pub use error::{Error, Tail};
pub use identity::{Identity, OWNER_VARIABLE, owner_mark};
pub use reap::{Reaped, lingering, reap_stale};
pub use run::{Output, Stream, run, run_blocking, run_streaming};
pub use rundir::{Recorded, RunDir, RunInfo, RunState, SOCKET_PATH_MAX, runs};
/// The signals of [`Child::signal_group`].
pub use rustix::process::Signal;
pub use spawner::spawn;
