//! What joins the switch to networks beyond this process's machines.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::forwarder::PortId;
use crate::vlan::PortMode;

mod offload;
mod vde;
mod vxlan;

pub(crate) use offload::{OFFLOAD_HEADER, Offload};
pub(crate) use vde::{LONGEST_REQUEST, answer};
pub use vde::{VdeConfig, VdeRefusal, VdeRequest};
pub use vxlan::{VXLAN_HEADER, VXLAN_PORT, Vni};

/// Names an uplink of one switch. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UplinkId(pub(crate) u64);

impl fmt::Display for UplinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an uplink leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkKind {
    /// A VDE 2 switch, as its clients see it: QEMU's `-netdev vde` and `vde_plug` connect to it, and each connection is a
    /// port. Needs no privileges; the directory is this user's alone.
    Vde(VdeConfig),
    /// A point-to-point VXLAN tunnel (RFC 7348) over UDP, to another switch like this one or to a kernel's `vxlan` device.
    /// 802.1Q tags stay in the frames. Needs no privileges.
    Vxlan {
        /// The address that datagrams are sent from and taken on, of this host; with port 0 the system chooses one.
        local: SocketAddr,
        /// The address that they are sent to. Those of any other host are dropped; the port that they come from may
        /// be any, since the RFC has senders vary it.
        peer: SocketAddr,
        /// The network.
        vni: Vni,
    },
    /// A tap device of this host. Needs CAP_NET_ADMIN, or a device that was made for this user
    /// (`ip tuntap add mode tap user NAME name tap0`).
    Tap {
        /// Its name. If there is none of it, it is made, and removed with the uplink; with `%d` at the end the system
        /// chooses the number.
        interface: String,
    },
    /// A network interface of this host, such as a real NIC: all that comes in by it, for whomever it is, comes into the
    /// switch. Needs CAP_NET_RAW. The interface should have no address of its own, and its merging of frames (GRO and
    /// LRO) must be off.
    Nic {
        /// Its name.
        interface: String,
    },
}

impl fmt::Display for UplinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UplinkKind::Vde(VdeConfig { dir: Some(dir), .. }) => write!(f, "vde {}", dir.display()),
            UplinkKind::Vde(_) => f.write_str("vde"),
            UplinkKind::Vxlan { local, peer, vni } => write!(f, "vxlan {vni} from {local} to {peer}"),
            UplinkKind::Tap { interface } => write!(f, "tap {interface}"),
            UplinkKind::Nic { interface } => write!(f, "nic {interface}"),
        }
    }
}

/// How an uplink is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Its name, unique in the switch. Its port is called so; those of a VDE switch are `name/1`, `name/2`…
    pub name: String,
    /// The VLANs of its port, or of its clients' ports.
    pub mode: PortMode,
    /// What it leads to.
    pub kind: UplinkKind,
}

impl UplinkConfig {
    /// A VDE switch in a directory of its own below the switch's.
    pub fn vde(name: impl Into<String>, mode: PortMode) -> UplinkConfig {
        UplinkConfig { name: name.into(), mode, kind: UplinkKind::Vde(VdeConfig::default()) }
    }

    /// A VXLAN tunnel: see [`UplinkKind::Vxlan`].
    pub fn vxlan(
        name: impl Into<String>,
        mode: PortMode,
        local: SocketAddr,
        peer: SocketAddr,
        vni: Vni,
    ) -> UplinkConfig {
        UplinkConfig { name: name.into(), mode, kind: UplinkKind::Vxlan { local, peer, vni } }
    }

    /// A tap device: see [`UplinkKind::Tap`].
    pub fn tap(name: impl Into<String>, mode: PortMode, interface: impl Into<String>) -> UplinkConfig {
        UplinkConfig { name: name.into(), mode, kind: UplinkKind::Tap { interface: interface.into() } }
    }

    /// A network interface of this host: see [`UplinkKind::Nic`].
    pub fn nic(name: impl Into<String>, mode: PortMode, interface: impl Into<String>) -> UplinkConfig {
        UplinkConfig { name: name.into(), mode, kind: UplinkKind::Nic { interface: interface.into() } }
    }
}

/// A client of a VDE switch that is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdeClient {
    /// The number of its port.
    pub number: u8,
    /// Its port.
    pub port: PortId,
    /// What it says of itself.
    pub description: String,
    /// Its process id, as the system says.
    pub pid: Option<i32>,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkState {
    /// Its id.
    pub id: UplinkId,
    /// Its name.
    pub name: String,
    /// What it leads to. What the system chose is filled in: a directory, a UDP port, the name of a tap.
    pub kind: UplinkKind,
    /// Its port; `None` for a VDE switch, whose clients have one each.
    pub port: Option<PortId>,
    /// The clients of a VDE switch.
    pub clients: Vec<VdeClient>,
    /// The clients that a VDE switch turned away.
    pub refused: BTreeMap<VdeRefusal, u64>,
}

impl UplinkState {
    /// The directory of a VDE switch: what `vde_plug` and QEMU's `sock=` take.
    pub fn dir(&self) -> Option<&PathBuf> {
        match &self.kind {
            UplinkKind::Vde(config) => config.dir.as_ref(),
            _ => None,
        }
    }
}
