//! The production network: VLANs on an 802.3ad bond of two NICs, whose partner is the switch. It carries a cluster, and
//! goes on with one link of each bond. teamd, a second implementation of LACP, finds the same partner.

use scenarios::prelude::*;

const LINKS: [&str; 2] = ["eth1", "eth2"];

fn main() -> ExitCode {
    suite("cluster_bonding_vlans")
        .test("forms_and_fails_over", forms_and_fails_over)
        .requires(Ability::Carrier)
        .run()
}

async fn forms_and_fails_over(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::bonding_vlans()).servers(3);
    let c = t.step("three machines form a cluster", async || cluster.formed(t).await).await?;
    t.step("both links of each bond are in one aggregator", async || aggregate(&c, &LINKS).await).await?;
    let etcd = Etcd::of(&c, "cluster");
    t.step("all members are healthy", async || etcd.wait_healthy().await).await?;
    t.step("the storage VLAN carries traffic between all pairs", async || c.ping_all("storage").await)
        .await?;
    let term = etcd.term("server-1").await?;
    for (lost, left) in [("eth1", "eth2"), ("eth2", "eth1")] {
        let cuts = t
            .step(format!("{lost} of each machine is cut: the cluster goes on over {left}"), async || {
                let cuts = futures::future::try_join_all(c.servers().map(|m| m.cut(lost))).await?;
                aggregate(&c, &[left]).await?;
                etcd.put("server-1", "rackless/lost", lost).await?;
                c.ping_all("storage").await?;
                Ok(cuts)
            })
            .await?;
        t.step(format!("{lost} comes back: both links of each bond are in one aggregator"), async || {
            for cut in cuts {
                cut.heal().await?;
            }
            aggregate(&c, &LINKS).await
        })
        .await?;
    }
    t.step("a card of server-2 is pulled and plugged in again: it is in the bond again", async || {
        let machine = &c["server-2"];
        machine.unplug("eth2").await?;
        BondStatus::wait_aggregates(&c, machine, "bond0", &["eth1"]).await?;
        machine.plug(machine.spec().nics[1].clone()).await?;
        BondStatus::wait_aggregates(&c, machine, "bond0", &LINKS).await
    })
    .await?;
    t.step("nobody had to elect a leader", async || {
        let now = etcd.term("server-1").await?;
        ensure!(now == term, "the term went from {term} to {now}: the quorum was lost in between");
        Ok(())
    })
    .await?;
    t.step("no frame of one VLAN is seen on the other", async || kept_apart(&c, ["cluster", "storage"]))
        .await?;
    t.step("teamd in place of server-3's bond aggregates as well", async || team(&c).await).await
}

/// Waits until the bond of every machine aggregates over exactly `links`.
async fn aggregate(c: &Cluster, links: &[&str]) -> Result {
    let all = c.servers().map(|machine| BondStatus::wait_aggregates(c, machine, "bond0", links));
    futures::future::try_join_all(all).await?;
    Ok(())
}

/// Gives the links of server-3's bond to teamd, and sends over them.
async fn team(c: &Cluster) -> Result {
    let machine = &c["server-3"];
    let config = serde_json::json!({
        "device": "team0",
        "runner": { "name": "lacp", "active": true, "fast_rate": true, "tx_hash": ["l3", "l4"] },
        "link_watch": { "name": "ethtool" },
        "ports": { "eth1": {}, "eth2": {} },
    });
    machine.succeed("systemctl stop systemd-networkd.socket systemd-networkd.service").await?;
    machine.succeed("ip link del bond0 && ip link set eth1 down && ip link set eth2 down").await?;
    machine.succeed(format!("teamd --daemonize --config '{config}'")).await?;
    machine.succeed("ip link set team0 up").await?;
    for link in LINKS {
        // "current": LACPDUs of the partner arrive; selected: it is in the aggregator that carries the traffic.
        for (item, wanted) in [("state", "current"), ("selected", "true")] {
            let get = format!("teamdctl team0 state item get ports.{link}.runner.{item}");
            machine.wait_until_succeeds(format!("test \"$({get})\" = {wanted}")).await?;
        }
    }
    wait_bundle(c, "server-3", "bond0", 2).await?;
    let (own, other) = (c.ip("server-3", "storage")?, c.ip("server-1", "storage")?);
    machine.succeed("ip link add link team0 name team0.100 type vlan id 100").await?;
    machine.succeed(format!("ip addr add {own}/24 dev team0.100 && ip link set team0.100 up")).await?;
    machine.wait_until_succeeds(format!("ping -c1 -W5 {other}")).await?;
    Ok(())
}
