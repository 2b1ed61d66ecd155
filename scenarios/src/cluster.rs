//! A cluster: the servers and agents of a profile.

use std::net::IpAddr;
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use driver::board::Board;
use driver::checkpoint::Checkpoint;
use driver::{After, Machine};
use harness::Testbed;
use profiles::{Profile, Role};

use crate::dhcp::Dhcp;
use crate::etcd::Etcd;
use crate::fixture;
use crate::launched::Launched;
use crate::plan::Plan;
use crate::rack::{BootMode, Rack};
use crate::way::Way;

/// Seconds, for limits: `secs(30)`.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What [`Cluster::form`] does before it saves; another number when it does something else.
const FORMED: &str = "formed 2";

/// Some servers and agents of a profile, running.
pub struct Cluster {
    profile: Profile,
    lab: Launched,
    servers: Vec<String>,
}

impl Cluster {
    /// Starts describing a cluster on a profile.
    pub fn on(profile: Profile) -> ClusterBuilder {
        ClusterBuilder {
            profile,
            servers: 0,
            agents: 0,
            copies: 0,
            checkpoints: false,
            data_disks: Vec::new(),
            whole_capture: false,
            boot: BootMode::default(),
            way: Way::default(),
            memory_mib: None,
            vcpus: None,
            after: Vec::new(),
            boards: Vec::new(),
        }
    }

    /// The lab below.
    #[must_use]
    pub fn lab(&self) -> &Launched {
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
        self.lab.dhcp(network)
    }

    /// Copies of the cluster as it is at this moment: [`Launched::fork`].
    ///
    /// # Errors
    /// As there.
    pub async fn fork(&self, t: &Testbed, copies: u32) -> anyhow::Result<Vec<Cluster>> {
        let labs = self.lab.fork(t, copies).await?;
        let cluster = |lab| Cluster { lab, profile: self.profile.clone(), servers: self.servers.clone() };
        Ok(labs.into_iter().map(cluster).collect())
    }

    /// Ends the cluster before the test does: [`Launched::end`].
    ///
    /// # Errors
    /// As there.
    pub async fn end(self, t: &Testbed) -> anyhow::Result<()> {
        self.lab.end(t).await
    }

    /// Waits for the boot and forms what [`ClusterBuilder::formed`] gives: an etcd of the servers, with one key.
    ///
    /// # Errors
    /// As [`Cluster::wait_ready`] and [`Etcd::form`].
    pub async fn form(&self) -> anyhow::Result<()> {
        self.wait_ready().await?;
        let etcd = Etcd::form(self, profiles::CLUSTER).await?;
        let Some(first) = self.servers().next() else { return Ok(()) };
        etcd.wait_put(first.name(), FormedCluster::KEY, FORMED).await
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
            // Again and again, for ping ends at the first ICMP error, and its own host sends one when ARP had no answer for 3 s.
            let answered = from.wait_until_succeeds(format!("ping -c1 -W2 {address}")).within(secs(10)).await;
            match answered {
                Err(driver::Error::Condition { .. }) => {
                    anyhow::Ok(Some(format!("{} → {} ({address})", from.name(), to.name())))
                }
                other => Ok(other.map(|_| None)?),
            }
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
    checkpoints: bool,
    data_disks: Vec<(String, u32)>,
    whole_capture: bool,
    boot: BootMode,
    way: Way,
    memory_mib: Option<u32>,
    vcpus: Option<u32>,
    after: Vec<(String, After)>,
    boards: Vec<(String, Board)>,
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

    /// Gives each machine an empty disk of `mib` MiB besides its system disk: [`Rack::data_disk`].
    pub fn data_disk(mut self, name: &str, mib: u32) -> Self {
        self.data_disks.push((name.to_owned(), mib));
        self
    }

    /// Leaves all frames that cross among the artefacts, as [`Rack::whole_capture`].
    pub fn whole_capture(mut self) -> Self {
        self.whole_capture = true;
        self
    }

    /// How the machines start.
    pub fn boot(mut self, boot: BootMode) -> Self {
        self.boot = boot;
        self
    }

    /// Memory of each machine in MiB, instead of what [`Rack`] gives it.
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = Some(memory);
        self
    }

