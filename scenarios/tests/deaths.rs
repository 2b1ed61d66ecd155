//! What is broken on purpose is noticed, at once and for the right reason: a panic, a killed agent, a masked etcd, a
//! wrong VLAN id on the switch's side.

use driver::spec::LabSpec;
use driver::{Cause, Died};
use harness::Event;
use scenarios::prelude::*;
use switch::{PortMode, VlanId, VlanSet};

fn main() -> ExitCode {
    suite("deaths")
        .test("of_guests_and_agents", of_guests_and_agents)
        .requires(Ability::Process)
        .test("of_wiring", of_wiring)
        .requires(Ability::Process)
        .run()
}

/// One machine panics, one loses its agent, one powers itself off: each death has its own cause.
async fn of_guests_and_agents(t: &mut Testbed) -> Result {
    let names = ["server-1", "server-2", "server-3"];
    // The harness is not told of these deaths: they are what is tested.
    let lab = Rack::of(profiles::simple(), &names).after("server-3", "server-1").launch_unwatched(t).await?;
    lab.wait_ready().await?;
    t.step("a machine that starts after another one did so", async || {
        let events = fs_err::read_to_string(t.artifacts().join("events.jsonl"))?;
        let events = events.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Event>>>()?;
        let when = |machine: &str, text: &str| {
            let found = events.iter().find(|it| it.machine.as_deref() == Some(machine) && it.text == text);
            found.map(|it| it.t_ms).with_context(|| format!("no event {text:?} of {machine}"))
        };
        let (ready, on) = (when("server-1", "Ready")?, when("server-3", "on")?);
        ensure!(ready <= on, "server-3 was powered on after {on} ms, server-1 was ready after {ready} ms");
        ensure!(when("server-2", "on")? < ready, "server-2 waits for nobody, and did not start at once");
        Ok(())
    })
    .await?;
    t.step("a kernel panic is a crash of the guest", async || {
        let died =
            dies(&lab["server-1"], "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger").await?;
        ensure!(died.cause.is_panic(), "another cause: {died}");
        ensure!(died.cause.kind() == driver::Kind::GuestCrash, "another class: {died}");
        ensure!(died.console.iter().any(|line| line.contains("sysrq")), "no evidence: {died}");
        Ok(())
    })
    .await?;
    t.step("a killed agent is the infrastructure's failure", async || {
        let died = dies(&lab["server-2"], "systemctl kill --signal=KILL rackless-agent.service").await?;
        ensure!(matches!(died.cause, Cause::AgentLost), "another cause: {died}");
        ensure!(died.cause.kind() == driver::Kind::Infra, "another class: {died}");
        Ok(())
    })
    .await?;
    t.step("a guest that powers itself off is not taken for one that was asked to", async || {
        let died = dies(&lab["server-3"], "systemctl poweroff").await?;
        ensure!(matches!(died.cause, Cause::UnexpectedShutdown { .. }), "another cause: {died}");
        Ok(())
    })
    .await
}

/// Breaks a machine with a command, and gives its death.
async fn dies(machine: &Machine, command: &str) -> Result<Died> {
    // The command's own end is of no interest: the machine may be gone before it.
    let (died, _) = tokio::join!(tokio::time::timeout(secs(120), machine.died()), machine.execute(command));
    let died = died.context("it is still thought to be alive after 120 s")?;
    ensure!(died.machine == machine.name(), "another machine died: {died}");
    for part in [machine.name(), "after power-on", "artefacts: "] {
        ensure!(died.to_string().contains(part), "the message does not say {part:?}: {died}");
    }
    Ok(died)
}

/// The switch's port of one machine carries another VLAN than the profile says: no cluster, and the reason is seen.
async fn of_wiring(t: &mut Testbed) -> Result {
    let only_storage: VlanSet = [VlanId::new(100)?].into_iter().collect();
    let wrong = move |lab: &mut LabSpec| {
        for nic in &mut lab.machines[1].nics {
            nic.port = PortMode::Trunk { allowed: only_storage.clone(), native: None };
        }
    };
    let profile = profiles::vlans();
    let (cluster, storage) =
        (profile.address("server-2", "cluster")?, profile.address("server-2", "storage")?);
    let lab = Rack::of(profile, &["server-1", "server-2"]).edit(wrong).launch_unwatched(t).await?;
    lab.wait_ready().await?;
    let one = &lab["server-1"];
    t.step("the VLAN that the port lacks carries nothing, the other one does", async || {
        one.wait_until_succeeds(format!("ping -c1 -W2 {storage}")).await?;
        one.fail(format!("ping -c2 -i1 -W2 {cluster}")).await?;
        let two = FrameFilter::new().port("server-2/eth1").direction(Direction::Out).tagged(200);
        let leaked = lab.switch().frames(&two)?;
        ensure!(leaked.is_empty(), "{} frames tagged 200 left a port without VLAN 200", leaked.len());
        Ok(())
    })
    .await?;
    t.step("an etcd that is masked is named", async || {
        one.succeed("systemctl mask etcd.service").await?;
        let error = match one.succeed("systemctl start etcd.service").await {
            Ok(_) => bail!("a masked unit started"),
            Err(error) => error.to_string(),
        };
        for part in ["server-1", "systemctl start etcd.service", "masked", "artefacts"] {
            ensure!(error.contains(part), "the error does not say {part:?}: {error}");
        }
        let waited = one.wait_for_unit("etcd.service").within(secs(20)).await;
        let error = waited.err().context("a masked unit became active")?.to_string();
        ensure!(error.contains("etcd.service"), "the error does not name the unit: {error}");
        Ok(())
    })
    .await?;
    // What a kernel says in an NMI waits in a buffer until it has told QEMU of its panic.
    t.step("a kernel that panics in an NMI says why, and nobody waits for its agent", async || {
        let two = &lab["server-2"];
        two.succeed("echo 1 > /proc/sys/kernel/unknown_nmi_panic").await?;
        let inject =
            async { two.monitor()?.execute_raw("inject-nmi", serde_json::json!({})).await.context("an NMI") };
        let (died, injected) = tokio::join!(tokio::time::timeout(secs(120), two.died()), inject);
        injected?;
        let died = died.context("it is still thought to be alive after 120 s")?;
        ensure!(died.cause.is_panic(), "another cause: {died}");
        // As the cause, or among the last lines: whichever came first, QEMU's word of the panic or the console's.
        ensure!(died.to_string().contains("Kernel panic - not syncing: NMI"), "it does not say why: {died}");
        let registers = fs_err::read_to_string(died.artifacts.join("registers-at-panic.txt"))?;
        ensure!(registers.contains("RIP="), "these are no registers: {registers}");
        tokio::time::timeout(secs(30), two.diagnose())
            .await
            .context("a diagnosis of the dead takes 30 s and more")?;
        let missing = fs_err::read_to_string(died.artifacts.join("diag/missing.txt"))?;
        ensure!(missing.contains("its kernel panicked"), "its agent was asked: {missing}");
        Ok(())
    })
    .await
}
