//! What a profile is once it is known to be right.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use serde::Serialize;

use crate::error::{Error, Kind};
use crate::mac::MacAddr;

/// The network every profile has: it gives machines their host names, MAC addresses and node addresses.
pub const CLUSTER: &str = "cluster";

/// The longest name of a Linux interface in bytes (IFNAMSIZ without the closing zero).
pub(crate) const MAX_INTERFACE_NAME: usize = 15;

/// A network profile: machines, their NICs, and the networks they meet on.
///
/// It is only made by loading and is valid from then on; see [`Profile::load`] and the built-in ones in the crate's
/// root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) nics: Vec<String>,
    pub(crate) bonds: Vec<Bond>,
    pub(crate) networks: Vec<Network>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) kubernetes: Kubernetes,
}

/// An aggregate of NICs, the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    /// The interface's name, `bond0`.
    pub name: String,
    /// Its NICs, at least two; it has the MAC address of the first.
    pub members: Vec<String>,
    /// How it uses them.
    pub mode: BondMode,
    /// How often the link of each member is looked at, in milliseconds.
    pub miimon_ms: u16,
}

/// How a bond uses its members (the kernel's bonding documentation, "mode").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// 802.3ad: all members at once, agreed with the switch by LACP (IEEE 802.1AX).
    Lacp {
        /// How often the partner is asked to send its LACPDUs.
        rate: LacpRate,
    },
    /// One member at a time; the switch takes no part.
    ActiveBackup {
        /// The member that is used whenever its link is up.
        primary: Option<String>,
    },
    /// Frame by frame over all members in turn; the switch has a static bundle.
    BalanceRr,
    /// Each conversation over one of all members; the switch has a static bundle.
    BalanceXor,
    /// Over all members, by telling each peer the address of another one; the switch takes no part.
    BalanceAlb,
}

impl BondMode {
    /// The kernel's name of the mode.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lacp { .. } => "802.3ad",
            Self::ActiveBackup { .. } => "active-backup",
            Self::BalanceRr => "balance-rr",
            Self::BalanceXor => "balance-xor",
            Self::BalanceAlb => "balance-alb",
        }
    }
}

/// The LACP rate, as the kernel calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LacpRate {
    /// One LACPDU every 30 s; a silent partner is noticed after 90 s.
    Slow,
    /// One LACPDU every second; a silent partner is noticed after 3 s.
    Fast,
}

/// A subnet that machines meet on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name: `cluster`, `storage`.
    pub name: String,
    /// Its addresses.
    pub subnet: IpNet,
    /// The 802.1Q VLAN id its frames are tagged with, 1 to 4094; none means untagged.
    pub vlan: Option<u16>,
    /// The NIC or bond that carries it.
    pub interface: String,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The router of the default route.
    pub gateway: Option<IpAddr>,
    /// Set when machines get their addresses by DHCP.
    pub dhcp: Option<Dhcp>,
}

/// The DHCP service of a network; what it hands out follows from the machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// The server's own address.
    pub server: IpAddr,
    /// The lease time in seconds.
    pub lease_s: u32,
}

/// What a machine does in a Kubernetes cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the control plane and its data store.
    Server,
    /// Runs workloads only.
    Agent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Server => "server",
            Self::Agent => "agent",
        })
    }
}

/// One machine of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its host name: `server-1`.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its NICs in the order of the profile.
    pub nics: Vec<Nic>,
    /// Its place in each network, in the order of the profile.
    pub attachments: Vec<Attachment>,
}

/// One network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name in the guest: `eth1`.
    pub name: String,
    /// Its MAC address, stable from run to run.
    pub mac: MacAddr,
}

/// A machine's place in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The machine's address in it.
    pub address: IpAddr,
    /// The VLAN id that this machine tags with: the network's, or the machine's own (wrong) one.
    pub vlan: Option<u16>,
    /// The interface that has the address: `eth1`, `bond0`, `eth1.200`.
    pub interface: String,
}

/// What Kubernetes is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The addresses of pods.
    pub pod_cidr: IpNet,
    /// The addresses of services.
    pub service_cidr: IpNet,
    /// The machine whose cluster address is the API's endpoint.
    pub api_server: String,
    /// The API's TCP port.
    pub api_port: u16,
}

