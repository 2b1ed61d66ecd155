//! Faults of the network, as guards: they heal when told to, or when the lab is torn down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use switch::{
    ImpairTarget, Impairment, ImpairmentId, Mac, PartitionId, PartitionSpec, PortId, ServiceFaultChange,
    ServiceFaultId, Switch, VlanSet,
};

use crate::Error;
use crate::lab::{Context, Lab};
use crate::machine::Machine;
use crate::spec::LabSpec;
use crate::supervisor::{Event, Supervisor};

/// A fault that lasts until it is healed.
///
/// Dropping it leaves the fault in place until the lab ends: a fault that heals by accident, because a
/// variable went out of scope, makes a test pass that should not. [`Lab::heal_all`] needs no guard.
#[must_use = "a fault lasts until `heal` is called: keep it"]
pub struct Fault {
    what: What,
}

enum What {
    Carrier { machine: Machine, nics: Vec<String> },
    Shut { machine: Machine, nic: String, port: PortId },
    Partition { lab: Arc<Context>, id: PartitionId, spec: PartitionSpec },
    Impairments { lab: Arc<Context>, set: Vec<(ImpairmentId, ImpairTarget, Impairment)> },
}

impl Fault {
    /// Pulls the cables of some NICs of one machine.
    pub(crate) async fn carrier(machine: &Machine, nics: Vec<String>) -> Result<Self, Error> {
        for nic in &nics {
            machine.set_carrier(nic, false).await?;
        }
        Ok(Self { what: What::Carrier { machine: machine.clone(), nics } })
    }

    fn partition(lab: &Arc<Context>, spec: PartitionSpec) -> Result<Self, Error> {
        let id = lab.switch.partition(spec.clone())?;
        lab.tell_partition(id, &spec, true);
        Ok(Self { what: What::Partition { lab: lab.clone(), id, spec } })
    }

    fn impair(
        lab: &Arc<Context>,
        targets: Vec<ImpairTarget>,
        impairment: &Impairment,
    ) -> Result<Self, Error> {
        let mut set = Vec::new();
        for target in targets {
            let id = lab.switch.impair(target, impairment.clone())?;
            lab.tell_impairment(id, target, impairment, true);
            set.push((id, target, impairment.clone()));
        }
        Ok(Self { what: What::Impairments { lab: lab.clone(), set } })
    }

    /// Ends the fault. One that is over already, since [`Lab::heal_all`] ended it or another impairment took its
    /// place, is left as it is.
    ///
    /// # Errors
    /// [`Error::Qmp`] or [`Error::Switch`] when QEMU or the switch can't be told.
    pub async fn heal(self) -> Result<(), Error> {
        match self.what {
            What::Carrier { machine, nics } => {
                for nic in &nics {
                    machine.set_carrier(nic, true).await?;
                }
            }
            What::Shut { machine, nic, port } => machine.set_port(&nic, port, true)?,
            What::Partition { lab, id, spec } => lab.heal_partition(id, &spec)?,
            What::Impairments { lab, set } => {
                for (id, target, impairment) in set {
                    lab.heal_impairment(id, target, &impairment)?;
                }
            }
        }
        Ok(())
    }
}

/// Tells of what the services on the switch do wrong because the test wants it. A client is a machine if that has a NIC
/// of its address.
pub(crate) fn tell_service_faults(switch: &Switch, supervisor: &Arc<dyn Supervisor>, spec: &LabSpec) {
    let macs = |machine: &'_ crate::spec::MachineSpec| -> Vec<Mac> {
        machine.nics.iter().filter_map(|nic| nic.mac.parse().ok()).collect()
    };
    let machines: BTreeMap<Mac, String> = spec
        .machines
        .iter()
        .flat_map(|machine| macs(machine).into_iter().map(|mac| (mac, machine.name.clone())))
        .collect();
    let supervisor = supervisor.clone();
    switch.watch_service_faults(move |fault, change| {
        let text = match change {
            ServiceFaultChange::Begins | ServiceFaultChange::Happened => {
                format!("{} {}", fault.service, fault.what)
            }
            ServiceFaultChange::Ends => format!("healed: {} {}", fault.service, fault.what),
        };
        let data = json!({
            "fault": "service", "id": fault.id, "active": change == ServiceFaultChange::Begins,
            "service": fault.service, "what": fault.what, "client": fault.client,
        });
        let machine = fault.client.and_then(|mac| machines.get(&mac).cloned());
        supervisor.event(Event { kind: "fault", machine, text, data });
    });
}

