//! Network cards: carrier, plugging in and out while the machine runs.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use switch::PortId;

use super::instance::Instance;
use super::{Machine, Plugged};
use crate::Error;
use crate::qemu::{SPARE_PORTS, netdev_id, nic_device, nic_id};
use crate::spec::NicSpec;

/// How long the guest may take to let go of a NIC, before scaling: it must answer the hot-plug request.
const UNPLUG_LIMIT: Duration = Duration::from_secs(30);

impl Machine {
    /// The names of the NICs that are plugged in.
    #[must_use]
    pub fn nics(&self) -> Vec<String> {
        self.plugged().into_iter().map(|n| n.spec.name).collect()
    }

    /// The switch port that a NIC is plugged into.
    ///
    /// # Errors
    /// [`Error::Spec`] when there is no such NIC.
    pub fn port(&self, nic: &str) -> Result<switch::PortId, Error> {
        Ok(self.find_nic(nic)?.port)
    }

    /// Sets the carrier of a link: the switch's port and the guest's view of it together. Without carrier the
    /// guest sees the cable pulled, and nothing passes either way.
    ///
    /// # Errors
    /// [`Error::Spec`] when there is no such NIC, [`Error::Qmp`] or [`Error::Switch`].
    pub async fn set_carrier(&self, nic: &str, up: bool) -> Result<(), Error> {
        let plugged = self.find_nic(nic)?;
        self.inner.lab.switch.set_admin(plugged.port, up)?;
        if let Some(instance) = self.instance() {
            let set = instance.qmp.execute_raw("set_link", json!({ "name": nic_id(nic), "up": up })).await;
            set.map_err(|e| self.qmp_error(format!("setting the carrier of {nic}"), e))?;
        }
        let word = if up { "up" } else { "down" };
        self.event("fault", format!("carrier of {nic} {word}"), json!({ "nic": nic, "carrier": up }));
        Ok(())
    }

    /// Plugs a new NIC into the running machine and into the switch. One that bears the name of a bundle's NIC
    /// ([`crate::spec::BundleSpec::nics`]) becomes a member of that bundle again.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Spec`] when the name is taken or no PCIe port is free, [`Error::Qmp`].
    pub async fn plug(&self, nic: NicSpec) -> Result<(), Error> {
        let instance = self.running("plugging a NIC")?;
        let used: Vec<usize> = self.plugged().iter().map(|n| n.slot).collect();
        let spec_error = |problem| Error::Spec { machine: self.name().to_owned(), problem };
        if self.plugged().iter().any(|n| n.spec.name == nic.name) {
            return Err(spec_error(format!("there is a NIC {:?} already", nic.name)));
        }
        let slots = self.spec().nics.len() + SPARE_PORTS;
        let Some(slot) = (0..slots).find(|s| !used.contains(s)) else {
            return Err(spec_error(format!("all of its {slots} PCIe ports have a NIC")));
        };
        let port = self.inner.lab.add_port(self.name(), &nic)?;
        if let Err(error) = self.connect_new(&instance, &nic, port, slot).await {
            // It may be gone, with the switch that could not do it.
            let _ = self.inner.lab.switch.remove_port(port);
            return Err(error);
        }
        self.event("nic", format!("{} plugged", nic.name), json!({ "nic": nic.name }));
        self.lock_nics().push(Plugged { spec: nic, port, slot });
        Ok(())
    }

    async fn connect_new(
        &self,
        instance: &Instance,
        nic: &NicSpec,
        port: PortId,
        slot: usize,
    ) -> Result<(), Error> {
        let switch = &self.inner.lab.switch;
        if let Some(spec) = self.spec().bundles.iter().find(|bundle| bundle.nics.contains(&nic.name)) {
            let bundle = switch.bundles()?.into_iter().find(|bundle| bundle.name == spec.name);
            if let Some(bundle) = bundle {
                switch.add_member(bundle.id, port)?;
            }
        }
        let path = switch.socket_path(port)?;
        let netdev = json!({
            "type": "stream", "id": netdev_id(&nic.name), "server": false,
            "addr": { "type": "unix", "path": path },
        });
        let mut device = json!({ "driver": "virtio-net-pci" });
        for (key, value) in nic_device(nic, slot) {
            // QMP has types where the command line has text.
            device[key] = match value.as_str() {
                "on" => json!(true),
                "off" => json!(false),
                _ => value.parse::<u32>().map_or_else(|_| json!(value), |n| json!(n)),
            };
        }
        let plug = async {
            instance.qmp.execute_raw("netdev_add", netdev).await?;
            instance.qmp.execute_raw("device_add", device).await
        };
        plug.await.map(drop).map_err(|e| self.qmp_error(format!("plugging {}", nic.name), e))
    }

    /// Takes a NIC out of the running machine, and its port off the switch. Waits until the guest let go of it.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Spec`], [`Error::Qmp`], or [`Error::Condition`] when the guest does not let go
    /// within 30 s before scaling.
    pub async fn unplug(&self, nic: &str) -> Result<(), Error> {
        let instance = self.running("unplugging a NIC")?;
        let plugged = self.find_nic(nic)?;
        let timer = super::Timer::start();
        let mut events = instance.qmp.events();
        let id = nic_id(nic);
        let asked = instance.qmp.execute_raw("device_del", json!({ "id": id })).await;
        asked.map_err(|e| self.qmp_error(format!("unplugging {nic}"), e))?;
        let gone = async {
            while let Ok(event) = events.recv().await {
                if event.name == "DEVICE_DELETED" && event.data["device"] == json!(id) {
                    return true;
                }
            }
            false
        };
        let gone = self.until_death(tokio::time::timeout(self.limit(UNPLUG_LIMIT), gone)).await?;
        if !matches!(gone, Ok(true)) {
            let last = instance.console.tail(super::EVIDENCE_LINES);
            return Err(self.condition_error(format!("the guest lets go of {nic}"), &timer, 1, last));
        }
        let deleted = instance.qmp.execute_raw("netdev_del", json!({ "id": netdev_id(nic) })).await;
        deleted.map_err(|e| self.qmp_error(format!("unplugging {nic}"), e))?;
        self.inner.lab.switch.remove_port(plugged.port)?;
        self.lock_nics().retain(|n| n.spec.name != nic);
        self.event("nic", format!("{nic} unplugged"), json!({ "nic": nic }));
        Ok(())
    }

    /// The switch's sockets of the NICs that the machine starts with.
    pub(super) fn nic_sockets(&self) -> Result<Vec<PathBuf>, Error> {
        let sockets = self.plugged().into_iter().map(|n| self.inner.lab.switch.socket_path(n.port));
        sockets.collect::<Result<_, _>>().map_err(Error::from)
    }

    fn find_nic(&self, nic: &str) -> Result<Plugged, Error> {
        self.plugged().into_iter().find(|n| n.spec.name == nic).ok_or_else(|| Error::Spec {
            machine: self.name().to_owned(),
            problem: format!("no NIC {nic:?}; it has {}", self.nics().join(", ")),
        })
    }

    fn plugged(&self) -> Vec<Plugged> {
        self.lock_nics().clone()
    }

    fn lock_nics(&self) -> std::sync::MutexGuard<'_, Vec<Plugged>> {
        self.inner.nics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
