//! What is drawn of a profile and of a running lab. How, is the affair of `topology`.

use std::collections::BTreeSet;
use std::path::Path;

use driver::control::{LabNetwork, MachineNetwork};
use profiles::render::{self, PortMode as PlannedMode};
use profiles::{Bond as ProfileBond, BondMode, LacpRate, Machine, Network, Profile};
use switch::{BundleState, LacpMode, PortMode, PortState, VlanId};
use topology::{Address, Bond, Link, LinkState, Node, Topology, Vlan};

/// A port that passes more VLANs than this passes them as a range, not each for a reason.
const MEANT: usize = 16;

/// Writes a drawing to a file, or to stdout where that is `-`.
pub(crate) fn write(topology: &Topology, to: &Path) -> anyhow::Result<()> {
    let svg = topology.to_svg();
    if to == Path::new("-") {
        print!("{svg}");
    } else {
        fs_err::write(to, svg)?;
    }
    Ok(())
}

/// What a profile says that there will be.
pub(crate) fn of_profile(profile: &Profile) -> Topology {
    let plan = render::switch_ports(profile);
    let mut vlans: Vec<Vlan> = Vec::new();
    for network in profile.networks() {
        let id = profile.switch_vlan(&network.name).unwrap_or_default();
        vlans.push(Vlan { id, name: network.name.clone(), details: network_details(network) });
    }
    let mut nodes: Vec<Node> =
        profile.machines().iter().map(|machine| planned(profile, &plan, machine)).collect();
    for network in profile.networks() {
        let Some(dhcp) = &network.dhcp else { continue };
        let vlan = profile.switch_vlan(&network.name).unwrap_or_default();
        nodes.push(Node {
            name: format!("dhcp/{}", network.name),
            role: "service".to_owned(),
            service: true,
            addresses: vec![Address {
                network: network.name.clone(),
                address: dhcp.server.to_string(),
                vlan: Some(vlan),
                ..Address::default()
            }],
            links: vec![Link { port: format!("access {vlan}"), vlans: vec![vlan], ..Link::default() }],
            bonds: Vec::new(),
        });
    }
    Topology { title: profile.name().to_owned(), subtitle: profile.description().to_owned(), vlans, nodes }
}

fn network_details(network: &Network) -> String {
    let mut details = vec![network.subnet.to_string()];
    details.push(if network.vlan.is_some() { "tagged" } else { "untagged" }.to_owned());
    details.push(format!("on {}", network.interface));
    details.push(format!("MTU {}", network.mtu));
    if let Some(gateway) = network.gateway {
        details.push(format!("gateway {gateway}"));
    }
    if let Some(dhcp) = &network.dhcp {
        details.push(format!("DHCP, leases of {} s", dhcp.lease_s));
    }
    details.join(", ")
}

fn planned(profile: &Profile, plan: &render::SwitchPlan, machine: &Machine) -> Node {
    let addresses = machine.attachments.iter().map(|attachment| {
        let network = profile.network(&attachment.network).ok();
        let dhcp = network.is_some_and(|network| network.dhcp.is_some());
        Address {
            network: attachment.network.clone(),
            address: attachment.address.to_string() + if dhcp { " (DHCP)" } else { "" },
            interface: attachment.interface.clone(),
            vlan: attachment.vlan.or_else(|| profile.switch_vlan(&attachment.network).ok()),
            wrong: network.is_some_and(|network| network.vlan != attachment.vlan),
        }
    });
    let links = plan.ports_of(&machine.name).map(|port| {
        let (label, vlans) = match &port.mode {
            PlannedMode::Access { vlan } => (format!("access {vlan}"), vec![*vlan]),
            PlannedMode::Trunk { allowed, native } => {
                let ids: Vec<String> = allowed.iter().map(u16::to_string).collect();
                let native = native.map_or_else(String::new, |native| format!(" native {native}"));
                (format!("trunk {}{native}", ids.join(",")), allowed.iter().copied().collect())
            }
        };
        let mac = port.mac.to_string();
        Link { nic: port.nic.clone(), mac, port: label, vlans, state: LinkState::Planned }
    });
    let nics: Vec<&str> = plan.ports_of(&machine.name).map(|port| port.nic.as_str()).collect();
    let bonds = profile.bonds().iter().map(|bond| planned_bond(bond, &nics));
    Node {
        name: machine.name.clone(),
        role: machine.role.to_string(),
        service: false,
        addresses: addresses.collect(),
        links: links.collect(),
        bonds: bonds.collect(),
    }
}

fn planned_bond(bond: &ProfileBond, nics: &[&str]) -> Bond {
    let (mode, bundle) = bond_words(&bond.mode);
    let links = (0..nics.len()).filter(|&link| bond.members.iter().any(|member| member == nics[link]));
    Bond { name: format!("{}: {mode}", bond.name), bundle, links: links.collect() }
}

