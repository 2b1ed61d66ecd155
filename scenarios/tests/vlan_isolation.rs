//! Machines that tag with other VLAN ids than the switch lets pass reach nobody, and the check for that is one that can
//! fail: on a switch that passes everything to everybody, as a hub does, it finds the frames.

use std::time::Duration;

use scenarios::prelude::*;
use switch::PortMode;

/// What server-2 and server-3 tag with in the profile, for the networks cluster and storage. Server-1 is right.
const STRAY: [u16; 4] = [201, 202, 101, 102];

fn main() -> ExitCode {
    suite("vlan_isolation")
        .test("wrong_tags_cross_nothing", wrong_tags_cross_nothing)
        .requires(Ability::Network)
        .run()
}

async fn wrong_tags_cross_nothing(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::vlans_broken()).servers(3).launch(t).await?;
    t.step("three machines boot", async || c.wait_ready().await).await?;
    t.step("nobody reaches anybody", async || reach_nobody(&c).await).await?;
    t.step("no frame crossed", async || nothing_crossed(&c, Duration::ZERO)).await?;
    let since = c.lab().switch().now();
    t.step("on a hub, the same check finds frames that crossed", async || {
        let switch = c.lab().switch();
        for port in switch.ports()? {
            switch.set_mode(port.id, PortMode::Trunk { allowed: VlanSet::all(), native: None })?;
        }
        // Even so nobody is reached, since each drops what is not tagged with its own id: only the wire shows a leak.
        reach_nobody(&c).await?;
        let found = nothing_crossed(&c, since).expect_err("the ports pass every VLAN");
        let found = format!("{found:#}");
        ensure!(found.contains("left the switch"), "it failed for another reason: {found}");
        Ok(())
    })
    .await
}

/// Every machine pings every other on the network that it takes for the same, all at once.
async fn reach_nobody(c: &Cluster) -> Result {
    let pings = c.pairs().map(|(from, to)| async move {
        let address = c.ip(to.name(), "cluster")?;
        from.fail(format!("ping -c2 -i1 -W1 {address}")).await?;
        anyhow::Ok(())
    });
    futures::future::try_join_all(pings).await?;
    Ok(())
}

/// Each stray tag was sent since then, so that there was something to keep out, and left by no port.
fn nothing_crossed(c: &Cluster, since: Duration) -> Result {
    let switch = c.lab().switch();
    for (machine, tag) in [("server-2", STRAY[0]), ("server-3", STRAY[1])] {
        let sent = FrameFilter::new()
            .port(format!("{machine}/eth1"))
            .direction(Direction::In)
            .tagged(tag)
            .since(since);
        ensure!(
            !switch.frames(&sent)?.is_empty(),
            "{machine} sent no frame tagged {tag}: nothing was tested"
        );
    }
    for tag in STRAY {
        let left = switch.frames(&FrameFilter::new().direction(Direction::Out).tagged(tag).since(since))?;
        ensure!(left.is_empty(), "frames tagged {tag} left the switch: {}", describe(&left));
    }
    Ok(())
}
