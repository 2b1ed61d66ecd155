//! A cluster: the servers and agents of a profile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Index;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use driver::{Lab, Machine};
use harness::Testbed;
use profiles::{Profile, Role};

use crate::dhcp::Dhcp;
use crate::rack::{BootMode, Rack};

/// Seconds, for limits: `secs(30)`.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Some servers and agents of a profile, running.
pub struct Cluster {
    profile: Profile,
    lab: Lab,
    dhcp: BTreeMap<String, Dhcp>,
    servers: Vec<String>,
}

impl Cluster {
    /// Starts describing a cluster on a profile.
    pub fn on(profile: Profile) -> ClusterBuilder {
        ClusterBuilder { profile, servers: 0, agents: 0, boot: BootMode::default() }
    }

    /// The lab below.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The profile that it runs on.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The servers, in the order of the profile.
    pub fn servers(&self) -> impl Iterator<Item = &Machine> {
        self.lab.machines().iter().filter(|m| self.servers.iter().any(|s| s == m.name()))
    }

    /// Every ordered pair of machines.
    pub fn pairs(&self) -> impl Iterator<Item = (&Machine, &Machine)> {
        let all = self.lab.machines();
        all.iter().flat_map(move |a| all.iter().filter(|b| b.name() != a.name()).map(move |b| (a, b)))
    }

    /// A machine's address on a network.
    ///
    /// # Errors
    /// When the profile has no such machine or network.
    pub fn ip(&self, machine: &str, network: &str) -> anyhow::Result<IpAddr> {
        Ok(self.profile.address(machine, network)?)
    }

    /// The DHCP server of a network: its leases, and what it is to do wrong.
    ///
    /// # Errors
    /// When the profile has no such network, or one without `dhcp`.
    pub fn dhcp(&self, network: &str) -> anyhow::Result<&Dhcp> {
        let served = || self.dhcp.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.dhcp.get(network).with_context(|| {
            format!(
                "the profile {} has no network {network} with DHCP; with it are: {}",
                self.profile.name(),
                served()
            )
        })
    }

    /// Waits until every machine has booted and has the addresses that the profile gives it.
    ///
    /// # Errors
    /// When one does not get there.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        self.lab.wait_ready().await?;
        let addressed = self.lab.machines().iter().map(|machine| self.wait_addresses(machine));
        futures::future::try_join_all(addressed).await.map(drop)
    }

    async fn wait_addresses(&self, machine: &Machine) -> anyhow::Result<()> {
        let attachments = &self.profile.machine(machine.name())?.attachments;
        let wanted: Vec<String> =
            attachments.iter().map(|a| format!("{}={}", a.interface, a.address)).collect();
        // One program for all of them, the rest is the shell's own: each program costs a second under emulation.
        // Not tentative: usable as a source from now on.
        let check = format!(
            "have=$(ip -o addr show -tentative | \
                while read -r _ dev _ addr _; do printf '%s ' \"${{dev%%@*}}=${{addr%/*}}\"; done); \
             for want in {}; do \
                 case \" $have\" in *\" $want \"*) ;; *) echo \"no $want; there is $have\"; exit 1 ;; esac; \
             done",
            wanted.join(" ")
        );
        machine.wait_until_succeeds(check).within(secs(30)).await?;
        Ok(())
    }

    /// Pings every machine from every other on a network, all at once.
    ///
    /// # Errors
    /// Names the pairs that don't reach each other.
    pub async fn ping_all(&self, network: &str) -> anyhow::Result<()> {
        let pings = self.pairs().map(|(from, to)| async move {
            let address = self.ip(to.name(), network)?;
            // The first echo may wait for ARP on a busy host: three, a second apart, and one must come back.
            let output = from.execute(format!("ping -c3 -i1 -W5 {address}")).within(secs(30)).await?;
            let reached = output.status.success();
            anyhow::Ok((!reached).then(|| format!("{} → {} ({address})", from.name(), to.name())))
        });
        let unreached: Vec<String> =
            futures::future::try_join_all(pings).await?.into_iter().flatten().collect();
        ensure!(unreached.is_empty(), "no answer to ping on {network}: {}", unreached.join(", "));
        Ok(())
    }
}

impl Index<&str> for Cluster {
    type Output = Machine;

    /// A machine by name.
    ///
    /// # Panics
    /// When there is no such machine in the cluster.
    fn index(&self, name: &str) -> &Machine {
        &self.lab[name]
    }
}

/// A cluster about to be launched.
#[must_use = "does nothing until it is launched"]
pub struct ClusterBuilder {
    profile: Profile,
    servers: usize,
    agents: usize,
    boot: BootMode,
}

impl ClusterBuilder {
    /// How many servers, in the order of the profile.
    pub fn servers(mut self, count: usize) -> Self {
        self.servers = count;
        self
    }

    /// How many agents.
    pub fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// How the machines start.
    pub fn boot(mut self, boot: BootMode) -> Self {
        self.boot = boot;
        self
    }

    /// Makes the lab and powers every machine on; [`Cluster::wait_ready`] waits for the boot.
    ///
    /// # Errors
    /// When the profile has fewer machines, or as [`Rack::launch`].
    pub async fn launch(self, t: &Testbed) -> anyhow::Result<Cluster> {
        let servers = self.names(Role::Server, self.servers)?;
        let agents = self.names(Role::Agent, self.agents)?;
        let names: Vec<&str> = servers.iter().chain(&agents).map(String::as_str).collect();
        let rack = Rack::of(self.profile.clone(), &names).boot(self.boot);
        let (lab, dhcp) = rack.launch_with_dhcp(t).await?;
        Ok(Cluster { profile: self.profile, lab, dhcp, servers })
    }

    fn names(&self, role: Role, count: usize) -> anyhow::Result<Vec<String>> {
        let all: Vec<String> = self.profile.machines_of(role).map(|m| m.name.clone()).collect();
        ensure!(
            count <= all.len(),
            "the profile {} has {} machines with the role {role}, and {count} are asked for",
            self.profile.name(),
            all.len()
        );
        Ok(all.into_iter().take(count).collect())
    }
}
