//! A machine boots by its firmware and by direct kernel, from each disk bus, with no failed unit; its disk outlives
//! its power.

use std::path::Path;

use driver::guest::{Exec, GuestError, Status};
use driver::spec::Boot;
use scenarios::prelude::*;

fn main() -> ExitCode {
    let ways = [BootMode::Firmware, BootMode::Direct].map(|boot| (boot.word(), boot));
    let buses = [DiskBus::VirtioScsi, DiskBus::Sata, DiskBus::Nvme].map(|bus| (bus.to_string(), bus));
    suite("boot")
        .cases("boots", ways, boots)
        .requires(Ability::Image)
        .cases("disk_bus", buses, disk_bus)
        .requires(Ability::Image)
        .test("agent_written_into_a_copy", agent_written_into_a_copy)
        .requires(Ability::Agent)
        .test("console_only", console_only)
        .requires(Ability::Image)
        .test("backdoor", backdoor)
        .requires(Ability::Image)
        .test("serial_login", serial_login)
        .requires(Ability::Network)
        .test("backdoor_then_agent", backdoor_then_agent)
        .requires(Ability::Image)
        .test("serial_login_then_agent", serial_login_then_agent)
        .requires(Ability::Image)
        .test("strangers_disk_on_its_own_bus", strangers_disk_on_its_own_bus)
        .requires(Ability::Image)
        .test("strangers_disk_on_the_wrong_bus", strangers_disk_on_the_wrong_bus)
        .requires(Ability::Image)
        .run()
}

async fn boots(t: &mut Testbed, &boot: &BootMode) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).boot(boot).launch(t).await?;
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
        machine.succeed("getent hosts server-2").await?;
        has_name_and_address(machine).await
    })
    .await?;
    t.step("a reboot brings it back", async || {
        let before = machine.succeed("cat /proc/sys/kernel/random/boot_id").await?;
        let begun = machine.console()?.position();
        machine.reboot().await?;
        ensure!(
            machine.succeed("cat /proc/sys/kernel/random/boot_id").await? != before,
            "it did not boot again"
        );
        let said = machine.console()?.text(begun);
        let failed = said.lines().find(|line| line.contains("FAILED"));
        ensure!(failed.is_none(), "a unit failed while it went down or came up: {failed:?}");
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
    shuts_down(t, machine).await
}

async fn shuts_down(t: &Testbed, machine: &Machine) -> Result {
    t.step("it shuts down when asked to", async || {
        machine.shutdown().await?;
        ensure!(!machine.is_running(), "QEMU still runs");
        Ok(())
    })
    .await
}

async fn disk_bus(t: &mut Testbed, &bus: &DiskBus) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).bus(bus).launch(t).await?;
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
    has_name_and_address(machine).await
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

/// Our image without our agent, with only such a backdoor: the verbs work over it.
async fn backdoor(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).own_backdoor().launch(t).await?;
    verbs_over_a_shell(t, &lab["server-1"]).await
}

/// The same image with nothing but the getty on its serial console, which the kernel writes to as well.
async fn serial_login(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).serial_login(None).launch(t).await?;
    verbs_over_a_shell(t, &lab["server-1"]).await
}

/// As a NixOS machine would be, which has a toplevel and a backdoor: the shell carries our agent in, at each boot, and hands
/// over to it.
async fn backdoor_then_agent(t: &mut Testbed) -> Result {
    let toplevel = t.artifacts().join("system");
    let rack = Rack::of(profiles::simple(), &["server-1"]).own_backdoor().then_agent().edit(move |lab| {
        let machine = &mut lab.machines[0];
        machine.boot = from_toplevel(&machine.boot, &toplevel).unwrap_or_else(|error| panic!("{error:#}"));
    });
    let lab = rack.launch(t).await?;
    let machine = &lab["server-1"];
    t.step("it boots, and the agent takes over", async || {
        machine.wait_ready().await?;
        machine.succeed("grep -w init=/sbin/init /proc/cmdline | grep -w rackless.test=toplevel").await?;
        no_failed_unit(machine).await?;
        taken_over(machine).await
    })
    .await?;
    t.step("the next boot goes the same way", async || {
        let held = machine.guest().await?;
        machine.reboot().await?;
        taken_over(machine).await?;
        ensure!(held.is_agent(), "a handle of before is still a shell's");
        Ok(())
    })
    .await
}

/// The same by the getty on the serial console, whose line the kernel writes to as well.
async fn serial_login_then_agent(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).serial_login(None).then_agent().launch(t).await?;
    let machine = &lab["server-1"];
    machine.wait_ready().await?;
    no_failed_unit(machine).await?;
    taken_over(machine).await
}

