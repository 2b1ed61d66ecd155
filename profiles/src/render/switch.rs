//! The switch's side of the cables.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::Error;
use crate::mac::MacAddr;
use crate::model::{BondMode, LacpRate, Network, Profile};

/// The ports and bundles of the switch that a profile's machines are plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchPlan {
    /// One for each NIC, by machine and then by NIC, in the order of the profile.
    pub ports: Vec<SwitchPort>,
    /// One for each bond of each machine that the switch takes part in: 802.3ad, balance-rr, balance-xor.
    pub bundles: Vec<Bundle>,
}

impl SwitchPlan {
    /// The ports of one machine.
    pub fn ports_of(&self, machine: &str) -> impl Iterator<Item = &SwitchPort> {
        self.ports.iter().filter(move |port| port.machine == machine)
    }
}

/// The port that a NIC is plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchPort {
    /// The port's name, `server-1/eth1`.
    pub name: String,
    /// The machine's name.
    pub machine: String,
    /// The NIC's name in the machine.
    pub nic: String,
    /// The NIC's MAC address.
    pub mac: MacAddr,
    /// Which VLANs pass.
    #[serde(flatten)]
    pub mode: PortMode,
}

/// Which VLANs pass a port (IEEE 802.1Q). Ids are 1 to 4094.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "mode")]
pub enum PortMode {
    /// Untagged frames of one VLAN.
    Access {
        /// Its id inside the switch.
        vlan: u16,
    },
    /// Tagged frames of several VLANs.
    Trunk {
        /// The VLANs that pass, the native one included.
        allowed: BTreeSet<u16>,
        /// The VLAN of untagged frames; none drops them.
        native: Option<u16>,
    },
}

/// Ports that are one logical link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bundle {
    /// Its name, `server-1/bond0`.
    pub name: String,
    /// The machine's name.
    pub machine: String,
    /// The names of its ports.
    pub ports: Vec<String>,
    /// How often the machine asks for an LACPDU; none: it speaks no LACP, and the bundle is static.
    pub lacp: Option<LacpRate>,
}

/// The switch's ports for all machines.
///
/// They follow the networks and never a machine's own VLAN ids: the switch is the part of the rack that is right, so
/// that a machine's wrong tag meets what it would meet in the rack. An untagged network gets an id inside the switch:
/// the lowest one that nothing tags with, so that two of them are as far apart as two VLANs.
pub fn switch_ports(profile: &Profile) -> SwitchPlan {
    let mut plan = SwitchPlan { ports: Vec::new(), bundles: Vec::new() };
    for machine in profile.machines() {
        for nic in &machine.nics {
            plan.ports.push(SwitchPort {
                name: port_name(&machine.name, &nic.name),
                machine: machine.name.clone(),
                nic: nic.name.clone(),
                mac: nic.mac,
                mode: port_mode(profile, &nic.name),
            });
        }
        for bond in profile.bonds() {
            let lacp = match bond.mode {
                BondMode::Lacp { rate } => Some(rate),
                BondMode::BalanceRr | BondMode::BalanceXor => None,
                BondMode::ActiveBackup { .. } | BondMode::BalanceAlb => continue,
            };
            plan.bundles.push(Bundle {
                name: port_name(&machine.name, &bond.name),
                machine: machine.name.clone(),
                ports: bond.members.iter().map(|nic| port_name(&machine.name, nic)).collect(),
                lacp,
            });
        }
    }
    plan
}

fn port_name(machine: &str, interface: &str) -> String {
    format!("{machine}/{interface}")
}

fn port_mode(profile: &Profile, nic: &str) -> PortMode {
    let bond = profile.bonds().iter().find(|bond| bond.members.iter().any(|member| member == nic));
    let carrier = bond.map_or(nic, |bond| &bond.name);
    let networks = || profile.networks().iter().filter(|network| network.interface == carrier);
    let native =
        networks().find(|network| network.vlan.is_none()).map(|network| switch_vlan(profile, network));
    match native {
        Some(vlan) if networks().count() == 1 => PortMode::Access { vlan },
        _ => PortMode::Trunk {
            allowed: networks().map(|network| switch_vlan(profile, network)).collect(),
            native,
        },
    }
}

/// The id of a network inside the switch.
pub(super) fn switch_vlan(profile: &Profile, network: &Network) -> u16 {
    let tagged = |id: &u16| profile.networks().iter().any(|other| other.vlan == Some(*id));
    let strayed =
        |id: &u16| profile.machines().iter().flat_map(|m| &m.attachments).any(|a| a.vlan == Some(*id));
    let untagged = || profile.networks().iter().filter(|other| other.vlan.is_none());
    network.vlan.unwrap_or_else(|| {
        let place = untagged().position(|other| other.name == network.name).unwrap_or_default();
        // Enough ids are free of the networks' own (at most 64); of machines' wrong ones, as long as there are any.
        let unused = (1..4095).filter(|id| !tagged(id) && !strayed(id)).nth(place);
        unused.or_else(|| (1..4095).filter(|id| !tagged(id)).nth(place)).expect("at most 64 networks")
    })
}

impl Profile {
    /// The VLAN that a network's frames belong to inside the switch: its VLAN id, or the one that an untagged network
    /// is given (see [`switch_ports`]).
    ///
    /// # Errors
    /// [`Error::UnknownNetwork`].
    pub fn switch_vlan(&self, network: &str) -> Result<u16, Error> {
        Ok(switch_vlan(self, self.network(network)?))
    }
}
