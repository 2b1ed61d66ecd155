//! The switch's thread: sockets in, the forwarder, sockets out.
//!
//! It polls, reads 128 KiB at a time from all ports together that have something, forwards, and writes each port's queue
//! with one call. It never waits for a peer: what a peer does not read is dropped when its queue is full, so that every
//! port is always drained (a QEMU whose socket is full stops sending for good, measured with 10.0). Frames that an
//! impairment delays wait in between, and the poll ends when the first of them is due.

mod bundles;
mod calls;
mod device;
mod fast;
mod impair;
mod intake;
mod interface;
mod lldp;
mod pace;
mod packet;
mod poll;
mod port;
mod ports;
mod queue;
mod uplinks;
mod vde;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::prctl::set_timerslack;
use rustix::io::ioctl_fionread;
use tokio::sync::broadcast;

use self::bundles::Bundles;
pub(crate) use self::intake::Intake;
pub(crate) use self::interface::{Nic, TapDevice};
use self::lldp::Lldp;
use self::pace::Pace;
use self::packet::PACKET_BUFFER;
pub(crate) use self::packet::Tunnel;
use self::poll::{Ready, Source};
use self::port::{Connection, Wire};
use self::ports::Ports;
pub(crate) use self::uplinks::Opened;
use self::uplinks::Uplinks;
pub(crate) use self::vde::VdeServer;
use crate::capture::{Capture, CaptureId};
use crate::counters::DropReason;
use crate::event::{CloseReason, Event, EventKind};
use crate::forwarder::{Egress, Forwarder, PortId};
use crate::frame::{Form, Frame};
use crate::impair::{Fate, Shaper};
use crate::offload::Offload;
use crate::ring::{Direction, Record, Ring};
use crate::stream::BadLength;
use crate::tap::Tap;
use crate::vhost::Received;
use crate::vlan::VlanId;

/// How often aged addresses are freed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// For how long a port takes no connections after it could not (out of file descriptors, mostly).
const MUTE: Duration = Duration::from_millis(100);

/// A queue above this many bytes is written in between, not only when all ports have been read.
const EARLY_FLUSH: usize = 256 * 1024;

/// How often in a row a port is read when all that its peer has sent so far is wanted: far more than sockets hold.
const READS_TO_CATCH_UP: usize = 64;

/// How much is read of all ports together before the first gets its turn again, and of one at least, in bytes. With
/// 64 KiB of each, a frame in another VLAN waited for half a second beside 32 ports that flood.
const READ_OF_ALL: usize = 128 * 1024;
const READ_AT_LEAST: usize = 4 * 1024;

/// How many connections a port takes in a row: who connects in a loop must not keep the others from being read.
const ACCEPTS: usize = 16;

/// What a call does on the switch's thread.
pub(crate) type Command = Box<dyn FnOnce(&mut Worker) + Send>;

/// The time since the switch started, and what the wall clock said then.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    pub(crate) epoch: SystemTime,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { started: Instant::now(), epoch: SystemTime::now() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// All that lives on the switch's thread.
pub(crate) struct Worker {
    name: Arc<str>,
    clock: Clock,
    forwarder: Forwarder,
    ports: Ports,
    bundles: Bundles,
    lldp: Option<Lldp>,
    /// The names of all ports that there ever were: a question about any other is a mistake.
    names: Vec<Arc<str>>,
    ring: Ring,
    captures: BTreeMap<CaptureId, Capture>,
    next_capture: u64,
    taps: Vec<Tap>,
    events: broadcast::Sender<Event>,
    queue_bytes: usize,
    intake: Intake,
    fast_intake: Intake,
    copies: Vec<Egress>,
    shaper: Shaper,
    fates: Vec<Fate>,
    uplinks: Uplinks,
    packet: Box<[u8]>,
    received: Vec<Received>,
    pace: Pace,
    stopping: bool,
}