impl Context {
    fn heal_service_fault(&self, id: ServiceFaultId) -> Result<(), Error> {
        match self.switch.heal_service_fault(id) {
            Ok(()) | Err(switch::Error::UnknownServiceFault { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn heal_partition(&self, id: PartitionId, spec: &PartitionSpec) -> Result<(), Error> {
        match self.switch.heal(id) {
            Ok(()) => self.tell_partition(id, spec, false),
            Err(switch::Error::UnknownPartition { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn heal_impairment(
        &self,
        id: ImpairmentId,
        target: ImpairTarget,
        impairment: &Impairment,
    ) -> Result<(), Error> {
        match self.switch.clear_impairment(id) {
            Ok(()) => self.tell_impairment(id, target, impairment, false),
            Err(switch::Error::UnknownImpairment { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn tell_partition(&self, id: PartitionId, spec: &PartitionSpec, begins: bool) {
        let (from, to) = spec.sides();
        let list =
            |side: &BTreeSet<PortId>| -> Vec<String> { side.iter().map(|id| self.port_name(*id)).collect() };
        let (from, to) = (list(from), list(to));
        let sign = if spec.is_one_way() { "->" } else { "|" };
        let mut text = format!("partition: {} {sign} {}", from.join(", "), to.join(", "));
        if let Some(vlans) = spec.vlans() {
            text += &format!(" (VLAN {vlans})");
        }
        let data =
            json!({ "fault": "partition", "id": id, "active": begins, "from": from, "to": to, "spec": spec });
        self.tell(None, text, begins, data);
    }

    fn tell_impairment(&self, id: ImpairmentId, target: ImpairTarget, impairment: &Impairment, begins: bool) {
        let (on, machine) = match target {
            ImpairTarget::Port(port) => {
                let name = self.port_name(port);
                let machine = name.split_once('/').map(|(machine, _)| machine.to_owned());
                (name, machine)
            }
            ImpairTarget::Pair { from, to } => {
                (format!("{} -> {}", self.port_name(from), self.port_name(to)), None)
            }
        };
        let text = format!("impairment of {on}: {impairment}");
        let data = json!({
            "fault": "impairment", "id": id, "active": begins, "on": on, "impairment": impairment,
            "seed": self.seed,
        });
        self.tell(machine, text, begins, data);
    }

    fn tell(&self, machine: Option<String>, text: String, begins: bool, data: Value) {
        let text = if begins { text } else { format!("healed: {text}") };
        self.supervisor.event(Event { kind: "fault", machine, text, data });
    }

    fn port_name(&self, id: PortId) -> String {
        let ports = self.switch.ports().unwrap_or_default();
        let name = ports.into_iter().find(|port| port.id == id).map(|port| port.name);
        name.unwrap_or_else(|| format!("port {id} (removed)"))
    }
}

impl Lab {
    /// Keeps two groups from each other, in both directions; the carrier stays. `server-1` means all NICs of that
    /// machine, `server-1/eth1` one of them; an uplink has the name that it was given. What is under way between them is
    /// lost.
    ///
    /// # Errors
    /// [`Error::NoSuchMachine`], [`Error::Spec`] when there is no such NIC, or [`Error::Switch`].
    pub fn partition(&self, left: &[&str], right: &[&str]) -> Result<Fault, Error> {
        Fault::partition(self.context(), self.between(left, right)?)
    }

    /// Keeps frames of one group from reaching the other; the way back stays open. Names as for [`Lab::partition`].
    ///
    /// # Errors
    /// As [`Lab::partition`].
    pub fn partition_one_way(&self, from: &[&str], to: &[&str]) -> Result<Fault, Error> {
        Fault::partition(self.context(), self.between(from, to)?.one_way())
    }

    /// Keeps two groups from each other on some VLANs only: a `VlanId`, or `"100,200-299".parse()?`. Names as for
    /// [`Lab::partition`].
    ///
    /// # Errors
    /// As [`Lab::partition`].
    pub fn partition_vlans(
        &self,
        left: &[&str],
        right: &[&str],
        vlans: impl Into<VlanSet>,
    ) -> Result<Fault, Error> {
        Fault::partition(self.context(), self.between(left, right)?.on_vlans(vlans))
    }

    /// Impairs the way from one machine to another, and not the way back: for that, call it again. With
    /// `server-1` all NICs of that machine are meant, each pair for itself, with `server-1/eth1` one of them. Takes the
    /// place of what was set on a pair before. A frame that meets [`Machine::impair`] as well goes through both.
    ///
    /// # Errors
    /// As [`Lab::partition`]; [`Error::Switch`] with all that is wrong with the impairment.
    pub fn impair_pair(&self, from: &str, to: &str, impairment: Impairment) -> Result<Fault, Error> {
        let (from, to) = (self.ports_of(from)?, self.ports_of(to)?);
        let pairs =
            from.iter().flat_map(|from| to.iter().map(|to| ImpairTarget::Pair { from: *from, to: *to }));
        Fault::impair(self.context(), pairs.collect(), &impairment)
    }

    /// Heals every fault of the network, whoever made it, with or without a guard: carriers and ports that are down,
    /// partitions, impairments, and what a service on the switch does wrong because the test wants it (DHCP). Goes on after
    /// an error.
    ///
    /// # Errors
    /// The first of [`Error::Qmp`] and [`Error::Switch`].
    pub async fn heal_all(&self) -> Result<(), Error> {
        let context = self.context();
        let state = context.switch.state()?;
        let mut healed = Vec::new();
        for partition in &state.partitions {
            healed.push(context.heal_partition(partition.id, &partition.spec));
        }
        for set in &state.impairments {
            healed.push(context.heal_impairment(set.id, set.target, &set.impairment));
        }
        for fault in &state.service_faults {
            healed.push(context.heal_service_fault(fault.id));
        }
        let down: BTreeSet<PortId> =
            state.ports.iter().filter(|port| !port.admin).map(|port| port.id).collect();
        for machine in self.machines() {
            for nic in machine.nics() {
                if machine.port(&nic).is_ok_and(|port| down.contains(&port)) {
                    healed.push(machine.set_carrier(&nic, true).await);
                }
            }
        }
        healed.into_iter().collect()
    }

    fn between(&self, left: &[&str], right: &[&str]) -> Result<PartitionSpec, Error> {
        let ports = |names: &[&str]| -> Result<Vec<PortId>, Error> {
            let ports: Vec<Vec<PortId>> =
                names.iter().map(|name| self.ports_of(name)).collect::<Result<_, _>>()?;
            Ok(ports.concat())
        };
        Ok(PartitionSpec::between(ports(left)?, ports(right)?))
    }

    /// The ports of `machine`, or the one of `machine/nic`; where there is no such machine, those of an uplink or of a
    /// service.
    fn ports_of(&self, name: &str) -> Result<Vec<PortId>, Error> {
        let (machine, nic) = match name.split_once('/') {
            Some((machine, nic)) => (machine, Some(nic)),
            None => (name, None),
        };
        match (self.machine(machine), nic) {
            (Ok(machine), Some(nic)) => Ok(vec![machine.port(nic)?]),
            (Ok(machine), None) => machine.nics().iter().map(|nic| machine.port(nic)).collect(),
            (Err(no_machine), _) => {
                let is_meant = |port: &str| {
                    port.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let ports = self.switch().ports()?.into_iter().filter(|port| is_meant(&port.name));
                let ports: Vec<PortId> = ports.map(|port| port.id).collect();
                if ports.is_empty() { Err(no_machine) } else { Ok(ports) }
            }
        }
    }
}

impl Machine {
    /// Pulls the cable of one NIC: the guest sees no carrier, and nothing passes.
    ///
    /// # Errors
    /// As [`Machine::set_carrier`].
    pub async fn cut(&self, nic: &str) -> Result<Fault, Error> {
        Fault::carrier(self, vec![nic.to_owned()]).await
    }

    /// Pulls the cables of all NICs.
    ///
    /// # Errors
    /// As [`Machine::set_carrier`].
    pub async fn cut_all(&self) -> Result<Fault, Error> {
        Fault::carrier(self, self.nics()).await
    }

    /// Sets the switch's port of a NIC administratively down and leaves the guest its carrier: a link that looks up and
    /// carries nothing, which a bond's miimon does not notice.
    ///
    /// # Errors
    /// [`Error::Spec`] when there is no such NIC, or [`Error::Switch`].
    pub fn shut(&self, nic: &str) -> Result<Fault, Error> {
        let port = self.port(nic)?;
        self.set_port(nic, port, false)?;
        Ok(Fault { what: What::Shut { machine: self.clone(), nic: nic.to_owned(), port } })
    }

    /// Impairs what goes to one NIC of this machine, whoever sent it; what comes from it is spared. Takes the place of
    /// what was set on that NIC before.
    ///
    /// # Errors
    /// [`Error::Spec`] when there is no such NIC; [`Error::Switch`] with all that is wrong with the impairment.
    pub fn impair(&self, nic: &str, impairment: Impairment) -> Result<Fault, Error> {
        Fault::impair(self.lab(), vec![ImpairTarget::Port(self.port(nic)?)], &impairment)
    }

    fn set_port(&self, nic: &str, port: PortId, up: bool) -> Result<(), Error> {
        self.lab().switch.set_admin(port, up)?;
        let word = if up { "up" } else { "down" };
        let data = json!({ "fault": "admin", "active": !up, "nic": nic });
        self.event("fault", format!("switch port of {nic} {word}, carrier as it was"), data);
        Ok(())
    }
}
