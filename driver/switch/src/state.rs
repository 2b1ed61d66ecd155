//! The state of a switch as plain data: what `ports.json` holds.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::BundleState;
use crate::capture::CaptureReport;
use crate::counters::PortCounters;
use crate::fdb::FdbEntry;
use crate::forwarder::PortId;
use crate::impair::{ImpairTarget, Impairment, ImpairmentCounters, ImpairmentId};
use crate::lldp::Neighbour;
use crate::mac::Mac;
use crate::partition::{PartitionId, PartitionSpec};
use crate::uplink::UplinkState;
use crate::vlan::PortMode;

/// What waits to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameQueue {
    /// Frames, the one that is partly sent included.
    pub frames: u64,
    /// Their bytes with length prefixes and bookkeeping, which is what the bound is about.
    pub bytes: u64,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Its id.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its VLANs. Those of the bundle rule while it is in one.
    pub mode: PortMode,
    /// The bundle that it is a member of.
    pub bundle: Option<PortId>,
    /// Whether it is administratively up.
    pub admin: bool,
    /// Whether a peer is connected.
    pub connected: bool,
    /// The socket that it listens on; `None` for an uplink's.
    pub socket: Option<PathBuf>,
    /// How it is as a vhost-user port, if it is one ([`crate::PortConfig::fast`]).
    pub fast: Option<FastState>,
    /// What waits for its peer.
    pub queue: FrameQueue,
    /// What impairments hold back from that queue.
    pub delayed: FrameQueue,
    /// What became of its frames.
    pub counters: PortCounters,
    /// Who was heard by LLDP, while the switch speaks it.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
}

/// How a vhost-user port is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastState {
    /// Whether frames pass through memory shared with the guest: QEMU has negotiated, the guest's driver has started,
    /// and both of its rings are sound.
    pub running: bool,
    /// The virtio features that the guest's driver agreed to; 0 before it did.
    pub features: u64,
    /// Why it does not run, if what QEMU or the guest wrote is the reason: the latest.
    pub problem: Option<String>,
}

/// One partition in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Its id.
    pub id: PartitionId,
    /// What it stops.
    #[serde(flatten)]
    pub spec: PartitionSpec,
}

/// One impairment in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImpairmentState {
    /// Its id.
    pub id: ImpairmentId,
    /// What it is set on.
    pub target: ImpairTarget,
    /// What it does.
    pub impairment: Impairment,
    /// What it did so far.
    pub counters: ImpairmentCounters,
}

/// What a service on a port says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// The port.
    pub port: PortId,
    /// Which service: `dhcp`.
    pub service: String,
    /// What it says, in a form of its own.
    pub state: serde_json::Value,
}

/// Names a service's fault. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceFaultId(pub(crate) u64);

impl fmt::Display for ServiceFaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that a service on a port does wrong because a test wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFaultState {
    /// Its id.
    pub id: ServiceFaultId,
    /// The port.
    pub port: PortId,
    /// Which service: `dhcp/cluster`.
    pub service: String,
    /// What it does, in a few words that follow the service's name.
    pub what: String,
    /// Whom alone it is about, if it is one.
    pub client: Option<Mac>,
    /// Since when, since the switch started.
    pub since: Duration,
}

/// The capture ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// Frames held.
    pub frames: u64,
    /// Their bytes with bookkeeping.
    pub bytes: u64,
    /// The bound of `bytes`.
    pub limit: u64,
    /// Frames that had to go.
    pub evicted: u64,
    /// The time of the last one that had to go, since the switch started.
    pub evicted_until: Option<Duration>,
}

/// The whole switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwitchState {
    /// Its name.
    pub name: String,
    /// How long it has run.
    pub uptime: Duration,
    /// Its ports, in the order in which they were added.
    pub ports: Vec<PortState>,
    /// Its bundles, in the order in which they were added.
    pub bundles: Vec<BundleState>,
    /// The addresses it has learnt. Those of a bundle have the bundle's id.
    pub fdb: Vec<FdbEntry>,
    /// The partitions in force.
    pub partitions: Vec<PartitionState>,
    /// The impairments in force, in the order in which they were set.
    pub impairments: Vec<ImpairmentState>,
    /// The seed of their decisions.
    pub seed: u64,
    /// The uplinks, in the order in which they were added.
    pub uplinks: Vec<UplinkState>,
    /// The services on its ports that say something of themselves, by port ([`crate::Switch::describe_service`]).
    pub services: Vec<ServiceState>,
    /// What they do wrong because a test wants it, in the order in which it began.
    #[serde(default)]
    pub service_faults: Vec<ServiceFaultState>,
    /// The captures to files.
    pub captures: Vec<CaptureReport>,
    /// The capture ring.
    pub ring: RingState,
}