/// A toplevel in `directory` that stands in for a NixOS system's: with the kernel and the rest of `boot`. The guest's disk has
/// none, so that its `init` is Debian's.
fn from_toplevel(boot: &Boot, directory: &Path) -> Result<Boot> {
    let Boot::Direct { kernel, initrd, cmdline } = boot else { bail!("it does not boot directly") };
    fs_err::create_dir_all(directory)?;
    let initrd = initrd.as_ref().context("an initial RAM disk")?;
    for (file, target) in [("kernel", kernel), ("initrd", initrd)] {
        let _ = fs_err::remove_file(directory.join(file));
        std::os::unix::fs::symlink(target, directory.join(file))?;
    }
    fs_err::write(directory.join("kernel-params"), format!("{cmdline} rackless.test=toplevel\n"))?;
    let Boot::Direct { kernel, initrd, cmdline } = Boot::toplevel(directory)? else { bail!("another boot") };
    let cmdline = cmdline.replace(&format!("init={}/init", directory.display()), "init=/sbin/init");
    Ok(Boot::Direct { kernel, initrd, cmdline })
}

/// What only the agent can do works, and it is the one that was carried in.
async fn taken_over(machine: &Machine) -> Result {
    let guest = machine.guest().await?;
    ensure!(guest.is_agent(), "a shell is the way in");
    let running = machine.succeed("pgrep -af rackless-agent").await?;
    ensure!(running.contains("/rackless-agent-") && running.lines().count() == 1, "it is another: {running}");
    let mut streamed = guest.exec(Exec::argv(["echo", "streamed"])).await?;
    let said = streamed.take_stdout().context("no stdout")?.next().await?;
    ensure!(said.as_deref() == Some(b"streamed\n"), "{said:?}");
    streamed.wait().await?;
    machine.wait_for_journal(&Regex::new("rackless-agent-carried")?, secs(30)).await?;
    Ok(())
}

async fn verbs_over_a_shell(t: &mut Testbed, machine: &Machine) -> Result {
    t.step("it boots, and has the name and the address that it was given", async || {
        machine.wait_ready().await?;
        no_failed_unit(machine).await?;
        machine.succeed("getent hosts server-2").await?;
        has_name_and_address(machine).await?;
        ensure!(
            machine.execute("pgrep -x rackless-agent").await?.status == Status::Code(1),
            "there is an agent"
        );
        Ok(())
    })
    .await?;
    t.step("commands have streams, status, user, directory and a limit", async || {
        let output =
            machine.execute("echo out; echo err >&2; id -un; pwd; exit 3").user("nobody").cwd("/tmp").await?;
        ensure!(output.status == Status::Code(3), "{:?}", output.status);
        ensure!((&output.stdout[..], &output.stderr[..]) == (b"out\nnobody\n/tmp\n", b"err\n"), "{output:?}");
        machine.fail("false").await?;
        let error =
            machine.succeed("echo evidence; sleep 4321").within(secs(1)).await.err().context("no limit")?;
        ensure!(error.to_string().contains("evidence"), "{error}");
        machine.fail("pgrep -f 'sleep 432[1]'").await?;
        Ok(())
    })
    .await?;
    t.step("files and folders go both ways", async || {
        let folder = t.artifacts().join("folder");
        fs_err::create_dir_all(folder.join("sub"))?;
        let content: Vec<u8> =
            (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        fs_err::write(folder.join("sub/file"), &content)?;
        machine.copy_to(&folder, "/root/there").await?;
        machine.copy_from("/root/there", t.artifacts().join("back")).await?;
        machine.copy_from("/root/there/sub/file", t.artifacts().join("file")).await?;
        ensure!(fs_err::read(t.artifacts().join("back/sub/file"))? == content, "the folder is another");
        ensure!(fs_err::read(t.artifacts().join("file"))? == content, "the file is another");
        Ok(())
    })
    .await?;
    t.step("it waits for units, files and ports", async || {
        machine.wait_for_unit("systemd-networkd.service").await?;
        machine.succeed("systemd-run --unit=listens nc -lk 127.0.0.1 7000 && touch /run/there").await?;
        machine.wait_for_file("/run/there").await?;
        machine.wait_for_open_port(7000).await?;
        machine.succeed("systemd-run --unit=fails --property=Type=oneshot false || true").await?;
        let error = machine.wait_for_unit("fails.service").await.err().context("a failed unit is active")?;
        ensure!(error.to_string().contains("impossible"), "{error}");
        Ok(())
    })
    .await?;
    t.step("what only the agent can do is said so by type", async || {
        let streamed = machine.guest().await?.exec(Exec::argv(["true"])).await;
        ensure!(matches!(streamed, Err(GuestError::Unsupported { .. })), "output was streamed");
        Ok(())
    })
    .await?;
    shuts_down(t, machine).await
}

/// A disk whose fstab names /dev/sda1 boots on the bus that its TOML names.
async fn strangers_disk_on_its_own_bus(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"])
        .image("stranger")
        .boot(BootMode::Firmware)
        .launch(t)
        .await?;
    lab.wait_ready().await?;
    no_failed_unit(&lab["server-1"]).await
}

/// The same disk on virtio-blk ends in emergency mode, and the error says what to do.
async fn strangers_disk_on_the_wrong_bus(t: &mut Testbed) -> Result {
    let rack = Rack::of(profiles::simple(), &["server-1"]).image("stranger").bus(DiskBus::VirtioBlk);
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
