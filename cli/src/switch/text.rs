//! A switch's state for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use driver::control::LabNetwork;
use serde::Deserialize;
use serde_json::Value;
use switch::lldp::{ChassisId, PortIdentity};
use switch::{
    BundleState, DropReason, HashPolicy, ImpairTarget, LacpMode, LacpTimeout, MemberState, PartitionState,
    PortId, PortState, SwitchState,
};

/// Everything, in sections; those that would be empty are left out.
pub(super) fn network(run: &str, network: &LabNetwork) -> String {
    let state = &network.switch;
    let names = Names::of(state);
    let mut sections = vec![format!(
        "{}  run {run}  up {}  seed {}\n",
        network.lab,
        seconds(state.uptime.as_secs()),
        state.seed
    )];
    sections.push(ports(state));
    sections.push(bundles(state));
    sections.push(uplinks(state, &names));
    sections.push(addresses(state, &names));
    sections.push(neighbours(state));
    sections.push(faults(state, &names));
    sections.push(leases(state, &names));
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

/// The names of ports and bundles.
struct Names<'a>(BTreeMap<PortId, &'a str>);

impl<'a> Names<'a> {
    fn of(state: &'a SwitchState) -> Self {
        let ports = state.ports.iter().map(|port| (port.id, port.name.as_str()));
        let bundles = state.bundles.iter().map(|bundle| (bundle.id, bundle.name.as_str()));
        Self(ports.chain(bundles).collect())
    }

    fn get(&self, id: PortId) -> String {
        self.0.get(&id).map_or_else(|| format!("port {id} (removed)"), |&name| name.to_owned())
    }

    fn list(&self, ids: impl IntoIterator<Item = PortId>) -> String {
        ids.into_iter().map(|id| self.get(id)).collect::<Vec<_>>().join(", ")
    }
}

fn ports(state: &SwitchState) -> String {
    if state.ports.is_empty() {
        return "no ports\n".to_owned();
    }
    let mut table =
        Table::new(&["PORT", "LINK", "MODE", ">RX", ">BYTES", ">TX", ">BYTES", ">DROPPED", ">WAITING"]);
    for port in &state.ports {
        let (rx, tx) = (&port.counters.rx, &port.counters.tx);
        table.row([
            port.name.clone(),
            link(port).to_owned(),
            mode(state, port),
            rx.frames.to_string(),
            bytes(rx.bytes),
            tx.sent.to_string(),
            bytes(tx.bytes),
            (rx.dropped_total() + tx.dropped_total()).to_string(),
            (port.queue.frames + port.delayed.frames).to_string(),
        ]);
        table.notes(drops("in", &rx.dropped));
        table.notes(drops("out", &tx.dropped));
    }
    table.print()
}

fn link(port: &PortState) -> &'static str {
    match (port.admin, port.connected) {
        (true, true) => "up",
        (true, false) => "no peer",
        (false, _) => "down",
    }
}

/// Its mode; that of the bundle rules while it is in one.
fn mode(state: &SwitchState, port: &PortState) -> String {
    let bundle = state.bundles.iter().find(|bundle| Some(bundle.id) == port.bundle);
    bundle.map_or_else(|| port.mode.to_string(), |bundle| format!("in {}", bundle.name))
}

fn drops(way: &str, dropped: &BTreeMap<DropReason, u64>) -> impl Iterator<Item = String> {
    dropped.iter().map(move |(reason, count)| format!("dropped {way}: {count}, {reason}"))
}

fn bundles(state: &SwitchState) -> String {
    let mut text = String::new();
    for bundle in &state.bundles {
        let admin = if bundle.admin { "" } else { ", down" };
        let (lacp, carries, of) = (lacp(bundle), bundle.active().count(), bundle.members.len());
        let _ = writeln!(
            text,
            "BUNDLE {}: {}, {lacp}, by {}; {carries} of {of} carry frames{admin}",
            bundle.name,
            bundle.mode,
            match bundle.hash {
                HashPolicy::Layer2 => "layer 2",
                HashPolicy::Layer34 => "layer 3+4",
            }
        );
        let mut table = Table::new(&["MEMBER", "CARRIES", "PARTNER", "KEY", "PORT", "PARTNER IS", "HERE"]);
        for member in &bundle.members {
            table.row(self::member(bundle, member));
        }
        text += &table.print();
    }
    text
}

