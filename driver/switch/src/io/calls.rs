//! What the handle's calls do on the switch's thread.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use super::fast::FastPort;
use super::port::{IoPort, Listener};
use crate::capture::{Capture, CaptureId};
use crate::counters::DropReason;
use crate::error::Error;
use crate::event::EventKind;
use crate::fdb::FdbEntry;
use crate::forwarder::PortId;
use crate::partition::{PartitionId, PartitionSpec};
use crate::ring::Snapshot;
use crate::state::{PartitionState, PortState, SwitchState};
use crate::tap::Tap;
use crate::vlan::PortMode;

impl Worker {
    /// Adds a port whose socket's path is `path(id)`.
    pub(crate) fn add_port(
        &mut self,
        name: &str,
        mode: PortMode,
        fast: bool,
        path: impl FnOnce(PortId) -> Result<PathBuf, Error>,
    ) -> Result<PortId, Error> {
        if self.has_port_named(name) {
            return Err(Error::DuplicatePort { switch: self.name.to_string(), port: name.to_owned() });
        }
        let id = self.forwarder.add_port(mode.clone());
        let name: Arc<str> = name.into();
        let listening = path(id).and_then(|path| {
            Listener::bind(&path).map_err(|source| Error::Listen {
                switch: self.name.to_string(),
                port: name.to_string(),
                path,
                source,
            })
        });
        match listening {
            Ok(listener) => {
                let mut port = IoPort::new(Arc::clone(&name), Some(listener));
                port.fast = fast.then(FastPort::default);
                self.ports.insert(id, port);
                self.names.push(Arc::clone(&name));
                self.tell(EventKind::PortAdded { port: id, name: name.to_string(), mode });
                Ok(id)
            }
            Err(error) => {
                self.forwarder.remove_port(id);
                Err(error)
            }
        }
    }

    pub(crate) fn remove_port(&mut self, id: PortId) -> Result<(), Error> {
        let operation = "remove a port";
        let name = self.name_of(operation, id)?;
        self.not_of_uplink(operation, id)?;
        self.catch_up();
        self.drop_port(id, name);
        Ok(())
    }

    /// Takes a port away, whoever it is of.
    pub(super) fn drop_port(&mut self, id: PortId, name: String) {
        self.leave_bundle(id);
        self.discard_delayed(id, DropReason::PortRemoved);
        let queued = self.ports.get(id).map_or(0, |port| port.queue().frames);
        self.count(id, |tx| tx.drop(DropReason::PortRemoved, queued));
        let counters = self.forwarder.counters(id).cloned().unwrap_or_default();
        // While it still has a name.
        self.forwarder.set_link(id, false);
        self.lldp_links();
        self.ports.remove(id);
        self.forwarder.remove_port(id);
        self.tell(EventKind::PortRemoved { port: id, name, counters });
    }

    pub(crate) fn set_mode(&mut self, id: PortId, mode: PortMode) -> Result<(), Error> {
        let operation = "set a port's mode";
        let name = self.logical_name_of(operation, id)?;
        self.not_in_bundle(operation, id)?;
        // What was sent before the change is judged by the old mode.
        self.catch_up();
        // What is delayed has the old mode's tags.
        for wire in self.wires(id) {
            self.discard_delayed(wire, DropReason::ModeChanged);
        }
        self.forwarder.set_mode(id, mode.clone());
        self.lldp_changed(id);
        self.tell(EventKind::ModeChanged { port: id, name, mode });
        Ok(())
    }

    pub(crate) fn set_admin(&mut self, id: PortId, up: bool) -> Result<(), Error> {
        let name = self.logical_name_of("set a port up or down", id)?;
        self.catch_up();
        self.forwarder.set_admin(id, up);
        if !up {
            for wire in self.wires(id) {
                self.discard_delayed(wire, DropReason::AdminDown);
                let queued = self.ports.get_mut(wire).map_or(0, IoPort::clear);
                self.count(wire, |tx| tx.drop(DropReason::AdminDown, queued));
            }
        }
        self.tell(EventKind::AdminChanged { port: id, name, up });
        self.link_changed(id);
        Ok(())
    }

    pub(crate) fn attach(&mut self, id: PortId, socket: UnixStream) -> Result<String, Error> {
        let operation = "attach a channel";
        let name = self.name_of(operation, id)?;
        self.not_of_uplink(operation, id)?;
        self.not_fast(operation, id)?;
        self.connect(id, socket);
        Ok(name)
    }

    pub(crate) fn partition(&mut self, spec: PartitionSpec) -> Result<PartitionId, Error> {
        for port in spec.ports() {
            self.logical_name_of("partition", port)?;
        }
        if spec.is_empty() {
            return Err(Error::EmptyPartition { switch: self.name.to_string(), spec: format!("{spec:?}") });
        }
        self.catch_up();
        let id = self.forwarder.partition(spec.clone());
        self.tell(EventKind::Partitioned { id, spec });
        Ok(id)
    }

    pub(crate) fn heal(&mut self, id: PartitionId) -> Result<(), Error> {
        self.catch_up();
        let unknown = || Error::UnknownPartition { switch: self.name.to_string(), id: id.0 };
        self.forwarder.heal(id).ok_or_else(unknown)?;
        self.tell(EventKind::Healed { id });
        Ok(())
    }

