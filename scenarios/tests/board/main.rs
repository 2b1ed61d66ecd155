//! A board runs what virtual machines run: the steps of `boot`, `two_machines` and `cluster_vlans`, over its serial line. The
//! board is a QEMU of the test's own that the driver knows nothing of; no real board was tried.

mod bench;

use bench::{By, build, has_ser2net};
use driver::Error;
use driver::guest::Status;
use harness::Suite;
use scenarios::prelude::*;

fn main() -> ExitCode {
    let over_ser2net = |suite: Suite| match has_ser2net() {
        true => suite,
        false => suite.ignored("no ser2net, the serial server: `cargo xtask test` installs it on Debian"),
    };
    let suite = suite("board").test("boot", boot);
    let suite = over_ser2net(suite.test("two_machines", two_machines));
    over_ser2net(suite.test("cluster_vlans", cluster_vlans)).run()
}

/// What `boot` does, on a board behind a pty, and nothing beside it.
async fn boot(t: &mut Testbed) -> Result {
    let profile = profiles::simple();
    let board = build(t, &profile, "server-1", By::Device).await?;
    let lab = Rack::of(profile, &["server-1"]).board("server-1", board).launch(t).await?;
    let machine = &lab["server-1"];
    t.step("its boot loader's menu is answered, and it boots with no failed unit", async || {
        machine.wait_ready().await?;
        machine.succeed("grep -w board=1 /proc/cmdline").await?;
        no_failed_unit(machine).await?;
        let log = fs_err::read_to_string(machine.artifacts().join("console.log"))?;
        for stage in ["BdsDxe: starting", "Reboot Into Firmware", "Linux version", "login:"] {
            ensure!(log.contains(stage), "the console's log has no {stage:?}");
        }
        Ok(())
    })
    .await?;
    t.step("it has the name and the address that it was given", async || {
        machine.succeed("getent hosts server-2").await?;
        has_name_and_address(machine).await
    })
    .await?;
    t.step("commands have streams, status, user, directory and a limit", async || {
        let output =
            machine.execute("echo out; echo err >&2; id -un; pwd; exit 3").user("nobody").cwd("/tmp").await?;
        ensure!(output.status == Status::Code(3), "{:?}", output.status);
        ensure!((&output.stdout[..], &output.stderr[..]) == (b"out\nnobody\n/tmp\n", b"err\n"), "{output:?}");
        machine.fail("false").await?;
        let error = machine.succeed("sleep 4321").within(secs(1)).await.err().context("no limit")?;
        ensure!(error.to_string().contains("sleep 4321"), "{error}");
        Ok(())
    })
    .await?;
    t.step("files go both ways, and it waits for units and ports", async || {
        let (sent, back) = (t.artifacts().join("sent"), t.artifacts().join("back"));
        let content: Vec<u8> =
            (0..30_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        fs_err::write(&sent, &content)?;
        machine.copy_to(&sent, "/root/there").await?;
        machine.copy_from("/root/there", &back).await?;
        ensure!(fs_err::read(&back)? == content, "the file is another");
        machine.wait_for_unit("systemd-networkd.service").await?;
        machine.succeed("systemd-run --unit=listens nc -lk 127.0.0.1 7000").await?;
        machine.wait_for_open_port(7000).await?;
        Ok(())
    })
    .await?;
    t.step("what only QEMU can do is said so by type", async || {
        for refused in [machine.screenshot("x").await.map(drop), machine.cut("eth1").await.map(drop)] {
            let error = refused.err().context("a board did it")?;
            ensure!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
        Ok(())
    })
    .await?;
    t.step("a reboot brings it back, through its menu", async || {
        let before = machine.succeed("cat /proc/sys/kernel/random/boot_id").await?;
        machine.reboot().within(secs(180)).await?;
        let after = machine.succeed("cat /proc/sys/kernel/random/boot_id").await?;
        ensure!(after != before, "it did not boot again");
        machine.succeed("grep -w board=1 /proc/cmdline").await?;
        Ok(())
    })
    .await?;
    t.step("it shuts down when asked to", async || {
        machine.shutdown().within(secs(180)).await?;
        ensure!(!machine.is_running(), "it has power");
        Ok(())
    })
    .await
}

/// What `two_machines` does, with a board behind an RFC 2217 server and a virtual machine beside it.
async fn two_machines(t: &mut Testbed) -> Result {
    let profile = profiles::simple();
    let board = build(t, &profile, "server-2", By::Rfc2217).await?;
    let lab = Rack::of(profile, &["server-1", "server-2"]).board("server-2", board).launch(t).await?;
    let (vm, board) = (&lab["server-1"], &lab["server-2"]);
    t.step("both boot and have their addresses", async || {
        lab.wait_ready().await?;
        for machine in [vm, board] {
            has_address(machine).await?;
        }
        Ok(())
    })
    .await?;
    let addresses = [vm.address("cluster")?, board.address("cluster")?];
    t.step("ping both ways", async || {
        vm.wait_until_succeeds(format!("ping -c1 -W5 {}", addresses[1])).await?;
        board.succeed(format!("ping -c3 -i1 -W5 {}", addresses[0])).await?;
        Ok(())
    })
    .await?;
    for (from, to) in [(vm, board), (board, vm)] {
        t.step(format!("TCP from {} to {}", from.name(), to.name()), async || {
            tcp_arrives_whole(from, to, 5_000_000).await
        })
        .await?;
    }
    t.step("its frames cross the switch in its VLAN", async || {
        let frames = lab.switch().frames(&FrameFilter::new().src(board.spec().nics[0].mac.parse()?))?;
        ensure!(!frames.is_empty(), "no frame of the board's");
        Ok(())
    })
    .await?;
    t.step("a partition drops frames, and a healed one lets them pass", async || {
        let apart = lab.partition(&["server-1"], &["server-2"])?;
        vm.fail(format!("ping -c2 -i1 -W1 {}", addresses[1])).await?;
        apart.heal().await?;
        vm.wait_until_succeeds(format!("ping -c1 -W5 {}", addresses[1])).await?;
        Ok(())
    })
    .await
}

/// What `cluster_vlans` does, with a board behind an RFC 2217 server as the third server: its cable is a trunk.
async fn cluster_vlans(t: &mut Testbed) -> Result {
    let profile = profiles::vlans();
    let board = build(t, &profile, "server-3", By::Rfc2217).await?;
    let cluster = Cluster::on(profile).servers(3).board("server-3", board);
    let c = t.step("two machines and a board form a cluster", async || cluster.formed(t).await).await?;
    replicates_over_vlans(t, &c).await
}
