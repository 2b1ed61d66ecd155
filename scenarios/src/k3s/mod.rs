//! K3s on the machines of a cluster: servers and agents with the flags that the profile gives them, joined by a token; its
//! nodes and its etcd as its API tells of them.
//!
//! K3s itself is the image's: nothing is downloaded. Two contracts are known, [`Contract`]; each machine has its own.

mod api;
mod contract;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use driver::Machine;
use driver::guest::{Output, Status};
use profiles::render;

use crate::cluster::{Cluster, secs};

pub use api::{Health, Node};
pub use contract::{Contract, Files, Join, Kind};

/// From the start of the first server to an API that answers, and from the start of the last machine to nodes that are
/// Ready, before scaling: on idle machines it is half a minute.
const FORM_LIMIT: Duration = Duration::from_secs(120);
/// How a look at the API says that its unit failed.
const FAILED: i32 = 9;
/// The words of the journal that an error shows of a machine whose node is not as it should be.
const JOURNAL_LINES: u32 = 8;

/// K3s on all machines of a cluster.
pub struct K3s<'c> {
    cluster: &'c Cluster,
    token: String,
    tokens: BTreeMap<String, String>,
}

impl<'c> K3s<'c> {
    /// The token that machines join by, unless a test gives them another.
    pub const TOKEN: &'static str = "rackless-joins";

    /// The K3s of a cluster, started or not.
    #[must_use]
    pub fn of(cluster: &'c Cluster) -> Self {
        Self { cluster, token: Self::TOKEN.to_owned(), tokens: BTreeMap::new() }
    }

    /// Has one machine join by another token than the others, as a wrongly configured one would.
    #[must_use]
    pub fn token_of(mut self, machine: &str, token: &str) -> Self {
        self.tokens.insert(machine.to_owned(), token.to_owned());
        self
    }

    /// Starts it everywhere, and waits until all nodes are Ready.
    ///
    /// # Errors
    /// As [`K3s::start`] and [`K3s::wait_ready`].
    pub async fn form(cluster: &'c Cluster) -> anyhow::Result<Self> {
        let k3s = Self::of(cluster);
        k3s.start().await?;
        k3s.wait_ready().await?;
        Ok(k3s)
    }

    /// Starts the first server, waits for its API, and then starts the others: servers one after the other, for etcd takes
    /// one new member at a time, and agents at once.
    ///
    /// # Errors
    /// When a machine has no K3s, its contract can't be kept, or a server's API does not answer in time.
    pub async fn start(&self) -> anyhow::Result<()> {
        let servers: Vec<&Machine> = self.cluster.servers().collect();
        for machine in &servers {
            self.start_on(machine.name()).await?;
            self.wait_api(machine).await?;
        }
        let machines = self.cluster.lab().machines().iter();
        let agents = machines.filter(|machine| servers.iter().all(|server| server.name() != machine.name()));
        futures::future::try_join_all(agents.map(|agent| self.start_on(agent.name()))).await?;
        Ok(())
    }

    /// Writes one machine's files and starts its unit anew.
    ///
    /// # Errors
    /// As [`K3s::start`].
    pub async fn start_on(&self, name: &str) -> anyhow::Result<()> {
        let machine = &self.cluster[name];
        let flags = render::k3s_flags(self.cluster.profile(), name)?;
        let join = self.join(name)?;
        let contract = self.contract(machine).await?;
        let files = contract.files(&flags, &join).with_context(|| format!("{name}: K3s"))?;
        for (path, content) in &files.0 {
            let write = format!("umask 077; mkdir -p \"$(dirname {path})\"; cat > {path}");
            machine.succeed(write).stdin(content.clone()).await?;
        }
        // It is ready once it has joined: it can't be waited for one by one.
        machine.succeed(format!("systemctl restart --no-block {}", contract.unit)).await?;
        Ok(())
    }

    /// How a machine joins.
    fn join(&self, name: &str) -> anyhow::Result<Join> {
        let token = self.tokens.get(name).unwrap_or(&self.token).clone();
        let url = (name != self.first()?.name())
            .then(|| format!("https://{}", self.cluster.profile().api_endpoint()));
        Ok(Join { token, url })
    }

    /// What the machine's image starts K3s by.
    async fn contract(&self, machine: &Machine) -> anyhow::Result<Contract> {
        let server = self.cluster.servers().any(|server| server.name() == machine.name());
        let told = machine.succeed(Contract::probe(server)).await?;
        Contract::parse(&told).with_context(|| format!("{}: K3s", machine.name()))
    }

