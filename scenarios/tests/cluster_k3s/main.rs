//! K3s forms a cluster on the servers and agents of a profile, with its flags; a node that is not Ready, and one whose token
//! is wrong, are told with what K3s says. No K3s can be had where this is developed: the words are proved with a stand-in
//! for the program, and the scenario itself runs on an image that provides `k3s`.

mod stand_in;

use scenarios::prelude::*;

fn main() -> ExitCode {
    let suite = suite("cluster_k3s").test("words_with_a_stand_in", words_with_a_stand_in);
    let suite = suite.test("forms", forms).deadline(secs(15 * 60));
    match scenarios::lacks("server", "k3s") {
        Some(why) => suite.ignored(why),
        None => suite,
    }
    .run()
}

/// The cluster itself, on an image that has K3s.
async fn forms(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::vlans()).servers(2).agents(1).memory_mib(2048).vcpus(2).launch(t).await?;
    t.step("the machines boot and have their addresses", async || c.wait_ready().await).await?;
    let k3s = t.step("K3s forms a cluster over the VLAN", async || K3s::form(&c).await).await?;
    t.step("etcd is healthy on each server", async || k3s.etcd_healthy().await).await?;
    t.step("a node whose cable is cut is not Ready, and Ready once it is healed", async || {
        let cut = c["agent-1"].cut("eth1").await?;
        let told = k3s.wait_not_ready("agent-1").await?;
        ensure!(told.contains("Ready"), "{told}");
        cut.heal().await?;
        k3s.wait_ready().await
    })
    .await
}

async fn words_with_a_stand_in(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::vlans()).servers(1).agents(1).launch(t).await?;
    t.step("the machines boot and have their addresses", async || c.wait_ready().await).await?;
    t.step("an image without K3s says so", async || {
        let error = K3s::form(&c).await.err().context("there is no K3s")?;
        ensure!(format!("{error:#}").contains("server-1: K3s: the image has no unit of it"), "{error:#}");
        Ok(())
    })
    .await?;
    t.step("a stand-in takes its place, as a package for Debian and as a NixOS system have it", async || {
        stand_in::debian(&c["server-1"]).await?;
        stand_in::nixos(&c["agent-1"], &c).await
    })
    .await?;
    let k3s = t.step("they form a cluster", async || K3s::form(&c).await).await?;
    t.step("nodes and etcd are as the profile has them", async || {
        let nodes = k3s.nodes().await?;
        let named: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.votes)).collect();
        ensure!(named == [("agent-1", None), ("server-1", Some(true))], "{nodes:?}");
        k3s.etcd_healthy().await
    })
    .await?;
    t.step("a node that is not Ready is told, and why", async || {
        c["agent-1"].succeed("touch /run/k3s-not-ready").await?;
        let told = k3s.wait_not_ready("agent-1").await?;
        ensure!(told.contains("KubeletNotReady: the stand-in was told not to be"), "{told}");
        let error = k3s.wait_ready_within(secs(1)).await.err().context("it is Ready")?.to_string();
        ensure!(error.contains("agent-1: its node is not Ready") && !error.contains("server-1:"), "{error}");
        c["agent-1"].succeed("rm /run/k3s-not-ready").await?;
        k3s.wait_ready().await
    })
    .await?;
    t.step("a wrong token keeps a node out, and its K3s's own words are in the error", async || {
        let k3s = K3s::of(&c).token_of("agent-1", "wrong");
        k3s.start_on("agent-1").await?;
        k3s.wait_not_ready("agent-1").await?;
        let error = k3s.wait_ready_within(secs(1)).await.err().context("it joined")?.to_string();
        ensure!(error.contains("agent-1: ") && error.contains("401 Unauthorized"), "{error}");
        Ok(())
    })
    .await
}
