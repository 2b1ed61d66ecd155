//! A port whose peer is in this process: a service, or a test.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::frame::{Frame, MAX_FRAME, MIN_FRAME};
use crate::stream::StreamDecoder;

/// The other end of a port that [`crate::Switch::attach_channel`] attached to.
///
/// It speaks the same protocol over the same kind of socket as QEMU does, so a channel that does not read loses frames
/// ([`crate::DropReason::QueueFull`]) and holds up nobody. Dropping it takes the port's link down.
#[derive(Debug)]
pub struct Channel {
    port: String,
    socket: UnixStream,
    decoder: StreamDecoder,
}

impl Channel {
    pub(crate) fn new(port: String, socket: UnixStream) -> Channel {
        Channel { port, socket, decoder: StreamDecoder::new() }
    }

    /// Sends a frame, without FCS. Blocks only for as long as the switch's thread needs to read.
    ///
    /// # Errors
    /// [`Error::FrameLength`]; [`Error::ChannelClosed`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), Error> {
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) {
            return Err(Error::FrameLength { port: self.port.clone(), length: frame.len() });
        }
        self.socket
            .write_all(Frame::new(frame).wire())
            .map_err(|error| self.closed("send", error.to_string()))
    }

    /// Waits for a frame; `None` if none comes within `limit`.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn recv(&mut self, limit: Duration) -> Result<Option<Frame>, Error> {
        let end = Instant::now() + limit;
        loop {
            let frame = self.decoder.next_frame().map_err(|bad| self.closed("receive", bad.to_string()))?;
            if frame.is_some() {
                return Ok(frame);
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            let read = self
                .socket
                .set_read_timeout(Some(left))
                .and_then(|()| self.socket.read(self.decoder.space()));
            match read {
                Ok(0) => return Err(self.closed("receive", "the switch closed it".into())),
                Ok(bytes) => self.decoder.filled(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.closed("receive", error.to_string())),
            }
        }
    }

    /// The bare socket, for use with an async runtime: each frame is preceded by its length, 32 bits, big-endian. Frames
    /// that were read and not yet received are lost, so call this first.
    pub fn into_socket(self) -> UnixStream {
        self.socket
    }

    fn closed(&self, operation: &'static str, evidence: String) -> Error {
        Error::ChannelClosed { port: self.port.clone(), operation, evidence }
    }
}
