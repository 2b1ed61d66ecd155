//! Uplinks on the switch's thread.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::packet::{PacketIo, Received};
use super::port::{Connection, IoPort, Wire};
use super::vde::{Newcomer, Outcome, VdeServer, VdeSource};
use crate::error::Error;
use crate::event::{CloseReason, EventKind};
use crate::forwarder::PortId;
use crate::frame::Frame;
use crate::offload::Offload;
use crate::uplink::{UplinkConfig, UplinkId, UplinkKind, UplinkState, VdeRefusal};
use crate::vlan::PortMode;

/// How many frames are read of an uplink before the others are looked at.
const PACKETS: usize = 64;

/// What is polled of an uplink, other than its port.
#[derive(Clone, Copy, Debug)]
pub(super) struct UplinkSource {
    uplink: UplinkId,
    source: VdeSource,
}

/// What was opened for an uplink.
pub(crate) enum Opened {
    /// The peer of its one port.
    Port(Box<dyn PacketIo>),
    /// A VDE switch.
    Vde(Box<VdeServer>),
}

enum Place {
    Port(PortId),
    Vde(Box<VdeServer>),
}

struct Uplink {
    name: Arc<str>,
    kind: UplinkKind,
    mode: PortMode,
    place: Place,
}

/// All uplinks of a switch.
#[derive(Default)]
pub(super) struct Uplinks {
    all: BTreeMap<UplinkId, Uplink>,
    next: u64,
}

impl Uplinks {
    fn servers(&self) -> impl Iterator<Item = (UplinkId, &VdeServer)> {
        self.all.iter().filter_map(|(id, uplink)| match &uplink.place {
            Place::Vde(server) => Some((*id, &**server)),
            Place::Port(_) => None,
        })
    }

    fn server(&mut self, id: UplinkId) -> Option<(&mut Arc<str>, &PortMode, &mut VdeServer)> {
        match self.all.get_mut(&id)? {
            Uplink { name, mode, place: Place::Vde(server), .. } => Some((name, mode, server)),
            _ => None,
        }
    }

    /// What to poll.
    pub(super) fn sources(&self, now: Duration) -> impl Iterator<Item = (UplinkSource, BorrowedFd<'_>)> {
        self.servers().flat_map(move |(uplink, server)| {
            server.sources(now).map(move |(source, fd)| (UplinkSource { uplink, source }, fd))
        })
    }

    /// When there is something to do without any of them being ready.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        self.servers().filter_map(|(_, server)| server.due(now)).min()
    }

    /// All of them, for people and files.
    pub(super) fn states(&self) -> Vec<UplinkState> {
        let state = |(id, uplink): (&UplinkId, &Uplink)| {
            let (port, clients, refused) = match &uplink.place {
                Place::Port(port) => (Some(*port), Vec::new(), BTreeMap::new()),
                Place::Vde(server) => (None, server.clients().cloned().collect(), server.refused.clone()),
            };
            let (name, kind) = (uplink.name.to_string(), uplink.kind.clone());
            UplinkState { id: *id, name, kind, port, clients, refused }
        };
        self.all.iter().map(state).collect()
    }

    fn owns(&self, port: PortId) -> bool {
        self.all.values().any(|uplink| match &uplink.place {
            Place::Port(own) => *own == port,
            Place::Vde(server) => server.clients().any(|client| client.port == port),
        })
    }
}

impl Worker {
    pub(crate) fn add_uplink(&mut self, config: UplinkConfig, opened: Opened) -> Result<UplinkId, Error> {
        let UplinkConfig { name, mode, kind } = config;
        if self.has_port_named(&name) || self.uplinks.all.values().any(|uplink| *uplink.name == *name) {
            return Err(Error::DuplicatePort { switch: self.name.to_string(), port: name });
        }
        self.catch_up();
        let id = UplinkId(self.uplinks.next);
        self.uplinks.next += 1;
        self.tell(EventKind::UplinkAdded { id, name: name.clone(), kind: kind.clone(), mode: mode.clone() });
        let name: Arc<str> = name.into();
        let place = match opened {
            Opened::Vde(server) => Place::Vde(server),
            Opened::Port(io) => {
                let port = self.forwarder.add_port(mode.clone());
                self.plug(port, Arc::clone(&name), mode.clone(), io);
                Place::Port(port)
            }
        };
        self.uplinks.all.insert(id, Uplink { name, kind, mode, place });
        Ok(id)
    }

