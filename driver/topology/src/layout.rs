//! Where everything goes. Widths of text are estimated for monospaced fonts and rounded up, so that what is drawn fits
//! whichever of them the reader has.

use crate::{Node, Topology};

/// Around the whole drawing, in pixels as all that follows.
const MARGIN: u32 = 28;
/// The heading and the line below it.
const HEADING: u32 = 66;
/// Between two nodes.
const GAP: u32 = 18;
/// Inside a node.
pub(crate) const PAD: u32 = 14;
/// A node's name and role.
const NAME: u32 = 34;
/// One address.
pub(crate) const ROW: u32 = 20;
/// A network card, and the port opposite to it.
pub(crate) const CHIP: u32 = 24;
/// Between two of them.
const CHIP_GAP: u32 = 10;
/// What is written above the cards of a bond.
const BOND_LABEL: u32 = 20;
/// Around the cards of a bond.
const BOND_PAD: u32 = 6;
/// The length of a cable.
const CABLE: u32 = 96;
/// Between the ports on both sides of the switch.
const BACKPLANE: u32 = 56;
/// The switch's own heading.
const SWITCH_NAME: u32 = 34;
/// One line of the legend.
pub(crate) const LEGEND_ROW: u32 = 24;
/// What is longer is cut: it is a mistake, or no name.
pub(crate) const LONGEST: usize = 40;

/// A rectangle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Rect {
    pub(crate) fn right(&self) -> u32 {
        self.x + self.width
    }

    pub(crate) fn bottom(&self) -> u32 {
        self.y + self.height
    }

    pub(crate) fn middle(&self) -> u32 {
        self.y + self.height / 2
    }
}

/// Which side of the switch a node is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Where a cable goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedLink {
    /// Its place in the node's links.
    pub(crate) link: usize,
    /// The network card.
    pub(crate) nic: Rect,
    /// The switch's port.
    pub(crate) port: Rect,
}

/// Where a bond goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacedBond {
    /// Its place in the node's bonds.
    pub(crate) bond: usize,
    /// Around its cards.
    pub(crate) nics: Rect,
    /// Around their ports.
    pub(crate) ports: Rect,
}

/// Where a node goes.
#[derive(Clone, Debug)]
pub(crate) struct PlacedNode {
    pub(crate) side: Side,
    pub(crate) body: Rect,
    /// The first line of addresses.
    pub(crate) addresses: (u32, u32),
    pub(crate) links: Vec<PlacedLink>,
    pub(crate) bonds: Vec<PlacedBond>,
}

/// The whole drawing.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) switch: Rect,
    pub(crate) nodes: Vec<PlacedNode>,
    /// Where the columns of addresses begin: address, interface.
    pub(crate) columns: [u32; 2],
    pub(crate) legend: (u32, u32),
    /// Where the columns of the legend begin: name, details.
    pub(crate) legend_columns: [u32; 2],
}

/// The width of monospaced text of a size.
pub(crate) fn text_width(text: &str, size: u32) -> u32 {
    let characters = u32::try_from(text.chars().count().min(LONGEST)).unwrap_or(u32::MAX);
    (characters * size * 62).div_ceil(100)
}

fn widest<'a>(texts: impl IntoIterator<Item = &'a str>, size: u32) -> u32 {
    texts.into_iter().map(|text| text_width(text, size)).max().unwrap_or_default()
}

/// The size of most text.
pub(crate) const SMALL: u32 = 11;
/// The size of names.
pub(crate) const NORMAL: u32 = 14;
/// Between a card's name and its MAC address.
pub(crate) const CHIP_TEXT_GAP: u32 = 10;

/// Cards that stand together: one that is in no bond, or those of a bond.
struct Group {
    bond: Option<usize>,
    links: Vec<usize>,
}

fn groups(node: &Node) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for link in 0..node.links.len() {
        let bond = node.bonds.iter().position(|bond| bond.links.contains(&link));
        match groups.iter_mut().find(|group| bond.is_some() && group.bond == bond) {
            Some(group) => group.links.push(link),
            None => groups.push(Group { bond, links: vec![link] }),
        }
    }
    groups
}

fn group_height(group: &Group) -> u32 {
    let count = u32::try_from(group.links.len()).unwrap_or(u32::MAX);
    let chips = count * CHIP + count.saturating_sub(1) * CHIP_GAP;
    if group.bond.is_some() { chips + BOND_LABEL + BOND_PAD } else { chips }
}

fn links_height(groups: &[Group]) -> u32 {
    let gaps = u32::try_from(groups.len().saturating_sub(1)).unwrap_or(u32::MAX) * CHIP_GAP;
    groups.iter().map(group_height).sum::<u32>() + gaps
}

fn addresses_height(node: &Node) -> u32 {
    u32::try_from(node.addresses.len()).unwrap_or(u32::MAX) * ROW
}

/// The widths that all nodes share.
struct Widths {
    columns: [u32; 2],
    chips: u32,
    ports: u32,
    body: u32,
}

