//! What can go wrong when the switch is asked for something.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::frame::MAX_FRAME;

/// What can go wrong when the switch is asked for something. Frames never cause one: they are dropped and counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a VLAN id, nor a range of them.
    #[error("\"{vid}\" is not a VLAN id: these go from 1 to 4094 (a range: 100-199)")]
    VlanOutOfRange {
        /// What was given.
        vid: String,
    },

    /// Not a MAC address.
    #[error("\"{text}\" is not a MAC address: expected six octets, like 52:54:00:12:34:56")]
    MalformedMac {
        /// What was given.
        text: String,
    },

    /// The system would not start the switch's thread or give it a pipe.
    #[error("switch {switch}: cannot start: {source}")]
    Start {
        /// The switch.
        switch: String,
        /// Why.
        source: io::Error,
    },

    /// A socket's path does not fit into the kernel's address (`sun_path`).
    #[error(
        "switch {switch}, port {port}: the socket path {} has {length} bytes, and the system takes 107 at most; \
         choose a shorter run directory (XDG_RUNTIME_DIR)", path.display()
    )]
    SocketPathTooLong {
        /// The switch.
        switch: String,
        /// The port's name.
        port: String,
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },

    /// A port's socket cannot be listened on.
    #[error("switch {switch}, port {port}: cannot listen on {}: {source}", path.display())]
    Listen {
        /// The switch.
        switch: String,
        /// The port's name.
        port: String,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Two ports with one name.
    #[error("switch {switch}: there is a port {port} already")]
    DuplicatePort {
        /// The switch.
        switch: String,
        /// The name.
        port: String,
    },

    /// No such port, or no longer.
    #[error("switch {switch}: {operation}: there is no port {port}; there are: {known}")]
    UnknownPort {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The port's id or name.
        port: String,
        /// The ports that there are, or were.
        known: String,
    },

    /// A partition that separates nothing.
    #[error("switch {switch}: a partition needs ports on both sides, or it would stop nothing: {spec}")]
    EmptyPartition {
        /// The switch.
        switch: String,
        /// What was asked for.
        spec: String,
    },

    /// No such partition, or it was healed already.
    #[error("switch {switch}: there is no partition {id}; was it healed before?")]
    UnknownPartition {
        /// The switch.
        switch: String,
        /// Its id.
        id: u64,
    },

    /// An impairment that makes no sense.
    #[error("switch {switch}: cannot impair {target}: {}", problems.join("; "))]
    Impairment {
        /// The switch.
        switch: String,
        /// What was to be impaired.
        target: String,
        /// What is wrong, one sentence for each mistake.
        problems: Vec<String>,
    },

    /// No such impairment, or it was cleared or replaced already.
    #[error("switch {switch}: there is no impairment {id}; was it cleared or replaced before?")]
    UnknownImpairment {
        /// The switch.
        switch: String,
        /// Its id.
        id: u64,
    },

    /// No such fault of a service, or it was healed already.
    #[error(
        "switch {switch}: there is no service's fault {id}; was it healed before, or has the service ended?"
    )]
    UnknownServiceFault {
        /// The switch.
        switch: String,
        /// Its id.
        id: u64,
    },

    /// A bundle without members.
    #[error("switch {switch}: the bundle {bundle} has no members; name the ports that it is made of")]
    EmptyBundle {
        /// The switch.
        switch: String,
        /// The bundle's name.
        bundle: String,
    },

    /// The frames of a vhost-user port pass without being looked at.
    #[error(
        "switch {switch}: {operation}: port {port} is a vhost-user port, whose frames pass through shared memory without \
         capture and without impairments; do it to other ports by name, or give this NIC a plain one"
    )]
    FastPort {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The port's name.
        port: String,
    },

    /// No such bundle, or it was removed already.
    #[error("switch {switch}: {operation}: there is no bundle {bundle}; there are: {known}")]
    UnknownBundle {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The bundle's id.
        bundle: String,
        /// The bundles that there are.
        known: String,
    },

    /// A port that is in a bundle has no say of its own, and can be in one only.
    #[error(
        "switch {switch}: {operation}: port {port} is in the bundle {bundle} already; do it to the bundle, or remove \
         the bundle first"
    )]
    InBundle {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The port's name.
        port: String,
        /// The bundle's name.
        bundle: String,
    },

    /// Not a VXLAN network identifier.
    #[error("{vni} is not a VXLAN network identifier: these go from 0 to 16777215")]
    VniOutOfRange {
        /// What was given.
        vni: u32,
    },

    /// An uplink cannot be had from the system.
    #[error("switch {switch}, uplink {uplink}: cannot {operation}: {source}{hint}")]
    Uplink {
        /// The switch.
        switch: String,
        /// The uplink's name.
        uplink: String,
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: io::Error,
        /// What to do about it, or nothing.
        hint: String,
    },

    /// No such uplink, or it was removed already.
    #[error("switch {switch}: {operation}: there is no uplink {uplink}; there are: {known}")]
    UnknownUplink {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The uplink's id.
        uplink: String,
        /// The uplinks that there are.
        known: String,
    },

    /// A port that is an uplink's has no socket to connect to, and goes with its uplink.
    #[error("switch {switch}: {operation}: port {port} is an uplink's; see to the uplink instead")]
    OfUplink {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The port's name.
        port: String,
    },

    /// No such capture, or it was stopped already.
    #[error("switch {switch}: there is no capture {id}; was it stopped before?")]
    UnknownCapture {
        /// The switch.
        switch: String,
        /// Its id.
        id: u64,
    },

    /// More came than a capture may hold, so that "no such frame" could not be told from "lost".
    #[error(
        "switch {switch}: {lost} frames are missing from a capture that may hold {limit} bytes; capture less (one \
         port, one VLAN), hold more (`hold_bytes`), or capture to a file"
    )]
    CaptureLost {
        /// The switch.
        switch: String,
        /// How many frames the filter took and the capture has not.
        lost: u64,
        /// What it may hold, in bytes.
        limit: u64,
    },

    /// Frames crossed that should not have.
    #[error(
        "switch {switch}: {what}, but {count} of {frames} frames captured from {from:.3?} to {until:.3?} say otherwise:{}",
        lines(first, *count)
    )]
    CrossedAfterAll {
        /// The switch.
        switch: String,
        /// What was asserted.
        what: String,
        /// How many frames contradict it.
        count: usize,
        /// How many frames the capture has.
        frames: usize,
        /// When the capture began, since the switch started.
        from: Duration,
        /// When it was looked at, since the switch started.
        until: Duration,
        /// The first of them, a line each.
        first: Vec<String>,
    },

    /// No such frame crossed.
    #[error(
        "switch {switch}: {what} did not cross from {from:.3?} to {until:.3?}, {} frames were captured{}",
        frames, lines(last, *frames)
    )]
    NeverCrossed {
        /// The switch.
        switch: String,
        /// What was expected.
        what: String,
        /// How many frames the capture has.
        frames: usize,
        /// When the capture began, since the switch started.
        from: Duration,
        /// When it was looked at, since the switch started.
        until: Duration,
        /// The last that it has, a line each.
        last: Vec<String>,
    },

    /// A capture file or a state file cannot be written.
    #[error("switch {switch}: cannot write {}: {source}", path.display())]
    Write {
        /// The switch.
        switch: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The ring no longer holds all of the time that was asked about, so that "no such frame" could not be told from
    /// "forgotten".
    #[error(
        "switch {switch}: the frames since {since:.3?} were asked for, but the ring of {limit} bytes has evicted \
         {evicted} frames, the last of {evicted_until:.3?}; ask about a later time, give the switch a larger ring \
         (`ring_bytes`), or capture to a file"
    )]
    Evicted {
        /// The switch.
        switch: String,
        /// The start of the window, since the switch started.
        since: Duration,
        /// The time of the last frame that was evicted, since the switch started.
        evicted_until: Duration,
        /// How many frames were evicted.
        evicted: u64,
        /// The size of the ring in bytes.
        limit: u64,
    },

    /// The switch was stopped before.
    #[error("switch {switch}: {operation}: the switch was stopped")]
    Stopped {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
    },

    /// The switch's thread died. This is a bug in the switch.
    #[error("switch {switch}: {operation}: the switch's thread died: {evidence}")]
    Died {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// The panic's message or the system's.
        evidence: String,
    },

    /// The switch's thread did not answer in time.
    #[error(
        "switch {switch}: {operation}: no answer within {elapsed:.1?}; is this machine overloaded, or a capture's disk \
         blocked?"
    )]
    Unresponsive {
        /// The switch.
        switch: String,
        /// What was asked for.
        operation: &'static str,
        /// How long it was waited for.
        elapsed: Duration,
    },

    /// A frame that cannot be sent: shorter than a header or longer than the switch takes.
    #[error("port {port}: cannot send a frame of {length} bytes: frames have 14 to {MAX_FRAME}")]
    FrameLength {
        /// The port's name.
        port: String,
        /// The frame's length in bytes.
        length: usize,
    },

    /// A channel's other end is gone: the port was removed, another connection took its place, or the switch stopped.
    #[error("port {port}: {operation}: the channel is closed ({evidence})")]
    ChannelClosed {
        /// The port's name.
        port: String,
        /// What was asked for.
        operation: &'static str,
        /// What the system said.
        evidence: String,
    },
}

impl Error {
    /// Whether this is about what crossed, and neither about the switch nor about what it was asked for: an assertion
    /// of a test that failed.
    pub fn is_assertion(&self) -> bool {
        matches!(self, Error::CrossedAfterAll { .. } | Error::NeverCrossed { .. })
    }
}

/// Frames as indented lines, and how many more there are.
fn lines(frames: &[String], all: usize) -> String {
    let mut text: String = frames.iter().map(|frame| format!("\n  {frame}")).collect();
    if let more @ 1.. = all.saturating_sub(frames.len()) {
        text += &format!("\n  and {more} more");
    }
    text
}