impl Worker {
    pub(crate) fn new(
        name: Arc<str>,
        clock: Clock,
        mac_ageing: Duration,
        ring_bytes: usize,
        queue_bytes: usize,
        shaper: Shaper,
        events: broadcast::Sender<Event>,
    ) -> Worker {
        Worker {
            name,
            clock,
            forwarder: Forwarder::new(mac_ageing),
            ports: Ports::default(),
            bundles: Bundles::default(),
            lldp: None,
            names: Vec::new(),
            ring: Ring::new(ring_bytes),
            captures: BTreeMap::new(),
            next_capture: 0,
            taps: Vec::new(),
            events,
            queue_bytes,
            intake: Intake::new(ring_bytes + ring_bytes / 8 + 2 * queue_bytes),
            fast_intake: Intake::new(2 * queue_bytes),
            copies: Vec::new(),
            shaper,
            fates: Vec::new(),
            uplinks: Uplinks::default(),
            packet: vec![0; PACKET_BUFFER].into(),
            received: Vec::new(),
            pace: Pace::default(),
            stopping: false,
        }
    }

    /// Runs until a command says stop, or until no handle is left. `wake` is readable whenever there may be a command.
    pub(crate) fn run(mut self, commands: &mpsc::Receiver<Command>, mut wake: UnixStream) -> io::Result<()> {
        // By default timers are 50 µs late, which is more than the rests of `Pace`.
        if let Err(errno) = set_timerslack(1) {
            tracing::debug!(%errno, "the switch's timers are as late as any thread's");
        }
        let mut housekeeping = HOUSEKEEPING;
        while !self.stopping {
            self.rest(&wake)?;
            // Nothing is to be kept tidy while nothing happens.
            let (woken, ready) = self.wait(&wake, self.shaper.next_due())?;
            let began = self.clock.now();
            self.release(began);
            if woken {
                let awake = wake.read(&mut [0; 64]);
                while let Ok(command) = commands.try_recv() {
                    command(&mut self);
                }
                self.stopping |= awake.is_ok_and(|bytes| bytes == 0);
            }
            let readers = ready.iter().filter(|ready| ready.read).count();
            let share = (READ_OF_ALL / readers.max(1)).max(READ_AT_LEAST);
            if self.read_fast_on() || !ready.is_empty() {
                self.pace.worked(began);
            }
            for Ready { source, read, write } in ready {
                match source {
                    Source::Listener(port) => self.accept(port),
                    Source::Uplink(source) => self.serve_uplink(source),
                    Source::Ring(port, ring) => {
                        self.kicked(port, ring);
                        self.flush_above(EARLY_FLUSH);
                    }
                    Source::Peer(port) => {
                        if read {
                            self.read(port, 1, share);
                            self.flush_above(EARLY_FLUSH);
                        }
                        if write {
                            self.flush(port);
                        }
                    }
                }
            }
            self.flush_above(0);
            // What nobody waits for comes after the frames have left.
            let now = self.clock.now();
            self.end_slow_handshakes(now);
            if self.run_bundles(now) | self.run_lldp(now) {
                self.flush_above(0);
            }
            self.ring.settle();
            for capture in self.captures.values_mut() {
                capture.submit();
            }
            if self.intake.is_short() | self.fast_intake.is_short() {
                self.copy_out();
            }
            self.intake.prepare();
            if now >= housekeeping {
                housekeeping = now + HOUSEKEEPING;
                self.forwarder.age(now);
                self.taps.retain(Tap::is_open);
            }
        }
        Ok(())
    }

    /// Takes waiting connections. The newest wins: a QEMU connects again when it believes that its old connection is
    /// dead, and this may be seen before the old one's end is.
    fn accept(&mut self, id: PortId) {
        for _ in 0..ACCEPTS {
            let Some(port) = self.ports.get_mut(id) else { return };
            match port.accept() {
                Ok(None) => return,
                Ok(Some(socket)) => self.connect(id, socket),
                Err(error) => {
                    port.muted_until = Some(self.clock.now() + MUTE);
                    let name = port.name.to_string();
                    self.tell(EventKind::AcceptFailed { port: id, name, error: error.to_string() });
                    return;
                }
            }
        }
    }

    /// Makes the socket the port's connection.
    fn connect(&mut self, id: PortId, socket: UnixStream) {
        self.read_all(id);
        self.close(id, CloseReason::Replaced);
        let Some(port) = self.ports.get_mut(id) else { return };
        if port.fast.is_some() {
            return self.connect_fast(id, socket);
        }
        let name = port.name.to_string();
        match Connection::stream(socket, self.queue_bytes) {
            Ok(connection) => {
                port.connection = Some(connection);
                self.connected(id, name);
            }
            Err(error) => self.tell(EventKind::AcceptFailed { port: id, name, error: error.to_string() }),
        }
    }

