//! The faults that services on ports make because a test wants them: kept here, so that whoever heals all faults of a lab
//! finds them, knowing no service.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Switch;
use crate::error::Error;
use crate::forwarder::PortId;
use crate::mac::Mac;
use crate::state::{ServiceFaultId, ServiceFaultState};

/// Ends a fault. It must hold no clone of the switch, since the switch would never be dropped.
type End = Box<dyn FnOnce() + Send>;

type Watcher = Arc<dyn Fn(&ServiceFaultState, ServiceFaultChange) + Send + Sync>;

/// What becomes of a service's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceFaultChange {
    /// It lasts from now on.
    Begins,
    /// It is over.
    Ends,
    /// It has happened, and is over as well: there is nothing to heal.
    Happened,
}

#[derive(Default)]
struct Known {
    next: u64,
    faults: BTreeMap<u64, (ServiceFaultState, End)>,
    watcher: Option<Watcher>,
}

impl Known {
    fn note(
        &mut self,
        port: PortId,
        service: String,
        what: String,
        client: Option<Mac>,
        since: Duration,
    ) -> ServiceFaultState {
        let id = ServiceFaultId(self.next);
        self.next += 1;
        ServiceFaultState { id, port, service, what, client, since }
    }
}

/// The faults in force, by id.
#[derive(Default)]
pub(super) struct ServiceFaults(Mutex<Known>);

impl fmt::Debug for ServiceFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceFaults").finish_non_exhaustive()
    }
}

impl ServiceFaults {
    /// In the order in which they were made.
    pub(super) fn states(&self) -> Vec<ServiceFaultState> {
        self.lock().faults.values().map(|(state, _)| state.clone()).collect()
    }

    /// Ends those of a port, which goes.
    pub(super) fn end_all_of(&self, port: PortId) {
        let ended: Vec<u64> = {
            let known = self.lock();
            let of_port = known.faults.iter().filter(|(_, (state, _))| state.port == port);
            of_port.map(|(id, _)| *id).collect()
        };
        for id in ended {
            self.end(id);
        }
    }

    /// Whether it was in force. Neither the service nor the watcher is called with the lock held.
    fn end(&self, id: u64) -> bool {
        let (removed, watcher) = {
            let mut known = self.lock();
            (known.faults.remove(&id), known.watcher.clone())
        };
        let Some((state, end)) = removed else { return false };
        end();
        if let Some(watcher) = watcher {
            watcher(&state, ServiceFaultChange::Ends);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// Notes that a service on a port does something wrong from now on, because a test wants it: `what`, in a few words
    /// that follow the service's name. It is part of [`Switch::state`] until [`Switch::heal_service_fault`], or until the
    /// port goes; then `end` is called. `end` must hold no clone of the switch, since the switch would never be dropped.
    /// `client` is whom alone it is about, if it is one.
    pub fn service_fault(
        &self,
        port: PortId,
        service: impl Into<String>,
        what: impl Into<String>,
        client: Option<Mac>,
        end: impl FnOnce() + Send + 'static,
    ) -> ServiceFaultId {
        let (state, watcher) = {
            let mut known = self.inner.faults.lock();
            let state = known.note(port, service.into(), what.into(), client, self.now());
            known.faults.insert(state.id.0, (state.clone(), Box::new(end)));
            (state, known.watcher.clone())
        };
        if let Some(watcher) = watcher {
            watcher(&state, ServiceFaultChange::Begins);
        }
        state.id
    }

    /// Tells those who watch of something that a service did wrong once: a lease that it ended, for example.
    pub fn service_mishap(
        &self,
        port: PortId,
        service: impl Into<String>,
        what: impl Into<String>,
        client: Option<Mac>,
    ) {
        let (state, watcher) = {
            let mut known = self.inner.faults.lock();
            let state = known.note(port, service.into(), what.into(), client, self.now());
            (state, known.watcher.clone())
        };
        if let Some(watcher) = watcher {
            watcher(&state, ServiceFaultChange::Happened);
        }
    }

    /// Ends a service's fault.
    ///
    /// # Errors
    /// [`Error::UnknownServiceFault`] if it has ended already.
    pub fn heal_service_fault(&self, id: ServiceFaultId) -> Result<(), Error> {
        if self.inner.faults.end(id.0) {
            Ok(())
        } else {
            Err(Error::UnknownServiceFault { switch: self.inner.name.to_string(), id: id.0 })
        }
    }

    /// Has `watcher` told of what becomes of services' faults from now on, on the thread that makes or ends them, in place
    /// of who was told before. It must hold no clone of the switch.
    pub fn watch_service_faults(
        &self,
        watcher: impl Fn(&ServiceFaultState, ServiceFaultChange) + Send + Sync + 'static,
    ) {
        self.inner.faults.lock().watcher = Some(Arc::new(watcher));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{PortConfig, PortMode, SwitchOptions, VlanId};

    #[test]
    fn a_fault_is_in_the_state_until_it_is_healed_or_its_port_goes_and_ends_once() {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
        let vlan = VlanId::new(1).unwrap();
        let port = sw.add_port(PortConfig::new("dhcp/lan", PortMode::Access { vlan })).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        sw.watch_service_faults(move |fault, change| {
            telling.lock().unwrap().push((fault.what.clone(), change))
        });
        let ended = Arc::new(AtomicU32::new(0));
        let make = |what: &str| {
            let ended = Arc::clone(&ended);
            let end = move || {
                ended.fetch_add(1, Ordering::Relaxed);
            };
            sw.service_fault(port, "dhcp", what, None, end)
        };
        let (first, second) = (make("is deaf"), make("is slow"));
        let shown = |sw: &Switch| -> Vec<String> {
            sw.state().unwrap().service_faults.into_iter().map(|fault| fault.what).collect()
        };
        assert_eq!(shown(&sw), ["is deaf", "is slow"]);
        sw.heal_service_fault(first).unwrap();
        assert_eq!((shown(&sw), ended.load(Ordering::Relaxed)), (vec!["is slow".to_owned()], 1));
        assert!(matches!(sw.heal_service_fault(first), Err(Error::UnknownServiceFault { id: 0, .. })));
        sw.service_mishap(port, "dhcp", "ended a lease", None);
        assert_eq!(shown(&sw), ["is slow"]);
        sw.remove_port(port).unwrap();
        assert_eq!((shown(&sw), ended.load(Ordering::Relaxed)), (vec![], 2));
        assert!(sw.heal_service_fault(second).is_err());
        let told = told.lock().unwrap().clone();
        let expected = [
            ("is deaf", ServiceFaultChange::Begins),
            ("is slow", ServiceFaultChange::Begins),
            ("is deaf", ServiceFaultChange::Ends),
            ("ended a lease", ServiceFaultChange::Happened),
            ("is slow", ServiceFaultChange::Ends),
        ];
        assert_eq!(told, expected.map(|(what, change)| (what.to_owned(), change)));
    }
}
