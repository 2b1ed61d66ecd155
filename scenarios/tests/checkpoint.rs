//! A formed cluster comes out of a checkpoint as it went in, in as many copies as there is room for, and each copy is
//! its own.

use std::time::{SystemTime, UNIX_EPOCH};

use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("checkpoint")
        .test("copies_go_their_own_ways", copies_go_their_own_ways)
        .test("firmware_and_bonds_come_back", firmware_and_bonds_come_back)
        .run()
}

/// Machines that were booted by UEFI, on 802.3ad bonds: the copy's switch is the partner that the bonds had.
async fn firmware_and_bonds_come_back(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::bonding_vlans()).servers(2).boot(BootMode::Firmware).copies(1);
    let c = cluster.launch(t).await?;
    t.step("two machines boot by firmware", async || c.wait_ready().await).await?;
    t.step("their bonds aggregate", async || aggregate(&c).await).await?;
    let before = BondStatus::of(&c["server-1"], "bond0").await?;
    let copy = t
        .step("they are copied, and go on", async || {
            c.fork(t, 1).await?.pop().context("one copy was asked for")
        })
        .await?;
    t.step("the copy's bonds aggregate with the same partner, and carry traffic", async || {
        aggregate(&copy).await?;
        let after = BondStatus::of(&copy["server-1"], "bond0").await?;
        ensure!(
            after.partner == before.partner,
            "the partner was {:?}, and is {:?}",
            before.partner,
            after.partner
        );
        copy.ping_all("storage").await
    })
    .await?;
    t.step("so do those that went on", async || {
        aggregate(&c).await?;
        c.ping_all("storage").await
    })
    .await
}

/// Waits until both links of each bond aggregate, on the switch's side as well.
async fn aggregate(c: &Cluster) -> Result {
    for machine in c.servers() {
        BondStatus::wait_aggregates(c, machine, "bond0", &["eth1", "eth2"]).await?;
        wait_bundle(c, machine.name(), "bond0", 2).await?;
    }
    Ok(())
}

async fn copies_go_their_own_ways(t: &mut Testbed) -> Result {
    let c = t
        .step("a formed cluster", async || {
            Cluster::on(profiles::vlans()).servers(3).copies(1).formed(t).await
        })
        .await?;
    let etcd = Etcd::of(&c, "cluster");
    t.step("it takes a write", async || etcd.wait_put("server-1", "rackless/before", "both").await).await?;
    let copy = t
        .step("it is copied, and goes on", async || {
            c["server-2"].succeed("echo before > /root/file").await?;
            c.fork(t, 1).await?.pop().context("one copy was asked for")
        })
        .await?;
    let copied = Etcd::of(&copy, "cluster");
    t.step("both have what was there", async || {
        for (cluster, etcd) in [(&c, &etcd), (&copy, &copied)] {
            etcd.wait_for_leader("server-3").await?;
            let value = etcd.get("server-3", "rackless/before").await?;
            ensure!(value == "both", "etcd has {value:?}");
            ensure!(cluster["server-2"].succeed("cat /root/file").await?.trim() == "before");
        }
        Ok(())
    })
    .await?;
    t.step("each has the right time, the same identity, and random numbers of its own", async || {
        let of =
            async |cluster: &Cluster, command: &str| anyhow::Ok(cluster["server-1"].succeed(command).await?);
        for cluster in [&c, &copy] {
            let (host, guest) = (SystemTime::now(), of(cluster, "date +%s").await?);
            let host = host.duration_since(UNIX_EPOCH)?.as_secs();
            let off = host.abs_diff(guest.trim().parse()?);
            ensure!(off <= 10, "the guest's clock is {off} s off");
        }
        let id = "cat /etc/machine-id /proc/sys/kernel/random/boot_id";
        ensure!(of(&c, id).await? == of(&copy, id).await?, "another machine or another boot");
        let random = "head -c 32 /dev/urandom | sha256sum";
        ensure!(of(&c, random).await? != of(&copy, random).await?, "the same random numbers");
        Ok(())
    })
    .await?;
    t.step("what one writes, loses and learns is nothing to the other", async || {
        copied.wait_put("server-1", "rackless/after", "copy").await?;
        copy["server-2"].succeed("echo after > /root/file && sync").await?;
        copy["server-3"].crash().await?;
        copied.wait_put("server-1", "rackless/after", "without server-3").await?;
        ensure!(c["server-2"].succeed("cat /root/file").await?.trim() == "before");
        c["server-3"].succeed("true").await?;
        ensure!(etcd.get("server-3", "rackless/after").await.is_err(), "the key is in both");
        c.ping_all("storage").await
    })
    .await?;
    t.step("a machine of a copy boots again from its own disk", async || {
        copy["server-2"].reboot().await?;
        ensure!(copy["server-2"].succeed("cat /root/file").await?.trim() == "after");
        Ok(())
    })
    .await
}
