//! A machine behind a start script that is not changed by us, as NixOS makes one for each VM: it boots by the script's own
//! words, is in its VLAN and in no other, and ends with all that the script started.

use driver::spec::{Boot, NicSpec};
use scenarios::prelude::*;
use scenarios::start_script::{Disk, script, write};
use serde_json::json;
use services::{Host, HostOptions};
use switch::{PortMode, VlanId};

/// The VLAN of the test of NixOS.
const VLAN: u16 = 7;

fn main() -> ExitCode {
    suite("start_script")
        .test("contract", contract)
        .requires(Ability::Image)
        .test("forks", forks)
        .requires(Ability::Image)
        .test("nixos_test_configuration", nixos_test_configuration)
        .requires(Ability::Image)
        .run()
}

/// One machine, as the driver starts it itself.
fn server() -> Rack {
    Rack::of(profiles::simple(), &["server-1"])
}

/// A lab of that machine, which a script starts.
async fn launch(t: &mut Testbed, rack: Rack, run: &'static str) -> Result<Launched> {
    let rack = rack.behind_scripts(run).edit(|lab| {
        for machine in &mut lab.machines {
            let Boot::Script(script) = &mut machine.boot else { panic!("{}: no start script", machine.name) };
            let params = "rackless.test=by-the-script norandmaps";
            script.env.insert("QEMU_KERNEL_PARAMS".to_owned(), params.to_owned());
            script.env.insert("QEMU_NET_OPTS".to_owned(), "restrict=on".to_owned());
        }
    });
    rack.launch(t).await
}

async fn contract(t: &mut Testbed) -> Result {
    let lab = launch(t, server(), "exec").await?;
    let machine = &lab["server-1"];
    let before = fs_err::read(t.artifacts().join("run-server-1-vm"))?;
    let vlan = vlan_of(machine)?;
    let other = VlanId::new(vlan.get() + 1).context("a VLAN beside it")?;
    let here = HostOptions::new("here", vlan, "192.168.1.77/24".parse()?);
    let elsewhere = HostOptions::new("elsewhere", other, "192.168.1.78/24".parse()?);
    let (here, elsewhere) = (Host::start(lab.switch(), here)?, Host::start(lab.switch(), elsewhere)?);

    t.step("it boots by the script's own words", async || {
        machine.wait_ready().await?;
        machine.succeed("grep -w rackless.test=by-the-script /proc/cmdline").await?;
        ensure!(machine.succeed("hostname").await?.trim() == "server-1", "another hostname");
        Ok(())
    })
    .await?;
    t.step("its NIC has speed and duplex, which LACP needs", async || {
        // A guest is ready before udev has named its NICs and networkd has them up.
        let speed = "cat /sys/class/net/eth1/speed /sys/class/net/eth1/duplex";
        machine.wait_until_succeeds(speed).await?;
        let told = machine.succeed(speed).await?;
        ensure!(told == "10000\nfull\n", "speed and duplex are {told:?}");
        Ok(())
    })
    .await?;
    t.step("it is in its VLAN and in no other", async || {
        machine.wait_until_succeeds(format!("ping -c1 -W5 {}", here.address())).await?;
        machine.fail(format!("ping -c2 -W2 {}", elsewhere.address())).await?;
        let mac = machine.spec().nics[0].mac.parse()?;
        let out = FrameFilter::new().direction(Direction::Out).src(mac);
        let frames = lab.switch().frames(&out)?;
        ensure!(frames.iter().any(|frame| *frame.port_name == *"here"), "no frame of it in its own VLAN");
        let strays: Vec<_> = frames.into_iter().filter(|frame| frame.vlan != Some(vlan)).collect();
        ensure!(strays.is_empty(), "in another VLAN: {}", describe(&strays));
        Ok(())
    })
    .await?;
    t.step("a cut cable is no carrier, and a healed one carries", async || {
        machine.set_carrier("eth1", false).await?;
        machine.wait_until_succeeds("test $(cat /sys/class/net/eth1/carrier) = 0").await?;
        machine.set_carrier("eth1", true).await?;
        machine.wait_until_succeeds(format!("ping -c1 -W5 {}", here.address())).await?;
        Ok(())
    })
    .await?;
    t.step("a fault on its link holds frames up", async || {
        let fault = machine.impair("eth1", Impairment::new().loss(1.0))?;
        machine.fail(format!("ping -c2 -W2 {}", here.address())).await?;
        fault.heal().await?;
        machine.wait_until_succeeds(format!("ping -c1 -W5 {}", here.address())).await?;
        Ok(())
    })
    .await?;
    t.step("what its script decides on is refused by type", async || {
        let unsupported = |error: &driver::Error| matches!(error, driver::Error::Unsupported { .. });
        let refused = machine.unplug("eth1").await.err().context("a NIC was unplugged")?;
        ensure!(unsupported(&refused), "{refused}");
        let nic = NicSpec { name: "eth2".to_owned(), ..machine.spec().nics[0].clone() };
        let refused = machine.plug(nic).await.err().context("a NIC was plugged in")?;
        ensure!(unsupported(&refused), "{refused}");
        let refused = lab.checkpoint(&t.artifacts().join("checkpoint"), "test").await;
        let refused = refused.err().context("it was saved")?.to_string();
        ensure!(refused.contains("its start script decides what it is made of"), "{refused}");
        Ok(())
    })
    .await?;
    t.step("its disk outlives a power cut", async || {
        machine.succeed("echo kept > /root/kept && sync").await?;
        machine.crash().await?;
        let off = machine.port("eth1").err().context("a NIC of a machine that is off")?;
        ensure!(matches!(off, driver::Error::Off { .. }), "{off}");
        machine.start().await?;
        ensure!(machine.succeed("cat /root/kept").await? == "kept\n", "the file is gone");
        machine.wait_until_succeeds(format!("ping -c1 -W5 {}", here.address())).await?;
        Ok(())
    })
    .await?;
    let after = fs_err::read(t.artifacts().join("run-server-1-vm"))?;
    ensure!(before == after, "the script was changed");
    Ok(())
}

