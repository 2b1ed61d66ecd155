//! What happened to the switch, for logs and timelines.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counters::PortCounters;
use crate::forwarder::PortId;
use crate::impair::{ImpairTarget, Impairment, ImpairmentId};
use crate::lacp::LeaveReason;
use crate::lldp::{ChassisId, PortIdentity};
use crate::partition::{PartitionId, PartitionSpec};
use crate::state::FastState;
use crate::uplink::{UplinkId, UplinkKind, VdeClient, VdeRefusal};
use crate::vlan::PortMode;

/// Something that happened, other than a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, since the switch started.
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Why a port's connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum CloseReason {
    /// The peer closed it.
    PeerClosed {
        /// Bytes of a frame that never came whole.
        half_frame_bytes: usize,
    },
    /// The peer sent a length that cannot be one.
    BadLength {
        /// What the prefix said, in bytes.
        length: u32,
    },
    /// A newer connection took its place.
    Replaced,
    /// Reading or writing failed.
    Failed {
        /// The system's message.
        error: String,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A port was added.
    PortAdded {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// Its mode.
        mode: PortMode,
    },
    /// A port was removed.
    PortRemoved {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// What had become of its frames: the last that is heard of them.
        counters: PortCounters,
    },
    /// A peer connected to a port.
    Connected {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
    },
    /// A port's connection ended.
    Disconnected {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// Why.
        #[serde(flatten)]
        why: CloseReason,
    },
    /// A port could not take a new connection; it tries again.
    AcceptFailed {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// The system's message.
        error: String,
    },
    /// A vhost-user port began to pass frames through the guest's memory, or ceased to.
    FastChanged {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// How it is now.
        #[serde(flatten)]
        state: FastState,
    },
    /// A port was set up or down.
    AdminChanged {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// Up or down.
        up: bool,
    },
    /// A port was given another mode.
    ModeChanged {
        /// The port.
        port: PortId,
        /// Its name.
        name: String,
        /// The new mode.
        mode: PortMode,
    },
    /// Ports became a bundle.
    BundleAdded {
        /// Its id.
        bundle: PortId,
        /// Its name.
        name: String,
        /// Its mode.
        mode: PortMode,
        /// Its members.
        members: Vec<PortId>,
    },
    /// A bundle ended; its members are ports of their own again.
    BundleRemoved {
        /// Its id.
        bundle: PortId,
        /// Its name.
        name: String,
    },
    /// A port was made a member of a bundle that there was already.
    MemberAdded {
        /// The bundle.
        bundle: PortId,
        /// The bundle's name.
        bundle_name: String,
        /// The member.
        port: PortId,
        /// The member's name.
        port_name: String,
    },
    /// A member of a bundle carries frames from now on.
    MemberJoined {
        /// The bundle.
        bundle: PortId,
        /// The bundle's name.
        bundle_name: String,
        /// The member.
        port: PortId,
        /// The member's name.
        port_name: String,
    },
    /// A member of a bundle no longer carries frames.
    MemberLeft {
        /// The bundle.
        bundle: PortId,
        /// The bundle's name.
        bundle_name: String,
        /// The member.
        port: PortId,
        /// The member's name.
        port_name: String,
        /// Why.
        why: LeaveReason,
    },
    /// A neighbour that was not there before was heard by LLDP.
    NeighbourFound {
        /// The port.
        port: PortId,
        /// The port's name.
        name: String,
        /// Who it says it is.
        chassis: ChassisId,
        /// Which of its ports it speaks by.
        its_port: PortIdentity,
        /// What it calls itself.
        system_name: Option<String>,
    },
    /// A neighbour said good-bye, was not heard for too long, or its link is gone.
    NeighbourGone {
        /// The port.
        port: PortId,
        /// The port's name.
        name: String,
        /// Who it says it is.
        chassis: ChassisId,
        /// Which of its ports it spoke by.
        its_port: PortIdentity,
        /// What it calls itself.
        system_name: Option<String>,
    },
    /// A partition began.
    Partitioned {
        /// Its id.
        id: PartitionId,
        /// What it stops.
        spec: PartitionSpec,
    },
    /// A partition ended.
    Healed {
        /// Its id.
        id: PartitionId,
    },
    /// An impairment began, in place of the one that its target had.
    Impaired {
        /// Its id.
        id: ImpairmentId,
        /// What it is set on.
        target: ImpairTarget,
        /// What it does.
        impairment: Impairment,
        /// The seed of its decisions.
        seed: u64,
    },
    /// An impairment was cleared.
    ImpairmentCleared {
        /// Its id.
        id: ImpairmentId,
        /// What it was set on.
        target: ImpairTarget,
    },
    /// An uplink was added.
    UplinkAdded {
        /// Its id.
        id: UplinkId,
        /// Its name.
        name: String,
        /// What it leads to.
        kind: UplinkKind,
        /// Its mode.
        mode: PortMode,
    },
    /// An uplink was removed.
    UplinkRemoved {
        /// Its id.
        id: UplinkId,
        /// Its name.
        name: String,
    },
    /// A VDE switch has a new client, on a port of its own.
    VdeJoined {
        /// The uplink.
        uplink: UplinkId,
        /// The uplink's name.
        name: String,
        /// The client.
        client: VdeClient,
    },
    /// A VDE switch turned a client away.
    VdeRefused {
        /// The uplink.
        uplink: UplinkId,
        /// The uplink's name.
        name: String,
        /// Why.
        why: VdeRefusal,
    },
    /// A capture file can no longer be written. Forwarding goes on; the file is whole up to here.
    CaptureFailed {
        /// The file.
        path: PathBuf,
        /// The system's message.
        error: String,
    },
}
