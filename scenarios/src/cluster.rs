//! A cluster: the servers and agents of a profile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use driver::{Lab, Machine};
use harness::Testbed;
use profiles::{Profile, Role};

use crate::dhcp::Dhcp;
use crate::etcd::Etcd;
use crate::fixture;
use crate::rack::{BootMode, Launched, Plan, Rack};

/// Seconds, for limits: `secs(30)`.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What [`ClusterBuilder::formed`] does before it saves; another number when it does something else.
const FORMED: &str = "formed 1";

/// Some servers and agents of a profile, running.
pub struct Cluster {
    profile: Profile,
    lab: Lab,
    dhcp: BTreeMap<String, Dhcp>,
    servers: Vec<String>,
    plan: Arc<Plan>,
    /// How many copies there are of it.
    forked: Arc<AtomicU32>,
}

impl Cluster {
    /// Starts describing a cluster on a profile.
    pub fn on(profile: Profile) -> ClusterBuilder {
        ClusterBuilder { profile, servers: 0, agents: 0, copies: 0, boot: BootMode::default() }
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

    /// Copies of the cluster as it is at this moment, which go on beside it, each with a switch of its own: for different
    /// faults from one state. [`ClusterBuilder::copies`] must have taken the room for them. The machines of a copy are
    /// `copy-1/server-1` in events, and in `copy-1/` among the artefacts.
    ///
    /// # Errors
    /// When there is no room for so many, or as [`Lab::checkpoint`] and [`Lab::resume`].
    pub async fn fork(&self, t: &Testbed, copies: u32) -> anyhow::Result<Vec<Cluster>> {
        let before = self.forked.fetch_add(copies, Ordering::Relaxed);
        ensure!(
            before + copies <= self.plan.copies,
            "room was taken for {} copies of the cluster, and these would be {}: say .copies({1}) where it is launched",
            self.plan.copies,
            before + copies
        );
        let names: Vec<String> =
            (before + 1..=before + copies).map(|number| format!("copy-{number}")).collect();
        let labs = fixture::fork(t, &self.plan, &self.lab, &names).await?;
        let cluster = |Launched { lab, dhcp }| Cluster {
            lab,
            dhcp,
            profile: self.profile.clone(),
            servers: self.servers.clone(),
            plan: self.plan.clone(),
            forked: self.forked.clone(),
        };
        Ok(labs.into_iter().map(cluster).collect())
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
    copies: u32,
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

    /// Takes room on the host for so many copies of the whole cluster besides itself, for [`Cluster::fork`].
    pub fn copies(mut self, copies: u32) -> Self {
        self.copies = copies;
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
        let making = self.plan(t).await?;
        let launched = making.plan.lab(t).await?;
        launched.lab.start().await?;
        Ok(making.cluster(launched))
    }

    /// A cluster that has booted and whose servers have formed an etcd on the network `cluster`, as [`Etcd::form`] does:
    /// out of a checkpoint if there is one for the very same machines, in a second or two. The first test that asks for
    /// it boots and forms it, and leaves a checkpoint for all others; processes wait for each other.
    ///
    /// # Errors
    /// As [`ClusterBuilder::launch`], [`Cluster::wait_ready`] and [`Etcd::form`].
    pub async fn formed(self, t: &Testbed) -> anyhow::Result<Cluster> {
        let making = self.plan(t).await?;
        let form = async |lab: &Lab| {
            let cluster = making.cluster(Launched { lab: lab.clone(), dhcp: BTreeMap::new() });
            cluster.wait_ready().await?;
            Etcd::form(&cluster, profiles::CLUSTER).await.map(drop)
        };
        let launched = fixture::launch(t, &making.plan, FORMED, form).await?;
        Ok(making.cluster(launched))
    }

    async fn plan(self, t: &Testbed) -> anyhow::Result<Making> {
        let servers = self.names(Role::Server, self.servers)?;
        let agents = self.names(Role::Agent, self.agents)?;
        let names: Vec<&str> = servers.iter().chain(&agents).map(String::as_str).collect();
        let rack = Rack::of(self.profile.clone(), &names).boot(self.boot);
        let rack = if self.copies > 0 { rack.copies(self.copies) } else { rack };
        Ok(Making { plan: Arc::new(rack.plan(t).await?), profile: self.profile, servers })
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

/// A cluster whose lab is yet to be.
struct Making {
    plan: Arc<Plan>,
    profile: Profile,
    servers: Vec<String>,
}

impl Making {
    fn cluster(&self, Launched { lab, dhcp }: Launched) -> Cluster {
        let (profile, servers, plan) = (self.profile.clone(), self.servers.clone(), self.plan.clone());
        Cluster { profile, lab, dhcp, servers, plan, forked: Arc::default() }
    }
}