    fn first(&self) -> anyhow::Result<&'c Machine> {
        let api = &self.cluster.profile().kubernetes().api_server;
        let first = self.cluster.servers().find(|machine| machine.name() == api);
        first.with_context(|| format!("the API's server {api} is none of the cluster's machines"))
    }

    async fn wait_api(&self, server: &Machine) -> anyhow::Result<()> {
        let unit = self.contract(server).await?.unit;
        // A unit that is not started again by itself never gets there.
        let look = format!(
            "k3s kubectl get --raw /readyz && exit 0; systemctl is-failed --quiet {unit} && exit {FAILED}; exit 1"
        );
        let limit = FORM_LIMIT * self.cluster.lab().accel().time_factor();
        let answered = driver::poll_until(limit, async || {
            match server.execute(look.as_str()).within(secs(30)).await.map(|output| output.status) {
                Ok(Status::Code(0)) => Some(Ok(())),
                Ok(Status::Code(FAILED)) => Some(Err(anyhow::anyhow!("{unit} failed"))),
                Ok(_) => None,
                // A look that takes too long is no end; one that no machine answers is.
                Err(error) if error.kind() == driver::Kind::Timeout => None,
                Err(error) => Some(Err(error.into())),
            }
        });
        let why = match answered.await {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error,
            None => anyhow::anyhow!("no answer within {} s", limit.as_secs()),
        };
        let journal = self.journal(server).await;
        Err(why.context(format!("{}: no API of K3s{journal}", server.name())))
    }

    /// The nodes, as the first server knows them.
    ///
    /// # Errors
    /// When its API does not answer, or says what can't be read.
    pub async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let text = self.first()?.succeed("k3s kubectl get nodes -o json").within(secs(30)).await?;
        Node::list(&text)
    }

    /// Waits until every machine is a node that is Ready and has the profile's address, and every server votes in etcd.
    ///
    /// # Errors
    /// Names those that are not, with what Kubernetes says of them and the last words of their K3s.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        self.wait_ready_within(FORM_LIMIT).await
    }

    /// The same with another limit, before scaling.
    ///
    /// # Errors
    /// As [`K3s::wait_ready`].
    pub async fn wait_ready_within(&self, limit: Duration) -> anyhow::Result<()> {
        let limit = limit * self.cluster.lab().accel().time_factor();
        let mut missing = Vec::new();
        let ready = driver::poll_until(limit, async || {
            missing = match self.nodes().await {
                Ok(nodes) => match self.missing(&nodes) {
                    Ok(missing) => missing,
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => {
                    vec![(self.first().map(Machine::name).unwrap_or_default(), format!("{error:#}"))]
                }
            };
            missing.is_empty().then_some(Ok(()))
        });
        if let Some(ready) = ready.await {
            return ready;
        }
        let mut text = format!("K3s is not ready after {} s:", limit.as_secs());
        for (name, what) in missing {
            let _ = write!(text, "\n  {name}: {what}{}", self.journal(&self.cluster[name]).await);
        }
        anyhow::bail!(text)
    }

    /// Waits until a machine's node is not as it should be, and tells what is wrong with it.
    ///
    /// # Errors
    /// When it is sound for all of 2 minutes before scaling: Kubernetes takes 40 s to miss a node.
    pub async fn wait_not_ready(&self, machine: &str) -> anyhow::Result<String> {
        let limit = FORM_LIMIT * self.cluster.lab().accel().time_factor();
        let told = driver::poll_until(limit, async || {
            let missing = self.nodes().await.and_then(|nodes| self.missing(&nodes));
            let found = missing.map(|all| all.into_iter().find(|(name, _)| *name == machine));
            found.map(|found| found.map(|(_, what)| what)).transpose()
        });
        told.await
            .with_context(|| format!("{machine}: its node is Ready for all of {} s", limit.as_secs()))?
    }

    /// The machines whose nodes are not as they should be, and what is wrong with each.
    fn missing(&self, nodes: &[Node]) -> anyhow::Result<Vec<(&'c str, String)>> {
        let mut missing = Vec::new();
        for machine in self.cluster.lab().machines() {
            let name = machine.name();
            let server = self.cluster.servers().any(|server| server.name() == name);
            let address = self.cluster.ip(name, profiles::CLUSTER)?;
            if let Some(what) = Node::problem(nodes, name, address, server) {
                missing.push((name, what));
            }
        }
        Ok(missing)
    }

    /// Whether the API server on each server reaches its etcd.
    ///
    /// # Errors
    /// Names the servers on which a check fails, with the check.
    pub async fn etcd_healthy(&self) -> anyhow::Result<()> {
        for server in self.cluster.servers() {
            let health = self.health(server).await?;
            ensure!(health.is_ok("etcd"), "{}: K3s's etcd is not healthy: {health}", server.name());
        }
        Ok(())
    }

    /// The checks of a server's API.
    ///
    /// # Errors
    /// When the command can't be run.
    pub async fn health(&self, server: &Machine) -> anyhow::Result<Health> {
        let Output { stdout, stderr, .. } =
            server.execute("k3s kubectl get --raw '/readyz?verbose'").within(secs(30)).await?;
        // What fails is told on stderr.
        Ok(Health::parse(&String::from_utf8_lossy(&[stdout, stderr].concat())))
    }

    /// The end of what a machine's K3s said, for errors.
    async fn journal(&self, machine: &Machine) -> String {
        let said = async {
            let unit = self.contract(machine).await?.unit;
            let tail =
                format!("journalctl --boot --no-pager --output=cat --lines={JOURNAL_LINES} --unit={unit}");
            anyhow::Ok(machine.succeed(tail).within(secs(30)).await?)
        };
        match said.await {
            Ok(text) => text.lines().fold(String::new(), |all, line| all + "\n    k3s| " + line),
            Err(error) => format!("\n    (no journal of K3s: {error:#})"),
        }
    }
}
