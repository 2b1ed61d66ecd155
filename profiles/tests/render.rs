//! What each profile renders to, pinned.

use std::fmt::Write as _;

use profiles::{Profile, render};

/// A profile with what the built-in ones have not: jumbo frames, a gateway, an untagged network under a tagged one, bonds
/// of other modes, IPv6, a MAC address and an API port of its own.
const RICH: &str = r#"
name = "rich"
nics = ["eth1", "eth2", "eth3", "eth4", "eth5", "eth6"]
[bonds.bond0]
mode = "active-backup"
members = ["eth1", "eth2"]
primary = "eth2"
miimon_ms = 50
[networks.cluster]
subnet = "10.0.1.0/24"
interface = "bond0"
gateway = "10.0.1.254"
mtu = 9000
[networks.storage]
subnet = "10.0.2.0/24"
interface = "bond0"
vlan = 1
mtu = 9000
[networks.backup]
subnet = "fd00::/64"
interface = "eth3"
[bonds.bond1]
mode = "balance-xor"
members = ["eth5", "eth6"]
[networks.fast]
subnet = "10.0.4.0/24"
interface = "bond1"
[networks.admin]
subnet = "10.0.3.0/24"
interface = "eth4"
vlan = 30
dhcp = { server = "10.0.3.1" }
[machines.server-1]
role = "server"
addresses = { cluster = "10.0.1.1", storage = "10.0.2.1", backup = "fd00::1", admin = "10.0.3.2", fast = "10.0.4.1" }
macs = { eth3 = "00:0D:B9:11:22:33" }
[machines.agent-1]
role = "agent"
addresses = { cluster = "10.0.1.2", storage = "10.0.2.2", backup = "fd00::2", admin = "10.0.3.3", fast = "10.0.4.2" }
[kubernetes]
pod_cidr = "10.42.0.0/16"
service_cidr = "10.43.0.0/16"
api_server = "server-1"
api_port = 443
"#;

fn every_profile() -> Vec<Profile> {
    let mut all: Vec<_> = profiles::names().map(|name| profiles::builtin(name).unwrap()).collect();
    all.push(Profile::parse(RICH, "rich.toml").unwrap_or_else(|error| panic!("{error}")));
    all
}

#[test]
fn guests() {
    for profile in every_profile() {
        for machine in profile.machines() {
            let mut text = String::new();
            for (file, content) in render::networkd(&profile, &machine.name).unwrap() {
                writeln!(text, "==> {file}\n{content}").unwrap();
            }
            for (file, content) in render::udev(&profile, &machine.name).unwrap() {
                writeln!(text, "==> {file}\n{content}").unwrap();
            }
            writeln!(text, "==> k3s\n{}", render::k3s_flags(&profile, &machine.name).unwrap().join("\n"))
                .unwrap();
            insta::assert_snapshot!(format!("{}@{}", profile.name(), machine.name), text);
        }
    }
}

#[test]
fn the_rack() {
    for profile in every_profile() {
        let mut text = format!("==> hosts\n{}\n==> ports\n", render::hosts(&profile));
        let plan = render::switch_ports(&profile);
        for port in plan.ports {
            writeln!(text, "{} {} {:?}", port.name, port.mac, port.mode).unwrap();
        }
        for bundle in plan.bundles {
            writeln!(text, "{bundle:?}").unwrap();
        }
        for scope in render::dhcp_scopes(&profile) {
            writeln!(text, "\n==> dhcp\n{scope:#?}").unwrap();
        }
        insta::assert_snapshot!(format!("{}-rack", profile.name()), text);
    }
}

#[test]
fn a_machine_with_a_wrong_tag_differs_in_nothing_else() {
    let right = profiles::vlans();
    let wrong = right.clone().with_vlan_id("server-3", "cluster", 201).unwrap();
    assert_eq!(wrong.interface("server-3", "cluster").unwrap(), "eth1.201");
    assert_eq!(render::switch_ports(&wrong), render::switch_ports(&right));
    assert_eq!(render::hosts(&wrong), render::hosts(&right));
    assert_eq!(render::networkd(&wrong, "server-1").unwrap(), render::networkd(&right, "server-1").unwrap());
    let text = |profile| {
        let files = render::networkd(profile, "server-3").unwrap();
        files.into_iter().map(|(name, content)| format!("{name}\n{content}")).collect::<String>()
    };
    assert_ne!(text(&wrong), text(&right));
    assert_eq!(text(&wrong).replace("201", "200"), text(&right));
}

/// What the two halves of a cable must agree on.
#[test]
fn the_switch_lets_pass_what_the_guests_send() {
    for profile in every_profile().into_iter().filter(|profile| profile.name() != "vlans-broken") {
        let plan = render::switch_ports(&profile);
        for machine in profile.machines() {
            for attachment in &machine.attachments {
                let network = profile.network(&attachment.network).unwrap();
                let bond = profile.bonds().iter().find(|bond| bond.name == network.interface);
                let nics = bond.map_or(vec![network.interface.clone()], |bond| bond.members.clone());
                for port in plan.ports_of(&machine.name).filter(|port| nics.contains(&port.nic)) {
                    let inside = profile.switch_vlan(&network.name).unwrap();
                    let passes = match (&port.mode, attachment.vlan) {
                        (render::PortMode::Access { vlan }, None) => *vlan == inside,
                        (render::PortMode::Trunk { native, .. }, None) => *native == Some(inside),
                        (render::PortMode::Trunk { allowed, native }, Some(id)) => {
                            id == inside && allowed.contains(&id) && *native != Some(id)
                        }
                        (render::PortMode::Access { .. }, Some(_)) => false,
                    };
                    assert!(passes, "{} of {}: {:?}", network.name, port.name, port.mode);
                }
            }
        }
    }
}
