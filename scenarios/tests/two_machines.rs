//! Two machines on one network: addresses, ping, TCP both ways, jumbo frames, cables and cards.

use std::io::Read as _;

use driver::control::{Answer, Connection, Request, connect};
use driver::spec::{NicBackend, NicSpec};
use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("two_machines")
        .test("network", async |t: &mut Testbed| network(t, &Way::Agent).await)
        .requires(Ability::Carrier)
        .requires(Ability::HotPlug)
        .requires(Ability::Screenshot)
        .cases("over", Way::without_agent(), network)
        .requires(Ability::Image)
        .ignored(
            "start scripts and backdoors are in the gate by `start_script` and `boot`: these take six minutes more",
        )
        .run()
}

async fn network(t: &mut Testbed, &way: &Way) -> Result {
    let c = Cluster::on(profiles::simple()).servers(2).way(way).whole_capture().launch(t).await?;
    t.step("both boot and have their addresses", async || c.wait_ready().await).await?;
    t.step("the guest is told where it is plugged in", async || {
        // The switch says so every 30 s, and said it first before the guest had booted.
        let (port, ports) = (c["server-1"].port("eth1")?, c.lab().switch().ports()?);
        let name = &ports.iter().find(|state| state.id == port).context("a port of the switch")?.name;
        let told = format!("networkctl lldp --no-legend eth1 | grep -F {name}");
        c["server-1"].wait_until_succeeds(told).within(secs(45)).await?;
        Ok(())
    })
    .await?;
    t.step("ping both ways", async || c.ping_all("cluster").await).await?;
    for (from, to) in [("server-1", "server-2"), ("server-2", "server-1")] {
        t.step(format!("TCP from {from} to {to}"), async || {
            tcp_arrives_whole(&c[from], &c[to], 5_000_000).await
        })
        .await?;
    }
    t.step("jumbo frames pass whole", async || jumbo(&c).await).await?;
    t.step("what crosses is in a file, and read while the lab runs", async || captured(&c).await).await?;
    t.step("a cut cable is no carrier, and a healed one carries", async || cable(&c).await).await?;
    t.step("a partition drops frames, and the carrier stays", async || partition(&c).await).await?;
    t.step("a card is plugged in and out, unless a script decides on cards", async || card(&c, way).await)
        .await?;
    t.step("files both ways", async || files(t, &c).await).await?;
    t.step("the screen can be seen", async || {
        let picture = c["server-1"].screenshot("two-machines").await?;
        let bytes = fs_err::read(&picture)?;
        ensure!(bytes.starts_with(b"\x89PNG"), "{} is no PNG", picture.display());
        Ok(())
    })
    .await
}

async fn jumbo(c: &Cluster) -> Result {
    for machine in c.servers() {
        machine.succeed("ip link set dev eth1 mtu 9000").await?;
    }
    let address = c.ip("server-2", "cluster")?;
    // 9000 bytes less the headers of IP and ICMP, not to be fragmented.
    c["server-1"].succeed(format!("ping -c3 -i1 -W5 -M do -s 8972 {address}")).await?;
    for machine in c.servers() {
        machine.succeed("ip link set dev eth1 mtu 1500").await?;
    }
    Ok(())
}

/// The file of all frames (`--capture whole`), and what `rackless pcap` asks a running lab for, each have one ping on both
/// ports.
async fn captured(c: &Cluster) -> Result {
    let address = c.ip("server-2", "cluster")?;
    c["server-1"].succeed(format!("ping -c1 -W5 -p 7261636b6c657373 {address}")).await?;
    // The payload is "rackless" five times, so that each of the four frames (question and answer, at two ports) counts
    // twice at least.
    let pings = |bytes: &[u8]| bytes.windows(24).filter(|part| *part == b"racklessracklessrackless").count();
    let file = c.lab().artifacts().join("net/simple.pcapng");
    let written = driver::poll_until(secs(30), async || {
        let bytes = fs_err::read(&file).unwrap_or_default();
        (pings(&bytes) >= 8).then_some(())
    })
    .await;
    written.with_context(|| format!("{} has not the ping", file.display()))?;
    let (run, request) = (c.lab().run_dir().to_owned(), Request::Frames { ports: Vec::new(), vlan: None });
    let bytes = tokio::task::spawn_blocking(move || {
        let Connection { answer, mut reader, .. } = connect(&run, &request)?;
        let Answer::Frames { frames, bytes, .. } = answer else { bail!("{answer:?}") };
        let mut pcapng = Vec::new();
        reader.by_ref().take(bytes).read_to_end(&mut pcapng)?;
        ensure!(frames > 4 && pcapng.len() as u64 == bytes, "{frames} frames, {} bytes", pcapng.len());
        anyhow::Ok(pcapng)
    })
    .await??;
    ensure!(pings(&bytes) >= 8, "what `rackless pcap` gets has not the ping");
    Ok(())
}

async fn cable(c: &Cluster) -> Result {
    let address = c.ip("server-2", "cluster")?;
    let cut = c["server-2"].cut("eth1").await?;
    c["server-2"].wait_until_succeeds("grep -qx 0 /sys/class/net/eth1/carrier").await?;
    c["server-1"].fail(format!("ping -c2 -i1 -W1 {address}")).await?;
    cut.heal().await?;
    c["server-2"].wait_until_succeeds("grep -qx 1 /sys/class/net/eth1/carrier").await?;
    c["server-1"].wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
    Ok(())
}

async fn partition(c: &Cluster) -> Result {
    let address = c.ip("server-2", "cluster")?;
    let apart = c.lab().partition(&["server-1"], &["server-2"])?;
    c["server-1"].fail(format!("ping -c2 -i1 -W1 {address}")).await?;
    c["server-2"].succeed("grep -qx 1 /sys/class/net/eth1/carrier").await?;
    apart.heal().await?;
    c["server-1"].wait_until_succeeds(format!("ping -c1 -W2 {address}")).await?;
    Ok(())
}

async fn card(c: &Cluster, way: Way) -> Result {
    let mac = "52:54:00:99:00:01";
    let port = c["server-1"].spec().nics[0].port.clone();
    let backend = NicBackend::default();
    let plugged =
        c["server-1"].plug(NicSpec { name: "eth9".to_owned(), mac: mac.to_owned(), port, backend }).await;
    if !way.plugs_nics() {
        let refused = plugged.err().context("a card was plugged into a machine of a start script")?;
        ensure!(matches!(refused, driver::Error::Unsupported { .. }), "{refused}");
        return Ok(());
    }
    plugged?;
    c["server-1"].wait_until_succeeds(format!("ip -o link | grep -q {mac}")).await?;
    c["server-1"].unplug("eth9").await?;
    c["server-1"].wait_until_fails(format!("ip -o link | grep -q {mac}")).await?;
    Ok(())
}

async fn files(t: &Testbed, c: &Cluster) -> Result {
    let folder = tempfile::tempdir_in(t.artifacts())?;
    let (sent, back) = (folder.path().join("sent"), folder.path().join("back"));
    let content: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs_err::write(&sent, &content)?;
    c["server-1"].copy_to(&sent, "/var/tmp/sent").mode(0o640).await?;
    ensure!(c["server-1"].succeed("stat -c %a /var/tmp/sent").await?.trim() == "640", "another mode");
    c["server-1"].copy_from("/var/tmp/sent", &back).await?;
    ensure!(fs_err::read(&back)? == content, "the file came back changed");
    Ok(())
}