impl Widths {
    fn of(topology: &Topology) -> Self {
        let nodes = || topology.nodes.iter();
        let addresses = || nodes().flat_map(|node| &node.addresses);
        let links = || nodes().flat_map(|node| &node.links);
        let bonds = || nodes().flat_map(|node| &node.bonds);
        // A dot in the VLAN's colour stands before the first column.
        let network = 16 + widest(addresses().map(|a| a.network.as_str()), SMALL);
        let address = widest(addresses().map(|a| a.address.as_str()), SMALL);
        let interface = widest(addresses().map(|a| a.interface.as_str()), SMALL);
        let columns = [network + 12, network + 12 + address + 12];
        let text = if addresses().next().is_some() { columns[1] + interface } else { 0 };
        let chip = widest(links().map(|link| link.nic.as_str()), SMALL)
            + CHIP_TEXT_GAP
            + widest(links().map(|link| link.mac.as_str()), SMALL);
        let chips = (chip + 20).max(widest(bonds().map(|bond| bond.name.as_str()), SMALL) + 8);
        // A dot for the link's state stands at the inner end.
        let port = widest(links().map(|link| link.port.as_str()), SMALL) + 34;
        let ports = port.max(widest(bonds().map(|bond| bond.bundle.as_str()), SMALL) + 8);
        let heading = |node: &Node| text_width(&node.name, NORMAL) + 16 + text_width(&node.role, SMALL);
        let headings = nodes().map(heading).max().unwrap_or_default();
        let body = (PAD + text + 24 + chips + BOND_PAD).max(headings + 2 * PAD);
        Self { columns, chips, ports, body }
    }
}

impl Layout {
    pub(crate) fn of(topology: &Topology) -> Self {
        let widths = Widths::of(topology);
        let half = topology.nodes.len().div_ceil(2);
        let (left, right) = topology.nodes.split_at(half);
        let height = |nodes: &[Node]| {
            let gaps = u32::try_from(nodes.len().saturating_sub(1)).unwrap_or(u32::MAX) * GAP;
            nodes.iter().map(node_height).sum::<u32>() + gaps
        };
        let tallest = height(left).max(height(right)).max(2 * CHIP);
        let top = HEADING + MARGIN + SWITCH_NAME;
        let sides = if right.is_empty() { 1 } else { 2 };
        let switch = Rect {
            x: MARGIN + widths.body + CABLE,
            y: top - SWITCH_NAME,
            width: sides * (widths.ports + BOND_PAD) + BACKPLANE,
            height: tallest + SWITCH_NAME + PAD,
        };
        let mut nodes = Vec::new();
        for (side, column) in [(Side::Left, left), (Side::Right, right)] {
            let x = if side == Side::Left { MARGIN } else { switch.right() + CABLE };
            let mut y = top + (tallest - height(column)) / 2;
            for node in column {
                let body = Rect { x, y, width: widths.body, height: node_height(node) };
                nodes.push(place(node, side, body, &switch, &widths));
                y = body.bottom() + GAP;
            }
        }
        let ids = topology.vlans.iter().map(|vlan| format!("VLAN {}", vlan.id));
        let id = ids.map(|id| text_width(&id, SMALL)).max().unwrap_or_default();
        let name = widest(topology.vlans.iter().map(|vlan| vlan.name.as_str()), SMALL);
        let details = topology.vlans.iter().map(|vlan| vlan.details.as_str()).chain([LONGEST_NOTE]);
        let legend_columns = [40 + id + 14, 40 + id + 14 + name + 14];
        let details = details.map(|text| uncut_width(text, SMALL)).max().unwrap_or_default();
        let legend = (MARGIN, switch.bottom() + 34);
        // One more for the marks of the links.
        let rows = u32::try_from(topology.vlans.len()).unwrap_or(u32::MAX) + 1;
        let end = match sides {
            1 => switch.right(),
            _ => switch.right() + CABLE + widths.body,
        };
        let heading = uncut_width(&topology.title, 20).max(uncut_width(&topology.subtitle, 12));
        Self {
            width: end.max(MARGIN + legend_columns[1] + details).max(MARGIN + heading) + MARGIN,
            height: legend.1 + rows * LEGEND_ROW + MARGIN,
            switch,
            nodes,
            columns: widths.columns,
            legend,
            legend_columns,
        }
    }
}

/// The line that explains the marks, which is wider than most VLANs'.
const LONGEST_NOTE: &str = "● up  ·  ○ no peer  ·  ✕ down  ·  ◌ not used by its bundle  ·  red: a wrong tag";

/// The width of text that is never cut.
fn uncut_width(text: &str, size: u32) -> u32 {
    (u32::try_from(text.chars().count()).unwrap_or(u32::MAX).saturating_mul(size).saturating_mul(62))
        .div_ceil(100)
}

fn node_height(node: &Node) -> u32 {
    NAME + addresses_height(node).max(links_height(&groups(node))).max(CHIP) + PAD
}

