//! systemd-networkd's files (systemd.link(5), systemd.netdev(5), systemd.network(5)), for systemd 249 and later.

use crate::error::Error;
use crate::model::{Attachment, Bond, BondMode, LacpRate, Machine, Network, Nic, Profile};

/// Sorts before what images bring (`10-…`, `80-…`): the first file that matches an interface is the one that counts.
const PREFIX: &str = "05-rackless-";

/// The files for `/etc/systemd/network` of a machine, as names and contents, sorted by name.
///
/// NICs are matched by their burnt-in MAC address and type, not by name or current address: names come late when udev
/// renames, and a bond and VLANs share the MAC address of a NIC.
///
/// # Errors
/// [`Error::UnknownMachine`].
pub fn networkd(profile: &Profile, machine: &str) -> Result<Vec<(String, String)>, Error> {
    let guest = Guest { profile, machine: profile.machine(machine)? };
    let mut files = Vec::new();
    for nic in &guest.machine.nics {
        files.push(guest.file(&nic.name, "link", guest.link(nic)));
        files.push(guest.file(&nic.name, "network", guest.nic(nic)));
    }
    for bond in profile.bonds() {
        files.push(guest.file(&bond.name, "netdev", guest.bond_device(bond)));
        files.push(guest.file(&bond.name, "network", guest.bond(bond)));
    }
    for network in profile.networks() {
        let attachment = profile.attachment(machine, &network.name)?;
        if let Some(id) = attachment.vlan {
            let name = &attachment.interface;
            let device = Ini::new().section("NetDev").set("Name", name).set("Kind", "vlan").section("VLAN");
            files.push(guest.file(name, "netdev", device.set("Id", id)));
            let ini = Ini::new().section("Match").set("Name", name);
            let ini = guest.link_section(ini, network.mtu, Online::Routable).section("Network");
            files.push(guest.file(name, "network", addressed(ini, network, attachment)));
        }
    }
    files.sort();
    Ok(files)
}

struct Guest<'p> {
    profile: &'p Profile,
    machine: &'p Machine,
}

/// When `systemd-networkd-wait-online` is content with an interface (`RequiredForOnline=`).
#[derive(Clone, Copy)]
enum Online {
    /// It has its address.
    Routable,
    /// It has a link; the VLANs on it have the addresses.
    Carrier,
    /// A bond that has at least one link, and an address if `addressed`. With one link of two it is never "routable".
    Degraded { addressed: bool },
    /// Never waited for: a bond is there to live without one of its members.
    No,
}

