//! What a DHCP server must hand out.

use std::net::IpAddr;

use serde::Serialize;

use super::switch::switch_vlan;
use crate::mac::MacAddr;
use crate::model::Profile;

/// The DHCP service of one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DhcpScope {
    /// The network's name.
    pub network: String,
    /// The VLAN on the switch that its frames belong to, also where the guests send them untagged.
    pub vlan: u16,
    /// The server's own address.
    pub server: IpAddr,
    /// The length of the subnet's prefix in bits.
    pub prefix_len: u8,
    /// The default route's router.
    pub router: Option<IpAddr>,
    /// The MTU in bytes.
    pub mtu: u16,
    /// The lease time in seconds.
    pub lease_s: u32,
    /// Who gets which address; nobody else gets one.
    pub reservations: Vec<Reservation>,
}

/// One machine's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reservation {
    /// The address its requests come from, a bond's being that of its first member.
    pub mac: MacAddr,
    /// The address it gets.
    pub address: IpAddr,
    /// Its host name.
    pub machine: String,
}

/// The DHCP service of each network that has one. A machine that tags with another VLAN id is in it all the same: it
/// is the network that must keep it away.
pub fn dhcp_scopes(profile: &Profile) -> Vec<DhcpScope> {
    let scope = |network: &crate::model::Network| {
        let dhcp = network.dhcp.as_ref()?;
        let reservation = |machine: &crate::model::Machine| {
            Some(Reservation {
                mac: profile.carrier_mac(machine, &network.interface),
                address: machine.attachment(&network.name)?.address,
                machine: machine.name.clone(),
            })
        };
        Some(DhcpScope {
            network: network.name.clone(),
            vlan: switch_vlan(profile, network),
            server: dhcp.server,
            prefix_len: network.subnet.prefix_len(),
            router: network.gateway,
            mtu: network.mtu,
            lease_s: dhcp.lease_s,
            reservations: profile.machines().iter().filter_map(reservation).collect(),
        })
    };
    profile.networks().iter().filter_map(scope).collect()
}
