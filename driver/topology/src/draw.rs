//! Paints what was laid out.

use std::fmt::Display;

use crate::layout::{
    CHIP_TEXT_GAP, LEGEND_ROW, LONGEST, Layout, NORMAL, PAD, PlacedBond, PlacedLink, PlacedNode, ROW, Rect,
    SMALL, Side, text_width,
};
use crate::xml::Xml;
use crate::{Address, Link, LinkState, Node, Topology};

/// Colours of VLANs: those of Okabe and Ito, which people with any kind of colour vision can tell apart, without their
/// yellow, which is faint on white; then darker ones. From the eleventh VLAN on they come again.
const PALETTE: [&str; 10] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#6a3d9a", "#8c564b", "#4d4d4d",
    "#a6761d",
];
/// A VLAN that the legend does not have.
const UNKNOWN: &str = "#9aa5b1";
const INK: &str = "#1f2933";
const FAINT: &str = "#616e7c";
const EDGE: &str = "#cbd2d9";
const WRONG: &str = "#c81e1e";
const SWITCH: &str = "#273444";
const SANS: &str = "system-ui, 'DejaVu Sans', Verdana, sans-serif";
const MONO: &str = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";

/// The most VLANs that a cable shows one by one.
const STRIPES: usize = 8;

/// Draws everything.
pub(crate) fn svg(topology: &Topology, layout: &Layout) -> String {
    let mut pen = Pen { xml: Xml::default(), topology, layout };
    pen.document();
    pen.xml.finish()
}

struct Pen<'a> {
    xml: Xml,
    topology: &'a Topology,
    layout: &'a Layout,
}

/// How a piece of text looks.
#[derive(Clone, Copy)]
struct Style {
    size: u32,
    fill: &'static str,
    bold: bool,
    sans: bool,
    anchor: &'static str,
}

const PLAIN: Style = Style { size: SMALL, fill: INK, bold: false, sans: false, anchor: "start" };

