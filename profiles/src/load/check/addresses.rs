//! Subnets, addresses and MAC addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::draft::{Draft, MachineDraft, NetworkDraft};
use super::super::reader::{At, Report};
use crate::error::Kind;
use crate::mac::MacAddr;
use crate::model::CLUSTER;

pub(super) fn check(draft: &Draft, report: &mut Report) {
    overlaps(draft, report);
    let mut taken = Taken::default();
    services(draft, &mut taken, report);
    for machine in &draft.machines {
        machine_addresses(draft, machine, &mut taken, report);
    }
    macs(draft, report);
}

/// Addresses that are somebody's, with whose.
#[derive(Default)]
struct Taken(HashMap<IpAddr, At<()>>);

impl Taken {
    fn take(&mut self, address: &At<IpAddr>, report: &mut Report) {
        if let Some(first) = self.0.get(&address.value) {
            let kind =
                Kind::DuplicateAddress { address: address.value, other: first.key.clone(), line: first.line };
            report.add(address, kind);
        } else {
            self.0.insert(address.value, address.with(()));
        }
    }
}

fn overlaps(draft: &Draft, report: &mut Report) {
    let networks = draft.networks.iter().filter_map(|network| network.subnet.as_ref());
    let kubernetes = draft.kubernetes.iter().flat_map(|k| k.pod_cidr.iter().chain(&k.service_cidr));
    let mut seen: Vec<&At<IpNet>> = Vec::new();
    let mut subnets: Vec<_> = networks.chain(kubernetes).collect();
    subnets.sort_by_key(|subnet| subnet.line);
    for subnet in subnets {
        let meets =
            |other: &&&At<IpNet>| other.value.contains(&subnet.value) || subnet.value.contains(&other.value);
        if let Some(other) = seen.iter().find(meets) {
            let kind = Kind::OverlappingSubnets {
                subnet: subnet.value,
                other: other.value,
                key: other.key.clone(),
                line: other.line,
            };
            report.add(subnet, kind);
        }
        seen.push(subnet);
    }
}

/// Gateways and DHCP servers; a gateway may serve DHCP as well.
fn services(draft: &Draft, taken: &mut Taken, report: &mut Report) {
    let mut has_gateway = false;
    for network in &draft.networks {
        if let Some(gateway) = &network.gateway {
            fits(gateway, network, report);
            taken.take(gateway, report);
            if has_gateway {
                let reason = "another network has a gateway already; expected one default route in a profile";
                report.add(gateway, Kind::NotHere { reason: reason.into() });
            }
            has_gateway = true;
        }
        let Some(dhcp) = &network.dhcp else { continue };
        if network.subnet.as_ref().is_some_and(|subnet| matches!(subnet.value, IpNet::V6(_))) {
            let reason = "DHCP serves IPv4 only; expected no dhcp in an IPv6 network";
            report.add(&dhcp.at, Kind::NotHere { reason: reason.into() });
        }
        let Some(server) = &dhcp.server else { continue };
        fits(server, network, report);
        if network.gateway.as_ref().is_none_or(|gateway| gateway.value != server.value) {
            taken.take(server, report);
        }
    }
}

fn machine_addresses(draft: &Draft, machine: &MachineDraft, taken: &mut Taken, report: &mut Report) {
    let Some(addresses) = &machine.addresses else { return };
    for entry in &addresses.value {
        let Some(network) = draft.networks.iter().find(|network| network.name.value == entry.name.value)
        else {
            let known = draft.networks.iter().map(|network| network.name.value.clone()).collect();
            report.add(&entry.name, Kind::UnknownNetwork { found: entry.name.value.clone(), known });
            continue;
        };
        if let Some(address) = entry.value {
            let address = entry.name.with(address);
            fits(&address, network, report);
            taken.take(&address, report);
        }
    }
    for network in &draft.networks {
        if !addresses.value.iter().any(|entry| entry.name.value == network.name.value) {
            report.add(addresses, Kind::MissingAddress { network: network.name.value.clone() });
        }
    }
}

fn fits(address: &At<IpAddr>, network: &NetworkDraft, report: &mut Report) {
    let Some(subnet) = network.subnet.as_ref().map(|subnet| subnet.value) else { return };
    if !subnet.contains(&address.value) {
        let network = network.name.value.clone();
        report.add(address, Kind::AddressOutsideSubnet { address: address.value, network, subnet });
        return;
    }
    // A /31 or /32, and their like in IPv6, have no such addresses (RFC 3021, RFC 6164).
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return;
    }
    let what = match subnet {
        _ if address.value == subnet.network() => "network",
        IpNet::V4(v4) if address.value == v4.broadcast() => "broadcast",
        _ => return,
    };
    report.add(address, Kind::AddressReserved { address: address.value, what, subnet });
}

fn macs(draft: &Draft, report: &mut Report) {
    let Some(nics) = &draft.nics else { return };
    let mut taken: HashMap<MacAddr, (String, Option<IpAddr>)> = HashMap::new();
    for machine in &draft.machines {
        for entry in &machine.macs {
            if !nics.value.iter().any(|nic| nic.value == entry.name.value) {
                let known = nics.value.iter().map(|nic| nic.value.clone()).collect();
                report.add(&entry.name, Kind::UnknownInterface { found: entry.name.value.clone(), known });
            }
        }
        for (place, nic) in nics.value.iter().enumerate() {
            let own = machine.macs.iter().find(|entry| entry.name.value == nic.value);
            let Some(mac) = mac_of(machine, &nic.value, place) else { continue };
            let derived_from = if own.is_none() { cluster_address(machine) } else { None };
            match taken.get(&mac) {
                // One address on two machines has been reported, and is the cause.
                Some((_, other)) if derived_from.is_some() && *other == derived_from => {}
                Some((other, _)) => {
                    let at = own.map_or(&machine.name, |entry| &entry.name);
                    report.add(at, Kind::DuplicateMac { mac, other: other.clone() });
                }
                None => {
                    let whose = format!("{} on {}", nic.value, machine.name.value);
                    taken.insert(mac, (whose, derived_from));
                }
            }
        }
    }
}

/// The MAC address of a machine's NIC, given or derived; none while the text it comes from is bad.
pub(in crate::load) fn mac_of(machine: &MachineDraft, nic: &str, place: usize) -> Option<MacAddr> {
    if let Some(own) = machine.macs.iter().find(|entry| entry.name.value == nic) {
        return own.value;
    }
    Some(MacAddr::derived(cluster_address(machine)?, u8::try_from(place + 1).ok()?))
}

fn cluster_address(machine: &MachineDraft) -> Option<IpAddr> {
    machine.addresses.as_ref()?.value.iter().find(|entry| entry.name.value == CLUSTER)?.value
}
