//! Draws a topology as SVG: the switch in the middle, machines on both sides of it, each cable with the colours of the
//! VLANs that it carries.
//!
//! Plain data in, text out; the same data gives the same bytes. Where the data comes from, a profile or a running lab, is
//! its caller's affair.
//!
//! ```
//! use topology::{Address, Link, LinkState, Node, Topology, Vlan};
//!
//! let topology = Topology {
//!     title: "simple".into(),
//!     vlans: vec![Vlan { id: 1, name: "cluster".into(), details: "192.168.1.0/24, untagged".into() }],
//!     nodes: vec![Node {
//!         name: "server-1".into(),
//!         addresses: vec![Address {
//!             network: "cluster".into(),
//!             address: "192.168.1.1".into(),
//!             vlan: Some(1),
//!             ..Address::default()
//!         }],
//!         links: vec![Link { nic: "eth1".into(), port: "access 1".into(), vlans: vec![1], ..Link::default() }],
//!         ..Node::default()
//!     }],
//!     ..Topology::default()
//! };
//! assert!(topology.to_svg().contains(">server-1</text>"));
//! ```

mod draw;
mod layout;
mod xml;

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The heading.
    pub title: String,
    /// A line below it.
    pub subtitle: String,
    /// The VLANs, for colours and legend.
    pub vlans: Vec<Vlan>,
    /// Machines and services, in the order in which they are drawn.
    pub nodes: Vec<Node>,
}

/// A VLAN of the legend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// Its id on the switch.
    pub id: u16,
    /// The name of its network, if it has one.
    pub name: String,
    /// What else there is to know of it.
    pub details: String,
}

/// Something that is plugged into the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is: `server`.
    pub role: String,
    /// Whether it is the lab's own, such as a DHCP server, and no machine.
    pub service: bool,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its cables.
    pub links: Vec<Link>,
    /// Its bonds.
    pub bonds: Vec<Bond>,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The network's name.
    pub network: String,
    /// The address.
    pub address: String,
    /// The interface that has it.
    pub interface: String,
    /// The VLAN whose colour it gets.
    pub vlan: Option<u16>,
    /// Whether it can't work: the machine tags with another id than the switch's port passes.
    pub wrong: bool,
}

/// A cable between a node and a port of the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The network card.
    pub nic: String,
    /// Its MAC address.
    pub mac: String,
    /// What the switch's port does: `trunk 100,200`.
    pub port: String,
    /// The VLANs that pass.
    pub vlans: Vec<u16>,
    /// How it is.
    pub state: LinkState,
}

/// How a cable is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing is known: it is of a profile.
    #[default]
    Planned,
    /// Frames can pass.
    Up,
    /// The port is administratively down.
    Down,
    /// Nobody is connected to the port.
    Unplugged,
    /// It is up, and its bundle takes no frames from it.
    Idle,
}

/// Cables that are one interface of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// What the node calls it, with its mode: `bond0, 802.3ad`.
    pub name: String,
    /// What the switch makes of it: `bundle, LACP`; empty where it takes no part.
    pub bundle: String,
    /// Its cables, by their place in [`Node::links`]. A cable is in one bond at most.
    pub links: Vec<usize>,
}

impl Topology {
    /// The drawing, a whole SVG document.
    #[must_use]
    pub fn to_svg(&self) -> String {
        draw::svg(self, &layout::Layout::of(self))
    }
}
