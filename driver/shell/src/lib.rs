//! A shell at the other end of a line, as a channel that keeps its promises.
//!
//! The line may be nixosTest's backdoor on a virtio console, a getty on a serial port, or a board behind a serial
//! server. Such lines lose bytes (QEMU's virtconsole drops what its socket can't take, a UART overruns), change them,
//! and carry those of others: firmware, boot loader, the kernel's messages. So nothing that comes from one is believed
//! unless its digest says so:
//!
//! - A small server in the guest, a loop in POSIX sh that [`Shell::attach`] starts, reads requests a line at a time and
//!   answers each with one line: the session's random marker, the request's number, the answer, a digest ([`frame`]).
//!   A request that arrives damaged is not carried out.
//! - Requests can be said again: each does the same when it is done twice. So whatever is lost, changed or mixed with
//!   other bytes is asked for again, in smaller pieces; after [`Options::attempts`] it is an error with the evidence.
//! - A command's output goes to files in the guest, and is fetched from there piece by piece. Nothing is sent that was
//!   not asked for, so that a reader who stalls loses nothing, and a command that runs for an hour keeps nobody waiting.
//! - At its end a command says its status, both lengths and both digests. What was fetched either fits or is an error.
//!
//! The guest needs a POSIX shell, and of coreutils or busybox [`TOOLS`].

pub mod escape;
pub mod frame;
pub mod tty;

mod attach;
mod command;
mod error;
mod files;
mod guest;
mod line;

pub use attach::{Login, Options, Readiness};
pub use command::{Command, Output, Status};
pub use error::{Error, Refusal};
pub use files::FileMeta;
pub use guest::TOOLS;
pub use line::{Hello, Shell};
