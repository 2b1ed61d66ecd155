//! Compares what was read with the rest of the profile. Each pass reports all it finds.

pub(super) mod addresses;
mod interfaces;
mod vlans;

use std::collections::HashMap;

use super::draft::{Draft, KubernetesDraft};
use super::reader::{At, Report};
use crate::error::Kind;
use crate::model::{CLUSTER, Role};

pub(super) fn all(draft: &Draft, report: &mut Report) {
    names(draft, report);
    interfaces::check(draft, report);
    vlans::check(draft, report);
    addresses::check(draft, report);
    if let Some(kubernetes) = &draft.kubernetes {
        api_server(draft, kubernetes, report);
    }
}

fn names(draft: &Draft, report: &mut Report) {
    let networks = draft.networks.iter().map(|network| &network.name);
    let machines = draft.machines.iter().map(|machine| &machine.name);
    for name in draft.name.iter().chain(networks.clone()).chain(machines.clone()) {
        if !is_name(&name.value) {
            report.add(name, Kind::BadName { found: name.value.clone() });
        }
    }
    if !draft.networks.is_empty() && !networks.clone().any(|name| name.value == CLUSTER) {
        let expected = "the network that gives machines their names, MAC addresses and node addresses";
        report.add_at(draft.networks[0].name.line, format!("networks.{CLUSTER}"), Kind::Missing { expected });
    }

    // The names that /etc/hosts gets.
    let mut taken = HashMap::from([("localhost".to_owned(), "the machine itself".to_owned())]);
    let mut take = |name: String, whose: String, at: &At<String>| {
        if let Some(other) = taken.get(&name) {
            report.add(at, Kind::DuplicateHostName { name, other: other.clone() });
        } else {
            taken.insert(name, whose);
        }
    };
    for machine in machines.clone() {
        take(machine.value.clone(), format!("machine {}", machine.value), machine);
    }
    for machine in machines {
        for network in networks.clone() {
            let whose = format!("machine {} in network {}", machine.value, network.value);
            take(format!("{}-{}", machine.value, network.value), whose, machine);
        }
    }
}

/// Whether a name can be a profile's, a network's or a machine's, and so a part of a host name: lower-case letters,
/// digits and single hyphens, beginning with a letter, at most 31 bytes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = (1..=31).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase();
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    fits && plain && !name.ends_with('-') && !name.contains("--")
}

fn api_server(draft: &Draft, kubernetes: &KubernetesDraft, report: &mut Report) {
    let Some(wanted) = &kubernetes.api_server else { return };
    if draft.machines.is_empty() {
        return;
    }
    match draft.machines.iter().find(|machine| machine.name.value == wanted.value) {
        None => {
            let known = draft.machines.iter().map(|machine| machine.name.value.clone()).collect();
            report.add(wanted, Kind::UnknownMachine { found: wanted.value.clone(), known });
        }
        Some(machine) if machine.role.as_ref().is_some_and(|role| role.value == Role::Agent) => {
            report.add(wanted, Kind::NotAServer { machine: wanted.value.clone() });
        }
        Some(_) => {}
    }
}