/// A script that stays beside its QEMU and starts another program before: all of them end with the machine. Its guest has
/// what those of nixosTest have, a backdoor and no agent.
async fn forks(t: &mut Testbed) -> Result {
    let lab = launch(t, server().own_backdoor(), "sleep 3600 &\n").await?;
    let machine = &lab["server-1"];
    let leader = machine.qemu_pid().context("a process")?;
    let started = group(leader)?;
    ensure!(started.len() == 3, "not the script, its helper and QEMU: {started:?}");
    ensure!(!started.iter().any(|(pid, name)| *pid == leader && name.starts_with("qemu")), "{started:?}");
    machine.crash().await?;
    driver::poll_until(secs(10), async || group(leader).ok()?.is_empty().then_some(()))
        .await
        .with_context(|| format!("after the power cut there is still {:?}", group(leader)))?;
    machine.start().await?;
    machine.wait_ready().await?;
    // As above, the NIC may come up later.
    machine.wait_until_succeeds("cat /sys/class/net/eth1/speed").await?;
    let told =
        machine.succeed("hostname; cat /sys/class/net/eth1/speed; pidof rackless-agent || echo none").await?;
    ensure!(told == "server-1\n10000\nnone\n", "over the backdoor it said {told:?}");
    Ok(())
}

/// The JSON that nixosTest writes for its driver is all that names the machines. Their scripts are stand-ins that have a
/// system of their own, and make their disks.
async fn nixos_test_configuration(t: &mut Testbed) -> Result {
    let names = ["server-1", "server-2"];
    let machines = Rack::of(profiles::simple(), &names).own_backdoor().spec_of(t).await?.machines;
    let mut vms = serde_json::Map::new();
    for machine in &machines {
        let path = t.artifacts().join(format!("run-{}-vm", machine.name));
        write(&path, &script(machine, &[VLAN], "exec", Disk::Own)?)?;
        vms.insert(machine.name.clone(), json!({ "name": machine.name, "start_script": path }));
    }
    let config = t.artifacts().join("config.json");
    let text =
        json!({ "vms": vms, "containers": {}, "vlans": [VLAN], "global_timeout": 3600, "test_script": null });
    fs_err::write(&config, text.to_string())?;

    let lab = Imported::nixos_test(&config)?.launch(t).await?;
    t.step("its machines boot by their scripts", async || {
        lab.wait_ready().await?;
        ensure!(lab["server-2"].succeed("hostname").await?.trim() == "server-2", "another hostname");
        Ok(())
    })
    .await?;
    t.step("they reach each other in the test's VLAN", async || {
        let address = machines[1].addresses["cluster"];
        lab["server-1"].wait_until_succeeds(format!("ping -c1 -W5 {address}")).await?;
        let vlan = VlanId::new(VLAN)?;
        let out =
            FrameFilter::new().direction(Direction::Out).src(lab["server-1"].spec().nics[0].mac.parse()?);
        let frames = lab.switch().frames(&out)?;
        ensure!(
            !frames.is_empty() && frames.iter().all(|frame| frame.vlan == Some(vlan)),
            "{}",
            describe(&frames)
        );
        Ok(())
    })
    .await?;
    t.step("a cut cable parts them", async || {
        let cut = lab["server-2"].cut("eth1").await?;
        lab["server-1"].fail(format!("ping -c2 -W2 {}", machines[1].addresses["cluster"])).await?;
        cut.heal().await?;
        Ok(())
    })
    .await
}

/// The processes of a group that run: their ids and names (proc(5), `/proc/pid/stat`).
fn group(leader: u32) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // It may have ended since.
        let Ok(stat) = fs_err::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields.get(2) == Some(&leader.to_string().as_str()) && fields.first() != Some(&"Z") {
            found.push((pid, name.to_owned()));
        }
    }
    Ok(found)
}

/// The VLAN of its one NIC on the switch.
fn vlan_of(machine: &Machine) -> Result<VlanId> {
    match machine.spec().nics[0].port {
        PortMode::Access { vlan } => Ok(vlan),
        ref other => bail!("not an access port: {other}"),
    }
}
