//! From three files to a plan: every cell is read, then compared with the others; each step goes on after a problem,
//! so that all are told at once.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use profiles::Profile;

use crate::error::Kind;
use crate::network::{self, Network};
use crate::report::Report;
use crate::{HOSTS, Host, K3S, NETWORK, Node, NodeKind, POD_CIDR, Plan, SERVICE_CIDR, Sources, table};

/// A row's value and its line.
struct At<T> {
    value: T,
    line: usize,
}

/// What a node's row says, as far as it can be read.
struct NodeDraft {
    name: Option<String>,
    host: Option<String>,
    kind: Option<NodeKind>,
    address: Option<Ipv4Addr>,
}

/// What a host's row says, as far as it can be read.
struct HostDraft {
    name: Option<String>,
    interface: Option<String>,
    address: Option<Ipv4Addr>,
    admin: Option<String>,
}

/// Makes a plan of its files.
pub(crate) fn plan(name: &str, sources: &Sources<'_>, report: &mut Report) -> Option<Plan> {
    let hosts = read_hosts(sources.hosts, report.about(HOSTS));
    let nodes = read_nodes(sources.k3s, report.about(K3S));
    let network = network::read(sources.network, report.about(NETWORK));
    names(&hosts, &nodes, report);
    addresses(&hosts, &nodes, &network, report);
    placement(&hosts, &nodes, report.about(K3S));

    let lines: HashMap<String, usize> =
        nodes.iter().filter_map(|at| Some((at.value.name.clone()?, at.line))).collect();
    let complete = report.is_empty();
    let plan = Plan {
        name: name.to_owned(),
        hosts: hosts.into_iter().filter_map(|at| host(at.value)).collect(),
        nodes: nodes.into_iter().filter_map(|at| node(at.value)).collect(),
        subnet: network.subnet?,
        gateway: network.gateway?.0,
    };
    profile_problems(&plan, &lines, &network, complete, report);
    report.is_empty().then_some(plan)
}

fn read_hosts(bytes: &[u8], report: &mut Report) -> Vec<At<HostDraft>> {
    let table = table::read(bytes, &["name", "interface", "ip", "admin"], report);
    let expected =
        ["the host's name", "the name of its NIC", "the host's address", "the name of its administrator"];
    let read = |row: &table::Row| {
        let [name, interface, ip, admin] = table.cells(row, expected, report);
        let address = ip.and_then(|text| address(text, row.line, report));
        let [name, interface, admin] = [name, interface, admin].map(|cell| cell.map(str::to_owned));
        At { value: HostDraft { name, interface, address, admin }, line: row.line }
    };
    table.rows.iter().map(read).collect()
}

fn read_nodes(bytes: &[u8], report: &mut Report) -> Vec<At<NodeDraft>> {
    let table = table::read(bytes, &["host", "name", "type", "ip"], report);
    let expected =
        ["a host of hosts.csv", "the node's name", "init-server, server or agent", "the node's address"];
    let read = |row: &table::Row| {
        let [host, name, kind, ip] = table.cells(row, expected, report);
        let kind = kind.and_then(|word| {
            let kind = NodeKind::of(word);
            if kind.is_none() {
                let found = word.to_owned();
                report.add(row.line, "type", Kind::UnknownWord { found, known: &NodeKind::WORDS });
            }
            kind
        });
        let address = ip.and_then(|text| address(text, row.line, report));
        let [host, name] = [host, name].map(|cell| cell.map(str::to_owned));
        At { value: NodeDraft { name, host, kind, address }, line: row.line }
    };
    table.rows.iter().map(read).collect()
}

fn address(text: &str, line: usize, report: &mut Report) -> Option<Ipv4Addr> {
    let address = text.parse().ok();
    if address.is_none() {
        report.add(line, "ip", Kind::BadAddress { found: text.to_owned() });
    }
    address
}

/// Names that are names, once in each table. A host and a node may share one: they are apart in all that uses them.
fn names(hosts: &[At<HostDraft>], nodes: &[At<NodeDraft>], report: &mut Report) {
    let hosts = hosts.iter().filter_map(|at| Some((at.value.name.as_deref()?, at.line)));
    let nodes = nodes.iter().filter_map(|at| Some((at.value.name.as_deref()?, at.line)));
    unique(hosts, report.about(HOSTS));
    unique(nodes, report.about(K3S));
}

fn unique<'a>(names: impl Iterator<Item = (&'a str, usize)>, report: &mut Report) {
    let mut taken: HashMap<&str, usize> = HashMap::new();
    for (name, line) in names {
        let found = name.to_owned();
        if !profiles::is_name(name) {
            report.add(line, "name", profiles::Kind::BadName { found });
        } else if let Some(&first) = taken.get(name) {
            report.add(line, "name", Kind::DuplicateName { found, line: first });
        } else {
            taken.insert(name, line);
        }
    }
}

