//! A guest's bond, as the Linux bonding driver tells of it in `/proc/net/bonding/NAME`, and the switch's end of it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use driver::Machine;

use crate::cluster::Cluster;

/// How long a bond has to aggregate, before scaling: LACP takes some seconds, and those of a busy host more.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until the switch sends over exactly `links` members of a machine's bundle: its own end, which waits 2 s for more
/// links before it uses any.
///
/// # Errors
/// Says how the bundle was last, when it is not so within 30 s before scaling.
pub async fn wait_bundle(cluster: &Cluster, machine: &str, bond: &str, links: usize) -> anyhow::Result<()> {
    let name = format!("{machine}/{bond}");
    let mut last = None;
    let used = driver::poll_until(LIMIT * cluster.lab().accel().time_factor(), async || {
        last = cluster.lab().switch().bundles().ok()?.into_iter().find(|bundle| bundle.name == name);
        last.as_ref().is_some_and(|bundle| bundle.active().count() == links).then_some(())
    })
    .await;
    used.with_context(|| format!("the switch does not use {links} links of {name}: {last:?}"))
}

/// A bond and its members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BondStatus {
    /// The mode in the kernel's words, `IEEE 802.3ad Dynamic link aggregation`.
    pub mode: String,
    /// The aggregator that carries the traffic; 802.3ad only.
    pub active_aggregator: Option<u32>,
    /// The MAC address of the partner's system; zeroes while there is none. 802.3ad only.
    pub partner: Option<String>,
    /// The member that carries the traffic; active-backup only.
    pub active_member: Option<String>,
    /// The members, by name: the kernel lists them as they were put in, which is as they came up.
    pub members: Vec<MemberStatus>,
}

/// One member of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberStatus {
    /// The interface's name.
    pub name: String,
    /// Whether it has a link.
    pub up: bool,
    /// The aggregator that it belongs to; 802.3ad only.
    pub aggregator: Option<u32>,
}

impl BondStatus {
    /// Reads it from a machine.
    ///
    /// # Errors
    /// When there is no such bond.
    pub async fn of(machine: &Machine, bond: &str) -> anyhow::Result<Self> {
        let text = machine.succeed(format!("cat /proc/net/bonding/{bond}")).await?;
        Self::parse(&text).with_context(|| format!("{}: /proc/net/bonding/{bond}:\n{text}", machine.name()))
    }

    /// Waits until a machine's bond aggregates over exactly `members`.
    ///
    /// # Errors
    /// Says what was missing last, when it is not so within 30 s before scaling.
    pub async fn wait_aggregates(
        cluster: &Cluster,
        machine: &Machine,
        bond: &str,
        members: &[&str],
    ) -> anyhow::Result<()> {
        let limit = LIMIT * cluster.lab().accel().time_factor();
        let mut last = anyhow::anyhow!("it was never read");
        let done = driver::poll_until(limit, async || match Self::of(machine, bond).await {
            Ok(status) => match status.aggregates(members) {
                Ok(()) => Some(Ok(())),
                Err(error) => {
                    last = error;
                    None
                }
            },
            Err(error) => Some(Err(error)),
        })
        .await;
        done.with_context(|| {
            format!(
                "{}: {bond} does not aggregate after {} s: {last}; artefacts: {}",
                machine.name(),
                limit.as_secs(),
                machine.artifacts().display()
            )
        })?
    }

