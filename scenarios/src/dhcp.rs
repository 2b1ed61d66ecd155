//! The lab's DHCP servers, in the words of a profile: networks and machines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use profiles::{Profile, render};
use services::{Clients, DhcpCounters, DhcpScope, DhcpServer, FaultGuard, Host, HostOptions, Lease};
use switch::{Mac, Switch, VlanId};

/// The DHCP server of one network, whose clients go by the names of their machines. Clones are the same server; it runs
/// as long as its lab.
///
/// A fault lasts until it is healed, by its guard or by [`driver::Lab::heal_all`]; dropping the guard leaves it.
///
/// ```no_run
/// use scenarios::prelude::*;
///
/// async fn a_lease_is_lost(t: &mut Testbed) -> Result {
///     let c = Cluster::on(profiles::dhcp_simple()).servers(1).launch(t).await?;
///     c.wait_ready().await?;
///     let dhcp = c.dhcp("cluster")?;
///     let lease = dhcp.lease("server-1")?.context("server-1 has an address, and no lease")?;
///     ensure!(lease.address == c.ip("server-1", "cluster")?);
///
///     // Nobody renews anything until this is healed.
///     let silent = dhcp.ignore("server-1")?;
///     dhcp.expire("server-1")?;
///     c["server-1"].execute("networkctl renew eth1").await?;
///     silent.heal();
///     c.wait_ready().await
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Dhcp {
    network: String,
    server: DhcpServer,
    machines: BTreeMap<String, Mac>,
}

impl Dhcp {
    /// The server below, whose clients go by their MAC addresses: those that the profile does not know too.
    #[must_use]
    pub fn server(&self) -> &DhcpServer {
        &self.server
    }

    /// The MAC address from which a machine asks.
    ///
    /// # Errors
    /// When the profile gives the machine no address on this network.
    pub fn mac(&self, machine: &str) -> anyhow::Result<Mac> {
        let known = || self.machines.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.machines.get(machine).copied().with_context(|| {
            format!("DHCP of {}: there is no machine {machine}; there are: {}", self.network, known())
        })
    }

    /// All leases by MAC address, those that ended too.
    ///
    /// # Errors
    /// When the server no longer runs.
    pub fn leases(&self) -> anyhow::Result<Vec<Lease>> {
        Ok(self.server.leases()?)
    }

    /// A machine's lease, if it has or had one.
    ///
    /// # Errors
    /// When there is no such machine, or the server no longer runs.
    pub fn lease(&self, machine: &str) -> anyhow::Result<Option<Lease>> {
        Ok(self.server.lease(self.mac(machine)?)?)
    }

    /// Ends a machine's lease now. Nothing tells the machine; its next renewal is refused, and it begins anew.
    ///
    /// # Errors
    /// When there is no such machine, it has no lease, or the server no longer runs.
    pub fn expire(&self, machine: &str) -> anyhow::Result<()> {
        Ok(self.server.expire(self.mac(machine)?)?)
    }

    /// Gives leases from now on for another time, in whole seconds.
    ///
    /// # Errors
    /// When it is no time that DHCP can say, or the server no longer runs.
    pub fn set_lease_time(&self, time: Duration) -> anyhow::Result<()> {
        Ok(self.server.set_lease_time(time)?)
    }

    /// Refuses a machine's requests with DHCPNAK until it is healed.
    ///
    /// # Errors
    /// When there is no such machine, or the server no longer runs.
    pub fn refuse(&self, machine: &str) -> anyhow::Result<FaultGuard> {
        Ok(self.server.refuse(Clients::One(self.mac(machine)?))?)
    }

    /// Leaves a machine's messages unanswered until it is healed.
    ///
    /// # Errors
    /// When there is no such machine, or the server no longer runs.
    pub fn ignore(&self, machine: &str) -> anyhow::Result<FaultGuard> {
        Ok(self.server.ignore(Clients::One(self.mac(machine)?))?)
    }

    /// Answers a machine so much later until it is healed.
    ///
    /// # Errors
    /// When there is no such machine, or the server no longer runs.
    pub fn delay(&self, machine: &str, delay: Duration) -> anyhow::Result<FaultGuard> {
        Ok(self.server.delay(Clients::One(self.mac(machine)?), delay)?)
    }

    /// What the server got and gave.
    ///
    /// # Errors
    /// When the server no longer runs.
    pub fn counters(&self) -> anyhow::Result<DhcpCounters> {
        Ok(self.server.counters()?)
    }
}

