//! The production network: VLANs on an 802.3ad bond of two NICs, whose partner is the switch. It carries a cluster, and
//! goes on with one link of each bond.

use scenarios::prelude::*;

const LINKS: [&str; 2] = ["eth1", "eth2"];

fn main() -> ExitCode {
    suite("cluster_bonding_vlans").test("forms_and_fails_over", forms_and_fails_over).run()
}

async fn forms_and_fails_over(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::bonding_vlans()).servers(3).launch(t).await?;
    t.step("three machines boot", async || c.wait_ready().await).await?;
    t.step("both links of each bond are in one aggregator", async || aggregate(&c, &LINKS).await).await?;
    let etcd = t.step("three etcd members become healthy", async || Etcd::form(&c, "cluster").await).await?;
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
    t.step("nobody had to elect a leader", async || {
        let now = etcd.term("server-1").await?;
        ensure!(now == term, "the term went from {term} to {now}: the quorum was lost in between");
        Ok(())
    })
    .await?;
    t.step("no frame of one VLAN is seen on the other", async || kept_apart(&c, ["cluster", "storage"])).await
}

/// Waits until the bond of every machine aggregates over exactly `links`.
async fn aggregate(c: &Cluster, links: &[&str]) -> Result {
    let all = c.servers().map(|machine| BondStatus::wait_aggregates(c, machine, "bond0", links));
    futures::future::try_join_all(all).await?;
    Ok(())
}
