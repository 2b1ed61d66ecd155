//! Network cards: carrier, plugging in and out while the machine runs.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::json;
use switch::PortId;

use super::instance::{Instance, last_words};
use super::{Machine, Plugged};
use crate::Error;
use crate::poll::Backoff;
use crate::qemu::{SPARE_PORTS, netdev_id, nic_device, nic_id, script_netdev};
use crate::spec::{NicBackend, NicSpec};

/// How long a guest that has booted may take until its fast NICs pass frames, before scaling.
const FAST_LIMIT: Duration = Duration::from_secs(10);

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
        self.has_own_cables("setting the carrier of a NIC")?;
        let plugged = self.find_nic(nic)?;
        self.inner.lab.switch.set_admin(plugged.port, up)?;
        if let Some(instance) = self.instance() {
            let qemu = self.qemu(&instance, "setting the carrier of a NIC")?;
            // A start script gives no names to its NICs but to what is behind them, and carrier is theirs alike.
            let name = if self.inner.scripted.is_some() { script_netdev(plugged.slot) } else { nic_id(nic) };
            let set = qemu.qmp.execute_raw("set_link", json!({ "name": name, "up": up })).await;
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
    /// [`Error::Off`], [`Error::Spec`] when the name is taken, no PCIe port is free or it is a fast one, [`Error::Qmp`].
    pub async fn plug(&self, nic: NicSpec) -> Result<(), Error> {
        self.has_own_qemu("plugging a NIC")?;
        let instance = self.running("plugging a NIC")?;
        let used: Vec<usize> = self.plugged().iter().map(|n| n.slot).collect();
        let spec_error = |problem| Error::Spec { machine: self.name().to_owned(), problem };
        if self.plugged().iter().any(|n| n.spec.name == nic.name) {
            return Err(spec_error(format!("there is a NIC {:?} already", nic.name)));
        }
        if nic.backend == NicBackend::VhostUser {
            let problem = format!("the fast NIC {:?} must be there when the machine starts", nic.name);
            return Err(spec_error(problem));
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
        let qemu = self.qemu(instance, "plugging a NIC")?;
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
            qemu.qmp.execute_raw("netdev_add", netdev).await?;
            qemu.qmp.execute_raw("device_add", device).await
        };
        plug.await.map(drop).map_err(|e| self.qmp_error(format!("plugging {}", nic.name), e))
    }

    /// Takes a NIC out of the running machine, and its port off the switch. Waits until the guest let go of it.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Spec`], [`Error::Qmp`], or [`Error::Condition`] when the guest does not let go
    /// within 30 s before scaling.
    pub async fn unplug(&self, nic: &str) -> Result<(), Error> {
        self.has_own_qemu("unplugging a NIC")?;
        let instance = self.running("unplugging a NIC")?;
        let plugged = self.find_nic(nic)?;
        let qemu = self.qemu(&instance, "unplugging a NIC")?;
        let timer = super::Timer::start();
        let mut events = qemu.qmp.events();
        let id = nic_id(nic);
        let asked = qemu.qmp.execute_raw("device_del", json!({ "id": id })).await;
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
        let deleted = qemu.qmp.execute_raw("netdev_del", json!({ "id": netdev_id(nic) })).await;
        deleted.map_err(|e| self.qmp_error(format!("unplugging {nic}"), e))?;
        self.inner.lab.switch.remove_port(plugged.port)?;
        self.lock_nics().retain(|n| n.spec.name != nic);
        self.event("nic", format!("{nic} unplugged"), json!({ "nic": nic }));
        Ok(())
    }

    /// The NICs of a start script go with its QEMU.
    pub(super) fn unplug_scripted(&self) {
        if self.inner.scripted.is_some() {
            self.lock_nics().clear();
        }
    }

    /// Takes the place of all NICs: those that a start script has plugged in, bundles included.
    pub(super) fn plug_in(&self, nics: Vec<Plugged>) -> Result<(), Error> {
        *self.lock_nics() = nics;
        crate::lab::join_bundles(self, &self.inner.lab.switch)
    }

    /// Refuses what can only be done to a QEMU that the driver has made.
    fn has_own_qemu(&self, operation: &str) -> Result<(), Error> {
        self.has_own_cables(operation)?;
        if self.inner.scripted.is_none() {
            return Ok(());
        }
        Err(Error::Unsupported {
            machine: self.name().to_owned(),
            operation: operation.to_owned(),
            why: "its start script decides which devices it has".to_owned(),
        })
    }

    /// That every fast NIC really is: QEMU goes on without a word to its user where it can't agree with the switch, and
    /// nothing passes then. One whose cable is pulled is not asked.
    pub(super) async fn check_fast_nics(&self) -> Result<(), Error> {
        let fast: Vec<Plugged> =
            self.plugged().into_iter().filter(|n| n.spec.backend == NicBackend::VhostUser).collect();
        if fast.is_empty() {
            return Ok(());
        }
        let timer = super::Timer::start();
        let mut backoff = Backoff::new(self.limit(FAST_LIMIT));
        loop {
            let ports = self.inner.lab.switch.ports()?;
            let state = |nic: &Plugged| ports.iter().find(|port| port.id == nic.port && port.admin);
            let idle = fast.iter().find_map(|nic| {
                let state = state(nic)?.fast.clone().unwrap_or_default();
                (!state.running).then_some((nic, state))
            });
            let Some((nic, state)) = idle else { return Ok(()) };
            if !backoff.pause().await {
                let nothing = "the guest's driver has not started it, or QEMU gave up".to_owned();
                return Err(Error::FastNic {
                    machine: self.name().to_owned(),
                    nic: nic.spec.name.clone(),
                    elapsed: timer.elapsed(),
                    problem: state.problem.unwrap_or(nothing),
                    said: last_words(&self.inner.artifacts.join("qemu.log"), "nothing"),
                    artifacts: self.inner.artifacts.clone(),
                });
            }
        }
    }

    /// The NICs that are plugged in, each with the index of its root port.
    pub(super) fn slots(&self) -> Vec<(NicSpec, usize)> {
        self.plugged().into_iter().map(|n| (n.spec, n.slot)).collect()
    }

    /// The switch's sockets of the NICs that are plugged in.
    pub(super) fn nic_sockets(&self) -> Result<Vec<PathBuf>, Error> {
        let sockets = self.plugged().into_iter().map(|n| self.inner.lab.switch.socket_path(n.port));
        sockets.collect::<Result<_, _>>().map_err(Error::from)
    }

    fn find_nic(&self, nic: &str) -> Result<Plugged, Error> {
        if let Some(rig) = &self.inner.board {
            return rig.plugged(self, nic);
        }
        let plugged = self.plugged().into_iter().find(|n| n.spec.name == nic);
        plugged.ok_or_else(|| match self.spec().nics.iter().any(|n| n.name == nic) {
            true if self.inner.scripted.is_some() => {
                self.off(&format!("the NIC {nic}, which its start script plugs in,"))
            }
            _ => Error::Spec {
                machine: self.name().to_owned(),
                problem: format!("no NIC {nic:?}; it has {}", self.nics().join(", ")),
            },
        })
    }

    fn plugged(&self) -> Vec<Plugged> {
        if let Some(rig) = &self.inner.board {
            let nics = self.spec().nics.iter();
            return nics.filter_map(|nic| rig.plugged(self, &nic.name).ok()).collect();
        }
        self.lock_nics().clone()
    }

    fn lock_nics(&self) -> std::sync::MutexGuard<'_, Vec<Plugged>> {
        self.inner.nics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use process::RunDir;
    use switch::Impairment;

    use super::*;
    use crate::qemu::{Accel, Qemu, Version};
    use crate::spec::tests::machine;
    use crate::spec::{Boot, DiskBus, DiskSpec, LabSpec, MachineSpec};
    use crate::supervisor::Unsupervised;
    use crate::{Lab, LabOptions};

    #[tokio::test]
    async fn a_fast_nic_that_passes_nothing_is_told_with_all_that_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.raw");
        fs_err::write(&image, vec![0; 1 << 20]).expect("a disk");
        let version = Version { major: 7, minor: 2, micro: 0 };
        let options = LabOptions {
            qemu: Qemu { program: "/nonexistent/qemu".into(), version },
            accel: Accel::Tcg,
            run: RunDir::create(&format!("fast-{}", std::process::id())).expect("a run directory"),
            artifacts: folder.path().join("artifacts"),
            supervisor: Unsupervised::until(Duration::from_secs(1)),
            seed: 0,
            checkpoints: false,
            captures: crate::Captures::Ring,
        };
        let mut spec = MachineSpec {
            boot: Boot::Direct { kernel: "/nonexistent/kernel".into(), initrd: None, cmdline: String::new() },
            disk: Some(DiskSpec { image, bus: DiskBus::VirtioBlk, grow_to: None }),
            ..machine("server-1")
        };
        spec.nics[1].backend = NicBackend::VhostUser;
        let lab = LabSpec { name: "lab".into(), machines: vec![spec] };
        let lab = Lab::create(lab, options).await.expect("a lab");
        let machine = &lab["server-1"];
        let told = machine.check_fast_nics().await.expect_err("nothing connected").to_string();
        for part in [
            "server-1/eth1: QEMU does not use vhost-user on this NIC after ",
            "the guest's driver has not started it, or QEMU gave up; QEMU said: nothing",
            "artefacts: ",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let refused = machine.impair("eth1", Impairment::new().loss(0.5)).err().expect("refused");
        assert!(refused.to_string().contains("port server-1/eth1 is a vhost-user port"), "{refused}");
        let unfit = machine.check_fit().expect_err("no checkpoint").to_string();
        assert!(unfit.contains("eth1 (a fast NIC, vhost-user)"), "{unfit}");
        machine.set_carrier("eth1", false).await.expect("set");
        machine.check_fast_nics().await.expect("a NIC without a cable is not asked");
        lab.teardown().await.expect("torn down");
    }
}
