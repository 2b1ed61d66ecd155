//! Makes the profile of a draft that has been checked.

use super::check::addresses::mac_of;
use super::draft::{BondDraft, BondModeDraft, Draft, KubernetesDraft, MachineDraft, NetworkDraft};
use crate::model::{
    Attachment, Bond, BondMode, Dhcp, Kubernetes, Machine, Network, Nic, Profile, vlan_interface,
};

/// The profile, or none when the draft lacks something that a check has reported.
pub(super) fn profile(draft: Draft) -> Option<Profile> {
    let nics: Vec<String> = draft.nics?.value.into_iter().map(|nic| nic.value).collect();
    let networks: Vec<Network> = draft.networks.into_iter().map(network).collect::<Option<_>>()?;
    let machines =
        draft.machines.into_iter().map(|draft| machine(&draft, &nics, &networks)).collect::<Option<_>>()?;
    Some(Profile {
        name: draft.name?.value,
        description: draft.description,
        bonds: draft.bonds.into_iter().map(bond).collect::<Option<_>>()?,
        kubernetes: kubernetes(draft.kubernetes?)?,
        nics,
        networks,
        machines,
    })
}

fn bond(draft: BondDraft) -> Option<Bond> {
    Some(Bond {
        name: draft.name.value,
        members: draft.members?.value.into_iter().map(|member| member.value).collect(),
        mode: match draft.mode? {
            BondModeDraft::Lacp(rate) => BondMode::Lacp { rate },
            BondModeDraft::ActiveBackup(primary) => {
                BondMode::ActiveBackup { primary: primary.map(|primary| primary.value) }
            }
            BondModeDraft::BalanceRr => BondMode::BalanceRr,
            BondModeDraft::BalanceXor => BondMode::BalanceXor,
            BondModeDraft::BalanceAlb => BondMode::BalanceAlb,
        },
        miimon_ms: draft.miimon_ms,
    })
}

fn network(draft: NetworkDraft) -> Option<Network> {
    let dhcp = match draft.dhcp {
        Some(dhcp) => Some(Dhcp { server: dhcp.server?.value, lease_s: dhcp.lease_s }),
        None => None,
    };
    Some(Network {
        name: draft.name.value,
        subnet: draft.subnet?.value,
        vlan: draft.vlan.map(|vlan| vlan.value),
        interface: draft.interface?.value,
        mtu: draft.mtu.value,
        gateway: draft.gateway.map(|gateway| gateway.value),
        dhcp,
    })
}

fn machine(draft: &MachineDraft, nics: &[String], networks: &[Network]) -> Option<Machine> {
    let nic =
        |(place, name): (usize, &String)| Some(Nic { name: name.clone(), mac: mac_of(draft, name, place)? });
    let attachment = |network: &Network| {
        let addresses = &draft.addresses.as_ref()?.value;
        let own = draft.vlans.iter().find(|entry| entry.name.value == network.name);
        let vlan = own.map_or(network.vlan, |entry| entry.value);
        Some(Attachment {
            network: network.name.clone(),
            address: addresses.iter().find(|entry| entry.name.value == network.name)?.value?,
            vlan,
            interface: vlan
                .map_or_else(|| network.interface.clone(), |id| vlan_interface(&network.interface, id)),
        })
    };
    Some(Machine {
        name: draft.name.value.clone(),
        role: draft.role.as_ref()?.value,
        nics: nics.iter().enumerate().map(nic).collect::<Option<_>>()?,
        attachments: networks.iter().map(attachment).collect::<Option<_>>()?,
    })
}

fn kubernetes(draft: KubernetesDraft) -> Option<Kubernetes> {
    Some(Kubernetes {
        pod_cidr: draft.pod_cidr?.value,
        service_cidr: draft.service_cidr?.value,
        api_server: draft.api_server?.value,
        api_port: draft.api_port,
    })
}
