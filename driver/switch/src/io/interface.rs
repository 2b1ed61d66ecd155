//! Interfaces of this host as peers of a port: taps, and NICs through packet(7).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, SetSockOpt, recvmsg, sockopt};
use nix::sys::uio::writev;

use super::device;
use super::packet::{PacketIo, RECEIVE_BUFFER, Received, lost};
use crate::counters::DropReason;
use crate::frame::{ADDRESSES, MAX_FRAME, TAG, TPID_8021Q};
use crate::uplink::{OFFLOAD_HEADER, Offload};

/// The switch's end of a tap device.
pub(crate) struct TapDevice {
    file: File,
    pub(crate) interface: String,
}

impl TapDevice {
    /// Opens a tap, makes it if need be, and sets it up.
    ///
    /// # Errors
    /// What was tried, and the system's answer.
    pub(crate) fn open(interface: &str) -> Result<TapDevice, (String, io::Error)> {
        let (file, name) = device::tap(interface)
            .map_err(|error| (format!("open the tap {interface} by {}", device::TUN), error))?;
        device::set_up(&name).map_err(|error| (format!("set the tap {name} up"), error))?;
        Ok(TapDevice { file, interface: name })
    }
}

impl PacketIo for TapDevice {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let bytes = self.file.read(&mut buffer[..=MAX_FRAME])?;
        Ok(match bytes {
            0..=MAX_FRAME => Received::Frame(0..bytes),
            _ => Received::Dropped { reason: DropReason::TooLong, bytes },
        })
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Option<DropReason>> {
        match self.file.write(frame) {
            Ok(_) => Ok(None),
            // The tap is down. One that is gone answers EBADFD.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(Some(DropReason::InterfaceDown)),
            // The kernel takes no frame that ends within its header.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(DropReason::Malformed)),
            Err(error) => lost(error),
        }
    }
}

/// A network interface of this host, through a packet(7) socket.
pub(crate) struct Nic {
    socket: OwnedFd,
    control: Vec<u8>,
}

/// Where in the buffer the kernel's header goes, and where the frame begins with its tag put back. The addresses are
/// received before the place of the tag and the rest behind it, so that the rest is never moved.
const FRAME: usize = 16;
const REST: usize = FRAME + ADDRESSES + TAG;

impl Nic {
    pub(crate) fn open(interface: &str) -> io::Result<Nic> {
        let socket = device::packet_socket(interface)?;
        if let Err(error) = sockopt::RcvBuf.set(&socket, &RECEIVE_BUFFER) {
            tracing::debug!(%error, "the uplink has the system's usual receive buffer");
        }
        Ok(Nic { socket, control: cmsg_space!(libc::tpacket_auxdata) })
    }
}

impl PacketIo for Nic {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let (header, frame) = buffer.split_at_mut(FRAME);
        let (addresses, rest) = frame.split_at_mut(ADDRESSES);
        let mut parts = [
            IoSliceMut::new(&mut header[..OFFLOAD_HEADER]),
            IoSliceMut::new(addresses),
            IoSliceMut::new(&mut rest[TAG..]),
        ];
        let fd = self.socket.as_raw_fd();
        let received = match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut self.control), MsgFlags::empty()) {
            Ok(received) => received,
            // It is told once, when the interface goes down, and the interface may come up again.
            Err(Errno::ENETDOWN) => return Ok(Received::Nothing),
            Err(errno) => return Err(errno.into()),
        };
        if received.address.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING) {
            return Ok(Received::Nothing);
        }
        let bytes = received.bytes.saturating_sub(OFFLOAD_HEADER);
        let cut = received.flags.contains(MsgFlags::MSG_TRUNC);
        let tag = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Unknown(message) => tag(&message.data_bytes),
            _ => None,
        });
        let offload = header.first_chunk().map_or(Offload::Done, |header| Offload::parse(*header));
        Ok(match restore(&mut buffer[..REST + bytes.saturating_sub(ADDRESSES)], bytes, tag, offload) {
            _ if cut => Received::Dropped { reason: DropReason::TooLong, bytes },
            Ok(start) => Received::Frame(start..REST + bytes.saturating_sub(ADDRESSES)),
            Err(reason) => Received::Dropped { reason, bytes },
        })
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Option<DropReason>> {
        let parts = [IoSlice::new(&[0; OFFLOAD_HEADER]), IoSlice::new(frame)];
        match writev(&self.socket, &parts) {
            Ok(_) => Ok(None),
            // The kernel takes no frame that ends within its header.
            Err(Errno::EINVAL) => Ok(Some(DropReason::Malformed)),
            Err(errno) => lost(errno.into()),
        }
    }
}

