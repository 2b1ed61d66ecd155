//! The protocol between the driver and the agent in a guest.
//!
//! Pure: bytes in, frames out. No sockets, no clock, no threads; both ends wrap it in their own I/O.
//!
//! * [`frame`]: length, sequence number and CRC around every piece; finding the hello in noise.
//! * [`hello`]: how a session begins. Its layout never changes, so that two versions can tell each other apart.
//! * [`message`]: requests, replies and streams, in [postcard](https://postcard.jamesmunns.com/wire-format).
//! * [`window`]: credit per stream, so that one stalled reader blocks nobody else.
//!
//! # A session
//!
//! The host picks a random nonce and sends [`hello::Hello::Open`]; the agent ends whatever session it had, answers
//! [`hello::Hello::Accepted`] with the same nonce, and from there on every frame of either side carries the nonce
//! and a sequence number that starts at 0. A frame that is damaged, missing, repeated or of another session is a
//! [`frame::FrameError`] and ends the session: never a short answer. The agent sends [`hello::Hello::Announce`]
//! when it starts, when a host connects, and when it had to drop a session.
//!
//! A virtserialport is one byte pipe that outlives both ends, so either may find itself in the middle of a frame
//! that will never be completed. [`frame::RESYNC`] zero bytes complete any such frame (its CRC then fails) and are
//! skipped between frames: the agent sends them before its first announcement, the host before its second hello.

pub mod frame;
pub mod hello;
pub mod message;
pub mod window;

/// The version of the messages. Two ends work together only if theirs are equal: the driver brings its agent along.
pub const VERSION: u32 = 1;

/// What the agent says of itself when it is run with `--version`.
#[must_use]
pub fn version_line() -> String {
    format!("rackless-agent, protocol {VERSION}")
}

/// The name of the virtserialport that the agent looks for in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "rackless.agent";

/// The name of a second virtserialport that the agent serves in the same way: the driver follows the journal there.
pub const JOURNAL_PORT_NAME: &str = "rackless.journal";

/// The AF_VSOCK port on which the agent listens.
pub const VSOCK_PORT: u32 = 5252;
