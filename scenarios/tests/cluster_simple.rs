//! A cluster on one flat network: it forms, and goes on without one of its machines.

use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("cluster_simple").test("goes_on_without_one", goes_on_without_one).requires(Ability::Network).run()
}

async fn goes_on_without_one(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::simple()).servers(3);
    let c = t.step("three machines form a cluster", async || cluster.formed(t).await).await?;
    let etcd = Etcd::of(&c, "cluster");
    t.step("traffic between all pairs", async || c.ping_all("cluster").await).await?;
    t.step("what one member takes, the others have", async || {
        etcd.wait_replicated("server-1", "rackless/simple", "all", &["server-2", "server-3"]).await
    })
    .await?;
    t.step("the power of server-3 is cut: the others take a write", async || {
        c["server-3"].crash().await?;
        etcd.wait_replicated("server-1", "rackless/simple", "two", &["server-2"]).await
    })
    .await
}