/// A running lab: what is plugged in, and how it is.
pub(crate) fn of_lab(run: &str, network: &LabNetwork) -> Topology {
    let state = &network.switch;
    // A port that passes all of them says so in its label; the legend has those that somebody meant.
    let meant =
        state.ports.iter().map(|port| passing(mode_of(network, port))).filter(|ids| ids.len() <= MEANT);
    let seen = state.fdb.iter().map(|entry| entry.vlan.get());
    let vlans: BTreeSet<u16> = meant.flatten().chain(seen).collect();
    let learnt = |id: u16| state.fdb.iter().filter(|entry| entry.vlan.get() == id).count();
    let vlans = vlans.into_iter().map(|id| Vlan {
        id,
        name: String::new(),
        details: match learnt(id) {
            1 => "1 address learnt".to_owned(),
            count => format!("{count} addresses learnt"),
        },
    });
    let mut nodes: Vec<Node> = network.machines.iter().map(|machine| plugged(network, machine)).collect();
    // What is on the switch and no machine's: services, and what a test has plugged in.
    for port in &state.ports {
        let mut known = network.machines.iter().flat_map(|machine| &machine.nics);
        if known.any(|nic| nic.port == port.name) {
            continue;
        }
        let services = state.services.iter().filter(|service| service.port == port.id);
        let services: Vec<&str> = services.map(|service| service.service.as_str()).collect();
        nodes.push(Node {
            name: port.name.clone(),
            role: services.join(", "),
            service: true,
            links: vec![link(network, port, "", "")],
            ..Node::default()
        });
    }
    let faults = state.partitions.len() + state.impairments.len() + state.service_faults.len();
    let faults = match faults {
        0 => String::new(),
        1 => ", 1 fault in force".to_owned(),
        _ => format!(", {faults} faults in force"),
    };
    Topology {
        title: network.lab.clone(),
        subtitle: format!("run {run}, up {} s{faults}", state.uptime.as_secs()),
        vlans: vlans.collect(),
        nodes,
    }
}

fn plugged(network: &LabNetwork, machine: &MachineNetwork) -> Node {
    let ports = || {
        machine.nics.iter().filter_map(|nic| {
            let port = network.switch.ports.iter().find(|port| port.name == nic.port)?;
            Some((nic, port))
        })
    };
    let links: Vec<Link> = ports().map(|(nic, port)| link(network, port, &nic.name, &nic.mac)).collect();
    let bundles = network.switch.bundles.iter().filter_map(|bundle| {
        let members: Vec<usize> = ports()
            .enumerate()
            .filter(|(_, (_, port))| port.bundle == Some(bundle.id))
            .map(|(place, _)| place)
            .collect();
        (!members.is_empty()).then(|| live_bond(bundle, members))
    });
    let addresses = machine.addresses.iter().map(|(name, address)| Address {
        network: name.clone(),
        address: address.to_string(),
        ..Address::default()
    });
    Node {
        name: machine.name.clone(),
        addresses: addresses.collect(),
        bonds: bundles.collect(),
        links,
        ..Node::default()
    }
}

fn live_bond(bundle: &BundleState, links: Vec<usize>) -> Bond {
    let lacp = match bundle.lacp {
        LacpMode::Active | LacpMode::Passive => "LACP",
        LacpMode::Static => "static",
    };
    let name = bundle.name.rsplit('/').next().unwrap_or_default().to_owned();
    let bundle = format!("{lacp}: {} of {} carry", bundle.active().count(), bundle.members.len());
    Bond { name, bundle, links }
}

fn link(network: &LabNetwork, port: &PortState, nic: &str, mac: &str) -> Link {
    let mode = mode_of(network, port);
    let mut members = network.switch.bundles.iter().flat_map(|bundle| &bundle.members);
    let idle = members.any(|member| member.id == port.id && !member.lacp.active);
    let state = match (port.admin, port.connected) {
        (false, _) => LinkState::Down,
        (true, false) => LinkState::Unplugged,
        (true, true) if idle => LinkState::Idle,
        (true, true) => LinkState::Up,
    };
    Link { nic: nic.to_owned(), mac: mac.to_owned(), port: mode.to_string(), vlans: passing(mode), state }
}

/// The mode that rules: that of its bundle while it is in one.
fn mode_of<'a>(network: &'a LabNetwork, port: &'a PortState) -> &'a PortMode {
    let bundle = network.switch.bundles.iter().find(|bundle| Some(bundle.id) == port.bundle);
    bundle.map_or(&port.mode, |bundle| &bundle.mode)
}

fn passing(mode: &PortMode) -> Vec<u16> {
    match mode {
        PortMode::Access { vlan } => vec![vlan.get()],
        PortMode::Trunk { allowed, native } => {
            let mut ids: Vec<u16> = allowed.iter().chain(*native).map(VlanId::get).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        }
    }
}

/// A bond's mode, and what the switch makes of it.
fn bond_words(mode: &BondMode) -> (String, String) {
    let (detail, bundle) = match mode {
        BondMode::Lacp { rate: LacpRate::Fast } => (" fast", "bundle: LACP"),
        BondMode::Lacp { rate: LacpRate::Slow } => (" slow", "bundle: LACP"),
        BondMode::BalanceRr | BondMode::BalanceXor => ("", "bundle: static"),
        BondMode::ActiveBackup { .. } | BondMode::BalanceAlb => ("", ""),
    };
    (format!("{}{detail}", mode.name()), bundle.to_owned())
}
