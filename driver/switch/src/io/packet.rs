//! Ports whose peer takes and gives one frame at a time, rather than a stream: what uplinks are made of.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::sys::socket::{SetSockOpt, sockopt};

use crate::counters::DropReason;
use crate::frame::MAX_FRAME;
use crate::uplink::{VXLAN_HEADER, Vni};

/// How much is there to receive into, in bytes: the longest frame, what may come before it, and one byte more by which
/// a longer one is known.
pub(crate) const PACKET_BUFFER: usize = 64 + MAX_FRAME + 1;

/// How much the kernel is asked to hold for an uplink that others send to, in bytes: what comes while the switch's thread
/// is busy. The kernel gives what its administrator allows (`net.core.rmem_max`).
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A frame, at this place of the buffer.
    Frame(Range<usize>),
    /// Something that goes no further.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Something that was not for the switch.
    Nothing,
}

/// A descriptor that frames come from and go to, one with each call. None of its calls block.
pub(crate) trait PacketIo: Send {
    /// What to poll.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Receives into a buffer of [`PACKET_BUFFER`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing. Any other ends the port's connection.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received>;

    /// Sends a frame, or says why it is lost.
    ///
    /// # Errors
    /// `WouldBlock` if the frame has to wait. Any other ends the port's connection.
    fn send(&mut self, frame: &[u8]) -> io::Result<Option<DropReason>>;
}

/// What an error of sending says about the frame, where it says nothing about the socket.
pub(crate) fn lost(error: io::Error) -> io::Result<Option<DropReason>> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMSGSIZE) => Ok(Some(DropReason::TooLong)),
        Some(Errno::ENOBUFS | Errno::ENOMEM) => Ok(Some(DropReason::QueueFull)),
        Some(Errno::ENETDOWN) => Ok(Some(DropReason::InterfaceDown)),
        _ => Err(error),
    }
}

/// Frames as datagrams to and from one client of a VDE switch.
pub(crate) struct VdeData(pub(crate) UnixDatagram);

impl PacketIo for VdeData {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let bytes = self.0.recv(&mut buffer[..=MAX_FRAME])?;
        Ok(if bytes > MAX_FRAME {
            Received::Dropped { reason: DropReason::TooLong, bytes }
        } else {
            Received::Frame(0..bytes)
        })
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Option<DropReason>> {
        match self.0.send(frame) {
            Ok(_) => Ok(None),
            Err(error) => lost(error),
        }
    }
}

/// One end of a VXLAN tunnel.
pub(crate) struct Tunnel {
    socket: UdpSocket,
    peer: SocketAddr,
    vni: Vni,
    datagram: Vec<u8>,
}

impl Tunnel {
    pub(crate) fn open(local: SocketAddr, peer: SocketAddr, vni: Vni) -> io::Result<Tunnel> {
        let socket = UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        if let Err(error) = sockopt::RcvBuf.set(&socket, &RECEIVE_BUFFER) {
            tracing::debug!(%error, "the uplink has the system's usual receive buffer");
        }
        Ok(Tunnel { socket, peer, vni, datagram: Vec::new() })
    }

    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl PacketIo for Tunnel {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let (bytes, from) = self.socket.recv_from(buffer)?;
        let datagram = buffer.get(..bytes).unwrap_or_default();
        if from.ip().to_canonical() != self.peer.ip().to_canonical() {
            return Ok(Received::Dropped { reason: DropReason::NotFromPeer, bytes });
        }
        Ok(match self.vni.frame(datagram) {
            Ok(_) => Received::Frame(VXLAN_HEADER..bytes),
            Err(reason) => Received::Dropped { reason, bytes },
        })
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Option<DropReason>> {
        self.datagram.clear();
        self.datagram.extend(self.vni.header());
        self.datagram.extend(frame);
        match self.socket.send_to(&self.datagram, self.peer) {
            Ok(_) => Ok(None),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(
                    Errno::ENETUNREACH
                    | Errno::EHOSTUNREACH
                    | Errno::ECONNREFUSED
                    | Errno::EPERM
                    | Errno::EACCES
                    | Errno::EADDRNOTAVAIL,
                ) => Ok(Some(DropReason::Unreachable)),
                _ => lost(error),
            },
        }
    }
}
