//! A formed cluster comes out of a checkpoint as it went in, in as many copies as there is room for, and each copy is
//! its own.

use std::time::{SystemTime, UNIX_EPOCH};

use driver::checkpoint::CheckpointError;
use driver::spec::NicSpec;
use scenarios::prelude::*;

fn main() -> ExitCode {
    suite("checkpoint")
        .test("copies_go_their_own_ways", copies_go_their_own_ways)
        .requires(Ability::Checkpoint)
        .test("firmware_and_bonds_come_back", firmware_and_bonds_come_back)
        .requires(Ability::Checkpoint)
        .run()
}

/// Machines that were booted by UEFI, on 802.3ad bonds, with a second disk, one with a card too many, one with a card too
/// few and paused: the copy's switch is the partner that the bonds had, and everything is where it was.
async fn firmware_and_bonds_come_back(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::bonding_vlans()).servers(2).boot(BootMode::Firmware);
    let c = cluster.data_disk("data", 64).copies(1).launch(t).await?;
    t.step("two machines boot by firmware", async || c.wait_ready().await).await?;
    t.step("their bonds aggregate", async || aggregate(&c, &["eth1", "eth2"]).await).await?;
    let before = BondStatus::of(&c["server-1"], "bond0").await?;
    let (first, second) = (&c["server-1"], &c["server-2"]);
    let mac = "52:54:00:5b:a7:e1";
    let spare = NicSpec { name: "spare".into(), mac: mac.into(), ..first.spec().nics[0].clone() };
    t.step("server-1 gets a file system on its second disk, and another card", async || {
        first.succeed("mkfs.ext4 -q /dev/disk/by-id/virtio-data").await?;
        first.succeed("mount /dev/disk/by-id/virtio-data /mnt && echo before > /mnt/file && sync").await?;
        first.plug(spare.clone()).await?;
        first.wait_until_succeeds(has_card(mac)).await?;
        Ok(())
    })
    .await?;
    t.step("a card of server-2 is pulled, and server-2 is paused", async || {
        second.unplug("eth2").await?;
        aggregate(&c, &["eth1"]).await?;
        Ok(second.pause().await?)
    })
    .await?;
    let copy = t
        .step("they are copied, and go on", async || {
            c.fork(t, 1).await?.pop().context("one copy was asked for")
        })
        .await?;
    for (c, word) in [(&copy, "copy"), (&c, "first")] {
        t.step(format!("{word}: server-2 is still paused, and goes on when it is let"), async || {
            ensure!(c["server-2"].is_paused() && !c["server-1"].is_paused());
            c["server-2"].resume().await?;
            c["server-2"].succeed("true").await?;
            Ok(())
        })
        .await?;
        t.step(format!("{word}: the bonds aggregate with the same partner, and carry traffic"), async || {
            aggregate(c, &["eth1"]).await?;
            let after = BondStatus::of(&c["server-1"], "bond0").await?;
            ensure!(
                after.partner == before.partner,
                "the partner was {:?}, and is {:?}",
                before.partner,
                after.partner
            );
            c.ping_all("storage").await
        })
        .await?;
        t.step(
            format!("{word}: the disk has what was written; the new card is there, and goes"),
            async || {
                ensure!(c["server-1"].succeed("cat /mnt/file").await?.trim() == "before");
                c["server-1"].succeed(format!("echo {word} > /mnt/file && sync")).await?;
                c["server-1"].succeed(has_card(mac)).await?;
                c["server-1"].unplug("spare").await?;
                c["server-1"].wait_until_fails(has_card(mac)).await?;
                Ok(())
            },
        )
        .await?;
        t.step(format!("{word}: the card that was pulled is plugged in again"), async || {
            c["server-2"].plug(c["server-2"].spec().nics[1].clone()).await?;
            aggregate(c, &["eth1", "eth2"]).await
        })
        .await?;
    }
    ensure!(copy["server-1"].succeed("cat /mnt/file").await?.trim() == "copy", "the disks are not apart");
    Ok(())
}

