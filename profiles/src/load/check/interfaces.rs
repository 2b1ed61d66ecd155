//! NICs, bonds, and which network is on which of them.

use std::collections::HashMap;

use super::super::draft::{BondModeDraft, Draft, NetworkDraft};
use super::super::reader::{At, Report};
use crate::error::Kind;
use crate::model::MAX_INTERFACE_NAME;

/// Far more than a machine has; it keeps a NIC's place in one byte of its MAC address.
const MAX_NICS: usize = 64;

pub(super) fn check(draft: &Draft, report: &mut Report) {
    let nics = nics(draft, report);
    let taken = bonds(draft, &nics, report);
    networks(draft, &nics, &taken, report);
    unused(draft, &taken, report);
}

/// The names and lengths of NICs and bonds; returns the NICs' names.
fn nics(draft: &Draft, report: &mut Report) -> Vec<String> {
    let Some(nics) = &draft.nics else { return Vec::new() };
    if nics.value.is_empty() {
        report.add(nics, Kind::Missing { expected: "at least one NIC" });
    }
    if nics.value.len() > MAX_NICS {
        let found = format!("a list of {} NICs", nics.value.len());
        report.add(nics, Kind::OutOfRange { found, min: 1, max: MAX_NICS as i64 });
    }
    let mut seen: HashMap<&str, &At<String>> = HashMap::new();
    for name in nics.value.iter().chain(draft.bonds.iter().map(|bond| &bond.name)) {
        if !is_interface(&name.value) {
            report.add(name, Kind::BadInterfaceName { found: name.value.clone() });
        } else if name.value.len() > MAX_INTERFACE_NAME {
            report.add(name, Kind::InterfaceNameTooLong { name: name.value.clone() });
        }
        if let Some(first) = seen.get(name.value.as_str()) {
            report.add(name, duplicate(&name.value, first));
        } else {
            seen.insert(&name.value, name);
        }
    }
    nics.value.iter().map(|nic| nic.value.clone()).collect()
}

/// Bonds and their members; returns each member's bond.
fn bonds(draft: &Draft, nics: &[String], report: &mut Report) -> HashMap<String, At<String>> {
    let mut taken: HashMap<String, At<String>> = HashMap::new();
    for bond in &draft.bonds {
        let Some(members) = &bond.members else { continue };
        if members.value.len() < 2 {
            report.add(members, Kind::BondTooSmall { members: members.value.len() });
        }
        for member in &members.value {
            if !nics.contains(&member.value) {
                report.add(
                    member,
                    Kind::UnknownInterface { found: member.value.clone(), known: nics.to_vec() },
                );
            } else if let Some(first) = taken.get(&member.value) {
                report.add(member, duplicate(&member.value, first));
            } else {
                taken.insert(member.value.clone(), member.with(bond.name.value.clone()));
            }
        }
        if let Some(BondModeDraft::ActiveBackup(Some(primary))) = &bond.mode {
            let known: Vec<_> = members.value.iter().map(|member| member.value.clone()).collect();
            if !known.contains(&primary.value) {
                report.add(primary, Kind::UnknownInterface { found: primary.value.clone(), known });
            }
        }
    }
    taken
}

fn networks(draft: &Draft, nics: &[String], taken: &HashMap<String, At<String>>, report: &mut Report) {
    let bonds = draft.bonds.iter().map(|bond| bond.name.value.clone());
    let known: Vec<_> = nics.iter().cloned().chain(bonds).collect();
    let mut untagged: HashMap<&str, (&NetworkDraft, &At<String>)> = HashMap::new();
    for network in &draft.networks {
        let Some(interface) = &network.interface else { continue };
        if let Some(bond) = taken.get(&interface.value) {
            report
                .add(interface, Kind::BondMember { nic: interface.value.clone(), bond: bond.value.clone() });
        } else if !known.contains(&interface.value) {
            report.add(
                interface,
                Kind::UnknownInterface { found: interface.value.clone(), known: known.clone() },
            );
        }
        if network.tagged {
            continue;
        }
        if let Some((_, first)) = untagged.get(interface.value.as_str()) {
            report.add(interface, duplicate(&interface.value, first));
        } else {
            untagged.insert(&interface.value, (network, interface));
        }
    }
    for tagged in draft.networks.iter().filter(|network| network.tagged) {
        let Some(interface) = &tagged.interface else { continue };
        let Some((below, _)) = untagged.get(interface.value.as_str()) else { continue };
        if tagged.mtu.value > below.mtu.value {
            let kind = Kind::UntaggedMtu { network: tagged.name.value.clone(), larger: tagged.mtu.value };
            report.add(&below.mtu, kind);
        }
    }
}

fn unused(draft: &Draft, taken: &HashMap<String, At<String>>, report: &mut Report) {
    let nics = draft.nics.iter().flat_map(|nics| &nics.value);
    for name in nics.chain(draft.bonds.iter().map(|bond| &bond.name)) {
        let carries =
            draft.networks.iter().any(|n| n.interface.as_ref().is_some_and(|i| i.value == name.value));
        if !carries && !taken.contains_key(&name.value) {
            report.add(name, Kind::UnusedInterface { name: name.value.clone() });
        }
    }
}

fn duplicate(name: &str, first: &At<impl Sized>) -> Kind {
    Kind::DuplicateInterface { name: name.to_owned(), other: first.key.clone(), line: first.line }
}

/// Narrower than the kernel and systemd: a dot is kept for VLANs, and names that mean something else are refused.
fn is_interface(name: &str) -> bool {
    name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && !["lo", "all", "default"].contains(&name)
}
