//! NICs on shared memory: throughput between two machines, and what such a NIC can't do is refused.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use scenarios::prelude::*;
use services::{Host, HostOptions};
use switch::VlanId;

fn main() -> ExitCode {
    suite("fast_path")
        .test("throughput", throughput)
        .requires(Ability::Process)
        .test("bond", bond)
        .requires(Ability::Image)
        .run()
}

/// A bond of fast NICs speaks LACP with the switch as any other does, and is tagged traffic's way.
async fn bond(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::bonding_vlans(), &["server-1"]).fast_nics().launch(t).await?;
    let machine = &lab["server-1"];
    t.step("a machine boots on fast NICs", async || Ok(machine.wait_ready().await?)).await?;
    t.step("its bond has a partner, and both links carry", async || {
        let limit = secs(30) * lab.accel().time_factor();
        let mut last = anyhow::anyhow!("there was no look");
        let formed = driver::poll_until(limit, async || {
            let bundles = lab.switch().bundles().ok()?;
            let links = bundles.iter().find(|bundle| bundle.name == "server-1/bond0")?.active().count();
            let guest =
                BondStatus::of(machine, "bond0").await.and_then(|bond| bond.aggregates(&["eth1", "eth2"]));
            match guest {
                Ok(()) if links == 2 => return Some(()),
                Ok(()) => last = anyhow::anyhow!("the switch uses {links} links"),
                Err(error) => last = error,
            }
            None
        })
        .await;
        formed.with_context(|| format!("no bond of two links: {last:#}"))
    })
    .await?;
    t.step("a host on a tagged VLAN answers", async || {
        let vlan = VlanId::new(profiles::bonding_vlans().switch_vlan("storage")?)?;
        let beside = next_to(machine.address("storage")?)?;
        let host =
            Host::start(lab.switch(), HostOptions::new("host", vlan, format!("{beside}/24").parse()?))?;
        machine.wait_until_succeeds(format!("ping -c1 -W5 {}", host.address())).await?;
        Ok(())
    })
    .await
}

/// An address of the same network that no machine has.
fn next_to(address: IpAddr) -> Result<IpAddr> {
    let IpAddr::V4(address) = address else { bail!("{address} is not IPv4") };
    let [a, b, c, _] = address.octets();
    Ok(Ipv4Addr::new(a, b, c, 200).into())
}

async fn throughput(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1", "server-2"]).fast_nics().launch(t).await?;
    t.step("two machines boot on fast NICs", async || Ok(lab.wait_ready().await?)).await?;
    let (near, far) = (&lab["server-1"], &lab["server-2"]);
    let address = far.address("cluster")?;
    t.step("the switch passes frames through the guests' memory", async || {
        near.wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
        for name in ["server-1/eth1", "server-2/eth1"] {
            let fast = port(&lab, name)?.fast.with_context(|| format!("{name} is a plain port"))?;
            ensure!(fast.running && fast.problem.is_none(), "{name}: {fast:?}");
        }
        Ok(())
    })
    .await?;
    t.step("TCP goes in pieces of up to 64 KiB", async || {
        far.succeed("systemd-run --unit=iperf iperf3 --server").await?;
        far.wait_for_open_port(5201).await?;
        let before = port(&lab, "server-2/eth1")?.counters.tx;
        let report =
            near.succeed(format!("iperf3 --json --time 5 --client {address}")).within(secs(30)).await?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let bytes = report["end"]["sum_received"]["bytes"].as_u64().context("iperf3's report has no sum")?;
        let after = port(&lab, "server-2/eth1")?.counters.tx;
        let (frames, carried) = (after.sent - before.sent, after.bytes - before.bytes);
        t.note(&format!("{bytes} bytes in 5 s, {} a frame", carried / frames.max(1)));
        ensure!(carried >= bytes, "{bytes} bytes arrived, and the port carried {carried}");
        ensure!(
            carried / frames.max(1) > 3000,
            "{carried} bytes in {frames} frames: segments came one by one"
        );
        Ok(())
    })
    .await?;
    t.step("a file arrives whole, so that the checksums which nobody computed are no loss", async || {
        tcp_arrives_whole(near, far, 20_000_000).await
    })
    .await?;
    t.step("a capture and an impairment are refused", async || {
        let refused = |what: &str, error: String| {
            ensure!(error.contains("server-1/eth1 is a vhost-user port"), "{what}: {error}");
            Ok(())
        };
        let (named, all) = (FrameFilter::new().port("server-1/eth1"), FrameFilter::new());
        let capture = lab.switch().capture_to(&t.artifacts().join("fast.pcapng"), &named);
        refused("capture", capture.err().context("a capture was taken")?.to_string())?;
        for filter in [&named, &all] {
            let frames = lab.switch().frames(filter);
            refused("frames", frames.err().context("an assertion was taken")?.to_string())?;
        }
        let slow = near.impair("eth1", Impairment::new().delay(Duration::from_millis(50)));
        refused("impair", slow.err().context("an impairment was taken")?.to_string())
    })
    .await?;
    t.step("the link can be cut and heals, and so can a partition", async || {
        let cut = far.cut("eth1").await?;
        near.wait_until_fails(format!("ping -c1 -W1 {address}")).await?;
        cut.heal().await?;
        near.wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
        let apart = lab.partition(&["server-1"], &["server-2"])?;
        near.fail(format!("ping -c1 -W1 {address}")).await?;
        apart.heal().await?;
        near.wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
        Ok(())
    })
    .await?;
    t.step("a machine that reboots is on its fast NIC again", async || {
        far.reboot().await?;
        far.wait_ready().await?;
        near.wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
        Ok(())
    })
    .await
}

fn port(lab: &Lab, name: &str) -> Result<switch::PortState> {
    lab.switch()
        .ports()?
        .into_iter()
        .find(|port| port.name == name)
        .with_context(|| format!("no port {name}"))
}
