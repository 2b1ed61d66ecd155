//! A machine boots by its firmware and by direct kernel, from each disk bus, with no failed unit; its disk outlives
//! its power.

use scenarios::prelude::*;

fn main() -> ExitCode {
    let ways = [BootMode::Firmware, BootMode::Direct].map(|boot| (boot.word(), boot));
    let buses = [DiskBus::VirtioScsi, DiskBus::Sata, DiskBus::Nvme].map(|bus| (bus.to_string(), bus));
    suite("boot")
        .cases("boots", ways, boots)
        .cases("disk_bus", buses, disk_bus)
        .test("agent_written_into_a_copy", agent_written_into_a_copy)
        .test("console_only", console_only)
        .test("strangers_disk_on_its_own_bus", strangers_disk_on_its_own_bus)
        .test("strangers_disk_on_the_wrong_bus", strangers_disk_on_the_wrong_bus)
        .run()
}

async fn boots(t: &mut Testbed, &boot: &BootMode) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).boot(boot).vcpus(2).launch(t).await?;
    let machine = &lab["server-1"];
    t.step("it boots with no failed unit", async || {
        machine.wait_ready().await?;
        no_failed_unit(machine).await
    })
    .await?;
    t.step("it was started the way that the test says", async || {
        let efi = machine.execute("test -d /sys/firmware/efi").await?.status.success();
        ensure!(efi == (boot == BootMode::Firmware), "/sys/firmware/efi is there: {efi}");
        Ok(())
    })
    .await?;
    t.step("it has the name, the time and the address that it was given", async || {
        ensure!(machine.succeed("hostname").await?.trim() == "server-1", "another hostname");
        machine.succeed("getent hosts server-2").await?;
        let address = machine.address("cluster")?;
        machine.wait_until_succeeds(format!("ip -o addr show dev eth1 | grep -w {address}")).await?;
        Ok(())
    })
    .await?;
    t.step("a reboot brings it back", async || {
        let before = machine.succeed("cat /proc/sys/kernel/random/boot_id").await?;
        machine.reboot().await?;
        ensure!(
            machine.succeed("cat /proc/sys/kernel/random/boot_id").await? != before,
            "it did not boot again"
        );
        Ok(())
    })
    .await?;
    t.step("a power cycle keeps the disk", async || {
        machine.succeed("echo kept > /root/kept && sync").await?;
        machine.crash().await?;
        machine.start().await?;
        ensure!(machine.succeed("cat /root/kept").await? == "kept\n", "the file is gone");
        machine.wait_ready().await?;
        Ok(())
    })
    .await?;
    t.step("it shuts down when asked to", async || {
        machine.shutdown().await?;
        ensure!(!machine.is_running(), "QEMU still runs");
        Ok(())
    })
    .await
}

async fn disk_bus(t: &mut Testbed, &bus: &DiskBus) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).bus(bus).vcpus(2).launch(t).await?;
    let machine = &lab["server-1"];
    machine.wait_ready().await?;
    no_failed_unit(machine).await?;
    let source = machine.succeed("findmnt -no SOURCE /").await?;
    ensure!(source.starts_with(bus.guest_device()), "the root is on {source}, not on {}", bus.guest_device());
    Ok(())
}

/// What an old systemd needs works with any: no credential, the agent is in the disk.
async fn agent_written_into_a_copy(t: &mut Testbed) -> Result {
    let rack = Rack::of(profiles::simple(), &["server-1"]).boot(BootMode::Firmware).into_copy();
    let lab = rack.edit(|lab| assert!(lab.machines[0].credentials.is_empty())).launch(t).await?;
    let machine = &lab["server-1"];
    machine.wait_ready().await?;
    no_failed_unit(machine).await?;
    ensure!(machine.succeed("hostname").await?.trim() == "server-1", "another hostname");
    let address = machine.address("cluster")?;
    machine.wait_until_succeeds(format!("ip -o addr show dev eth1 | grep -w {address}")).await?;
    Ok(())
}

/// Without an agent there is the console: a dialogue logs in, and the verbs say what they lack.
async fn console_only(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).console_only().launch(t).await?;
    let machine = &lab["server-1"];
    let error = machine.succeed("true").await.err().context("a command ran without an agent")?.to_string();
    ensure!(error.contains("server-1") && error.contains("only has a console"), "another error: {error}");
    let login = machine.wait_for_console_text(&Regex::new("login: ")?, secs(60)).await?;
    machine.console()?.send("root\n")?;
    let shell =
        machine.wait_for_console_text_from(&Regex::new(r"root@.*# ")?, login.position, secs(60)).await?;
    machine.console()?.send("echo $((6 * 7)).\n")?;
    machine.wait_for_console_text_from(&Regex::new(r"42\.")?, shell.position, secs(30)).await?;
    Ok(())
}

/// A disk whose fstab names /dev/sda1 boots on the bus that its TOML names.
async fn strangers_disk_on_its_own_bus(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"])
        .image("stranger")
        .boot(BootMode::Firmware)
        .vcpus(2)
        .launch(t)
        .await?;
    lab.wait_ready().await?;
    no_failed_unit(&lab["server-1"]).await
}

/// The same disk on virtio-blk ends in emergency mode, and the error says what to do.
async fn strangers_disk_on_the_wrong_bus(t: &mut Testbed) -> Result {
    let rack = Rack::of(profiles::simple(), &["server-1"]).image("stranger").bus(DiskBus::VirtioBlk).vcpus(2);
    // The lab's death is what is tested: it must not end the test, so the harness is not told of it.
    let lab = rack.boot(BootMode::Firmware).launch_unwatched(t).await?;
    let error = match lab.wait_ready().await {
        Ok(()) => bail!("it booted, although its fstab names a disk that is not there"),
        Err(error) => error.to_string(),
    };
    for part in ["server-1", "emergency mode", "/dev/sda", "virtio-scsi"] {
        ensure!(error.contains(part), "the error does not say {part:?}: {error}");
    }
    Ok(())
}

async fn no_failed_unit(machine: &Machine) -> Result {
    let failed = machine.succeed("systemctl --failed --no-legend --plain").await?;
    ensure!(failed.trim().is_empty(), "{}: failed units: {failed}", machine.name());
    Ok(())
}