impl Profile {
    /// Reads and checks a profile.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Invalid`] with all that is wrong in the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        crate::load::from_bytes(&bytes, &path.display().to_string())
    }

    /// Checks a profile's text; `file` is how messages name it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all that is wrong in the text.
    pub fn parse(text: &str, file: &str) -> Result<Self, Error> {
        crate::load::from_text(text, file)
    }

    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line on what it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The names of the NICs that every machine has.
    pub fn nics(&self) -> &[String] {
        &self.nics
    }

    /// The bonds, the same on every machine.
    pub fn bonds(&self) -> &[Bond] {
        &self.bonds
    }

    /// The networks, in the order of the file.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// The machines, in the order of the file.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The machines of one role, in the order of the file.
    pub fn machines_of(&self, role: Role) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(move |machine| machine.role == role)
    }

    /// What Kubernetes is told.
    pub fn kubernetes(&self) -> &Kubernetes {
        &self.kubernetes
    }

    /// A machine by its name.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`].
    pub fn machine(&self, name: &str) -> Result<&Machine, Error> {
        self.machines.iter().find(|m| m.name == name).ok_or_else(|| Error::UnknownMachine {
            profile: self.name.clone(),
            machine: name.to_owned(),
            known: self.machines.iter().map(|m| m.name.clone()).collect(),
        })
    }

    /// A network by its name.
    ///
    /// # Errors
    /// [`Error::UnknownNetwork`].
    pub fn network(&self, name: &str) -> Result<&Network, Error> {
        self.networks.iter().find(|n| n.name == name).ok_or_else(|| self.unknown_network(name))
    }

    /// A machine's place in a network.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`], [`Error::UnknownNetwork`].
    pub fn attachment(&self, machine: &str, network: &str) -> Result<&Attachment, Error> {
        self.machine(machine)?.attachment(network).ok_or_else(|| self.unknown_network(network))
    }

    /// A machine's address in a network.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`], [`Error::UnknownNetwork`].
    pub fn address(&self, machine: &str, network: &str) -> Result<IpAddr, Error> {
        Ok(self.attachment(machine, network)?.address)
    }

    /// The name of the interface on which a machine has its address in a network.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`], [`Error::UnknownNetwork`].
    pub fn interface(&self, machine: &str, network: &str) -> Result<&str, Error> {
        Ok(&self.attachment(machine, network)?.interface)
    }

    /// Where the Kubernetes API answers: the API server's cluster address and port.
    pub fn api_endpoint(&self) -> SocketAddr {
        let server = self.machines.iter().find(|m| m.name == self.kubernetes.api_server);
        let address = server.and_then(|m| m.attachment(CLUSTER)).map(|a| a.address);
        SocketAddr::new(address.expect("loading requires it"), self.kubernetes.api_port)
    }

    /// The same profile with one machine tagging one network's frames with another VLAN id, as a wrongly configured
    /// machine would. The switch's ports stay as the network says.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`], [`Error::UnknownNetwork`], or [`Error::CannotTag`] when the network is untagged or
    /// the id is out of range or the machine's own already.
    pub fn with_vlan_id(mut self, machine: &str, network: &str, id: u16) -> Result<Self, Error> {
        self.machine(machine)?;
        let carrier = self.network(network)?.interface.clone();
        let cannot = |profile: &Self, reason: Kind| Error::CannotTag {
            profile: profile.name.clone(),
            machine: machine.to_owned(),
            network: network.to_owned(),
            id,
            reason: Box::new(reason),
        };
        if !(1..=4094).contains(&id) {
            return Err(cannot(&self, Kind::VlanIdOutOfRange { found: id.to_string() }));
        }
        let interface = vlan_interface(&carrier, id);
        if interface.len() > MAX_INTERFACE_NAME {
            return Err(cannot(&self, Kind::InterfaceNameTooLong { name: interface }));
        }
        let attachments =
            &mut self.machines.iter_mut().find(|m| m.name == machine).expect("found above").attachments;
        if let Some(other) = attachments.iter().find(|a| a.network != network && a.vlan == Some(id)) {
            let other = other.network.clone();
            return Err(cannot(&self, Kind::DuplicateVlanId { id, other }));
        }
        let attachment = attachments.iter_mut().find(|a| a.network == network).expect("one for each network");
        if attachment.vlan.is_none() {
            return Err(cannot(&self, Kind::Untagged { network: network.to_owned() }));
        }
        attachment.vlan = Some(id);
        attachment.interface = interface;
        Ok(self)
    }

    /// The same profile with another MAC address of a machine's NIC: that of the card that it really is.
    ///
    /// # Errors
    /// [`Error::UnknownMachine`]. A NIC that the profile does not have is none of its business.
    pub fn with_mac(mut self, machine: &str, nic: &str, mac: MacAddr) -> Result<Self, Error> {
        self.machine(machine)?;
        let nics = self.machines.iter_mut().filter(|m| m.name == machine).flat_map(|m| &mut m.nics);
        for found in nics.filter(|n| n.name == nic) {
            found.mac = mac;
        }
        Ok(self)
    }

    /// The MAC address that frames of `interface`, a NIC or a bond, come from.
    pub(crate) fn carrier_mac(&self, machine: &Machine, interface: &str) -> MacAddr {
        let bond = self.bonds.iter().find(|b| b.name == interface);
        let nic = bond.map_or(interface, |b| &b.members[0]);
        machine.nics.iter().find(|n| n.name == nic).expect("loading requires it").mac
    }

    fn unknown_network(&self, name: &str) -> Error {
        Error::UnknownNetwork {
            profile: self.name.clone(),
            network: name.to_owned(),
            known: self.networks.iter().map(|n| n.name.clone()).collect(),
        }
    }
}

impl Machine {
    /// The machine's place in a network.
    pub fn attachment(&self, network: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|a| a.network == network)
    }
}

/// The name of the interface for a VLAN on top of a NIC or bond.
pub(crate) fn vlan_interface(carrier: &str, id: u16) -> String {
    format!("{carrier}.{id}")
}