    /// The port has a connection now.
    fn connected(&mut self, id: PortId, name: String) {
        self.forwarder.set_link(id, true);
        if let Some(counters) = self.forwarder.counters_mut(id) {
            counters.connections += 1;
        }
        self.tell(EventKind::Connected { port: id, name });
        self.link_changed(id);
    }

    /// Ends the port's connection, if it has one.
    fn close(&mut self, id: PortId, why: CloseReason) {
        let Some(port) = self.ports.get_mut(id) else { return };
        if port.fast.is_some() {
            return self.close_fast(id, why);
        }
        let Some(connection) = port.connection.take() else { return };
        let name = port.name.to_string();
        self.forwarder.set_link(id, false);
        if let Some(counters) = self.forwarder.counters_mut(id) {
            counters.tx.drop(DropReason::Disconnected, connection.queue.state().frames);
            match why {
                CloseReason::BadLength { .. } => counters.bad_lengths += 1,
                CloseReason::Replaced => counters.replaced += 1,
                CloseReason::PeerClosed { .. } | CloseReason::Failed { .. } => {}
            }
            let in_step = !matches!(why, CloseReason::BadLength { .. });
            counters.half_frames += u64::from(in_step && connection.pending() > 0);
        }
        self.tell(EventKind::Disconnected { port: id, name, why });
        self.link_changed(id);
    }

    /// Reads and forwards what the port's peer has sent so far, and notices its end. Not what it sends meanwhile: one
    /// that sends as fast as it can would never be read to the end.
    fn read_all(&mut self, id: PortId) {
        if self.fast(id).is_some() {
            return self.read_fast(id, fast::BATCHES_OF_A_RING);
        }
        let Some(connection) = self.connection(id) else { return };
        let waiting = match &connection.wire {
            Wire::Stream { socket, .. } => ioctl_fionread(socket).ok(),
            Wire::Packets(_) => None,
        };
        let waiting = waiting.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        self.read(id, READS_TO_CATCH_UP, waiting.saturating_add(1));
    }

    /// Reads what the port's peer sent, at most `reads` times and at most `bytes` (of an uplink, a bounded number of
    /// frames), and forwards it.
    fn read(&mut self, id: PortId, reads: usize, mut bytes: usize) {
        if self.fast(id).is_some() {
            return self.read_fast(id, 1);
        }
        for _ in 0..reads {
            let Some(connection) = self.ports.get_mut(id).and_then(|port| port.connection.as_mut()) else {
                return;
            };
            let Wire::Stream { socket, rest } = &mut connection.wire else {
                if self.read_packets(id) {
                    continue;
                }
                return;
            };
            if bytes == 0 {
                return;
            }
            let read = match self.intake.read(&*socket, rest, bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.close(id, CloseReason::Failed { error: error.to_string() }),
            };
            if read.bytes == 0 {
                let half_frame_bytes = rest.len();
                return self.close(id, CloseReason::PeerClosed { half_frame_bytes });
            }
            bytes -= read.bytes;
            let now = self.clock.now();
            for frame in Frame::all_in(read.frames) {
                self.forward(id, &frame, Offload::NONE, now);
            }
            if let Some(BadLength { length }) = read.bad {
                return self.close(id, CloseReason::BadLength { length });
            }
        }
    }

    /// Copies the frames that wait out of the chunks that they were read to, so that these can be used again. A frame
    /// that waits in many places is still one.
    fn copy_out(&mut self) {
        let mut copies: HashMap<*const u8, Frame> = HashMap::new();
        let waiting = self.ports.iter_mut().flat_map(|(_, port)| port.waiting()).chain(self.shaper.waiting());
        for frame in waiting.filter(|frame| frame.is_chunked()) {
            let copy = copies.entry(frame.wire().as_ptr()).or_insert_with(|| frame.copied_out());
            *frame = copy.clone();
        }
    }