/// Cards stand at the side that faces the switch, ports opposite to them.
fn place(node: &Node, side: Side, body: Rect, switch: &Rect, widths: &Widths) -> PlacedNode {
    let inner = body.height - NAME - PAD;
    let (nic_x, port_x, text_x) = match side {
        Side::Left => (body.right() - widths.chips, switch.x, body.x + PAD),
        Side::Right => (body.x, switch.right() - widths.ports, body.x + widths.chips + BOND_PAD + 24),
    };
    let groups = groups(node);
    let mut y = body.y + NAME + (inner - links_height(&groups)) / 2;
    let (mut links, mut bonds) = (Vec::new(), Vec::new());
    for group in &groups {
        let top = y;
        if group.bond.is_some() {
            y += BOND_LABEL;
        }
        for &link in &group.links {
            let chip = |x, width| Rect { x, y, width, height: CHIP };
            links.push(PlacedLink { link, nic: chip(nic_x, widths.chips), port: chip(port_x, widths.ports) });
            y += CHIP + CHIP_GAP;
        }
        y -= CHIP_GAP;
        if let Some(bond) = group.bond {
            y += BOND_PAD;
            let around = |chip: u32, width: u32, at_left_edge: bool| Rect {
                x: if at_left_edge { chip } else { chip - BOND_PAD },
                y: top,
                width: width + BOND_PAD,
                height: y - top,
            };
            bonds.push(PlacedBond {
                bond,
                nics: around(nic_x, widths.chips, side == Side::Right),
                ports: around(port_x, widths.ports, side == Side::Left),
            });
        }
        y += CHIP_GAP;
    }
    let addresses = (text_x, body.y + NAME + (inner - addresses_height(node)) / 2);
    PlacedNode { side, body, addresses, links, bonds }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Address, Bond, Link, Vlan};

    fn apart(a: &Rect, b: &Rect) -> bool {
        a.right() <= b.x || b.right() <= a.x || a.bottom() <= b.y || b.bottom() <= a.y
    }

    fn inside(inner: &Rect, outer: &Rect) -> bool {
        inner.x >= outer.x
            && inner.y >= outer.y
            && inner.right() <= outer.right()
            && inner.bottom() <= outer.bottom()
    }

    fn node() -> impl Strategy<Value = Node> {
        let word = "[a-z0-9.:<&é-]{0,30}";
        let address = (word, word, word).prop_map(|(network, address, interface)| Address {
            network,
            address,
            interface,
            ..Address::default()
        });
        let link = (word, word, word).prop_map(|(nic, mac, port)| Link { nic, mac, port, ..Link::default() });
        let bonds = prop::collection::vec(word, 0..3);
        (word, prop::collection::vec(address, 0..5), prop::collection::vec(link, 0..7), bonds).prop_map(
            |(name, addresses, links, bonds)| {
                // Cards take turns in being in the first bond, in the second, in none.
                let members = |bond: usize| (0..links.len()).filter(|link| link % 3 == bond).collect();
                let bonds = bonds.into_iter().enumerate();
                let bonds =
                    bonds.map(|(place, name)| Bond { bundle: name.clone(), name, links: members(place) });
                Node { name, addresses, bonds: bonds.collect(), links, ..Node::default() }
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_overlaps(nodes in prop::collection::vec(node(), 0..12), details in ".{0,80}") {
            let vlans = vec![Vlan { id: 4094, name: "storage".into(), details }];
            let layout = Layout::of(&Topology { nodes: nodes.clone(), vlans, ..Topology::default() });
            let whole = Rect { x: 0, y: 0, width: layout.width, height: layout.height };
            prop_assert!(inside(&layout.switch, &whole));
            prop_assert_eq!(layout.nodes.len(), nodes.len());
            for (place, (node, placed)) in nodes.iter().zip(&layout.nodes).enumerate() {
                prop_assert!(inside(&placed.body, &whole) && apart(&placed.body, &layout.switch));
                for other in &layout.nodes[place + 1..] {
                    prop_assert!(apart(&placed.body, &other.body));
                }
                prop_assert_eq!(placed.links.len(), node.links.len());
                let text = widest(node.addresses.iter().map(|a| a.interface.as_str()), SMALL);
                let text = Rect {
                    x: placed.addresses.0,
                    y: placed.addresses.1,
                    width: if node.addresses.is_empty() { 0 } else { layout.columns[1] + text },
                    height: addresses_height(node),
                };
                prop_assert!(inside(&text, &placed.body));
                for (nth, link) in placed.links.iter().enumerate() {
                    prop_assert!(inside(&link.nic, &placed.body) && inside(&link.port, &layout.switch));
                    prop_assert!(apart(&link.nic, &text) && link.nic.y == link.port.y);
                    for other in &placed.links[nth + 1..] {
                        prop_assert!(apart(&link.nic, &other.nic));
                    }
                }
                for (nth, bond) in placed.bonds.iter().enumerate() {
                    prop_assert!(inside(&bond.nics, &placed.body) && inside(&bond.ports, &layout.switch));
                    prop_assert!(apart(&bond.nics, &text));
                    for other in &placed.bonds[nth + 1..] {
                        prop_assert!(apart(&bond.nics, &other.nics));
                    }
                    for link in &placed.links {
                        let member = node.bonds[bond.bond].links.contains(&link.link);
                        let fits = if member { inside(&link.nic, &bond.nics) } else { apart(&link.nic, &bond.nics) };
                        prop_assert!(fits);
                    }
                }
            }
        }
    }
}