/// A command that succeeds if a card with this address is in the guest.
fn has_card(mac: &str) -> String {
    format!("grep -q {mac} /sys/class/net/*/address")
}

/// Waits until the bonds aggregate, on the switch's side as well: server-1's over both links, server-2's over `links`.
async fn aggregate(c: &Cluster, links: &[&str]) -> Result {
    for (name, links) in [("server-1", &["eth1", "eth2"][..]), ("server-2", links)] {
        BondStatus::wait_aggregates(c, &c[name], "bond0", links).await?;
        wait_bundle(c, name, "bond0", links.len()).await?;
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
            // Faults are the lab's, and not the copy's.
            let cut = c["server-3"].cut("eth1").await?;
            c["server-2"].succeed("echo before > /root/file").await?;
            let copy = c.fork(t, 1).await?.pop().context("one copy was asked for")?;
            cut.heal().await?;
            Ok(copy)
        })
        .await?;
    let copied = Etcd::of(&copy, "cluster");
    t.step("a disk that is full is told, leaves nothing there, and the cluster goes on", async || {
        let directory = t.artifacts().join("full");
        fs_err::create_dir_all(&directory)?;
        // What QEMU's state is written to until it is whole; writing there ends as on a full disk (full(4)).
        std::os::unix::fs::symlink("/dev/full", directory.join("server-2.state.part"))?;
        let error = c.lab().checkpoint(&directory, "full").await.err().context("it was saved to a full disk")?;
        let told = matches!(&error, driver::Error::Checkpoint(CheckpointError::Save { machine, .. }) if machine == "server-2");
        ensure!(told, "another error: {error}");
        ensure!(error.to_string().contains("No space left on device"), "the error does not say why: {error}");
        let left: Vec<_> = std::fs::read_dir(&directory)?.filter_map(std::result::Result::ok).collect();
        let of_it = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("server-2.state");
        ensure!(!left.iter().any(of_it), "half a state is left: {left:?}");
        fs_err::remove_dir_all(&directory)?;
        etcd.wait_put("server-2", "rackless/full", "none the worse").await
    })
    .await?;
    t.step("both have what was there", async || {
        for (cluster, etcd) in [(&c, &etcd), (&copy, &copied)] {
            etcd.wait_for_leader("server-3").await?;
            let value = etcd.wait_get("server-3", "rackless/before").await?;
            ensure!(value == "both", "etcd has {value:?}");
            ensure!(cluster["server-2"].succeed("cat /root/file").await?.trim() == "before");
        }
        Ok(())
    })
    .await?;
    t.step(
        "each has the right time and the same identity, and the copy draws new random numbers",
        async || {
            let of = async |cluster: &Cluster, command: &str| {
                anyhow::Ok(cluster["server-1"].succeed(command).await?)
            };
            for cluster in [&c, &copy] {
                let (host, guest) = (SystemTime::now(), of(cluster, "date +%s").await?);
                let host = host.duration_since(UNIX_EPOCH)?.as_secs();
                let off = host.abs_diff(guest.trim().parse()?);
                ensure!(off <= 10, "the guest's clock is {off} s off");
            }
            let id = "cat /etc/machine-id /proc/sys/kernel/random/boot_id";
            ensure!(of(&c, id).await? == of(&copy, id).await?, "another machine or another boot");
            // The kernel says so when it is told of a new generation. That random numbers differ proves nothing: interrupts
            // come at other times.
            let reseeded = "dmesg | grep -c 'crng reseeded due to virtual machine fork' || true";
            let before: u32 = of(&c, reseeded).await?.trim().parse()?;
            let (again, machine) = (before + 1, &copy["server-1"]);
            machine.wait_until_succeeds(format!("test \"$({reseeded})\" = {again}")).await?;
            Ok(())
        },
    )
    .await?;
    t.step("the journal of each is followed", async || {
        let words = Regex::new("^it goes on$")?;
        for cluster in [&c, &copy] {
            cluster["server-1"].succeed("logger --tag=checkpoint-test 'it goes on'").await?;
            cluster["server-1"].wait_for_journal(&words, secs(30)).await?;
        }
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
