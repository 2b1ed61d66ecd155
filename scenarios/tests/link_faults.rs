//! What the switch does to a link, measured from inside the guests: each impairment within its bounds, some at once, and
//! gone when healed.
//!
//! Bounds of what chance decides are five standard deviations wide: wrong once in two million runs.

use std::collections::BTreeSet;
use std::time::Duration;

use scenarios::prelude::*;

const PACKETS: u32 = 1000;

/// Of what needs no thousand.
const FEW: u32 = 500;

fn main() -> ExitCode {
    suite("link_faults")
        .test("each_within_its_bounds", each_within_its_bounds)
        .requires(Ability::Network)
        .run()
}

async fn each_within_its_bounds(t: &mut Testbed) -> Result {
    let c = Cluster::on(profiles::simple()).servers(2).launch(t).await?;
    t.step("two machines boot", async || c.wait_ready().await).await?;
    let mut link = Link {
        lab: c.lab(),
        near: &c["server-1"],
        far: &c["server-2"],
        address: c.ip("server-2", "cluster")?.to_string(),
        least_ms: 0.0,
    };
    t.step("the link is quick and loses nothing", async || link.is_sound().await).await?;
    t.step("50 ms of delay are 50 ms", async || delay(&link).await).await?;
    t.step("a jitter of 10 ms is one", async || jitter(&link).await).await?;
    t.step("a loss of 5 % is 5 %", async || loss(&link).await).await?;
    t.step("a loss in bursts of 5 comes in bursts of 5", async || bursts(&link).await).await?;
    t.step("10 Mbit/s are 10 Mbit/s", async || rate(&link).await).await?;
    t.step("of each ten frames one is damaged, and not taken", async || corrupt(&link).await).await?;
    t.step("of each ten frames one comes twice", async || duplicate(&link).await).await?;
    t.step("of each ten frames one overtakes others", async || reorder(&link).await).await?;
    t.step("many at once, and gone when all is healed", async || all(&link).await).await
}

async fn delay(link: &Link<'_>) -> Result {
    let slow = link.ping_with(Impairment::new().delay(Duration::from_millis(50)), 20).await?;
    let added = slow.least_ms()? - link.least_ms;
    ensure!((49.0..55.0).contains(&added), "50 ms of delay added {added:.1} ms to {:.1} ms", link.least_ms);
    Ok(())
}

async fn jitter(link: &Link<'_>) -> Result {
    let shaky = Impairment::new()
        .delay(Duration::from_millis(50))
        .jitter(Duration::from_millis(10), Distribution::Normal);
    let mut times = link.ping_with(shaky, PACKETS).await?.times_ms();
    times.sort_by(f64::total_cmp);
    ensure!(times.len() == PACKETS as usize, "{} of {PACKETS} came back", times.len());
    let at = |percent: usize| times[times.len() * percent / 100];
    // Of a normal distribution 68 % are within one standard deviation. The guests' own jitter is in it as well.
    let (median, deviation) = (at(50) - link.least_ms, (at(84) - at(16)) / 2.0);
    ensure!((48.0..60.0).contains(&median), "the median of the added delays is {median:.1} ms");
    ensure!((8.0..13.0).contains(&deviation), "the delays spread by {deviation:.1} ms");
    Ok(())
}

async fn loss(link: &Link<'_>) -> Result {
    let lost = link.ping_with(Impairment::new().loss(0.05), PACKETS).await?.lost().len();
    ensure!((16..=84).contains(&lost), "5 % of {PACKETS} packets are {lost}");
    Ok(())
}

async fn bursts(link: &Link<'_>) -> Result {
    let series = link.ping_with(Impairment::new().loss_bursts(0.2, 5.0), PACKETS).await?;
    let lost = series.lost();
    let bursts = lost.chunk_by(|one, next| *next == *one + 1).count();
    let lost = lost.len();
    ensure!((30..=370).contains(&lost), "20 % of {PACKETS} packets are {lost}");
    let mean = lost as f64 / bursts as f64;
    // The mean of some forty lengths whose standard deviation is 4.5. If each were lost for itself, it were 1.25.
    ensure!((2.0..9.0).contains(&mean), "{lost} packets were lost in {bursts} bursts, {mean:.1} in each");
    Ok(())
}

async fn rate(link: &Link<'_>) -> Result {
    let narrow = link.impair(Impairment::new().rate(10_000_000))?;
    let rate = link.iperf().await?;
    narrow.heal().await?;
    // What TCP carries in frames of 1514 bytes, of which 1448 are payload, is 9.56 Mbit/s at most.
    ensure!((8.8e6..=9.8e6).contains(&rate), "10 Mbit/s carry {rate:.0} bit/s of payload");
    Ok(())
}

async fn corrupt(link: &Link<'_>) -> Result {
    // One bit of each is another, which a checksum of the receiver notices.
    let lost = link.ping_with(Impairment::new().corrupt(0.1), FEW).await?.lost().len();
    ensure!((17..=83).contains(&lost), "10 % of {FEW} packets are {lost}");
    Ok(())
}

