//! Bonds without LACP: active-backup, balance-alb and balance-rr carry TCP, lose a link, go on within a second, and take
//! the link back.

use std::time::Duration;

use profiles::Profile;
use scenarios::prelude::*;
use switch::CapturedFrame;

/// A second is the bonds' own to find out (every 100 ms) and everybody's to learn the new way; a guest without KVM is
/// slower at both.
const WITHIN: Duration = Duration::from_secs(1);

/// What nc listens on in server-2.
const PORT: u16 = 7000;

const PROFILE: &str = r#"
name = "bond-modes"
description = "a bond of each mode that speaks no LACP"
nics = ["eth1", "eth2", "eth3", "eth4", "eth5", "eth6"]

[bonds.bond0]
mode = "active-backup"
members = ["eth1", "eth2"]
primary = "eth1"

[bonds.bond1]
mode = "balance-alb"
members = ["eth3", "eth4"]

[bonds.bond2]
mode = "balance-rr"
members = ["eth5", "eth6"]

[networks.cluster]
subnet = "192.168.1.0/24"
interface = "bond0"

[networks.alb]
subnet = "192.168.2.0/24"
interface = "bond1"

[networks.rr]
subnet = "192.168.3.0/24"
interface = "bond2"

[machines.server-1]
role = "server"
addresses = { cluster = "192.168.1.1", alb = "192.168.2.1", rr = "192.168.3.1" }

[machines.server-2]
role = "server"
addresses = { cluster = "192.168.1.2", alb = "192.168.2.2", rr = "192.168.3.2" }

[kubernetes]
pod_cidr = "10.42.0.0/16"
service_cidr = "10.43.0.0/16"
api_server = "server-1"
"#;

fn main() -> ExitCode {
    suite("bond_modes").test("fail_over_and_back", fail_over_and_back).requires(Ability::Carrier).run()
}

async fn fail_over_and_back(t: &mut Testbed) -> Result {
    let c = Cluster::on(Profile::parse(PROFILE, "bond-modes")?).servers(2).launch(t).await?;
    t.step("two machines boot", async || c.wait_ready().await).await?;
    t.step("every bond carries traffic", async || {
        for network in c.profile().networks() {
            c.ping_all(&network.name).await?;
        }
        c["server-2"].succeed(format!("systemd-run --unit=answer nc -lk {PORT}")).await?;
        c["server-2"].wait_for_open_port(PORT).await?;
        Ok(())
    })
    .await?;
    for (bond, network, links) in [
        ("bond0", "cluster", ["eth1", "eth2"]),
        ("bond1", "alb", ["eth3", "eth4"]),
        ("bond2", "rr", ["eth5", "eth6"]),
    ] {
        t.step(format!("{bond} loses {} and goes on, and takes it back", links[0]), async || {
            lose_and_regain(&c, bond, network, links).await
        })
        .await?;
    }
    t.step("balance-rr used both links", async || {
        for port in ["server-1/eth5", "server-1/eth6"] {
            let sent = FrameFilter::new().port(port).direction(Direction::In).ip(c.ip("server-2", "rr")?);
            ensure!(c.lab().switch().frames(&sent)?.len() > 1, "{port} carried next to nothing");
        }
        Ok(())
    })
    .await
}

/// Cuts the first link of a bond of server-1, in active-backup the one in use, and heals it again.
async fn lose_and_regain(c: &Cluster, bond: &str, network: &str, [lost, left]: [&str; 2]) -> Result {
    let machine = &c["server-1"];
    let cut = machine.cut(lost).await?;
    wait_for_links(c, bond, &[left]).await?;
    connect(c, network).await?;
    cut.heal().await?;
    wait_for_links(c, bond, &[lost, left]).await?;
    connect(c, network).await
}

/// Waits until exactly these members of a bond of server-1 have a link, and in active-backup until the first of them
/// carries the traffic.
async fn wait_for_links(c: &Cluster, bond: &str, links: &[&str]) -> Result {
    let limit = secs(10) * c.lab().accel().time_factor();
    let mut last = BondStatus::default();
    let done = driver::poll_until(limit, async || {
        last = match BondStatus::of(&c["server-1"], bond).await {
            Ok(status) => status,
            Err(error) => return Some(Err(error)),
        };
        let up: Vec<&str> = last.members.iter().filter(|m| m.up).map(|m| m.name.as_str()).collect();
        let first = last.active_member.as_deref().is_none_or(|active| active == links[0] || bond != "bond0");
        (up == links && first).then_some(Ok(()))
    })
    .await;
    done.with_context(|| format!("server-1: {bond} has not the links {links:?} after {limit:?}: {last:?}"))?
}

/// Connects from server-1 to server-2, and takes from the capture how long the answer took.
async fn connect(c: &Cluster, network: &str) -> Result {
    let (switch, address) = (c.lab().switch(), c.ip("server-2", network)?);
    let since = switch.now();
    c["server-1"].succeed(format!("nc -z -w 20 {address} {PORT}")).await?;
    let frames = switch.frames(&FrameFilter::new().ip(address).since(since))?;
    // From the first question, be it ARP's, to the first answer of TCP.
    let asked = frames.iter().find(|f| f.port_name.starts_with("server-1/") && f.direction == Direction::In);
    let asked = asked.context("server-1 asked for nobody")?;
    let is_answer = |f: &&CapturedFrame| {
        let from = f.summary().and_then(|summary| summary.tcp().map(|tcp| tcp.src_port));
        f.port_name.starts_with("server-1/") && f.direction == Direction::Out && from == Some(PORT)
    };
    let answered = frames.iter().find(is_answer).context("no answer was seen")?;
    let (took, limit) = (answered.at - asked.at, WITHIN * c.lab().accel().time_factor());
    ensure!(took < limit, "the first connection took {took:?}, not {limit:?}: {asked} … {answered}");
    Ok(())
}