impl Pen<'_> {
    fn document(&mut self) {
        let (width, height) = (self.layout.width, self.layout.height);
        let view = format!("0 0 {width} {height}");
        let attributes: [(&str, &dyn Display); 6] = [
            ("xmlns", &"http://www.w3.org/2000/svg"),
            ("width", &width),
            ("height", &height),
            ("viewBox", &view),
            ("role", &"img"),
            ("font-family", &MONO),
        ];
        self.xml.open("svg", &attributes);
        self.xml.text("title", &[], &self.topology.title);
        self.xml.empty("rect", &[("width", &width), ("height", &height), ("fill", &"#ffffff")]);
        let title = Style { size: 20, bold: true, sans: true, ..PLAIN };
        self.uncut(28, 44, title, &self.topology.title);
        self.uncut(28, 66, Style { size: 12, fill: FAINT, sans: true, ..PLAIN }, &self.topology.subtitle);
        // Cables lie below what they are plugged into.
        for (node, placed) in self.topology.nodes.iter().zip(&self.layout.nodes) {
            for link in &placed.links {
                self.cable(placed.side, &node.links[link.link], link);
            }
        }
        self.switch();
        for (node, placed) in self.topology.nodes.iter().zip(&self.layout.nodes) {
            self.node(node, placed);
        }
        self.legend();
    }

    fn colour(&self, vlan: u16) -> &'static str {
        let place = self.topology.vlans.iter().position(|known| known.id == vlan);
        place.map_or(UNKNOWN, |place| PALETTE[place % PALETTE.len()])
    }

    fn cable(&mut self, side: Side, link: &Link, placed: &PlacedLink) {
        let (from, to) = match side {
            Side::Left => (placed.nic.right(), placed.port.x),
            Side::Right => (placed.port.right(), placed.nic.x),
        };
        let middle = placed.nic.middle();
        let carries = matches!(link.state, LinkState::Planned | LinkState::Up);
        let stripes: Vec<&str> = match link.vlans.len() {
            0 => vec![UNKNOWN],
            1..=STRIPES => link.vlans.iter().map(|&vlan| self.colour(vlan)).collect(),
            _ => vec![FAINT],
        };
        let count = u32::try_from(stripes.len()).unwrap_or(1);
        // In tenths of a pixel: thin stripes side by side are at most as high as a card.
        let thick = (160 / count).clamp(20, 40);
        let top = middle * 10 - thick * count / 2;
        for (place, colour) in (0..).zip(stripes) {
            let y = tenths(top + place * thick + thick / 2);
            let thickness = tenths(thick);
            let mut attributes: Vec<(&str, &dyn Display)> = vec![
                ("x1", &from),
                ("x2", &to),
                ("y1", &y),
                ("y2", &y),
                ("stroke", &colour),
                ("stroke-width", &thickness),
            ];
            if !carries {
                attributes.extend([("stroke-dasharray", &"5 5" as &dyn Display), ("opacity", &"0.55")]);
            }
            self.xml.empty("line", &attributes);
        }
        if link.state == LinkState::Down {
            let x = from.midpoint(to);
            let disc: [(&str, &dyn Display); 5] =
                [("cx", &x), ("cy", &middle), ("r", &9), ("fill", &"#ffffff"), ("stroke", &WRONG)];
            self.xml.empty("circle", &disc);
            let cross = format!("M{} {}l8 8m0 -8l-8 8", x - 4, middle - 4);
            self.xml.empty("path", &[("d", &cross), ("stroke", &WRONG), ("stroke-width", &2)]);
        }
    }

    fn switch(&mut self) {
        let body = self.layout.switch;
        self.rect(&body, 10, SWITCH, SWITCH, &[]);
        let name = Style { size: NORMAL, fill: "#ffffff", bold: true, sans: true, anchor: "middle" };
        self.text(body.x + body.width / 2, body.y + 23, name, "switch");
        for (node, placed) in self.topology.nodes.iter().zip(&self.layout.nodes) {
            for bond in &placed.bonds {
                let label = &node.bonds[bond.bond].bundle;
                if !label.is_empty() {
                    self.rect(&bond.ports, 7, "#3b4d63", "#7b8da3", &[]);
                    self.label(&bond.ports, "#dfe7ef", label);
                }
            }
            for link in &placed.links {
                self.port(placed.side, &node.links[link.link], &link.port);
            }
        }
    }

    fn port(&mut self, side: Side, link: &Link, port: &Rect) {
        self.rect(port, 5, "#f5f7fa", EDGE, &[]);
        // The dot is at the cable's end.
        let (dot, text, anchor) = match side {
            Side::Left => (port.x + 12, port.x + 24, "start"),
            Side::Right => (port.right() - 12, port.right() - 24, "end"),
        };
        let (fill, stroke) = match link.state {
            LinkState::Planned => ("#9aa5b1", "#9aa5b1"),
            LinkState::Up => ("#2f9e44", "#2f9e44"),
            LinkState::Down => (WRONG, WRONG),
            LinkState::Unplugged => ("#ffffff", FAINT),
            LinkState::Idle => ("#ffffff", "#e69f00"),
        };
        let middle = port.middle();
        let mut attributes: Vec<(&str, &dyn Display)> =
            vec![("cx", &dot), ("cy", &middle), ("r", &4), ("fill", &fill), ("stroke", &stroke)];
        if link.state == LinkState::Idle {
            attributes.push(("stroke-dasharray", &"2 1.5"));
        }
        self.xml.empty("circle", &attributes);
        self.text(text, middle + 4, Style { anchor, ..PLAIN }, &link.port);
    }

    fn node(&mut self, node: &Node, placed: &PlacedNode) {
        let body = &placed.body;
        let dash: &[(&str, &dyn Display)] = if node.service { &[("stroke-dasharray", &"6 4")] } else { &[] };
        self.rect(body, 10, if node.service { "#fffaf0" } else { "#f5f7fa" }, EDGE, dash);
        let name = Style { size: NORMAL, bold: true, ..PLAIN };
        self.text(body.x + PAD, body.y + 23, name, &node.name);
        let role = Style { fill: FAINT, anchor: "end", ..PLAIN };
        self.text(body.right() - PAD, body.y + 22, role, &node.role);
        let (x, mut y) = placed.addresses;
        for address in &node.addresses {
            self.address(x, y + ROW / 2, address);
            y += ROW;
        }
        for bond in &placed.bonds {
            self.bond(&node.bonds[bond.bond].name, bond);
        }
        for link in &placed.links {
            self.nic(&node.links[link.link], &link.nic);
        }
    }

    fn address(&mut self, x: u32, middle: u32, address: &Address) {
        if let Some(vlan) = address.vlan {
            let (colour, dot) = (self.colour(vlan), x + 5);
            self.xml.empty("circle", &[("cx", &dot), ("cy", &middle), ("r", &5), ("fill", &colour)]);
        }
        let [second, third] = self.layout.columns;
        let (ink, faint) = if address.wrong { (WRONG, WRONG) } else { (INK, FAINT) };
        let base = middle + 4;
        self.text(x + 16, base, Style { fill: faint, ..PLAIN }, &address.network);
        self.text(x + second, base, Style { fill: ink, ..PLAIN }, &address.address);
        self.text(x + third, base, Style { fill: faint, ..PLAIN }, &address.interface);
    }

    fn bond(&mut self, name: &str, placed: &PlacedBond) {
        self.rect(&placed.nics, 7, "#e4e9ef", "#9aa5b1", &[]);
        self.label(&placed.nics, INK, name);
    }

    /// What is written in the head of a bond's rectangle.
    fn label(&mut self, around: &Rect, fill: &'static str, text: &str) {
        let style = Style { fill, anchor: "middle", ..PLAIN };
        self.text(around.x + around.width / 2, around.y + 14, style, text);
    }

    fn nic(&mut self, link: &Link, nic: &Rect) {
        if link.nic.is_empty() && link.mac.is_empty() {
            return;
        }
        self.rect(nic, 5, "#ffffff", "#9aa5b1", &[]);
        let base = nic.middle() + 4;
        self.text(nic.x + 10, base, Style { bold: true, ..PLAIN }, &link.nic);
        let mac = nic.right() - 10;
        debug_assert!(
            text_width(&link.nic, SMALL) + CHIP_TEXT_GAP + text_width(&link.mac, SMALL) + 20 <= nic.width
        );
        self.text(mac, base, Style { fill: FAINT, anchor: "end", ..PLAIN }, &link.mac);
    }

    fn legend(&mut self) {
        let (x, mut y) = self.layout.legend;
        let [name, details] = self.layout.legend_columns;
        for vlan in &self.topology.vlans {
            let colour = self.colour(vlan.id);
            let swatch = Rect { x, y: y + 5, width: 28, height: 12 };
            self.rect(&swatch, 3, colour, colour, &[]);
            let base = y + 15;
            self.text(x + 40, base, Style { bold: true, ..PLAIN }, &format!("VLAN {}", vlan.id));
            self.text(x + name, base, PLAIN, &vlan.name);
            self.uncut(x + details, base, Style { fill: FAINT, ..PLAIN }, &vlan.details);
            y += LEGEND_ROW;
        }
        let links = || self.topology.nodes.iter().flat_map(|node| &node.links);
        let has = |state: LinkState| links().any(|link| link.state == state);
        let addresses = || self.topology.nodes.iter().flat_map(|node| &node.addresses);
        let marks = [
            (has(LinkState::Up), "● up"),
            (has(LinkState::Unplugged), "○ no peer"),
            (has(LinkState::Down), "✕ down"),
            (has(LinkState::Idle), "◌ not used by its bundle"),
            (addresses().any(|address| address.wrong), "red: a wrong tag"),
        ];
        let marks: Vec<&str> = marks.into_iter().filter_map(|(has, mark)| has.then_some(mark)).collect();
        self.uncut(x, y + 17, Style { fill: FAINT, ..PLAIN }, &marks.join("  ·  "));
    }

    fn rect(
        &mut self,
        rect: &Rect,
        radius: u32,
        fill: &str,
        stroke: &str,
        more: &[(&'static str, &dyn Display)],
    ) {
        let mut attributes: Vec<(&str, &dyn Display)> = vec![
            ("x", &rect.x),
            ("y", &rect.y),
            ("width", &rect.width),
            ("height", &rect.height),
            ("rx", &radius),
            ("fill", &fill),
            ("stroke", &stroke),
        ];
        attributes.extend_from_slice(more);
        self.xml.empty("rect", &attributes);
    }

    /// Text of at most [`LONGEST`] characters: what is longer is cut, as the layout has it.
    fn text(&mut self, x: u32, y: u32, style: Style, text: &str) {
        if text.chars().count() > LONGEST {
            let cut: String = text.chars().take(LONGEST - 1).chain(['…']).collect();
            self.uncut(x, y, style, &cut);
        } else {
            self.uncut(x, y, style, text);
        }
    }

    fn uncut(&mut self, x: u32, y: u32, style: Style, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut attributes: Vec<(&str, &dyn Display)> =
            vec![("x", &x), ("y", &y), ("font-size", &style.size), ("fill", &style.fill)];
        if style.bold {
            attributes.push(("font-weight", &"bold"));
        }
        if style.sans {
            attributes.push(("font-family", &SANS));
        }
        if style.anchor != "start" {
            attributes.push(("text-anchor", &style.anchor));
        }
        self.xml.text("text", &attributes, text);
    }
}

/// Tenths of a pixel, without a needless point.
fn tenths(tenths: u32) -> String {
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}
