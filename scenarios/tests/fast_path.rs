//! NICs on shared memory: throughput between two machines, and what such a NIC can't do is refused.

use std::time::Duration;

use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("fast_path").test("throughput", throughput).requires(Ability::Process).run()
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
        near.succeed("head -c 20000000 /dev/urandom > /tmp/sent").await?;
        far.succeed("systemd-run --unit=receive --collect sh -c 'nc -l 7000 > /tmp/received'").await?;
        far.wait_until_succeeds("ss -Hltn sport = :7000 | grep -q LISTEN").await?;
        near.succeed(format!("nc -N {address} 7000 < /tmp/sent")).await?;
        let sent = near.succeed("sha256sum < /tmp/sent").await?;
        far.wait_until_succeeds(format!("test \"$(sha256sum < /tmp/received)\" = '{}'", sent.trim())).await?;
        Ok(())
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
