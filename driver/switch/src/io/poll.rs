//! Waiting for sockets, for the next thing that is due, or for a call.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::Worker;
use super::uplinks::UplinkSource;
use crate::forwarder::PortId;

/// What was polled.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Listener(PortId),
    Peer(PortId),
    /// A guest's ring, by its kicks.
    Ring(PortId, usize),
    Uplink(UplinkSource),
}

/// What one source is ready for.
pub(super) struct Ready {
    pub(super) source: Source,
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Worker {
    /// Leaves the ports alone if they were looked at too often of late: only a call or something that is due ends that.
    pub(super) fn rest(&self, wake: &UnixStream) -> io::Result<()> {
        let rest = self.pace.rest();
        let until = self.shaper.next_due().map_or(rest, |due| due.min(rest));
        let pause = until.saturating_sub(self.clock.now());
        if pause.is_zero() {
            return Ok(());
        }
        match ppoll(&mut [PollFd::new(wake.as_fd(), PollFlags::POLLIN)], Some(pause.into()), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until there is something to do, or until `until`; as long as it takes if nothing is due.
    pub(super) fn wait(
        &mut self,
        wake: &UnixStream,
        until: Option<Duration>,
    ) -> io::Result<(bool, Vec<Ready>)> {
        let now = self.clock.now();
        let dues = self.bundles.due.into_iter().chain(self.lldp_due()).chain(self.uplinks.due(now));
        let mut until = dues.chain(until).min();
        let mut polled = Vec::with_capacity(1 + 2 * self.ports.end() as usize);
        let mut owners = Vec::with_capacity(2 * self.ports.end() as usize);
        polled.push(PollFd::new(wake.as_fd(), PollFlags::POLLIN));
        for (id, port) in self.ports.iter_mut() {
            port.muted_until = port.muted_until.filter(|muted| *muted > now);
            match port.muted_until {
                Some(muted) => until = Some(until.map_or(muted, |until| until.min(muted))),
                None => {
                    if let Some(listener) = &port.listener {
                        polled.push(PollFd::new(listener.socket.as_fd(), PollFlags::POLLIN));
                        owners.push(Source::Listener(id));
                    }
                }
            }
            if let Some(connection) = &port.connection {
                let mut interest = PollFlags::POLLIN;
                interest.set(PollFlags::POLLOUT, !connection.queue.is_empty());
                polled.push(PollFd::new(connection.fd(), interest));
                owners.push(Source::Peer(id));
            }
            if let Some(fast) = &port.fast {
                if let Some(fd) = fast.socket() {
                    polled.push(PollFd::new(fd, PollFlags::POLLIN));
                    owners.push(Source::Peer(id));
                }
                for (ring, fd) in fast.kicks() {
                    polled.push(PollFd::new(fd, PollFlags::POLLIN));
                    owners.push(Source::Ring(id, ring));
                }
                if fast.has_more() {
                    until = Some(now);
                }
            }
        }
        for (source, fd) in self.uplinks.sources(now) {
            polled.push(PollFd::new(fd, PollFlags::POLLIN));
            owners.push(Source::Uplink(source));
        }
        // In nanoseconds: whole milliseconds would be seen in what impairments delay.
        let timeout = until.map(|until| TimeSpec::from(until.saturating_sub(now)));
        match ppoll(&mut polled, timeout, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, Vec::new())),
            Err(errno) => return Err(errno.into()),
        }
        let happened = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let ready = owners.iter().zip(&polled[1..]).filter_map(|(source, fd)| {
            let flags = happened(fd);
            let write = flags.contains(PollFlags::POLLOUT);
            // An error or a hang-up is found out by reading.
            let read = flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
            (read || write).then_some(Ready { source: *source, read, write })
        });
        Ok((!happened(&polled[0]).is_empty(), ready.collect()))
    }
}
