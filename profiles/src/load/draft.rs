//! A profile as it was written: each value of the right type, nothing compared with anything else yet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::{At, Node, Report, Section};
use crate::error::Kind;
use crate::mac::MacAddr;
use crate::model::{LacpRate, Role};

pub(super) struct Draft {
    pub(super) name: Option<At<String>>,
    pub(super) description: String,
    pub(super) nics: Option<At<Vec<At<String>>>>,
    pub(super) bonds: Vec<BondDraft>,
    pub(super) networks: Vec<NetworkDraft>,
    pub(super) machines: Vec<MachineDraft>,
    pub(super) kubernetes: Option<KubernetesDraft>,
}

pub(super) struct BondDraft {
    pub(super) name: At<String>,
    pub(super) members: Option<At<Vec<At<String>>>>,
    pub(super) mode: Option<BondModeDraft>,
    pub(super) miimon_ms: u16,
}

pub(super) enum BondModeDraft {
    Lacp(LacpRate),
    ActiveBackup(Option<At<String>>),
    BalanceRr,
    BalanceXor,
    BalanceAlb,
}

pub(super) struct NetworkDraft {
    pub(super) name: At<String>,
    pub(super) subnet: Option<At<IpNet>>,
    /// Whether it has a VLAN id, be it a bad one.
    pub(super) tagged: bool,
    pub(super) vlan: Option<At<u16>>,
    pub(super) interface: Option<At<String>>,
    pub(super) mtu: At<u16>,
    pub(super) gateway: Option<At<IpAddr>>,
    pub(super) dhcp: Option<DhcpDraft>,
}

pub(super) struct DhcpDraft {
    pub(super) at: At<()>,
    pub(super) server: Option<At<IpAddr>>,
    pub(super) lease_s: u32,
}

pub(super) struct MachineDraft {
    pub(super) name: At<String>,
    pub(super) role: Option<At<Role>>,
    /// By network; the address is absent where its text was none. None when there is no table at all.
    pub(super) addresses: Option<At<Vec<Entry<IpAddr>>>>,
    pub(super) vlans: Vec<Entry<u16>>,
    pub(super) macs: Vec<Entry<MacAddr>>,
}

/// A key of a table whose keys are names, and its value unless that was bad.
pub(super) struct Entry<T> {
    pub(super) name: At<String>,
    pub(super) value: Option<T>,
}

pub(super) struct KubernetesDraft {
    pub(super) pod_cidr: Option<At<IpNet>>,
    pub(super) service_cidr: Option<At<IpNet>>,
    pub(super) api_server: Option<At<String>>,
    pub(super) api_port: u16,
}

const BOND_MODES: &[&str] = &["802.3ad", "active-backup", "balance-rr", "balance-xor", "balance-alb"];
const TABLE_OF_ADDRESSES: &str = "a table of network names and addresses";

impl Draft {
    pub(super) fn read(root: &Section<'_>, report: &mut Report) -> Self {
        root.only(report, &["name", "description", "nics", "bonds", "networks", "machines", "kubernetes"]);
        Self {
            name: root.need(report, "name", "the profile's name").and_then(|n| n.string(report, "a string")),
            description: root
                .get(report, "description")
                .and_then(|n| n.string(report, "a string"))
                .map_or_else(String::new, |at| at.value),
            nics: root
                .need(report, "nics", "the names of the NICs that each machine has, like [\"eth1\"]")
                .and_then(|n| n.strings(report, "interface names as strings")),
            bonds: sections(
                root.get(report, "bonds"),
                report,
                "a bond, like [bonds.bond0], or no bonds at all",
                read_bond,
            ),
            networks: sections(
                root.need(report, "networks", "a table of networks, with [networks.cluster] among them"),
                report,
                "a table of networks, with [networks.cluster] among them",
                read_network,
            ),
            machines: sections(
                root.need(report, "machines", "a table of machines, like [machines.server-1]"),
                report,
                "a table of machines, like [machines.server-1]",
                read_machine,
            ),
            kubernetes: root
                .need(report, "kubernetes", "a table with pod_cidr and service_cidr")
                .and_then(|n| n.section(report, "a table"))
                .map(|section| read_kubernetes(&section, report)),
        }
    }
}

