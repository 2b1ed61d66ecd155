//! What the switch does to a link, measured from inside the guests: delay, loss and rate, each within its bounds, all
//! at once, and gone when healed.

use std::time::Duration;

use scenarios::prelude::*;

const PACKETS: u32 = 1000;

fn main() -> ExitCode {
    suite("link_faults").test("delay_loss_and_rate", delay_loss_and_rate).requires(Ability::Network).run()
}

async fn delay_loss_and_rate(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::simple()).servers(2).launch(t).await?;
    t.step("two machines boot", async || c.wait_ready().await).await?;
    let (lab, near, far) = (c.lab(), &c["server-1"], &c["server-2"]);
    let address = c.ip("server-2", "cluster")?.to_string();
    let base = t
        .step("the link is quick and loses nothing", async || {
            near.wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
            far.succeed("systemd-run --unit=iperf iperf3 --server").await?;
            far.wait_for_open_port(5201).await?;
            let base = ping(near, &address, PACKETS).await?;
            ensure!(base.received == PACKETS, "{} of {PACKETS} came back", base.received);
            let rate = iperf(near, &address).await?;
            ensure!(
                rate > 12e6,
                "without an impairment the link carries only {rate:.0} bit/s: no room to slow it"
            );
            Ok(base)
        })
        .await?;
    t.step("50 ms of delay are 50 ms", async || {
        let slow =
            lab.impair_pair("server-1", "server-2", Impairment::new().delay(Duration::from_millis(50)))?;
        let rtt = ping(near, &address, 20).await?.least_ms;
        slow.heal().await?;
        let added = rtt - base.least_ms;
        ensure!(
            (49.0..55.0).contains(&added),
            "50 ms of delay added {added:.1} ms to {:.1} ms",
            base.least_ms
        );
        Ok(())
    })
    .await?;
    t.step("a loss of 5 % is 5 %", async || {
        let lossy = lab.impair_pair("server-1", "server-2", Impairment::new().loss(0.05))?;
        let lost = PACKETS - ping(near, &address, PACKETS).await?.received;
        lossy.heal().await?;
        // Five standard deviations of a binomial distribution (6.9): wrong once in two million runs.
        ensure!((16..=84).contains(&lost), "5 % of {PACKETS} packets are {lost}");
        Ok(())
    })
    .await?;
    t.step("10 Mbit/s are 10 Mbit/s", async || {
        let narrow = lab.impair_pair("server-1", "server-2", Impairment::new().rate(10_000_000))?;
        let rate = iperf(near, &address).await?;
        narrow.heal().await?;
        // What TCP carries in frames of 1514 bytes, of which 1448 are payload, is 9.56 Mbit/s at most.
        ensure!((8.8e6..=9.8e6).contains(&rate), "10 Mbit/s carry {rate:.0} bit/s of payload");
        Ok(())
    })
    .await?;
    t.step("all at once, and gone when all is healed", async || {
        let all = Impairment::new().delay(Duration::from_millis(50)).loss(0.05).rate(10_000_000);
        // Nobody keeps the guard: healing everything needs none.
        let _ = lab.impair_pair("server-1", "server-2", all)?;
        let bad = ping(near, &address, 200).await?;
        ensure!(bad.received < 200, "nothing was lost");
        ensure!(bad.least_ms - base.least_ms > 49.0, "the delay is {:.1} ms", bad.least_ms);
        lab.heal_all().await?;
        let good = ping(near, &address, 200).await?;
        ensure!(good.received == 200, "{} of 200 came back on a healed link", good.received);
        let left = good.least_ms - base.least_ms;
        ensure!(left < 5.0, "{left:.1} ms of delay are left");
        Ok(())
    })
    .await
}

/// What ping tells of a series.
struct Series {
    received: u32,
    least_ms: f64,
}

async fn ping(from: &Machine, to: &str, count: u32) -> Result<Series> {
    // That some are lost is no failure here.
    let output = from.execute(format!("ping -q -c{count} -i0.01 -W5 {to}")).within(secs(60)).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let find = |pattern: &str| -> Result<f64> {
        let found = Regex::new(pattern)?.captures(&said).with_context(|| format!("ping said: {said}"))?;
        Ok(found[1].parse()?)
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of packets")]
    Ok(Series {
        received: find(r"(\d+) received")? as u32,
        least_ms: find(r"rtt min/avg/max/mdev = ([\d.]+)/")?,
    })
}

/// Bits per second of TCP payload that arrived.
async fn iperf(from: &Machine, to: &str) -> Result<f64> {
    let report =
        from.succeed(format!("iperf3 --json --omit 1 --time 5 --client {to}")).within(secs(30)).await?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's report has no rate")
}
