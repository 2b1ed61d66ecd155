//! etcd on the machines of a cluster: forming it, asking it, and seeing that it refuses.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use driver::Machine;
use serde_json::Value;

use crate::cluster::{Cluster, secs};

/// How long an etcd member has to answer one request, in etcdctl's own words. A vote under TCG takes seconds.
const ANSWER: &str = "5s";
/// Forming and re-electing, before scaling.
const FORM_LIMIT: Duration = Duration::from_secs(60);

/// Three (or more) etcd members, one on each server of a cluster.
pub struct Etcd<'c> {
    cluster: &'c Cluster,
    network: String,
    members: Vec<String>,
}

impl<'c> Etcd<'c> {
    /// The etcd that has been formed on the servers, such as that of a cluster which came out of a checkpoint.
    #[must_use]
    pub fn of(cluster: &'c Cluster, network: &str) -> Self {
        let members = cluster.servers().map(|m| m.name().to_owned()).collect();
        Self { cluster, network: network.to_owned(), members }
    }

    /// Starts a member on each server, and waits until all are healthy.
    ///
    /// # Errors
    /// As [`Etcd::start`] and [`Etcd::wait_healthy`].
    pub async fn form(cluster: &'c Cluster, network: &str) -> anyhow::Result<Self> {
        let etcd = Self::start(cluster, network).await?;
        etcd.wait_healthy().await?;
        Ok(etcd)
    }

    /// Writes each server's configuration, and starts all of them at once on `network`.
    ///
    /// # Errors
    /// When a configuration can't be written or a unit can't be started.
    pub async fn start(cluster: &'c Cluster, network: &str) -> anyhow::Result<Self> {
        let etcd = Self::of(cluster, network);
        let started = etcd.members.iter().map(|name| etcd.start_member(name));
        futures::future::try_join_all(started).await?;
        Ok(etcd)
    }

    async fn start_member(&self, name: &str) -> anyhow::Result<()> {
        let machine = &self.cluster[name];
        let text = self.configuration(name)?;
        machine.succeed("cat > /etc/default/etcd").stdin(text).await?;
        // The unit is ready once the member has joined a quorum: it can't be waited for one by one.
        machine.succeed("systemctl start --no-block etcd.service").await?;
        Ok(())
    }