/// Reads each table inside a table, named by its key.
fn sections<T>(
    node: Option<Node<'_>>,
    report: &mut Report,
    expected: &'static str,
    read: impl Fn(At<String>, &Section<'_>, &mut Report) -> T,
) -> Vec<T> {
    let Some(outer) = node.and_then(|n| n.section(report, expected)) else { return Vec::new() };
    let mut found = Vec::new();
    if outer.entries(report).is_empty() {
        report.add(&outer.at(()), Kind::Missing { expected });
    }
    for (name, node) in outer.entries(report) {
        if let Some(section) = node.section(report, "a table") {
            found.push(read(section.at(name), &section, report));
        }
    }
    found
}

/// Reads a table whose keys are names.
fn entries<T>(
    section: &Section<'_>,
    report: &mut Report,
    read: impl Fn(&Node<'_>, &mut Report) -> Option<At<T>>,
) -> Vec<Entry<T>> {
    let nodes = section.entries(report);
    let entry = |(name, node): (String, Node<'_>)| {
        let value = read(&node, report).map(|at| at.value);
        Entry { name: node.at(name), value }
    };
    nodes.into_iter().map(entry).collect()
}

fn read_bond(name: At<String>, section: &Section<'_>, report: &mut Report) -> BondDraft {
    section.only(report, &["mode", "members", "lacp_rate", "primary", "miimon_ms"]);
    let mode = section.need(report, "mode", "a bonding mode such as \"802.3ad\"");
    let mode = mode.and_then(|n| n.word(report, "a bonding mode as a string", BOND_MODES));
    let rate = section.get(report, "lacp_rate").and_then(|n| n.word(report, "a string", &["slow", "fast"]));
    let primary = section.get(report, "primary").and_then(|n| n.string(report, "a NIC's name"));
    let mode = mode.map(|at| at.value);
    if let (Some(rate), Some(mode)) = (&rate, mode.filter(|mode| *mode != "802.3ad")) {
        let reason =
            format!("means nothing with mode {mode}, which speaks no LACP; expected it with 802.3ad");
        report.add(rate, Kind::NotHere { reason });
    }
    if let (Some(primary), Some(mode)) = (&primary, mode.filter(|mode| *mode != "active-backup")) {
        let reason =
            format!("means nothing with mode {mode}, which uses all members; expected it with active-backup");
        report.add(primary, Kind::NotHere { reason });
    }
    let mode = mode.map(|mode| match mode {
        "802.3ad" => {
            let fast = rate.is_none_or(|rate| rate.value == "fast");
            BondModeDraft::Lacp(if fast { LacpRate::Fast } else { LacpRate::Slow })
        }
        "balance-rr" => BondModeDraft::BalanceRr,
        "balance-xor" => BondModeDraft::BalanceXor,
        "balance-alb" => BondModeDraft::BalanceAlb,
        _ => BondModeDraft::ActiveBackup(primary),
    });
    BondDraft {
        name,
        members: section
            .need(report, "members", "the names of two or more NICs")
            .and_then(|n| n.strings(report, "NIC names as strings")),
        mode,
        miimon_ms: number(section, report, "miimon_ms", 1, 10_000).map_or(100, |at| at.value),
    }
}

fn read_network(name: At<String>, section: &Section<'_>, report: &mut Report) -> NetworkDraft {
    section.only(report, &["subnet", "vlan", "interface", "mtu", "gateway", "dhcp"]);
    let vlan = section.get(report, "vlan");
    let mtu = number(section, report, "mtu", 1280, 9216);
    NetworkDraft {
        subnet: section.need(report, "subnet", SUBNET).and_then(|n| subnet(&n, report)),
        tagged: vlan.is_some(),
        vlan: vlan.and_then(|n| vlan_id(&n, report)),
        interface: section
            .need(report, "interface", "the NIC or bond that carries the network")
            .and_then(|n| n.string(report, "a NIC's or bond's name as a string")),
        mtu: mtu.unwrap_or_else(|| name.with(1500)),
        gateway: section.get(report, "gateway").and_then(|n| address(&n, report)),
        dhcp: section
            .get(report, "dhcp")
            .and_then(|n| n.section(report, "a table with the key server"))
            .map(|dhcp| read_dhcp(&dhcp, report)),
        name,
    }
}

fn read_dhcp(section: &Section<'_>, report: &mut Report) -> DhcpDraft {
    section.only(report, &["server", "lease_s"]);
    DhcpDraft {
        at: section.at(()),
        server: section.need(report, "server", "the DHCP server's address").and_then(|n| address(&n, report)),
        lease_s: number(section, report, "lease_s", 60, 2_592_000).map_or(3600, |at| at.value),
    }
}

fn read_machine(name: At<String>, section: &Section<'_>, report: &mut Report) -> MachineDraft {
    section.only(report, &["role", "addresses", "vlans", "macs"]);
    let role = section.need(report, "role", "\"server\" or \"agent\"");
    let role = role.and_then(|n| n.word(report, "a role as a string", &["server", "agent"]));
    let addresses = section.need(report, "addresses", TABLE_OF_ADDRESSES);
    let addresses = addresses.and_then(|n| n.section(report, TABLE_OF_ADDRESSES));
    let vlans =
        section.get(report, "vlans").and_then(|n| n.section(report, "a table of network names and VLAN ids"));
    let macs =
        section.get(report, "macs").and_then(|n| n.section(report, "a table of NIC names and MAC addresses"));
    MachineDraft {
        name,
        role: role.map(|at| at.with(if at.value == "server" { Role::Server } else { Role::Agent })),
        addresses: addresses.map(|section| section.at(entries(&section, report, address))),
        vlans: vlans.map_or_else(Vec::new, |section| entries(&section, report, vlan_id)),
        macs: macs.map_or_else(Vec::new, |section| entries(&section, report, mac)),
    }
}

fn read_kubernetes(section: &Section<'_>, report: &mut Report) -> KubernetesDraft {
    section.only(report, &["pod_cidr", "service_cidr", "api_server", "api_port"]);
    KubernetesDraft {
        pod_cidr: section.need(report, "pod_cidr", SUBNET).and_then(|n| subnet(&n, report)),
        service_cidr: section.need(report, "service_cidr", SUBNET).and_then(|n| subnet(&n, report)),
        api_server: section
            .need(report, "api_server", "the server whose cluster address is the API's endpoint")
            .and_then(|n| n.string(report, "a machine's name as a string")),
        api_port: number(section, report, "api_port", 1, 65_535).map_or(6443, |at| at.value),
    }
}

const SUBNET: &str = "a subnet like \"192.168.200.0/24\"";

fn subnet(node: &Node<'_>, report: &mut Report) -> Option<At<IpNet>> {
    let net = node.parsed(report, SUBNET, str::parse::<IpNet>, |found| Kind::BadCidr { found })?;
    let expected = net.value.trunc();
    if net.value == expected {
        return Some(net);
    }
    report.add(&net, Kind::HostBits { found: net.value, expected });
    None
}

fn address(node: &Node<'_>, report: &mut Report) -> Option<At<IpAddr>> {
    let expected = "an address like \"192.168.200.1\"";
    node.parsed(report, expected, str::parse::<IpAddr>, |found| Kind::BadAddress { found })
}

fn mac(node: &Node<'_>, report: &mut Report) -> Option<At<MacAddr>> {
    let expected = "a MAC address like \"52:54:00:12:34:56\"";
    let mac = node.parsed(report, expected, str::parse::<MacAddr>, |found| Kind::BadMac { found })?;
    if mac.value.is_unicast() {
        return Some(mac);
    }
    report.add(&mac, Kind::MacNotUnicast { mac: mac.value });
    None
}

fn vlan_id(node: &Node<'_>, report: &mut Report) -> Option<At<u16>> {
    node.integer(report, 1..4095, "a VLAN id, an integer from 1 to 4094", |found| Kind::VlanIdOutOfRange {
        found,
    })
}

fn number<T: TryFrom<i64>>(
    section: &Section<'_>,
    report: &mut Report,
    name: &str,
    min: i64,
    max: i64,
) -> Option<At<T>> {
    let node = section.get(report, name)?;
    node.integer(report, min..max + 1, "an integer", |found| Kind::OutOfRange { found, min, max })
}
