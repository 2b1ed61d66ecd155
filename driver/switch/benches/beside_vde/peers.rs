//! The two switches, each in a process of its own, and what is plugged into them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use switch::{PREFIX, StreamDecoder};
use tempfile::TempDir;
use virtio_bindings::virtio_net::{VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4};

use crate::{Result, guest};

/// The name of our switch, and of its sockets.
pub(crate) const NAME: &str = "bench";

/// How long a switch may take to start, or a frame to cross.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Local experimental EtherType 1 (IEEE 802, 9.2.4).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Which switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Ours, with ports as QEMU's `-netdev stream`.
    Ours,
    /// Ours, with vhost-user ports.
    Fast,
    Vde,
}

/// A switch that runs. It is killed with this, and ends with this process in any case: its stdin does.
pub(crate) struct Running {
    peer: Peer,
    child: Child,
    clock: ClockId,
    dir: TempDir,
}

impl Running {
    #[expect(clippy::disallowed_methods, reason = "ends with its stdin, and so with this process")]
    pub(crate) fn start(peer: Peer, ports: usize) -> Result<Running> {
        let dir = tempfile::tempdir()?;
        let mut command = match peer {
            Peer::Ours | Peer::Fast => Command::new(std::env::current_exe()?),
            Peer::Vde => Command::new("vde_switch"),
        };
        match peer {
            Peer::Ours => command.arg("serve").arg(dir.path()).arg(ports.to_string()),
            Peer::Fast => command.arg("serve-fast").arg(dir.path()).arg(ports.to_string()),
            Peer::Vde => command.arg("--hub").arg("-s").arg(dir.path().join("vde")),
        };
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| {
                format!("starting {command:?}: {error} (the package vde2 has vde_switch)")
            })?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        if peer != Peer::Vde {
            let stdout = child.stdout.as_mut().ok_or("stdout is piped")?;
            BufReader::new(stdout).read_line(&mut String::new())?;
        }
        Ok(Running { peer, child, clock: clock_getcpuclockid(pid)?, dir })
    }

    /// The CPU time that its process has taken so far, of all its threads, in nanoseconds.
    pub(crate) fn cpu(&self) -> Result<i64> {
        Ok(self.clock.now()?.num_nanoseconds())
    }

    /// Plugs something into its next port.
    pub(crate) fn plug(&self, port: usize) -> Result<Wire> {
        match self.peer {
            Peer::Ours => {
                let socket = UnixStream::connect(self.dir.path().join(format!("{NAME}.{port}")))?;
                Ok(Wire::Stream { socket, decoder: Box::default() })
            }
            Peer::Fast => {
                let (receiver, sender) = guest::plug(&self.dir.path().join(format!("{NAME}.{port}")))?;
                Ok(Wire::Fast { receiver: Box::new(receiver), sender: Some(sender) })
            }
            Peer::Vde => {
                let ctl = self.dir.path().join("vde/ctl");
                let own = self.dir.path().join(format!("port.{port}"));
                vde(&ctl, &own)
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port's other end.
pub(crate) enum Wire {
    Stream { socket: UnixStream, decoder: Box<StreamDecoder> },
    Datagrams { socket: UnixDatagram, _ctl: UnixStream, buffer: Vec<u8> },
    Fast { receiver: Box<guest::Receiver>, sender: Option<guest::Sender> },
}

impl Wire {
    /// A second handle that only sends; a guest has one, and no more.
    pub(crate) fn sender(&mut self) -> Result<Sender> {
        Ok(match self {
            Wire::Stream { socket, .. } => Sender::Stream(socket.try_clone()?),
            Wire::Datagrams { socket, .. } => Sender::Datagrams(socket.try_clone()?),
            Wire::Fast { sender, .. } => Sender::Fast(sender.take().ok_or("a second sender of one guest")?),
        })
    }

    /// Takes the frames that have come. With [`MsgFlags::MSG_DONTWAIT`] there may be none; else it waits for one, at most
    /// for [`LIMIT`]. The flag is one of the call, since the handles that send share the socket's mode, and block.
    pub(crate) fn read(&mut self, flags: MsgFlags, mut take: impl FnMut(&[u8])) -> Result<()> {
        match self {
            Wire::Stream { socket, decoder } => match recv(socket.as_raw_fd(), decoder.space(), flags) {
                Ok(0) => return Err("the switch closed a port".into()),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                read => {
                    decoder.filled(read?);
                    while let Some(frame) = decoder.next_frame().map_err(|bad| bad.to_string())? {
                        take(&frame);
                    }
                }
            },
            Wire::Datagrams { socket, buffer, .. } => loop {
                match recv(socket.as_raw_fd(), buffer, flags) {
                    Err(Errno::EAGAIN | Errno::EINTR) => break,
                    read => take(&buffer[..read?]),
                }
                if !flags.contains(MsgFlags::MSG_DONTWAIT) {
                    break;
                }
            },
            Wire::Fast { receiver, .. } => receiver.read(take)?,
        }
        Ok(())
    }

    /// Makes [`Wire::read`] give up after [`LIMIT`].
    pub(crate) fn limit(&self) -> Result<()> {
        match self {
            Wire::Stream { socket, .. } => socket.set_read_timeout(Some(LIMIT))?,
            Wire::Datagrams { socket, .. } => socket.set_read_timeout(Some(LIMIT))?,
            Wire::Fast { .. } => {}
        }
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Wire::Stream { socket, .. } => socket.as_fd(),
            Wire::Datagrams { socket, .. } => socket.as_fd(),
            Wire::Fast { receiver, .. } => receiver.as_fd(),
        }
    }
}

/// Sends frames, one system call for each.
pub(crate) enum Sender {
    Stream(UnixStream),
    Datagrams(UnixDatagram),
    Fast(guest::Sender),
}

/// A frame as each transport has it.
pub(crate) struct Packet {
    wire: Vec<u8>,
    /// What a guest on a vhost-user port writes before it.
    offloads: [u8; guest::HEADER],
}

impl Packet {
    pub(crate) fn new(to: [u8; 6], from: [u8; 6], size: usize) -> Packet {
        let mut wire = u32::try_from(size).expect("a frame's length").to_be_bytes().to_vec();
        wire.extend(to);
        wire.extend(from);
        wire.extend(ETHERTYPE);
        wire.resize(PREFIX + size, 0x5a);
        Packet { wire, offloads: [0; guest::HEADER] }
    }

    /// A TCP packet of 64 KiB that a guest leaves to its card: to be cut into segments, checksums not computed.
    pub(crate) fn bulk(to: [u8; 6], from: [u8; 6]) -> Result<Packet> {
        // Ethernet, IPv4 and TCP, and a payload that makes the longest IPv4 packet.
        const HEADERS: u16 = 14 + 20 + 20;
        const PAYLOAD: usize = 65_535 - 40;
        const SEGMENT: u16 = 1460;
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(from, to).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder.tcp(4000, 5201, 1, 1000).write(&mut frame, &[0x5a; PAYLOAD])?;
        let mut wire = u32::try_from(frame.len())?.to_be_bytes().to_vec();
        wire.extend(frame);
        let mut offloads = [0; guest::HEADER];
        (offloads[0], offloads[1]) = (VIRTIO_NET_HDR_F_NEEDS_CSUM as u8, VIRTIO_NET_HDR_GSO_TCPV4 as u8);
        // Length of the headers, of a segment, where the checksum starts and where it goes from there.
        for (at, value) in [(2, HEADERS), (4, SEGMENT), (6, 34), (8, 16)] {
            offloads[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        Ok(Packet { wire, offloads })
    }

    /// The frame's length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.wire.len() - PREFIX
    }
}

impl Sender {
    pub(crate) fn send(&mut self, packet: &Packet) -> Result<()> {
        match self {
            Sender::Stream(socket) => socket.write_all(&packet.wire)?,
            Sender::Datagrams(socket) => {
                socket.send(&packet.wire[PREFIX..])?;
            }
            Sender::Fast(guest) => guest.send(&packet.offloads, &packet.wire[PREFIX..])?,
        }
        Ok(())
    }
}

/// Who is plugged into a port, or `ff:ff:ff:ff:ff:ff`.
pub(crate) fn mac(port: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, u8::try_from(port).expect("few ports")]
}

/// Plugs into a `vde_switch`: a request over its `ctl` socket names the datagram socket that frames are to come to, and
/// the answer the one that they go to (`struct request_v3` of vde2's `datasock.c`: magic, version, type, a
/// `sockaddr_un`, a description).
fn vde(ctl: &Path, own: &PathBuf) -> Result<Wire> {
    const MAGIC: u32 = 0xfeed_face;
    const VERSION: u32 = 3;
    const NEW_PORT: u32 = 0;
    const DESCRIPTION: usize = 128;
    const PATH: usize = 108;
    let end = Instant::now() + LIMIT;
    let mut control = loop {
        match UnixStream::connect(ctl) {
            Ok(control) => break control,
            Err(error) if Instant::now() > end => return Err(format!("{}: {error}", ctl.display()).into()),
            Err(_) => std::thread::yield_now(),
        }
    };
    let socket = UnixDatagram::bind(own)?;
    let mut request = Vec::new();
    for word in [MAGIC, VERSION, NEW_PORT] {
        request.extend(word.to_ne_bytes());
    }
    request.extend(u16::try_from(nix::libc::AF_UNIX)?.to_ne_bytes());
    let path = own.as_os_str().as_encoded_bytes();
    request.extend(path);
    request.resize(request.len() + PATH - path.len(), 0);
    request.resize(request.len() + DESCRIPTION, 0);
    control.write_all(&request)?;
    control.set_read_timeout(Some(LIMIT))?;
    let mut answer = [0; 2 + PATH];
    control.read_exact(&mut answer)?;
    let end = answer[2..].iter().position(|byte| *byte == 0).unwrap_or(PATH);
    socket.connect(std::str::from_utf8(&answer[2..2 + end])?)?;
    Ok(Wire::Datagrams { socket, _ctl: control, buffer: vec![0; 65536] })
}