fn lacp(bundle: &BundleState) -> String {
    let timeout = match bundle.timeout {
        LacpTimeout::Short => "short timeout",
        LacpTimeout::Long => "long timeout",
    };
    match bundle.lacp {
        LacpMode::Active => format!("active LACP, {timeout}"),
        LacpMode::Passive => format!("passive LACP, {timeout}"),
        LacpMode::Static => "static".to_owned(),
    }
}

fn member(bundle: &BundleState, member: &MemberState) -> [String; 7] {
    let (lacp, partner) = (&member.lacp, &member.lacp.partner);
    let carries = if lacp.active { "yes" } else { "no" }.to_owned();
    let none = || "-".to_owned();
    if bundle.lacp == LacpMode::Static {
        return [member.name.clone(), carries, none(), none(), none(), none(), none()];
    }
    let heard =
        matches!(lacp.receive, switch::lacp::ReceiveState::Current | switch::lacp::ReceiveState::Expired);
    let here = format!("{} {} {}", word(&lacp.selected), word(&lacp.receive), word(&lacp.mux));
    if !heard {
        return [member.name.clone(), carries, "not heard".to_owned(), none(), none(), none(), here];
    }
    [
        member.name.clone(),
        carries,
        partner.system.to_string(),
        partner.key.to_string(),
        partner.port.to_string(),
        format!("{} ({})", partner.state.0, word(&partner.state)),
        here,
    ]
}

/// How JSON has it: the same words as in `--json` and `ports.json`.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => "?".to_owned(),
    }
}

fn addresses(state: &SwitchState, names: &Names<'_>) -> String {
    if state.fdb.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[">VLAN", "ADDRESS", "LEARNT ON", ">SEEN"]);
    for entry in &state.fdb {
        let age = format!("{} ago", seconds(entry.age.as_secs()));
        table.row([entry.vlan.to_string(), entry.mac.to_string(), names.get(entry.port), age]);
    }
    table.print()
}

/// What leads beyond the lab. The ports of uplinks are among the others.
fn uplinks(state: &SwitchState, names: &Names<'_>) -> String {
    let mut text = String::new();
    for uplink in &state.uplinks {
        let _ = writeln!(text, "UPLINK {}: {}", uplink.name, uplink.kind);
        for (reason, count) in &uplink.refused {
            let _ = writeln!(text, "    turned away: {count}, {}", word(reason));
        }
        if uplink.clients.is_empty() {
            continue;
        }
        let mut table = Table::new(&["CLIENT ON", ">PID", "SAYS OF ITSELF"]);
        for client in &uplink.clients {
            let pid = client.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            table.row([names.get(client.port), pid, printable(&client.description)]);
        }
        text += &table.print();
    }
    text
}

/// Who was heard by LLDP.
fn neighbours(state: &SwitchState) -> String {
    let mut table = Table::new(&["PORT", "NEIGHBOUR", "ITS PORT", "SYSTEM", ">HEARD"]);
    let mut none = true;
    for port in &state.ports {
        for neighbour in &port.neighbours {
            let says = &neighbour.says;
            let system = says.system_name.as_deref().unwrap_or("-");
            let heard = format!("{} ago", seconds(state.uptime.saturating_sub(neighbour.heard).as_secs()));
            table.row([
                port.name.clone(),
                chassis(&says.chassis),
                its_port(&says.port),
                printable(system),
                heard,
            ]);
            none = false;
        }
    }
    if none { String::new() } else { table.print() }
}

fn chassis(id: &ChassisId) -> String {
    match id {
        ChassisId::Mac(mac) => mac.to_string(),
        ChassisId::Local(text) => printable(text),
        ChassisId::Other { subtype, value } => other(*subtype, value),
    }
}

fn its_port(id: &PortIdentity) -> String {
    match id {
        PortIdentity::Mac(mac) => mac.to_string(),
        PortIdentity::Interface(text) | PortIdentity::Local(text) => printable(text),
        PortIdentity::Other { subtype, value } => other(*subtype, value),
    }
}