    pub(crate) fn remove_uplink(&mut self, id: UplinkId) -> Result<(), Error> {
        self.catch_up();
        let Some(uplink) = self.uplinks.all.remove(&id) else {
            return Err(self.unknown_uplink("remove an uplink", id));
        };
        let ports: Vec<PortId> = match &uplink.place {
            Place::Port(port) => vec![*port],
            Place::Vde(server) => server.clients().map(|client| client.port).collect(),
        };
        ports.into_iter().for_each(|port| self.unplug(port));
        self.tell(EventKind::UplinkRemoved { id, name: uplink.name.to_string() });
        Ok(())
    }

    pub(crate) fn uplinks(&mut self) -> Vec<UplinkState> {
        self.catch_up();
        self.uplinks.states()
    }

    pub(crate) fn uplink(&mut self, id: UplinkId) -> Result<UplinkState, Error> {
        let found = self.uplinks().into_iter().find(|uplink| uplink.id == id);
        found.ok_or_else(|| self.unknown_uplink("read an uplink's state", id))
    }

    /// Gives a port of the forwarder a name and a peer.
    fn plug(&mut self, id: PortId, name: Arc<str>, mode: PortMode, io: Box<dyn PacketIo>) {
        let mut port = IoPort::new(Arc::clone(&name), None);
        port.connection = Some(Connection::packets(io, self.queue_bytes));
        self.ports.insert(id, port);
        if !self.names.contains(&name) {
            self.names.push(Arc::clone(&name));
        }
        self.tell(EventKind::PortAdded { port: id, name: name.to_string(), mode });
        self.connected(id, name.to_string());
    }

    fn unplug(&mut self, id: PortId) {
        self.read_all(id);
        let name = self.ports.get(id).map(|port| port.name.to_string()).unwrap_or_default();
        self.drop_port(id, name);
    }

