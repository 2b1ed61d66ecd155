//! What became of each frame.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a frame, or one copy of it, went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DropReason {
    /// The port is administratively down: on the way in, or what was queued when it went down.
    AdminDown,
    /// The frame ends within its header.
    Malformed,
    /// The frame is longer than [`crate::MAX_FRAME`], or would be with its tag.
    TooLong,
    /// The destination is one of 01:80:c2:00:00:00 to 0f, which no bridge forwards.
    ReservedMulticast,
    /// The source is a group address.
    GroupSource,
    /// An access port was given a frame with a VLAN tag.
    TaggedOnAccess,
    /// A trunk port without a native VLAN was given a frame without a tag.
    UntaggedWithoutNative,
    /// The port does not carry the VLAN of the tag.
    VlanNotAllowed,
    /// The tag has the reserved VLAN id 4095.
    ReservedVlan,
    /// The port is in a bundle that does not take frames from it: LACP has not made it part of it, or no longer.
    NotCollecting,
    /// The destination was learnt on the port, or the bundle, that the frame came from.
    SamePort,
    /// No other port of the VLAN is up.
    NoDestination,
    /// A partition separates the two ports.
    Partition,
    /// The frame would leave without the tag of its VLAN, but has a second 802.1Q tag beneath, which the receiver
    /// would take for its VLAN (the double-tagging attack).
    NestedTag,
    /// The port's peer reads slower than frames come for it, and the queue is full.
    QueueFull,
    /// The port's peer left before it had read the frame.
    Disconnected,
    /// The port was removed before its peer had read the frame.
    PortRemoved,
    /// An impairment lost it: it was asked for loss.
    ImpairmentLoss,
    /// An impairment's rate lets frames through slower than they come, and its queue is full.
    RateQueueFull,
    /// The port was given another mode while the frame was delayed.
    ModeChanged,
    /// More than [`crate::SwitchOptions::delay_bytes`] wait for their time at this port.
    DelayQueueFull,
    /// It did not come from the peer of a VXLAN uplink.
    NotFromPeer,
    /// Its VXLAN header is cut short, or does not say that it has a VNI.
    BadEncapsulation,
    /// Its VXLAN header has another VNI than the uplink.
    OtherNetwork,
    /// The kernel has merged many frames into it (GRO, LRO, TSO), and no wire takes that. On the interface of an uplink
    /// that must be off: `ethtool -K NAME gro off lro off`, and `tso off gso off` where the other end of a veth is.
    Merged,
    /// The interface of an uplink is down.
    InterfaceDown,
    /// The system knows no way to the peer of a VXLAN uplink, or does not let frames to it pass.
    Unreachable,
    /// A guest on a vhost-user port gave a buffer that is not in its memory, or is shorter than a header.
    BadDescriptor,
    /// A guest on a vhost-user port asked for a checksum or a segmentation that cannot be done with the frame.
    BadOffload,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::AdminDown => "the port is down",
            DropReason::Malformed => "the frame ends within its header",
            DropReason::TooLong => "the frame is too long",
            DropReason::ReservedMulticast => "the destination is reserved for the link",
            DropReason::GroupSource => "the source is a group address",
            DropReason::TaggedOnAccess => "a tagged frame on an access port",
            DropReason::UntaggedWithoutNative => "an untagged frame on a trunk without native VLAN",
            DropReason::VlanNotAllowed => "the port does not carry this VLAN",
            DropReason::ReservedVlan => "VLAN id 4095 is reserved",
            DropReason::NotCollecting => "the bundle does not collect from this member",
            DropReason::SamePort => "the destination is on the port it came from",
            DropReason::NoDestination => "no other port of the VLAN is up",
            DropReason::Partition => "a partition separates the ports",
            DropReason::NestedTag => "a second tag would be taken for the VLAN",
            DropReason::QueueFull => "the port's queue is full",
            DropReason::Disconnected => "the port's peer left",
            DropReason::PortRemoved => "the port was removed",
            DropReason::ImpairmentLoss => "an impairment lost it",
            DropReason::RateQueueFull => "the queue of an impairment's rate is full",
            DropReason::ModeChanged => "the port was given another mode",
            DropReason::DelayQueueFull => "too much is delayed at this port",
            DropReason::NotFromPeer => "it is not from the uplink's peer",
            DropReason::BadEncapsulation => "it has no VXLAN header",
            DropReason::OtherNetwork => "it is of another VXLAN network",
            DropReason::Merged => "the kernel has merged many frames into it (GRO, LRO or TSO)",
            DropReason::InterfaceDown => "the interface is down",
            DropReason::Unreachable => "there is no way to the uplink's peer",
            DropReason::BadDescriptor => "the guest's buffer is not in its memory",
            DropReason::BadOffload => "the offload that the guest asks for is impossible",
        })
    }
}

/// Counters of what a port's peer sent. `frames` is `forwarded`, `consumed` and all of `dropped`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxCounters {
    /// Whole frames.
    pub frames: u64,
    /// Their bytes, without length prefixes.
    pub bytes: u64,
    /// Frames for which at least one port was chosen (which may have dropped its copy: see there).
    pub forwarded: u64,
    /// Frames that were for the switch itself: the LACPDUs and markers of a bundle's member, and LLDPDUs.
    pub consumed: u64,
    /// Frames that were dropped on the way in.
    pub dropped: BTreeMap<DropReason, u64>,
}

/// Counters of what was meant for a port's peer. `offered` and `duplicated` are `sent`, all of `dropped`, and what is
/// queued or delayed, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxCounters {
    /// Copies of frames for which this port was chosen.
    pub offered: u64,
    /// Copies that the peer's socket has taken whole.
    pub sent: u64,
    /// Their bytes, without length prefixes.
    pub bytes: u64,
    /// Copies that were dropped on the way out.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Copies in which an impairment flipped a bit.
    pub corrupted: u64,
    /// Copies that an impairment made.
    pub duplicated: u64,
    /// Copies that an impairment sent ahead or held back.
    pub reordered: u64,
}

/// All counters of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// From the peer.
    pub rx: RxCounters,
    /// To the peer.
    pub tx: TxCounters,
    /// How often a peer connected.
    pub connections: u64,
    /// Connections that ended because a newer one came.
    pub replaced: u64,
    /// Connections that were closed because of a length prefix that cannot be one.
    pub bad_lengths: u64,
    /// Connections that ended in the middle of a frame.
    pub half_frames: u64,
}

impl RxCounters {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// The frames dropped on the way in, for all reasons.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}

impl TxCounters {
    pub(crate) fn drop(&mut self, reason: DropReason, copies: u64) {
        if copies > 0 {
            *self.dropped.entry(reason).or_default() += copies;
        }
    }

    /// The copies dropped on the way out, for all reasons.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }
}
