//! What those who serve on a port say of themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Switch;
use crate::forwarder::PortId;
use crate::state::ServiceState;

/// Answers with a service's state, or with nothing once the service has ended.
type Describe = Arc<dyn Fn() -> Option<serde_json::Value> + Send + Sync>;

/// The services that are known, by port and name.
#[derive(Default)]
pub(super) struct Services(Mutex<BTreeMap<(PortId, String), Describe>>);

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// Asks each of them; those that have ended are forgotten. None is asked with the lock held.
    pub(super) fn states(&self) -> Vec<ServiceState> {
        let known: Vec<((PortId, String), Describe)> =
            self.lock().iter().map(|(key, describe)| (key.clone(), Arc::clone(describe))).collect();
        let mut states = Vec::new();
        for (key, describe) in known {
            match describe() {
                Some(state) => states.push(ServiceState { port: key.0, service: key.1, state }),
                None => drop(self.lock().remove(&key)),
            }
        }
        states
    }

    /// Forgets those of a port.
    pub(super) fn forget(&self, port: PortId) {
        self.lock().retain(|(of, _), _| *of != port);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(PortId, String), Describe>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// Makes what a service on a port says of itself, such as its leases, part of [`Switch::state`], in place of what
    /// the service of that name said there before. `describe` is called for each state, on the caller's thread, and
    /// answers `None` once the service has ended, which forgets it, as does [`Switch::remove_port`]; it must hold no clone of the switch, since the
    /// switch would never be dropped.
    pub fn describe_service(
        &self,
        port: PortId,
        service: impl Into<String>,
        describe: impl Fn() -> Option<serde_json::Value> + Send + Sync + 'static,
    ) {
        self.inner.services.lock().insert((port, service.into()), Arc::new(describe));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;
    use crate::{PortConfig, PortMode, SwitchOptions, VlanId};

    #[test]
    fn a_service_is_in_the_state_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sw = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
        let vlan = VlanId::new(1).unwrap();
        let port = sw.add_port(PortConfig::new("dhcp/lan", PortMode::Access { vlan })).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        sw.describe_service(port, "dhcp", || Some(json!("before")));
        let watched = Arc::clone(&ended);
        sw.describe_service(port, "dhcp", move || {
            (!watched.load(Ordering::Relaxed)).then(|| json!({ "leases": [] }))
        });
        let expected = ServiceState { port, service: "dhcp".into(), state: json!({ "leases": [] }) };
        assert_eq!(sw.state().unwrap().services, [expected]);
        ended.store(true, Ordering::Relaxed);
        assert!(sw.state().unwrap().services.is_empty());
        assert!(sw.inner.services.lock().is_empty());
        sw.describe_service(port, "dns", || Some(json!(1)));
        sw.remove_port(port).unwrap();
        assert!(sw.inner.services.lock().is_empty());
    }
}
