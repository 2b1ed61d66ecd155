//! A cluster whose machines get their addresses by DHCP from the lab itself: no machine serves them.

use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("cluster_dhcp_simple").test("forms", forms).requires(Ability::Network).run()
}

async fn forms(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::dhcp_simple()).servers(3);
    let c = t.step("three machines form a cluster", async || cluster.formed(t).await).await?;
    t.step("each address is a lease, and the one that is reserved", async || {
        for machine in c.servers() {
            let (name, address) = (machine.name(), c.ip(machine.name(), "cluster")?);
            let leased = machine.succeed("ip -o -4 addr show dev eth1 dynamic").await?;
            ensure!(leased.contains(&format!("inet {address}/24 ")), "{name}: leased is {leased:?}");
        }
        Ok(())
    })
    .await?;
    t.step("all members are healthy", async || Etcd::of(&c, "cluster").wait_healthy().await).await?;
    t.step("traffic between all pairs", async || c.ping_all("cluster").await).await
}
