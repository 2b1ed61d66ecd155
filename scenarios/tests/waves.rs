//! A lab that is larger than its host starts in waves, and its clients start when what they need is there.

use harness::Event;
use scenarios::prelude::*;

/// Virtual CPUs, and so machines, that may boot at once.
const AT_ONCE: usize = 2;
/// Machines that start after nothing.
const SERVERS: usize = 6;
/// Memory of each, in MiB.
const MEMORY_MIB: u32 = 320;

fn main() -> ExitCode {
    let limit = ["--booting-vcpus".into(), AT_ONCE.to_string().into()];
    suite("waves")
        .test("eight_machines", eight_machines)
        .ignored("eight machines under emulation take three minutes; the turns themselves have unit tests")
        .run_with(std::env::args_os().chain(limit))
}

/// Six boot two by two; two more wait for a unit and for a port of the first.
async fn eight_machines(t: &mut Testbed) -> Result {
    let names: Vec<String> = (1..=SERVERS + 2).map(|number| format!("server-{number}")).collect();
    let (unit, port) = (After::unit("server-1", "api.service"), After::port("server-1", 6443));
    let rack = Rack::of(profiles::simple(), &["server-1"]).memory_mib(MEMORY_MIB).edit({
        let names = names.clone();
        move |lab| {
            // The profile has fewer machines; what these lack is a network.
            let first = lab.machines[0].clone();
            for name in &names[1..] {
                let mut machine = first.clone();
                (machine.name, machine.hostname) = (name.clone(), Some(name.clone()));
                machine.nics.clear();
                machine.addresses.clear();
                lab.machines.push(machine);
            }
            lab.machines[SERVERS].after = vec![unit.clone()];
            lab.machines[SERVERS + 1].after = vec![port.clone()];
        }
    });
    let lab = rack.launch(t).await?;
    let (servers, clients) = names.split_at(SERVERS);
    for name in servers {
        t.step(format!("{name} is ready"), async || Ok(lab[name.as_str()].wait_ready().await?)).await?;
    }
    let [of_unit, of_port] = clients else { bail!("two clients") };
    let server = &lab["server-1"];
    for (client, condition, command) in [
        (of_unit, "a unit", "systemd-run --unit=api sleep infinity"),
        (of_port, "a port", "systemd-run --unit=listens nc -lk 127.0.0.1 6443"),
    ] {
        t.step(format!("{client} starts once there is {condition}, and not before"), async || {
            let client = &lab[client.as_str()];
            ensure!(!client.is_running(), "{} did not wait", client.name());
            server.succeed(command).await?;
            Ok(client.wait_ready().await?)
        })
        .await?;
    }
    t.step("never more than two booted at once", async || {
        // A machine may be ready a moment before its event is written.
        let told = driver::poll_until(secs(30), async || boots(t, &names).ok()).await;
        let boots = told.map_or_else(|| boots(t, &names), Ok)?;
        // The most is reached when one is powered on.
        let at = |time: u64| boots.iter().filter(|(on, ready)| (*on..*ready).contains(&time)).count();
        let most = boots.iter().map(|(on, _)| at(*on)).max().unwrap_or_default();
        t.note(&format!("of {} machines at most {most} booted at once", boots.len()));
        ensure!(most <= AT_ONCE, "{most} machines booted at once: {boots:?}");
        ensure!(most == AT_ONCE, "they booted one by one, which shows nothing: {boots:?}");
        Ok(())
    })
    .await
}

/// When each machine was powered on, and when it was ready, in milliseconds of the test.
fn boots(t: &Testbed, names: &[String]) -> Result<Vec<(u64, u64)>> {
    let events = fs_err::read_to_string(t.artifacts().join("events.jsonl"))?;
    let events = events.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Event>>>()?;
    let when = |machine: &String, text: &str| {
        let found = events.iter().find(|it| it.machine.as_ref() == Some(machine) && it.text == text);
        found.map(|it| it.t_ms).with_context(|| format!("no event {text:?} of {machine}"))
    };
    names.iter().map(|name| Ok((when(name, "on")?, when(name, "Ready")?))).collect()
}
