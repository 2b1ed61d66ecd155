//! A virtual Ethernet switch in user space: learning, 802.1Q ports, bundles with LACP, partitions, capture.
//!
//! Two halves, so that the half with the rules can be tested without a socket:
//!
//! - [`Forwarder`] is the pure core. It is told of one frame at a time and answers which ports the frame leaves
//!   by, and in which form. It has no clock, no thread and no file descriptor.
//! - [`Switch`] runs a forwarder on an OS thread of its own. Each port listens on a unix stream socket that QEMU
//!   connects to (`-netdev stream,addr.type=unix,addr.path=…,server=off`), or is a [`Channel`] in this process.
//!   No privileges are needed.
//!
//! Every frame that enters or leaves is kept in a bounded ring in memory ([`Switch::frames`]), which is what tests
//! assert on, and can be written to a pcapng file while it happens ([`Switch::capture_to`]). An assertion about a
//! time that the ring no longer holds is an error, never a silent "no such frame". [`Switch::capture`] begins a capture
//! of its own, for what crosses during a step, or for a stream of frames as they come.
//!
//! ```
//! use std::time::Duration;
//! use switch::{Direction, FrameFilter, PortConfig, PortMode, Switch, SwitchOptions, VlanId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let sw = Switch::start(SwitchOptions::new("rack", dir.path()))?;
//! let vlan = VlanId::new(100)?;
//! let a = sw.add_port(PortConfig::new("server-1/eth1", PortMode::Access { vlan }))?;
//! let b = sw.add_port(PortConfig::new("server-2/eth1", PortMode::Access { vlan }))?;
//! let (mut a, mut b) = (sw.attach_channel(a)?, sw.attach_channel(b)?);
//!
//! let frame = b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x88\xb5hello";
//! a.send(frame)?;
//! assert_eq!(b.recv(Duration::from_secs(5))?.as_deref(), Some(&frame[..]));
//!
//! let left = sw.frames(&FrameFilter::new().port("server-2/eth1").direction(Direction::Out))?;
//! assert_eq!(left.len(), 1);
//! sw.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! What a port does with a frame, in order: a port that is administratively down takes nothing; a frame that is cut
//! short or too long is dropped; 01:80:c2:00:00:00 to 0f are never forwarded (IEEE 802.1Q, table 8-1); a group
//! address as source is dropped; the frame is given a VLAN, or dropped ([`PortMode`]); its source is learnt; it goes
//! to the one port that its destination was learnt on, or to every other port of the VLAN that has a peer. Each drop
//! has a [`DropReason`] and is counted, so that the counters of [`PortState`] account for every frame.
//!
//! On its way out a frame may meet an [`Impairment`], of its pair of ports and of its port ([`Switch::impair`]): it is
//! lost, delayed, doubled or damaged as a seed decides.
//!
//! Ports can be made a bundle ([`Switch::add_bundle`]), one logical port: the switch's end of a bond. A member takes and
//! gets frames only while LACP ([`lacp`]) has made it part of the bundle; its LACPDUs go no further than here. A frame
//! for a bundle leaves by one member, the same for all of a conversation ([`HashPolicy`]).
//!
//! The switch can tell its peers where they are plugged in, and remember what they tell it ([`Switch::set_lldp`]).
//!
//! An uplink ([`Switch::add_uplink`]) joins the switch to VMs, switches, taps and NICs beyond this process's machines.

mod balance;
mod bundle;
mod capture;
mod channel;
mod counters;
mod error;
mod event;
mod fdb;
mod filter;
mod forwarder;
mod frame;
mod impair;
mod io;
pub mod lacp;
pub mod lldp;
mod mac;
mod offload;
mod partition;
mod pcapng;
mod recording;
mod ring;
mod state;
mod stream;
mod summary;
mod switch;
mod tap;
mod uplink;
mod vhost;
mod vlan;

pub use balance::HashPolicy;
pub use bundle::{BundleConfig, BundleState, LacpIdentity, MemberState};
pub use capture::{CaptureId, CaptureReport};
pub use channel::Channel;
pub use counters::{DropReason, PortCounters, RxCounters, TxCounters};
pub use error::Error;
pub use event::{CloseReason, Event, EventKind};
pub use fdb::FdbEntry;
pub use filter::FrameFilter;
pub use forwarder::{Egress, Forwarder, PortId};
pub use frame::{Form, Frame, Header, MAX_FRAME, MIN_FRAME, Tci};
pub use impair::{Distribution, ImpairTarget, Impairment, ImpairmentCounters, ImpairmentId};
pub use lacp::{LacpMode, LacpTimeout};
pub use lldp::{LldpConfig, Lldpdu, Neighbour};
pub use mac::Mac;
pub use partition::{PartitionId, PartitionSpec};
pub use recording::Recording;
pub use ring::{CapturedFrame, Direction};
pub use state::{
    FastState, FrameQueue, ImpairmentState, PartitionState, PortState, RingState, ServiceFaultId,
    ServiceFaultState, ServiceState, SwitchState,
};
pub use stream::{BadLength, PREFIX, StreamDecoder};
pub use summary::{Arp, Icmp, Ip, NetSummary, Summary, Tcp, TcpFlags, Transport, Udp, WireTag};
pub use switch::{PortConfig, ServiceFaultChange, Switch, SwitchOptions};
pub use tap::{CaptureCounters, Crossed, FrameCapture, FrameStream};
pub use uplink::{
    UplinkConfig, UplinkId, UplinkKind, UplinkState, VXLAN_HEADER, VXLAN_PORT, VdeClient, VdeConfig,
    VdeRefusal, VdeRequest, Vni,
};
pub use vlan::{PortMode, VlanId, VlanSet};

/// The result of a call to the switch.
pub type Result<T, E = Error> = std::result::Result<T, E>;
