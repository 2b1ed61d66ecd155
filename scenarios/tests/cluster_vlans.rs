//! A cluster forms over 802.1Q VLANs, and only over matching ones; it survives the loss of a trunk, and not of two.

use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("cluster_vlans")
        .test("forms", async |t: &mut Testbed| forms(t, &Way::Agent).await)
        .requires(Ability::Network)
        .cases("over", Way::without_agent(), forms)
        .requires(Ability::Image)
        .ignored("no checkpoint can be made of such machines, so that each takes minutes")
        .test("wrong_tag_is_isolated", wrong_tag_is_isolated)
        .requires(Ability::Network)
        .test("heals_after_trunk_loss", heals_after_trunk_loss)
        .requires(Ability::Carrier)
        .run()
}

async fn formed(t: &Testbed, way: Way) -> Result<Cluster> {
    Cluster::on(profiles::vlans()).servers(3).way(way).formed(t).await
}

async fn forms(t: &mut Testbed, &way: &Way) -> Result {
    let c = t.step("three machines form a cluster", async || formed(t, way).await).await?;
    replicates_over_vlans(t, &c).await
}

async fn wrong_tag_is_isolated(t: &mut Testbed) -> Result {
    let profile = profiles::vlans().with_vlan_id("server-3", "cluster", 201)?;
    let two = async |c: &Cluster| {
        c.wait_ready().await?;
        let etcd = Etcd::start(c, "cluster").await?;
        etcd.wait_healthy_from("server-1", &["server-1", "server-2"]).await
    };
    let cluster = Cluster::on(profile).servers(3);
    let c = t
        .step("three machines boot, and two form a cluster", async || {
            cluster.formed_as(t, "two of three 1", two).await
        })
        .await?;
    let etcd = Etcd::of(&c, "cluster");
    t.step("the two are a quorum", async || etcd.wait_put("server-2", "rackless/quorum", "two").await)
        .await?;
    t.step("the third reaches nobody on the cluster VLAN", async || {
        let unreached = async |other| {
            let address = c.ip(other, "cluster")?;
            Ok(c["server-3"].fail(format!("ping -c2 -i1 -W2 {address}")).await?)
        };
        futures::try_join!(unreached("server-1"), unreached("server-2"), etcd.refuses_writes("server-3"))?;
        Ok(())
    })
    .await?;
    t.step("the tag is what keeps it out", async || {
        // It is there and talks: on its other VLAN, and into the wrong one.
        let ping = format!("ping -c1 -W2 {}", c.ip("server-1", "storage")?);
        c["server-3"].wait_until_succeeds(ping).within(secs(10)).await?;
        let sent = FrameFilter::new().port("server-3/eth1").direction(Direction::In).tagged(201);
        let delivered = FrameFilter::new().direction(Direction::Out).tagged(201);
        ensure!(!c.lab().switch().frames(&sent)?.is_empty(), "server-3 sent no frame tagged 201");
        let leaked = c.lab().switch().frames(&delivered)?;
        ensure!(leaked.is_empty(), "frames tagged 201 left the switch: {}", describe(&leaked));
        Ok(())
    })
    .await
}

async fn heals_after_trunk_loss(t: &mut Testbed) -> Result {
    let c = t.step("a formed cluster", async || formed(t, Way::Agent).await).await?;
    let etcd = Etcd::of(&c, "cluster");
    let leader = etcd.wait_for_leader("server-1").await?;
    let others: Vec<&str> = c.servers().map(|m| m.name()).filter(|n| *n != leader).collect();
    let first = t
        .step(
            format!("the trunk of the leader {leader} is cut: another leads, and takes a write"),
            async || {
                let cut = c[leader.as_str()].cut("eth1").await?;
                let new = etcd.wait_for_other_leader(others[0], &leader).await?;
                ensure!(others.contains(&new.as_str()), "{new} leads, and is none of {others:?}");
                etcd.wait_put(others[0], "rackless/heals", "one cut").await?;
                Ok(cut)
            },
        )
        .await?;
    let second = t
        .step(format!("the trunk of {} is cut too: writes are refused", others[0]), async || {
            let cut = c[others[0]].cut("eth1").await?;
            futures::future::try_join_all(others.iter().map(|name| etcd.refuses_writes(name))).await?;
            Ok(cut)
        })
        .await?;
    t.step("both trunks come back: all are healthy, and have what was written", async || {
        first.heal().await?;
        second.heal().await?;
        etcd.wait_healthy().await?;
        let value = etcd.get(&leader, "rackless/heals").await?;
        ensure!(value == "one cut", "{leader} has {value:?}, and not what was written while it was cut off");
        etcd.put(&leader, "rackless/heals", "healed").await
    })
    .await
}
