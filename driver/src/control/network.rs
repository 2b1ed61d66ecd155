//! A lab's network as it is now: what `rackless switch` shows and draws.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use switch::SwitchState;

use crate::Error;
use crate::lab::Lab;
use crate::machine::Machine;

/// The switch of a running lab, and what is plugged into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabNetwork {
    /// The lab's name.
    pub lab: String,
    /// Its machines, in the order of its spec.
    pub machines: Vec<MachineNetwork>,
    /// The switch's ports, bundles, learnt addresses, faults and captures.
    pub switch: SwitchState,
}

/// How one machine is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNetwork {
    /// Its name.
    pub name: String,
    /// Its network cards, in PCI order.
    pub nics: Vec<NicState>,
    /// Its addresses by network, as its spec has them.
    pub addresses: BTreeMap<String, IpAddr>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicState {
    /// Its name in the machine.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// The name of the switch's port that it is plugged into.
    pub port: String,
}

impl LabNetwork {
    /// Asks the switch.
    ///
    /// # Errors
    /// [`Error::Switch`] when the lab is being torn down, or the switch has died.
    pub fn of(lab: &Lab) -> Result<Self, Error> {
        let switch = lab.switch().state()?;
        let machines = lab.machines().iter().map(plugged).collect();
        Ok(Self { lab: lab.name().to_owned(), machines, switch })
    }
}

fn plugged(machine: &Machine) -> MachineNetwork {
    let name = machine.name();
    let spec = machine.spec();
    let nics = spec.nics.iter().map(|nic| NicState {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        port: format!("{name}/{}", nic.name),
    });
    MachineNetwork { name: name.to_owned(), nics: nics.collect(), addresses: spec.addresses.clone() }
}