async fn duplicate(link: &Link<'_>) -> Result {
    let series = link.ping_with(Impairment::new().duplicate(0.1), FEW).await?;
    series.is_whole()?;
    let twice = series.answers.len() - FEW as usize;
    ensure!((17..=83).contains(&twice), "10 % of {FEW} packets are {twice}");
    Ok(())
}

async fn reorder(link: &Link<'_>) -> Result {
    let mixed = Impairment::new().delay(Duration::from_millis(50)).reorder(0.1);
    let series = link.ping_with(mixed, FEW).await?;
    series.is_whole()?;
    // One that goes ahead at once overtakes the five of the last 50 ms.
    let ahead = series.answers.windows(2).filter(|pair| pair[0].number > pair[1].number).count();
    ensure!((12..=83).contains(&ahead), "of {FEW} packets {ahead} came before an earlier one");
    Ok(())
}

async fn all(link: &Link<'_>) -> Result {
    let all = Impairment::new().delay(Duration::from_millis(50)).loss(0.05).rate(10_000_000);
    // Nobody keeps the guard: healing everything needs none.
    let _ = link.impair(all)?;
    let bad = link.ping(200).await?;
    ensure!(!bad.lost().is_empty(), "nothing was lost");
    let added = bad.least_ms()? - link.least_ms;
    ensure!(added > 49.0, "the delay is {added:.1} ms");
    link.lab.heal_all().await?;
    let good = link.ping(200).await?;
    good.is_whole().context("a healed link")?;
    let left = good.least_ms()? - link.least_ms;
    ensure!(left < 5.0, "{left:.1} ms of delay are left");
    Ok(())
}

/// From one machine to another, and what an answer takes at least while nothing is wrong.
struct Link<'a> {
    lab: &'a Lab,
    near: &'a Machine,
    far: &'a Machine,
    address: String,
    least_ms: f64,
}

impl Link<'_> {
    async fn is_sound(&mut self) -> Result {
        self.near.wait_until_succeeds(format!("ping -c1 -W2 {}", self.address)).await?;
        self.far.succeed("systemd-run --unit=iperf iperf3 --server").await?;
        self.far.wait_for_open_port(5201).await?;
        let series = self.ping(PACKETS).await?;
        series.is_whole()?;
        self.least_ms = series.least_ms()?;
        let rate = self.iperf().await?;
        ensure!(
            rate > 12e6,
            "without an impairment the link carries only {rate:.0} bit/s: no room to slow it"
        );
        Ok(())
    }

    /// On the way there, not back.
    fn impair(&self, impairment: Impairment) -> Result<Fault> {
        Ok(self.lab.impair_pair(self.near.name(), self.far.name(), impairment)?)
    }

    async fn ping_with(&self, impairment: Impairment, count: u32) -> Result<Series> {
        let impaired = self.impair(impairment)?;
        let series = self.ping(count).await?;
        impaired.heal().await?;
        Ok(series)
    }

    async fn ping(&self, count: u32) -> Result<Series> {
        // That some are lost is no failure here.
        let command = format!("ping -c{count} -i0.01 -W5 {}", self.address);
        let output = self.near.execute(command).within(secs(60)).await?;
        Series::parse(&String::from_utf8_lossy(&output.stdout), count)
    }

    /// Bits per second of TCP payload that arrived.
    async fn iperf(&self) -> Result<f64> {
        let command = format!("iperf3 --json --omit 1 --time 5 --client {}", self.address);
        let report = self.near.succeed(command).within(secs(30)).await?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's report has no rate")
    }
}

/// What ping tells of a series.
struct Series {
    sent: u32,
    /// In the order in which they came.
    answers: Vec<Answer>,
}

struct Answer {
    /// From 1.
    number: u32,
    ms: f64,
}

impl Series {
    fn parse(said: &str, sent: u32) -> Result<Series> {
        let answer = Regex::new(r"icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms")?;
        let answers = answer
            .captures_iter(said)
            .map(|found| anyhow::Ok(Answer { number: found[1].parse()?, ms: found[2].parse()? }));
        let answers = answers.collect::<Result<Vec<Answer>>>()?;
        ensure!(said.contains(&format!("\n{sent} packets transmitted, ")), "ping said: {said}");
        Ok(Series { sent, answers })
    }

    /// Which were not answered, in order.
    fn lost(&self) -> Vec<u32> {
        let answered: BTreeSet<u32> = self.answers.iter().map(|answer| answer.number).collect();
        (1..=self.sent).filter(|number| !answered.contains(number)).collect()
    }

    /// Each was answered, however often.
    fn is_whole(&self) -> Result {
        let lost = self.lost().len();
        ensure!(lost == 0, "{lost} of {} did not come back", self.sent);
        Ok(())
    }

    fn times_ms(&self) -> Vec<f64> {
        self.answers.iter().map(|answer| answer.ms).collect()
    }

    fn least_ms(&self) -> Result<f64> {
        self.times_ms().into_iter().min_by(f64::total_cmp).context("nothing came back")
    }
}