impl Guest<'_> {
    fn file(&self, interface: &str, kind: &str, ini: Ini) -> (String, String) {
        let head =
            format!("# Rendered from the network profile {} for {}.\n", self.profile.name, self.machine.name);
        (format!("{PREFIX}{interface}.{kind}"), head + &ini.0)
    }

    fn link(&self, nic: &Nic) -> Ini {
        let ini = match_nic(nic).section("Link").set("NamePolicy", "").set("Name", &nic.name);
        ini.set("MTUBytes", self.mtu(self.bond_of(nic).map_or(&nic.name, |bond| &bond.name)))
    }

    fn nic(&self, nic: &Nic) -> Ini {
        let Some(bond) = self.bond_of(nic) else { return self.carrier(match_nic(nic), &nic.name, None) };
        let ini = self.link_section(match_nic(nic), self.mtu(&bond.name), Online::No);
        let ini = quiet(ini.section("Network").set("Bond", &bond.name).set("LLDP", "yes"));
        match &bond.mode {
            BondMode::ActiveBackup { primary: Some(primary) } if *primary == nic.name => {
                ini.set("PrimarySlave", "yes")
            }
            _ => ini,
        }
    }

    fn bond_device(&self, bond: &Bond) -> Ini {
        let mac = self.profile.carrier_mac(self.machine, &bond.name);
        let ini =
            Ini::new().section("NetDev").set("Name", &bond.name).set("Kind", "bond").set("MACAddress", mac);
        let ini = ini.section("Bond");
        let ini = ini.set("Mode", bond.mode.name());
        let ini = match bond.mode {
            BondMode::Lacp { rate } => {
                let rate = if rate == LacpRate::Fast { "fast" } else { "slow" };
                ini.set("LACPTransmitRate", rate).set("TransmitHashPolicy", "layer3+4")
            }
            BondMode::BalanceXor => ini.set("TransmitHashPolicy", "layer3+4"),
            BondMode::ActiveBackup { .. } | BondMode::BalanceRr | BondMode::BalanceAlb => ini,
        };
        ini.set("MIIMonitorSec", format_args!("{}ms", bond.miimon_ms))
    }

    fn bond(&self, bond: &Bond) -> Ini {
        self.carrier(Ini::new().section("Match").set("Name", &bond.name), &bond.name, Some(bond))
    }

    /// A NIC or bond that carries networks itself.
    fn carrier(&self, ini: Ini, name: &str, bond: Option<&Bond>) -> Ini {
        let networks = || self.profile.networks().iter().filter(|network| network.interface == name);
        let untagged = networks().find(|network| network.vlan.is_none());
        let online = match (bond, untagged) {
            (Some(_), untagged) => Online::Degraded { addressed: untagged.is_some() },
            (None, Some(_)) => Online::Routable,
            (None, None) => Online::Carrier,
        };
        let mut ini = self.link_section(ini, self.mtu(name), online).section("Network");
        if bond.is_none() {
            // `networkctl lldp` tells where the NIC is plugged in. The default is to listen to routers only.
            ini = ini.set("LLDP", "yes");
        }
        for attachment in networks().filter_map(|network| self.machine.attachment(&network.name)) {
            if attachment.vlan.is_some() {
                ini = ini.set("VLAN", &attachment.interface);
            }
        }
        match untagged.and_then(|network| Some((network, self.machine.attachment(&network.name)?))) {
            Some((network, attachment)) => addressed(ini, network, attachment),
            None => quiet(ini),
        }
    }

    fn link_section(&self, ini: Ini, mtu: u16, online: Online) -> Ini {
        let ini = ini.section("Link").set("MTUBytes", mtu);
        match online {
            Online::Routable => ini.set("RequiredForOnline", "routable"),
            Online::Carrier => ini.set("RequiredForOnline", "carrier"),
            Online::Degraded { addressed: false } => ini.set("RequiredForOnline", "degraded-carrier"),
            Online::Degraded { addressed: true } => {
                ini.set("RequiredForOnline", "degraded-carrier").set("RequiredFamilyForOnline", "any")
            }
            Online::No => ini.set("RequiredForOnline", "no"),
        }
    }

    fn bond_of(&self, nic: &Nic) -> Option<&Bond> {
        self.profile.bonds.iter().find(|bond| bond.members.contains(&nic.name))
    }

    /// The MTU of a NIC or bond: enough for every network on it.
    fn mtu(&self, name: &str) -> u16 {
        let networks = self.profile.networks.iter().filter(|network| network.interface == name);
        networks.map(|network| network.mtu).max().unwrap_or(1500)
    }
}

fn match_nic(nic: &Nic) -> Ini {
    Ini::new().section("Match").set("PermanentMACAddress", nic.mac).set("Type", "ether")
}

/// Takes part in nothing that the profile does not say.
fn quiet(ini: Ini) -> Ini {
    ini.set("DHCP", "no").set("LinkLocalAddressing", "no").set("IPv6AcceptRA", "no")
}

/// The machine's address in a network, for a `[Network]` section and what follows it.
fn addressed(ini: Ini, network: &Network, attachment: &Attachment) -> Ini {
    if network.dhcp.is_some() {
        let ini = ini.set("DHCP", "ipv4").set("LinkLocalAddressing", "no").set("IPv6AcceptRA", "no");
        // A reservation knows the MAC address only, and the profile's names stay whatever the server says.
        let ini = ini.section("DHCPv4").set("ClientIdentifier", "mac").set("UseHostname", "no");
        return ini.set("UseDNS", "no").set("UseNTP", "no");
    }
    // Without a link-local address there is no neighbour discovery, so IPv6 must have one.
    let link_local = if attachment.address.is_ipv6() { "ipv6" } else { "no" };
    let ini = ini.set("DHCP", "no").set("LinkLocalAddressing", link_local).set("IPv6AcceptRA", "no");
    let ini = ini.set("Address", format_args!("{}/{}", attachment.address, network.subnet.prefix_len()));
    match network.gateway {
        Some(gateway) => ini.set("Gateway", gateway),
        None => ini,
    }
}

/// A file of sections and settings, as systemd reads them.
struct Ini(String);

impl Ini {
    fn new() -> Self {
        Self(String::new())
    }

    fn section(self, name: &str) -> Self {
        Self(format!("{}\n[{name}]\n", self.0))
    }

    fn set(self, key: &str, value: impl std::fmt::Display) -> Self {
        Self(format!("{}{key}={value}\n", self.0))
    }
}
