//! The ports of a switch by their ids: found by an index, since each frame asks for several.

use std::sync::Arc;

use super::port::IoPort;
use crate::forwarder::PortId;

/// Ports in the order of their ids. A place that a port has left stays empty, since ids are not used again but for the
/// places of a VDE switch, whose ports have the same name each time.
#[derive(Default)]
pub(super) struct Ports {
    places: Vec<Option<Box<IoPort>>>,
    /// The names of all that there ever were: captured frames go by them.
    names: Vec<Arc<str>>,
}

impl Ports {
    pub(super) fn get(&self, id: PortId) -> Option<&IoPort> {
        self.places.get(id.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: PortId) -> Option<&mut IoPort> {
        self.places.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// The name of a port that there is or was.
    pub(super) fn name(&self, id: PortId) -> Arc<str> {
        self.names.get(id.0 as usize).cloned().unwrap_or_default()
    }

    pub(super) fn insert(&mut self, id: PortId, port: IoPort) {
        let place = id.0 as usize;
        if self.places.len() <= place {
            self.places.resize_with(place + 1, || None);
            self.names.resize(place + 1, Arc::default());
        }
        self.names[place] = Arc::clone(&port.name);
        self.places[place] = Some(Box::new(port));
    }

    pub(super) fn remove(&mut self, id: PortId) {
        if let Some(place) = self.places.get_mut(id.0 as usize) {
            *place = None;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PortId, &IoPort)> {
        let ports = self.places.iter().enumerate();
        ports.filter_map(|(id, port)| Some((PortId(id as u32), port.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PortId, &mut IoPort)> {
        let ports = self.places.iter_mut().enumerate();
        ports.filter_map(|(id, port)| Some((PortId(id as u32), port.as_deref_mut()?)))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PortId> {
        self.iter().map(|(id, _)| id)
    }

    /// The id behind the last place that was ever taken: to go through all ports while they are changed.
    pub(super) fn end(&self) -> u32 {
        self.places.len() as u32
    }
}