    /// Virtual CPUs of each machine, instead of what [`Rack`] gives it.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = Some(vcpus);
        self
    }

    /// How the machines are started, and how commands get into them.
    pub fn way(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    /// Starts a machine after something on another one: see [`Rack::after`].
    pub fn after(mut self, machine: &str, what: impl Into<After>) -> Self {
        self.after.push((machine.to_owned(), what.into()));
        self
    }

    /// Puts a board in the place of a machine: see [`Rack::board`].
    pub fn board(mut self, machine: &str, board: Board) -> Self {
        self.boards.push((machine.to_owned(), board));
        self
    }

    /// Makes the lab and powers every machine on; [`Cluster::wait_ready`] waits for the boot.
    ///
    /// # Errors
    /// When the profile has fewer machines, or as [`Rack::launch`].
    pub async fn launch(self, t: &Testbed) -> anyhow::Result<Cluster> {
        let making = self.plan(t).await?;
        let launched = making.plan.lab(t).await?;
        launched.start().await?;
        Ok(making.cluster(launched))
    }

    /// The same without powering anything on: [`driver::Lab::start`] of [`Cluster::lab`] does.
    ///
    /// # Errors
    /// As [`ClusterBuilder::launch`].
    pub async fn prepare(self, t: &Testbed) -> anyhow::Result<Cluster> {
        let making = self.plan(t).await?;
        let lab = making.plan.lab(t).await?;
        Ok(making.cluster(lab))
    }

    /// A cluster that has booted and whose servers have formed an etcd on the network `cluster`, as [`Etcd::form`] does:
    /// out of a checkpoint if there is one for the very same machines, in a second or two. The first test that asks for
    /// it boots and forms it, and leaves a checkpoint for all others; processes wait for each other.
    ///
    /// # Errors
    /// As [`ClusterBuilder::launch`], [`Cluster::wait_ready`] and [`Etcd::form`].
    pub async fn formed(self, t: &Testbed) -> anyhow::Result<Cluster> {
        self.formed_as(t, FORMED, Cluster::form).await
    }

    /// The same for a state of your own: `form` brings the cluster to it, and `fixture` names it, as in
    /// [`Rack::launch_as`].
    ///
    /// # Errors
    /// As [`ClusterBuilder::launch`], and those of `form`.
    pub async fn formed_as(
        self,
        t: &Testbed,
        fixture: &str,
        form: impl AsyncFnOnce(&Cluster) -> anyhow::Result<()>,
    ) -> anyhow::Result<Cluster> {
        let making = self.saved_quickly().plan(t).await?;
        let form = async |lab: &Launched| form(&making.cluster(lab.clone())).await;
        let launched = fixture::launch(t, &making.plan, fixture, form).await?;
        Ok(making.cluster(launched))
    }

    /// The same state, to be had as often as it is asked for, at once or one after the other: for as many at a time as
    /// [`ClusterBuilder::copies`] says, and one more.
    ///
    /// # Errors
    /// As [`ClusterBuilder::formed`], and when there can be no checkpoint.
    pub async fn formed_often(self, t: &Testbed) -> anyhow::Result<FormedCluster> {
        let making = self.saved_quickly().plan(t).await?;
        let form = async |lab: &Launched| making.cluster(lab.clone()).form().await;
        let checkpoint = fixture::ready(t, &making.plan, FORMED, form).await?;
        Ok(FormedCluster { making, checkpoint })
    }

    /// Memory lies where checkpoints take it from and restored labs share it.
    fn saved_quickly(mut self) -> Self {
        self.checkpoints = true;
        self
    }

    async fn plan(self, t: &Testbed) -> anyhow::Result<Making> {
        let servers = self.names(Role::Server, self.servers)?;
        let agents = self.names(Role::Agent, self.agents)?;
        let names: Vec<&str> = servers.iter().chain(&agents).map(String::as_str).collect();
        let rack = Rack::of(self.profile.clone(), &names).boot(self.boot).way(self.way);
        let rack = self.memory_mib.into_iter().fold(rack, Rack::memory_mib);
        let rack = self.vcpus.into_iter().fold(rack, Rack::vcpus);
        let rack = self.data_disks.iter().fold(rack, |rack, (name, mib)| rack.data_disk(name, *mib));
        let rack = if self.checkpoints { rack.checkpoints() } else { rack };
        let rack = self.after.into_iter().fold(rack, |rack, (machine, after)| rack.after(&machine, after));
        let rack = self.boards.into_iter().fold(rack, |rack, (machine, board)| rack.board(&machine, board));
        let rack = if self.copies > 0 { rack.copies(self.copies) } else { rack };
        let rack = if self.whole_capture { rack.whole_capture() } else { rack };
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
    fn cluster(&self, lab: Launched) -> Cluster {
        Cluster { profile: self.profile.clone(), lab, servers: self.servers.clone() }
    }
}

/// A formed cluster in a checkpoint, from [`ClusterBuilder::formed_often`].
pub struct FormedCluster {
    making: Making,
    checkpoint: Checkpoint,
}

impl FormedCluster {
    /// A key that the etcd of every formed cluster has: what was written before the checkpoint was made.
    pub const KEY: &'static str = "rackless/formed";

    /// The cluster, going on from there. Its machines are `<name>/server-1` in events, and in `<name>/` among the
    /// artefacts.
    ///
    /// # Errors
    /// As [`driver::Lab::resume`].
    pub async fn restore(&self, t: &Testbed, name: &str) -> anyhow::Result<Cluster> {
        let lab = self.making.plan.restored(t, &self.checkpoint, Some(name)).await?;
        Ok(self.making.cluster(lab))
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}
