//! The host's thread: frames from the switch go to the DHCP engine or into the stack, answers go back.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use switch::{Mac, StreamDecoder};

use crate::dhcp::DhcpFrame;
use crate::dns::DnsSockets;
use crate::host::HostOptions;
use crate::shared::Shared;

/// How many DHCP replies may be held back at once; what comes when there are more is lost, as on a network.
const HELD_BACK: usize = 1024;

pub(crate) struct Worker {
    shared: Shared,
    socket: UnixStream,
    decoder: StreamDecoder,
    mac: Mac,
    address: Ipv4Addr,
    /// What is to be sent.
    outgoing: Vec<Vec<u8>>,
    dns: Option<DnsSockets>,
    held_back: BTreeMap<(Instant, u64), Vec<u8>>,
    held_back_ever: u64,
}

impl Worker {
    pub(crate) fn new(shared: Shared, options: &HostOptions, socket: UnixStream) -> Worker {
        Worker {
            shared,
            socket,
            decoder: StreamDecoder::new(),
            mac: options.mac,
            address: options.address.addr(),
            outgoing: Vec::new(),
            dns: None,
            held_back: BTreeMap::new(),
            held_back_ever: 0,
        }
    }

    /// Runs until the socket is closed, by either end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            if !self.take_frames()? {
                return Ok(());
            }
            self.release();
            self.work();
            self.send()?;
        }
    }

    /// Waits for a frame, for somebody who has written to a connection, or until the stack, the router or a reply that is
    /// held back is due.
    fn wait(&mut self) -> io::Result<()> {
        let stack = self.shared.stack().idle();
        let held = self.held_back.keys().next().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let router = self.shared.if_ra(|engine| Some(engine.due().saturating_duration_since(Instant::now())));
        let timeout = match stack.into_iter().chain(held).chain(router).min() {
            None => PollTimeout::NONE,
            // Upwards, so that it does not spin through the last millisecond.
            Some(left) => PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.wake_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.shared.woken();
        Ok(())
    }

    /// Reads what has come; `false` if the socket is closed.
    fn take_frames(&mut self) -> io::Result<bool> {
        loop {
            self.socket.set_nonblocking(true)?;
            let read = self.socket.read(self.decoder.space());
            // Writes wait for the switch, which always reads.
            self.socket.set_nonblocking(false)?;
            match read {
                Ok(0) => return Ok(false),
                Ok(bytes) => self.decoder.filled(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
            while let Some(frame) =
                self.decoder.next_frame().map_err(|bad| io::Error::other(bad.to_string()))?
            {
                self.take(&frame);
            }
            // A flood must not keep answers back.
            self.work();
            self.send()?;
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let now = Instant::now();
        let DhcpFrame::Message(message) = DhcpFrame::parse(frame, self.mac, self.address) else {
            self.outgoing.extend(self.shared.if_ra(|engine| engine.handle(frame, now)));
            return self.shared.stack().device.incoming.push_back(frame.to_vec());
        };
        // One that is damaged counts as an empty one.
        let message = message.unwrap_or_default();
        let Some(reply) = self.shared.if_dhcp(|engine| engine.handle(message, now)) else { return };
        let frame = reply.frame(self.mac, self.address);
        if reply.delay.is_zero() {
            self.outgoing.push(frame);
        } else if self.held_back.len() < HELD_BACK {
            self.held_back_ever += 1;
            self.held_back.insert((now + reply.delay, self.held_back_ever), frame);
        }
    }

    /// Sends what is due without having been asked for just now.
    fn release(&mut self) {
        let now = Instant::now();
        self.outgoing.extend(self.shared.if_ra(|engine| engine.tick(now)));
        while let Some(first) = self.held_back.first_entry()
            && first.key().0 <= now
        {
            self.outgoing.push(first.remove());
        }
    }

    fn work(&mut self) {
        let mut stack = self.shared.stack();
        if self.dns.is_none() && self.shared.has_zone() {
            self.dns = Some(DnsSockets::open(&mut stack.sockets));
        }
        let dns = self.dns.as_ref();
        stack.poll(|sockets| {
            dns.and_then(|dns| self.shared.if_zone(|zone| dns.serve(sockets, zone))).unwrap_or(false)
        });
        stack.device.take_outgoing(&mut self.outgoing);
    }

    /// Without the stack's lock, since this may wait for the switch.
    fn send(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for frame in self.outgoing.drain(..) {
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&frame);
        }
        self.socket.write_all(&bytes)
    }
}