/// The tag that the kernel took off a frame (`struct tpacket_auxdata`): its TPID and its TCI.
fn tag(auxdata: &[u8]) -> Option<[u8; TAG]> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(*auxdata.get(at..)?.first_chunk()?));
    let status = u32::from_ne_bytes(*auxdata.first_chunk()?);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => TPID_8021Q,
        _ => u16_at(18)?,
    };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), u16_at(16)?.to_be_bytes());
    Some([a, b, c, d])
}

/// Makes a frame of `bytes` bytes whole again, whose addresses are at [`FRAME`] and whose rest is at [`REST`], and says
/// where it begins.
fn restore(
    buffer: &mut [u8],
    bytes: usize,
    tag: Option<[u8; TAG]>,
    offload: Offload,
) -> Result<usize, DropReason> {
    if bytes < ADDRESSES {
        return Err(DropReason::Malformed);
    }
    // The kernel counts from the beginning of the frame without its tag.
    let without_tag = FRAME + TAG;
    buffer.copy_within(FRAME..FRAME + ADDRESSES, without_tag);
    offload.finish(&mut buffer[without_tag..])?;
    let Some(tag) = tag else { return Ok(without_tag) };
    if bytes + TAG > MAX_FRAME {
        return Err(DropReason::TooLong);
    }
    buffer.copy_within(without_tag..without_tag + ADDRESSES, FRAME);
    buffer[FRAME + ADDRESSES..REST].copy_from_slice(&tag);
    Ok(FRAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5payload";

    fn restored(frame: &[u8], tag: Option<[u8; TAG]>, offload: Offload) -> Result<Vec<u8>, DropReason> {
        let mut buffer = vec![0xee; FRAME];
        let (addresses, rest) = frame.split_at(frame.len().min(ADDRESSES));
        buffer.extend(addresses);
        buffer.resize(REST, 0xee);
        buffer.extend(rest);
        restore(&mut buffer, frame.len(), tag, offload).map(|start| buffer[start..].to_vec())
    }

    #[test]
    fn a_tag_that_the_kernel_took_off_is_put_back() {
        assert_eq!(restored(PLAIN, None, Offload::Done).unwrap(), PLAIN);
        let tagged = restored(PLAIN, Some([0x81, 0, 0x60, 5]), Offload::Done).unwrap();
        assert_eq!(tagged, [&PLAIN[..12], b"\x81\x00\x60\x05", &PLAIN[12..]].concat());
        assert_eq!(restored(&PLAIN[..11], None, Offload::Done), Err(DropReason::Malformed));
        let longest = vec![0; MAX_FRAME];
        assert!(restored(&longest, None, Offload::Done).is_ok());
        assert_eq!(restored(&longest, Some([0; 4]), Offload::Done), Err(DropReason::TooLong));
    }

    #[test]
    fn a_checksum_is_made_at_its_place_with_a_tag_or_without() {
        let offload = Offload::Checksum { start: 14, offset: 2 };
        let plain = restored(PLAIN, None, offload).unwrap();
        assert_ne!(plain[16..18], PLAIN[16..18]);
        let tagged = restored(PLAIN, Some([0x81, 0, 0, 5]), offload).unwrap();
        assert_eq!(tagged[18..], plain[14..]);
        assert_eq!(restored(PLAIN, None, Offload::Merged), Err(DropReason::Merged));
    }

    #[test]
    fn auxdata_says_whether_there_was_a_tag() {
        let auxdata = |status: u32, tci: u16, tpid: u16| {
            [&status.to_ne_bytes()[..], &[0; 12], &tci.to_ne_bytes(), &tpid.to_ne_bytes()].concat()
        };
        let (valid, with_tpid) = (libc::TP_STATUS_VLAN_VALID, libc::TP_STATUS_VLAN_TPID_VALID);
        assert_eq!(tag(&auxdata(0, 5, 0x8100)), None);
        assert_eq!(tag(&auxdata(valid, 0, 0)), Some([0x81, 0, 0, 0]), "a priority of 0 is a tag");
        assert_eq!(tag(&auxdata(valid | with_tpid, 0x2005, 0x88a8)), Some([0x88, 0xa8, 0x20, 5]));
        assert_eq!(tag(&auxdata(valid, 5, 0)[..17]), None, "cut short");
        assert_eq!(size_of::<libc::tpacket_auxdata>(), 20);
    }
}