/// The hosts of this process on a lab's switch, and what a test holds of their services.
#[derive(Default)]
pub(crate) struct LabServices {
    /// They end when they are dropped.
    pub(crate) hosts: Vec<Host>,
    /// By network.
    pub(crate) dhcp: BTreeMap<String, Dhcp>,
}

impl LabServices {
    /// A host for each network of a profile that has DHCP, serving what the profile says.
    pub(crate) fn start(profile: &Profile, switch: &Switch) -> anyhow::Result<LabServices> {
        let mut services = LabServices { hosts: Vec::new(), dhcp: BTreeMap::new() };
        for scope in render::dhcp_scopes(profile) {
            let network = scope.network.clone();
            let (host, dhcp) = serve(scope, switch).with_context(|| format!("DHCP of {network}"))?;
            services.hosts.push(host);
            services.dhcp.insert(network, dhcp);
        }
        Ok(services)
    }
}

fn serve(scope: render::DhcpScope, switch: &Switch) -> anyhow::Result<(Host, Dhcp)> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("DHCP is served over IPv4 only, not to {address}"),
    };
    let mut machines = BTreeMap::new();
    let mut reservations = Vec::new();
    for reservation in scope.reservations {
        let (mac, address) = (reservation.mac.to_string().parse()?, v4(reservation.address)?);
        machines.insert(reservation.machine.clone(), mac);
        reservations.push(services::Reservation { mac, address, hostname: Some(reservation.machine) });
    }
    let served = DhcpScope {
        reservations,
        lease_time: Duration::from_secs(scope.lease_s.into()),
        router: scope.router.map(v4).transpose()?,
        mtu: Some(scope.mtu),
        ..DhcpScope::default()
    };
    let vlan = VlanId::new(scope.vlan).with_context(|| format!("{} is no VLAN id", scope.vlan))?;
    let address = Ipv4Net::new(v4(scope.server)?, scope.prefix_len)?;
    let host = Host::start(switch, HostOptions::new(format!("dhcp/{}", scope.network), vlan, address))?;
    let server = host.serve_dhcp(served)?;
    Ok((host, Dhcp { network: scope.network, server, machines }))
}

#[cfg(test)]
mod tests {
    use switch::SwitchOptions;

    use super::*;

    #[test]
    fn a_profiles_servers_go_by_network_and_machine() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
        let profile = profiles::dhcp_simple();
        let services = LabServices::start(&profile, &switch).unwrap();
        assert_eq!(services.dhcp.keys().collect::<Vec<_>>(), ["cluster"]);
        let dhcp = &services.dhcp["cluster"];
        let mac = dhcp.mac("server-1").unwrap();
        let rendered = render::dhcp_scopes(&profile).remove(0).reservations.remove(0);
        assert_eq!((rendered.machine.as_str(), rendered.mac.to_string()), ("server-1", mac.to_string()));

        assert_eq!(dhcp.lease("server-1").unwrap(), None);
        assert_eq!(dhcp.leases().unwrap(), []);
        let none = dhcp.expire("server-1").unwrap_err().to_string();
        assert!(none.contains(&format!("{mac} has no lease")), "{none}");
        let stranger = dhcp.lease("server-99").unwrap_err().to_string();
        assert!(
            stranger.starts_with("DHCP of cluster: there is no machine server-99; there are: "),
            "{stranger}"
        );
        dhcp.set_lease_time(Duration::from_secs(60)).unwrap();
        dhcp.set_lease_time(Duration::ZERO).unwrap_err();

        drop(services.hosts);
        let gone = dhcp.counters().unwrap_err().to_string();
        assert!(gone.contains("host dhcp/cluster: read the counters: the host does not run"), "{gone}");
    }

    #[test]
    fn faults_are_for_one_machine_until_they_heal() {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::start(SwitchOptions::new("sw", dir.path())).unwrap();
        let services = LabServices::start(&profiles::dhcp_simple(), &switch).unwrap();
        let dhcp = &services.dhcp["cluster"];
        for stranger in [
            dhcp.refuse("nobody").map(drop),
            dhcp.ignore("nobody").map(drop),
            dhcp.delay("nobody", Duration::from_secs(1)).map(drop),
        ] {
            assert!(stranger.unwrap_err().to_string().contains("no machine nobody"));
        }
        let guards = [
            dhcp.refuse("server-1").unwrap(),
            dhcp.ignore("server-1").unwrap(),
            dhcp.delay("server-1", Duration::from_secs(1)).unwrap(),
        ];
        for guard in guards {
            guard.heal();
        }
        assert!(LabServices::start(&profiles::simple(), &switch).unwrap().dhcp.is_empty());
    }
}