/// An id of a kind that is not read further.
fn other(subtype: u8, value: &[u8]) -> String {
    let octets: Vec<String> = value.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("kind {subtype}: {}", octets.join(":"))
}

fn faults(state: &SwitchState, names: &Names<'_>) -> String {
    let mut text = String::new();
    for PartitionState { id, spec } in &state.partitions {
        let (from, to) = spec.sides();
        let way = if spec.is_one_way() { "nothing goes from" } else { "nothing goes between" };
        let and = if spec.is_one_way() { "to" } else { "and" };
        let vlans = spec.vlans().map_or_else(String::new, |vlans| format!(" in VLAN {vlans}"));
        let (from, to) = (names.list(from.iter().copied()), names.list(to.iter().copied()));
        let _ = writeln!(text, "PARTITION {id}: {way} {from} {and} {to}{vlans}");
    }
    for impaired in &state.impairments {
        let target = match impaired.target {
            ImpairTarget::Port(port) => format!("to {}", names.get(port)),
            ImpairTarget::Pair { from, to } => format!("from {} to {}", names.get(from), names.get(to)),
        };
        let _ = writeln!(text, "IMPAIRMENT {} {target}: {}", impaired.id, impaired.impairment);
        if let Ok(Value::Object(counters)) = serde_json::to_value(impaired.counters) {
            let counted = counters.iter().filter_map(|(what, count)| Some((what, count.as_u64()?)));
            let counted: Vec<String> = counted.map(|(what, count)| format!("{count} {what}")).collect();
            let _ = writeln!(text, "  so far: {}", counted.join(", "));
        }
    }
    for fault in &state.service_faults {
        let since = seconds(state.uptime.saturating_sub(fault.since).as_secs());
        let _ = writeln!(text, "FAULT {}: {} {}, for {since}", fault.id, fault.service, fault.what);
    }
    text
}

/// A lease as a DHCP service says it in the switch's state.
#[derive(Deserialize)]
struct Lease {
    mac: String,
    address: String,
    hostname: Option<String>,
    state: String,
    expires_in_s: u64,
}

fn leases(state: &SwitchState, names: &Names<'_>) -> String {
    let mut text = String::new();
    for service in state.services.iter().filter(|service| service.service == "dhcp") {
        let listed = service.state.get("leases").cloned().unwrap_or_default();
        let leases: Vec<Lease> = serde_json::from_value(listed).unwrap_or_default();
        let _ = writeln!(text, "LEASES of {}: {}", names.get(service.port), leases.len());
        if leases.is_empty() {
            continue;
        }
        let mut table = Table::new(&["ADDRESS", "CLIENT", "HOSTNAME", "STATE", ">LEFT"]);
        for lease in leases {
            let hostname = lease.hostname.map_or_else(|| "-".to_owned(), |name| printable(&name));
            table.row([lease.address, lease.mac, hostname, lease.state, seconds(lease.expires_in_s)]);
        }
        text += &table.print();
    }
    text
}

/// What a guest sent may hold anything: nothing of it may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => bytes.to_string(),
        10_000..10_000_000 => format!("{:.1}k", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1}M", bytes as f64 / 1e6),
        _ => format!("{:.1}G", bytes as f64 / 1e9),
    }
}

/// Columns as wide as what is in them; a heading that begins with `>` is one of numbers.
struct Table {
    columns: usize,
    right: Vec<bool>,
    lines: Vec<Line>,
}

enum Line {
    Row(Vec<String>),
    Note(String),
}

impl Table {
    fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let row = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { columns: headings.len(), right, lines: vec![Line::Row(row)] }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.lines.push(Line::Row(cells.into()));
    }

    fn notes(&mut self, notes: impl IntoIterator<Item = String>) {
        self.lines.extend(notes.into_iter().map(Line::Note));
    }

    fn print(&self) -> String {
        let rows =
            || self.lines.iter().filter_map(|line| if let Line::Row(row) = line { Some(row) } else { None });
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Note(note) => text += &format!("    {note}"),
                Line::Row(row) => {
                    let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, &width), &right)| {
                        if right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
                    });
                    text += cells.collect::<Vec<_>>().join("  ").trim_end();
                }
            }
            text.push('\n');
        }
        text
    }
}
