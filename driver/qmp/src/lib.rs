//! A client for the QEMU Machine Protocol (QMP): typed commands, and a reader that no unknown event can end.
//!
//! The commands' types come from [`commands`] (generated from QEMU's schema). The wire is our own, because QEMU
//! gains events and members with each release: a message is read as plain JSON, matched to its command by `id`, and
//! only then given a type. Whatever is not understood is logged and passed over.
//!
//! * Every command has a deadline.
//! * When the connection is lost, every pending command fails at once, and so does each later one.
//! * Events are kept in order with a [position](Client::position), so that one which comes between two calls is not
//!   missed.
//!
//! Protocol: <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

mod client;
mod error;
mod line;
mod log;
mod message;
mod probe;

pub use client::{Client, Options};
pub use error::Error;
pub use line::{LINE_MAX, LineReader};
pub use message::{Event, Greeting, Message, Version};
/// The commands' types, generated from QEMU's schema.
pub use qapi_qmp as commands;
/// What makes a type a command.
pub use qapi_spec::Command;