    /// Reads the file's text (the kernel's `Documentation/networking/bonding.rst`).
    ///
    /// # Errors
    /// When it names no mode.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut bond = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(": ") else { continue };
            let value = value.trim();
            match (key.trim(), bond.members.last_mut()) {
                ("Bonding Mode", _) => value.clone_into(&mut bond.mode),
                ("Currently Active Slave", _) => {
                    bond.active_member = (value != "None").then(|| value.to_owned());
                }
                ("Slave Interface", _) => {
                    bond.members.push(MemberStatus { name: value.to_owned(), ..MemberStatus::default() });
                }
                ("MII Status", Some(member)) => member.up = value == "up",
                ("Aggregator ID", Some(member)) => member.aggregator = value.parse().ok(),
                ("Aggregator ID", None) => bond.active_aggregator = value.parse().ok(),
                ("Partner Mac Address", None) => bond.partner = Some(value.to_owned()),
                _ => {}
            }
        }
        ensure!(!bond.mode.is_empty(), "it names no bonding mode");
        bond.members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(bond)
    }

    /// Checks that the bond aggregates over exactly these members: each has a link and is in the aggregator that
    /// carries the traffic, and there is a partner.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn aggregates(&self, members: &[&str]) -> anyhow::Result<()> {
        ensure!(self.mode.contains("802.3ad"), "the mode is {}", self.mode);
        let partner = self.partner.as_deref().unwrap_or("none");
        ensure!(partner != "none" && partner != "00:00:00:00:00:00", "there is no partner ({partner})");
        let active = self.active_aggregator.context("there is no active aggregator")?;
        let inside: Vec<&str> = self
            .members
            .iter()
            .filter(|m| m.up && m.aggregator == Some(active))
            .map(|m| m.name.as_str())
            .collect();
        ensure!(inside == members, "aggregator {active} has {inside:?} with a link, not {members:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGGREGATED: &str = "\
Ethernet Channel Bonding Driver: v6.12.43+deb13-cloud-amd64

Bonding Mode: IEEE 802.3ad Dynamic link aggregation
Transmit Hash Policy: layer2 (0)
MII Status: up
MII Polling Interval (ms): 100

802.3ad info
LACP active: on
LACP rate: fast
Active Aggregator Info:
\tAggregator ID: 1
\tNumber of ports: 2
\tPartner Mac Address: 02:00:00:00:00:01

Slave Interface: eth1
MII Status: up
Link Failure Count: 0
Aggregator ID: 1
Actor Churn State: none
details partner lacp pdu:
    system mac address: 02:00:00:00:00:01
    port state: 63

Slave Interface: eth2
MII Status: up
Aggregator ID: 1
";

    #[test]
    fn an_aggregated_bond_is_read() {
        let bond = BondStatus::parse(AGGREGATED).unwrap();
        let member = |name: &str| MemberStatus { name: name.into(), up: true, aggregator: Some(1) };
        assert_eq!(bond.members, [member("eth1"), member("eth2")]);
        assert_eq!(bond.partner.as_deref(), Some("02:00:00:00:00:01"));
        bond.aggregates(&["eth1", "eth2"]).unwrap();
    }

    #[test]
    fn members_are_in_the_order_of_their_names() {
        let other = AGGREGATED.replace("eth1", "eth9").replace("eth2", "eth1").replace("eth9", "eth2");
        BondStatus::parse(&other).unwrap().aggregates(&["eth1", "eth2"]).unwrap();
    }

    #[test]
    fn what_does_not_aggregate_says_why() {
        let told = |text: &str| {
            BondStatus::parse(text).unwrap().aggregates(&["eth1", "eth2"]).unwrap_err().to_string()
        };
        let no_partner = AGGREGATED
            .replace("Partner Mac Address: 02", "Partner Mac Address: 00")
            .replace("00:00:00:00:00:01", "00:00:00:00:00:00");
        assert_eq!(told(&no_partner), "there is no partner (00:00:00:00:00:00)");
        let apart = AGGREGATED.strip_suffix("Aggregator ID: 1\n").unwrap().to_owned() + "Aggregator ID: 2\n";
        assert_eq!(told(&apart), r#"aggregator 1 has ["eth1"] with a link, not ["eth1", "eth2"]"#);
        assert_eq!(
            told(&AGGREGATED.replace("IEEE 802.3ad", "plain")),
            "the mode is plain Dynamic link aggregation"
        );
    }

    #[test]
    fn the_active_member_of_active_backup_is_read() {
        let text = "Bonding Mode: fault-tolerance (active-backup)\nCurrently Active Slave: eth2\n";
        assert_eq!(BondStatus::parse(text).unwrap().active_member.as_deref(), Some("eth2"));
        let text = "Bonding Mode: fault-tolerance (active-backup)\nCurrently Active Slave: None\n";
        assert_eq!(BondStatus::parse(text).unwrap().active_member, None);
        assert_eq!(BondStatus::parse("nothing").unwrap_err().to_string(), "it names no bonding mode");
    }
}