    /// Reads and forwards frames of an uplink; false if there are no more.
    pub(super) fn read_packets(&mut self, id: PortId) -> bool {
        let now = self.clock.now();
        for _ in 0..PACKETS {
            let port = self.ports.get_mut(id);
            let Some(Wire::Packets(io)) =
                port.and_then(|port| port.connection.as_mut()).map(|peer| &mut peer.wire)
            else {
                return false;
            };
            match io.receive(&mut self.packet) {
                Ok(Received::Frame(range)) => {
                    let frame = Frame::new(&self.packet[range]);
                    self.forward(id, &frame, Offload::NONE, now);
                }
                Ok(Received::Dropped { reason, bytes }) => {
                    if let Some(counters) = self.forwarder.counters_mut(id) {
                        counters.rx.frames += 1;
                        counters.rx.bytes += bytes as u64;
                        counters.rx.drop(reason);
                    }
                }
                Ok(Received::Nothing) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.close(id, CloseReason::Failed { error: error.to_string() });
                    return false;
                }
            }
        }
        true
    }

    /// One source is ready.
    pub(super) fn serve_uplink(&mut self, UplinkSource { uplink, source }: UplinkSource) {
        let now = self.clock.now();
        let Some((name, _, server)) = self.uplinks.server(uplink) else { return };
        let name = Arc::clone(name);
        match source {
            VdeSource::Listener => {
                let (turned_away, result) = server.accept(now);
                self.refuse(uplink, &name, VdeRefusal::Unfinished, turned_away);
                if let Err(error) = result {
                    tracing::warn!(uplink = %name, %error, "a VDE client could not be taken");
                    self.refuse(uplink, &name, VdeRefusal::NoSocket, 1);
                }
            }
            VdeSource::Control(serial) => {
                let ports = &self.ports;
                let is_free = |number: u8| {
                    let name = client_name(&name, number);
                    !ports.iter().any(|(_, port)| *port.name == *name)
                };
                match server.read(serial, is_free) {
                    Outcome::Pending => {}
                    Outcome::Joins(newcomer) => self.join(uplink, *newcomer),
                    Outcome::Refused(why) => self.refuse(uplink, &name, why, 1),
                    Outcome::Left(port) => {
                        self.unplug(port);
                        if let Some((_, _, server)) = self.uplinks.server(uplink) {
                            server.leave(port);
                        }
                    }
                }
            }
        }
    }

    /// Whatever is ready, without polling.
    pub(super) fn serve_uplinks(&mut self) {
        // Twice: what connected may have said what it wants.
        for _ in 0..2 {
            let sources: Vec<UplinkSource> = self
                .uplinks
                .servers()
                .flat_map(|(uplink, server)| {
                    server.all_sources().into_iter().map(move |source| UplinkSource { uplink, source })
                })
                .collect();
            sources.into_iter().for_each(|source| self.serve_uplink(source));
        }
    }

    /// Gives a client of a VDE switch its port: the one that its place had before, if it had one.
    fn join(&mut self, uplink: UplinkId, newcomer: Newcomer) {
        let Some((name, mode, server)) = self.uplinks.server(uplink) else { return };
        let (uplink_name, number) = (name.to_string(), newcomer.number);
        let mode = server.numbered.get(&number).unwrap_or(mode).clone();
        let port = match server.ids.get(&number) {
            Some(id) if self.forwarder.add_port_again(*id, mode.clone()) => *id,
            _ => self.forwarder.add_port(mode.clone()),
        };
        let (data, client) = server.join(newcomer, port);
        self.plug(port, client_name(&uplink_name, number).into(), mode, Box::new(data));
        self.tell(EventKind::VdeJoined { uplink, name: uplink_name, client });
    }

    /// Turns those away who have not said what they want.
    pub(super) fn end_slow_handshakes(&mut self, now: Duration) {
        let due: Vec<UplinkId> = self
            .uplinks
            .servers()
            .filter(|(_, server)| server.due(now).is_some_and(|due| due <= now))
            .map(|(id, _)| id)
            .collect();
        for id in due {
            let Some((name, _, server)) = self.uplinks.server(id) else { continue };
            let (name, slow) = (Arc::clone(name), server.end_slow(now));
            self.refuse(id, &name, VdeRefusal::Unfinished, slow);
        }
    }

    fn refuse(&mut self, uplink: UplinkId, name: &str, why: VdeRefusal, clients: usize) {
        let Some((_, _, server)) = self.uplinks.server(uplink).filter(|_| clients > 0) else { return };
        *server.refused.entry(why).or_default() += clients as u64;
        self.tell(EventKind::VdeRefused { uplink, name: name.to_owned(), why });
    }

    /// That a port is no uplink's.
    pub(super) fn not_of_uplink(&self, operation: &'static str, id: PortId) -> Result<(), Error> {
        if self.uplinks.owns(id) { Err(self.of_uplink(operation, id)) } else { Ok(()) }
    }

    pub(super) fn of_uplink(&self, operation: &'static str, id: PortId) -> Error {
        let port = self.ports.get(id).map(|port| port.name.to_string()).unwrap_or_default();
        Error::OfUplink { switch: self.name.to_string(), operation, port }
    }

    fn unknown_uplink(&self, operation: &'static str, id: UplinkId) -> Error {
        let known: Vec<&str> = self.uplinks.all.values().map(|uplink| &*uplink.name).collect();
        Error::UnknownUplink {
            switch: self.name.to_string(),
            operation,
            uplink: id.to_string(),
            known: known.join(", "),
        }
    }
}

/// The name of the port of a VDE switch's client.
fn client_name(uplink: &str, number: u8) -> String {
    format!("{uplink}/{number}")
}