/// Addresses that hosts can have in the network, each once.
fn addresses(hosts: &[At<HostDraft>], nodes: &[At<NodeDraft>], network: &Network, report: &mut Report) {
    let hosts = hosts.iter().filter_map(|at| Some((HOSTS, at.line, "ip", at.value.address?)));
    let nodes = nodes.iter().filter_map(|at| Some((K3S, at.line, "ip", at.value.address?)));
    let gateway = network.gateway.map(|(address, line)| (NETWORK, line, "gateway", address));
    for (other, what) in [(POD_CIDR, "pods"), (SERVICE_CIDR, "services")] {
        if let Some(subnet) = network.subnet.filter(|s| s.contains(&other.network()) || other.contains(s)) {
            report.about(NETWORK).add(network.netmask_line, "netmask", Kind::Overlap { subnet, other, what });
        }
    }
    let mut taken: HashMap<Ipv4Addr, (&'static str, usize)> = HashMap::new();
    for (file, line, column, address) in gateway.into_iter().chain(hosts).chain(nodes) {
        report.about(file);
        if let Some(&(file, first)) = taken.get(&address) {
            report.add(line, column, Kind::DuplicateAddress { address, file, line: first });
            continue;
        }
        taken.insert(address, (file, line));
        if let Some(kind) = network.subnet.and_then(|subnet| misfit(address, subnet)) {
            report.add(line, column, kind);
        }
    }
}

fn misfit(address: Ipv4Addr, subnet: Ipv4Net) -> Option<profiles::Kind> {
    if !subnet.contains(&address) {
        let network = profiles::CLUSTER.to_owned();
        let (address, subnet) = (address.into(), subnet.into());
        return Some(profiles::Kind::AddressOutsideSubnet { address, network, subnet });
    }
    let what = match address {
        _ if address == subnet.network() => "network",
        _ if address == subnet.broadcast() => "broadcast",
        _ => return None,
    };
    Some(profiles::Kind::AddressReserved { address: address.into(), what, subnet: subnet.into() })
}

/// Nodes on hosts that there are, at most one server and one agent on each, and one that begins the cluster.
fn placement(hosts: &[At<HostDraft>], nodes: &[At<NodeDraft>], report: &mut Report) {
    let known: Vec<String> = hosts.iter().filter_map(|at| at.value.name.clone()).collect();
    let mut running: HashMap<(&str, &str), usize> = HashMap::new();
    let mut init: Option<usize> = None;
    for At { value: node, line } in nodes {
        let line = *line;
        let host = node.host.as_deref();
        if let Some(found) = host.filter(|host| known.iter().all(|k| k != host)) {
            report.add(line, "host", Kind::UnknownHost { found: found.to_owned(), known: known.clone() });
        }
        let Some(kind) = node.kind else { continue };
        let what = if kind == NodeKind::Agent { "agent" } else { "server" };
        if let Some(host) = host {
            match running.get(&(host, what)) {
                Some(&first) => {
                    let host = host.to_owned();
                    report.add(line, "host", Kind::SecondOnHost { host, what, line: first });
                }
                None => {
                    running.insert((host, what), line);
                }
            }
        }
        match init {
            Some(first) if kind == NodeKind::InitServer => {
                report.add(line, "type", Kind::SecondInitServer { line: first });
            }
            None if kind == NodeKind::InitServer => init = Some(line),
            _ => {}
        }
    }
    // A type that could not be read may have been meant to be it.
    if init.is_none() && nodes.iter().all(|at| at.value.kind.is_some()) {
        report.add(1, "type", Kind::NoInitServer);
    }
}

fn host(draft: HostDraft) -> Option<Host> {
    let HostDraft { name, interface, address, admin } = draft;
    Some(Host { name: name?, interface: interface?, address: address?, admin: admin? })
}

fn node(draft: NodeDraft) -> Option<Node> {
    let NodeDraft { name, host, kind, address } = draft;
    let name = name.filter(|name| profiles::is_name(name))?;
    Some(Node { name, host: host?, kind: kind?, address: address? })
}

/// What a profile would refuse besides: it is told at the row that it comes from.
fn profile_problems(
    plan: &Plan,
    lines: &HashMap<String, usize>,
    network: &Network,
    complete: bool,
    report: &mut Report,
) {
    let Err(profiles::Error::Invalid { problems, .. }) = Profile::parse(&plan.to_toml(), &plan.name) else {
        return;
    };
    // Found before, in the words of the tables.
    let known = |kind: &profiles::Kind| {
        matches!(
            kind,
            profiles::Kind::DuplicateAddress { .. }
                | profiles::Kind::AddressOutsideSubnet { .. }
                | profiles::Kind::AddressReserved { .. }
                | profiles::Kind::OverlappingSubnets { .. }
        )
    };
    for problem in problems.into_iter().filter(|problem| !known(&problem.kind)) {
        let mut key = problem.key.split('.');
        let (section, name) = (key.next(), key.next());
        let (file, line, column) = match (section, name) {
            (Some("machines"), Some(name)) => {
                let column = if key.next() == Some("addresses") { "ip" } else { "name" };
                (K3S, lines.get(name).copied().unwrap_or(1), column)
            }
            (Some("networks"), _) if key.next() == Some("gateway") => {
                (NETWORK, network.gateway.map_or(1, |(_, line)| line), "gateway")
            }
            (Some("networks"), _) => (NETWORK, network.netmask_line, "netmask"),
            // Such as a server that the API has not got: it follows from rows that were told of.
            _ if !complete => continue,
            _ => (NETWORK, network.netmask_line, "netmask"),
        };
        if !report.has(file, line, column) {
            report.about(file).add(line, column, problem.kind);
        }
    }
}