    pub(crate) fn ports(&mut self) -> Vec<PortState> {
        self.catch_up();
        let states = self.ports.iter().filter_map(|(id, port)| {
            Some(PortState {
                id,
                name: port.name.to_string(),
                mode: self.forwarder.mode(id)?.clone(),
                bundle: self.forwarder.bundle_of(id),
                admin: self.forwarder.admin(id)?,
                connected: port.is_connected(),
                socket: port.listener.as_ref().map(|listener| listener.path.clone()),
                fast: port.fast.as_ref().map(|fast| fast.state().clone()),
                queue: port.queue(),
                delayed: self.shaper.load(id),
                counters: self.forwarder.counters(id)?.clone(),
                neighbours: self.neighbours(id),
            })
        });
        states.collect()
    }

    pub(crate) fn state(&mut self) -> SwitchState {
        SwitchState {
            name: self.name.to_string(),
            ports: self.ports(),
            uptime: self.clock.now(),
            bundles: self.bundles(),
            fdb: self.fdb(),
            partitions: self
                .forwarder
                .partitions()
                .map(|(id, spec)| PartitionState { id, spec: spec.clone() })
                .collect(),
            impairments: self.shaper.state(),
            seed: self.shaper.seed(),
            uplinks: self.uplinks.states(),
            services: Vec::new(),
            service_faults: Vec::new(),
            captures: self.captures.values().map(Capture::report).collect(),
            ring: self.ring.state(),
        }
    }

    pub(crate) fn fdb(&mut self) -> Vec<FdbEntry> {
        self.catch_up();
        self.forwarder.fdb(self.clock.now())
    }

    pub(crate) fn learn(&mut self, entries: Vec<FdbEntry>) {
        self.catch_up();
        self.forwarder.learn(entries, self.clock.now());
    }

    pub(crate) fn flush_fdb(&mut self) {
        self.catch_up();
        self.forwarder.flush();
    }

    /// The ring, and whether all of `ports` are or were ports; with `whole`, whether all of their frames could be in it.
    pub(crate) fn snapshot(&mut self, ports: &[String], whole: bool) -> Result<Snapshot, Error> {
        let operation = "search the capture";
        self.known(operation, ports)?;
        if whole || !ports.is_empty() {
            self.captured_ports(operation, ports)?;
        }
        self.catch_up();
        Ok(self.ring.snapshot(|id| self.ports.name(id)))
    }

    pub(crate) fn add_capture(&mut self, ports: &[String], capture: Capture) -> Result<CaptureId, Error> {
        self.known("capture", ports)?;
        self.captured_ports("capture", ports)?;
        self.catch_up();
        let id = CaptureId(self.next_capture);
        self.next_capture += 1;
        self.captures.insert(id, capture);
        Ok(id)
    }

    pub(crate) fn add_tap(&mut self, ports: &[String], tap: Tap) -> Result<Duration, Error> {
        self.known("capture", ports)?;
        self.captured_ports("capture", ports)?;
        // What was sent before is not of this capture.
        self.catch_up();
        self.taps.push(tap);
        Ok(self.clock.now())
    }

    pub(crate) fn take_capture(&mut self, id: CaptureId) -> Result<Capture, Error> {
        self.catch_up();
        let unknown = || Error::UnknownCapture { switch: self.name.to_string(), id: id.0 };
        self.captures.remove(&id).ok_or_else(unknown)
    }

    /// Ends the thread after this command, and gives the captures back to be finished.
    pub(crate) fn stop(&mut self) -> Vec<Capture> {
        self.catch_up();
        self.stopping = true;
        std::mem::take(&mut self.captures).into_values().collect()
    }

    fn known(&self, operation: &'static str, ports: &[String]) -> Result<(), Error> {
        match ports.iter().find(|port| !self.names.iter().any(|name| **name == ***port)) {
            Some(port) => Err(self.unknown(operation, port)),
            None => Ok(()),
        }
    }

    pub(crate) fn socket_path(&self, id: PortId) -> Result<PathBuf, Error> {
        let operation = "find a port's socket";
        let port = self.ports.get(id).ok_or_else(|| self.unknown(operation, id))?;
        match &port.listener {
            Some(listener) => Ok(listener.path.clone()),
            None => Err(self.of_uplink(operation, id)),
        }
    }

    pub(super) fn name_of(&self, operation: &'static str, id: PortId) -> Result<String, Error> {
        let port = self.ports.get(id).ok_or_else(|| self.unknown(operation, id))?;
        Ok(port.name.to_string())
    }

    /// The name of a port or a bundle.
    fn logical_name_of(&self, operation: &'static str, id: PortId) -> Result<String, Error> {
        match self.bundles.name(id) {
            Some(name) => Ok(name.to_string()),
            None => self.name_of(operation, id),
        }
    }

    pub(super) fn has_port_named(&self, name: &str) -> bool {
        let mut names = self.ports.iter().map(|(_, port)| &port.name).chain(self.bundles.names());
        names.any(|other| **other == *name)
    }

    pub(super) fn unknown(&self, operation: &'static str, port: impl ToString) -> Error {
        Error::UnknownPort {
            switch: self.name.to_string(),
            operation,
            port: port.to_string(),
            known: self.names.join(", "),
        }
    }
}