    fn configuration(&self, name: &str) -> anyhow::Result<String> {
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| Ok(format!("{member}=http://{}:2380", self.cluster.ip(member, &self.network)?)))
            .collect::<anyhow::Result<_>>()?;
        let ip = self.cluster.ip(name, &self.network)?;
        Ok(format!(
            "ETCD_NAME={name}\n\
             ETCD_INITIAL_CLUSTER={}\n\
             ETCD_INITIAL_CLUSTER_STATE=new\n\
             ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{ip}:2380\n\
             ETCD_LISTEN_PEER_URLS=http://{ip}:2380\n\
             ETCD_ADVERTISE_CLIENT_URLS=http://{ip}:2379\n\
             ETCD_LISTEN_CLIENT_URLS=http://{ip}:2379,http://127.0.0.1:2379\n\
             # Machines that share two cores answer late: etcd's own 100 ms and 1 s would elect for ever.\n\
             ETCD_HEARTBEAT_INTERVAL=500\n\
             ETCD_ELECTION_TIMEOUT=5000\n\
             ETCD_UNSAFE_NO_FSYNC=true\n",
            peers.join(",")
        ))
    }

    /// Waits until every member is healthy, asked from the first server.
    ///
    /// # Errors
    /// When it is not so within 60 s before scaling.
    pub async fn wait_healthy(&self) -> anyhow::Result<()> {
        let first = self.members.first().context("a cluster without servers has no etcd")?;
        self.wait_healthy_from(first, &self.members.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Waits until `members` are healthy, asked from `from`.
    ///
    /// # Errors
    /// As above.
    pub async fn wait_healthy_from(&self, from: &str, members: &[&str]) -> anyhow::Result<()> {
        let health = self.etcdctl(&self.endpoints(members)?, "endpoint health");
        self.cluster[from].wait_until_succeeds(health).within(FORM_LIMIT).await?;
        Ok(())
    }

    /// The name of the member that leads, as `from` sees it.
    ///
    /// # Errors
    /// When `from` does not answer or there is no leader.
    pub async fn leader(&self, from: &str) -> anyhow::Result<String> {
        let status = self.status(from).await?;
        let id = status["leader"]
            .as_u64()
            .filter(|&id| id != 0)
            .with_context(|| format!("{from} knows no leader"))?;
        let members = self.run(&self.cluster[from], "member list -w json").await?;
        let members: Value = serde_json::from_str(&members).context("etcdctl member list")?;
        let all = members["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let leader = all.iter().find(|m| m["ID"].as_u64() == Some(id));
        let name = leader.and_then(|m| m["name"].as_str());
        Ok(name.with_context(|| format!("the leader {id:x} is no member that {from} knows"))?.to_owned())
    }

    /// Waits until `from` sees a leader, and gives its name. A cluster that was just restored may have to elect one: its
    /// members were slow to come back.
    ///
    /// # Errors
    /// When it is not so within 60 s before scaling.
    pub async fn wait_for_leader(&self, from: &str) -> anyhow::Result<String> {
        self.wait_leader(from, |_| true)
            .await?
            .with_context(|| format!("{from} sees no leader{}", self.after(from)))
    }

    /// Waits until `from` sees another leader than `old`, and gives its name.
    ///
    /// # Errors
    /// When it is not so within 60 s before scaling.
    pub async fn wait_for_other_leader(&self, from: &str, old: &str) -> anyhow::Result<String> {
        let found = self.wait_leader(from, |leader| leader != old).await?;
        found.with_context(|| format!("{from}: {old} still leads, or nobody does{}", self.after(from)))
    }

    /// A leader as `from` sees it that is as wanted; `None` when there is none in time.
    async fn wait_leader(&self, from: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Option<String>> {
        let found = driver::poll_until(self.form_limit(), async || match self.leader(from).await {
            Ok(leader) if wanted(&leader) => Some(Ok(leader)),
            Ok(_) => None,
            Err(error) if error.downcast_ref::<driver::Error>().is_some_and(is_final) => Some(Err(error)),
            Err(_) => None,
        });
        found.await.transpose()
    }

    fn form_limit(&self) -> Duration {
        FORM_LIMIT * self.cluster.lab().accel().time_factor()
    }

    /// The end of an error about a wait that was in vain.
    fn after(&self, from: &str) -> String {
        let artifacts = self.cluster[from].artifacts().display();
        format!(" after {} s; artefacts: {artifacts}", self.form_limit().as_secs())
    }

    /// Writes a key through `from`.
    ///
    /// # Errors
    /// When the write is not accepted within etcdctl's 5 s.
    pub async fn put(&self, from: &str, key: &str, value: &str) -> anyhow::Result<()> {
        self.run(&self.cluster[from], &format!("put '{key}' '{value}'")).await.map(drop)
    }

    /// Writes a key through `from`, again until it is accepted.
    ///
    /// # Errors
    /// When it is not so within 60 s before scaling.
    pub async fn wait_put(&self, from: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let put = self.etcdctl(LOCAL, &format!("put '{key}' '{value}'"));
        self.cluster[from].wait_until_succeeds(put).within(FORM_LIMIT).await?;
        Ok(())
    }

    /// Reads a key through `from`, agreed by the quorum.
    ///
    /// # Errors
    /// When there is no quorum, or no such key.
    pub async fn get(&self, from: &str, key: &str) -> anyhow::Result<String> {
        let value = self.run(&self.cluster[from], &format!("get --print-value-only {key}")).await?;
        let value = value.trim_end().to_owned();
        ensure!(!value.is_empty(), "{from}: etcd has no key {key:?}");
        Ok(value)
    }

    /// The same, asked again until there is an answer: while members elect, there is none.
    ///
    /// # Errors
    /// When there is none within 60 s before scaling.
    pub async fn wait_get(&self, from: &str, key: &str) -> anyhow::Result<String> {
        let get = self.etcdctl(LOCAL, &format!("get --print-value-only {key}"));
        let answered = format!("value=$({get}) && test -n \"$value\" && echo \"$value\"");
        let value = self.cluster[from].wait_until_succeeds(answered).within(FORM_LIMIT).await?;
        Ok(value.trim_end().to_owned())
    }

    /// Writes a key through `from`, and waits until each of `others` has it.
    ///
    /// # Errors
    /// When the write is not accepted within 60 s before scaling, or one of them has no answer within as long, or another.
    pub async fn wait_replicated(
        &self,
        from: &str,
        key: &str,
        value: &str,
        others: &[&str],
    ) -> anyhow::Result<()> {
        self.wait_put(from, key, value).await?;
        for name in others {
            let read = self.wait_get(name, key).await?;
            ensure!(read == value, "{name} has not what {from} took: {key} is {read:?} there, not {value:?}");
        }
        Ok(())
    }

    /// Sees that `from` refuses a write, for want of a quorum.
    ///
    /// # Errors
    /// When the write is accepted, or fails for another reason than a quorum that is not there.
    pub async fn refuses_writes(&self, from: &str) -> anyhow::Result<()> {
        let put = self.etcdctl(LOCAL, "put rackless/refused 1");
        let output = self.cluster[from].fail(put).within(secs(30)).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        let no_quorum =
            ["deadline exceeded", "no leader", "request timed out"].iter().any(|r| said.contains(r));
        ensure!(no_quorum, "{from}: the write failed, but not for want of a quorum: {said}");
        Ok(())
    }

    /// The term of the election that the present leader won, as `from` sees it: it only grows, and stays as long as
    /// nobody had to vote.
    ///
    /// # Errors
    /// When `from` does not answer.
    pub async fn term(&self, from: &str) -> anyhow::Result<u64> {
        self.status(from).await?["raftTerm"].as_u64().with_context(|| format!("{from} tells no raft term"))
    }

    async fn status(&self, from: &str) -> anyhow::Result<Value> {
        let text = self.run(&self.cluster[from], "endpoint status -w json").await?;
        let all: Value = serde_json::from_str(&text).context("etcdctl endpoint status")?;
        Ok(all[0]["Status"].clone())
    }

    /// Runs etcdctl on a machine, against its own member.
    async fn run(&self, machine: &Machine, command: &str) -> anyhow::Result<String> {
        Ok(machine.succeed(self.etcdctl(LOCAL, command)).within(secs(30)).await?)
    }

    fn etcdctl(&self, endpoints: &str, command: &str) -> String {
        format!(
            "etcdctl --endpoints={endpoints} --command-timeout={ANSWER} --dial-timeout={ANSWER} {command}"
        )
    }

    fn endpoints(&self, members: &[&str]) -> anyhow::Result<String> {
        let urls: Vec<String> = members
            .iter()
            .map(|member| Ok(format!("http://{}:2379", self.cluster.ip(member, &self.network)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(urls.join(","))
    }
}

/// The member on the machine itself.
const LOCAL: &str = "http://127.0.0.1:2379";

/// Whether trying again is of no use.
fn is_final(error: &driver::Error) -> bool {
    matches!(error, driver::Error::Died(_) | driver::Error::Off { .. })
}