    /// One frame through the forwarder and into queues and captures.
    fn forward(&mut self, from: PortId, frame: &Frame, offload: Offload, now: Duration) {
        if self.take_pdu(from, frame, now) || self.take_lldpdu(from, frame, now) {
            return self.record(from, Direction::In, None, None, frame, now);
        }
        let mut copies = std::mem::take(&mut self.copies);
        match self.forwarder.ingress(from, frame, now, &mut copies) {
            Err(reason) => self.record(from, Direction::In, None, Some(reason), frame, now),
            Ok((header, vlan)) => {
                self.record(from, Direction::In, Some(vlan), None, frame, now);
                // A frame that leaves by many ports is changed once for each form.
                let (mut tagged, mut untagged) = (None, None);
                for copy in &copies {
                    let change = || frame.in_form(copy.form, &header, vlan);
                    let out = match copy.form {
                        Form::AsReceived => frame,
                        Form::Tagged => tagged.get_or_insert_with(change),
                        Form::Untagged => untagged.get_or_insert_with(change),
                    };
                    let offload = offload.moved(frame.len(), out.len());
                    self.deliver(from, copy.port, vlan, (out, offload), now);
                }
            }
        }
        self.copies = copies;
    }

    fn enqueue(&mut self, to: PortId, vlan: Option<VlanId>, frame: &Frame, now: Duration) {
        let port = self.ports.get_mut(to);
        if port.as_ref().is_some_and(|port| port.fast.is_some()) {
            return self.enqueue_fast(to, frame, Offload::NONE);
        }
        let reason = match port.and_then(|port| port.connection.as_mut()) {
            Some(connection) => (!connection.queue.push(frame.clone())).then_some(DropReason::QueueFull),
            None => Some(DropReason::Disconnected),
        };
        match (reason, self.forwarder.counters_mut(to)) {
            (None, _) => self.record(to, Direction::Out, vlan, None, frame, now),
            (Some(reason), Some(counters)) => counters.tx.drop(reason, 1),
            (Some(_), None) => {}
        }
    }

    fn record(
        &mut self,
        id: PortId,
        direction: Direction,
        vlan: Option<VlanId>,
        dropped: Option<DropReason>,
        frame: &Frame,
        at: Duration,
    ) {
        // A vhost-user port is fast because nobody looks at its frames.
        let Some(port) = self.ports.get(id).filter(|port| port.fast.is_none()) else { return };
        let record = Record::new(at, id, direction, vlan, dropped, frame.clone());
        if !self.captures.is_empty() || !self.taps.is_empty() {
            let captured = record.captured(self.ring.given(), Arc::clone(&port.name));
            self.captures.values_mut().for_each(|capture| capture.offer(&captured));
            self.taps.iter_mut().for_each(|tap| tap.offer(&captured));
        }
        self.ring.push(record);
    }

    /// Writes every queue that holds more than `bytes`.
    fn flush_above(&mut self, bytes: usize) {
        for id in (0..self.ports.end()).map(PortId) {
            if self.ports.get(id).is_some_and(|port| port.queue().bytes > bytes as u64) {
                self.flush(id);
            }
        }
    }

    /// Writes as much of the port's queue as its peer takes.
    fn flush(&mut self, id: PortId) {
        if self.fast(id).is_some() {
            return self.flush_fast(id);
        }
        let Some(connection) = self.connection(id) else { return };
        let (sent, result) = connection.flush();
        self.count(id, |tx| {
            tx.sent += sent.frames;
            tx.bytes += sent.bytes;
            sent.dropped.into_iter().for_each(|(reason, frames)| tx.drop(reason, frames));
        });
        if let Err(error) = result {
            // A peer that is gone may have sent something before it went.
            self.read_all(id);
            self.close(id, CloseReason::Failed { error: error.to_string() });
        }
    }

    /// Reads all that peers have sent so far, so that an answer does not miss a frame that was sent before the question.
    pub(crate) fn catch_up(&mut self) {
        self.release(self.clock.now());
        for id in (0..self.ports.end()).map(PortId) {
            self.accept(id);
            self.read_all(id);
            self.flush_above(EARLY_FLUSH);
        }
        self.serve_uplinks();
        let now = self.clock.now();
        self.run_bundles(now);
        self.run_lldp(now);
        self.flush_above(0);
        self.ring.settle();
    }

    fn connection(&mut self, id: PortId) -> Option<&mut Connection> {
        self.ports.get_mut(id)?.connection.as_mut()
    }

    fn tell(&self, kind: EventKind) {
        tracing::debug!(switch = %self.name, ?kind, "switch event");
        // Nobody need be listening.
        let _ = self.events.send(Event { at: self.clock.now(), kind });
    }
}
