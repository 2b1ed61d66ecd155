//! VLAN ids: one for each network, and the machines' own ones.

use super::super::draft::{Draft, MachineDraft, NetworkDraft};
use super::super::reader::Report;
use crate::error::Kind;
use crate::model::{MAX_INTERFACE_NAME, vlan_interface};

/// More than a rack has; it leaves the switch ids for the untagged networks.
const MAX_NETWORKS: usize = 64;

pub(super) fn check(draft: &Draft, report: &mut Report) {
    if draft.networks.len() > MAX_NETWORKS {
        let found = format!("a table of {} networks", draft.networks.len());
        let at = draft.networks[MAX_NETWORKS].name.line;
        report.add_at(
            at,
            "networks".to_owned(),
            Kind::OutOfRange { found, min: 1, max: MAX_NETWORKS as i64 },
        );
    }
    for (index, network) in draft.networks.iter().enumerate() {
        let Some(vlan) = &network.vlan else { continue };
        let same = |other: &&NetworkDraft| other.vlan.as_ref().is_some_and(|o| o.value == vlan.value);
        if let Some(other) = draft.networks[..index].iter().find(same) {
            report.add(vlan, Kind::DuplicateVlanId { id: vlan.value, other: other.name.value.clone() });
        }
        if let Some(kind) = too_long(network, vlan.value) {
            report.add(vlan, kind);
        }
    }
    for machine in &draft.machines {
        overrides(draft, machine, report);
    }
}

fn overrides(draft: &Draft, machine: &MachineDraft, report: &mut Report) {
    let own = |name: &str| machine.vlans.iter().find(|entry| entry.name.value == name);
    for (index, entry) in machine.vlans.iter().enumerate() {
        let name = &entry.name;
        let Some(network) = draft.networks.iter().find(|network| network.name.value == name.value) else {
            let known = draft.networks.iter().map(|network| network.name.value.clone()).collect();
            report.add(name, Kind::UnknownNetwork { found: name.value.clone(), known });
            continue;
        };
        if !network.tagged {
            report.add(name, Kind::Untagged { network: name.value.clone() });
            continue;
        }
        let Some(id) = entry.value else { continue };
        if let Some(kind) = too_long(network, id) {
            report.add(name, kind);
        }
        // Of two overrides that clash only the later one is told.
        let clashes = |other: &&NetworkDraft| match own(&other.name.value) {
            Some(o) => {
                o.value == Some(id) && machine.vlans[..index].iter().any(|e| e.name.value == o.name.value)
            }
            None => {
                other.name.value != name.value && other.vlan.as_ref().is_some_and(|vlan| vlan.value == id)
            }
        };
        if let Some(other) = draft.networks.iter().find(clashes) {
            report.add(name, Kind::DuplicateVlanId { id, other: other.name.value.clone() });
        }
    }
}

/// A VLAN's name that is too long although its parent's is not.
fn too_long(network: &NetworkDraft, id: u16) -> Option<Kind> {
    let carrier = network.interface.as_ref().filter(|carrier| carrier.value.len() <= MAX_INTERFACE_NAME)?;
    let name = vlan_interface(&carrier.value, id);
    (name.len() > MAX_INTERFACE_NAME).then_some(Kind::InterfaceNameTooLong { name })
}
