//! The guest channel keeps its promises over each transport that this host can have, in a real guest.

use std::time::Duration;

use driver::guest::suite;
use driver::spec::Channel;
use scenarios::prelude::*;
use services::{Host, HostOptions};
use switch::VlanId;
use tokio::io::AsyncReadExt as _;

/// What one step of a check may take on a guest under TCG.
const LIMIT: Duration = secs(60);

fn main() -> ExitCode {
    let mut channels =
        scenarios::suite("channel").test("virtserialport", virtserialport).requires(Ability::Agent);
    channels = channels.test("vhost_user_vsock", vhost_user_vsock).requires(Ability::Agent);
    if !Rack::has_vhost_user_vsock() {
        channels =
            channels.ignored("no vhost-device-vsock: `RACKLESS_CHANNEL=vsock cargo xtask setup` builds it");
    }
    channels = channels.test("vsock", vsock).requires(Ability::Agent);
    if !Rack::has_vsock() {
        channels = channels.ignored("no /dev/vhost-vsock on this host: AF_VSOCK is unverified here");
    }
    channels.run()
}

async fn virtserialport(t: &mut Testbed) -> Result {
    over(t, Channel::Virtserial).await
}

async fn vhost_user_vsock(t: &mut Testbed) -> Result {
    over(t, Channel::VhostUserVsock).await
}

async fn vsock(t: &mut Testbed) -> Result {
    over(t, Channel::Vsock).await
}

async fn over(t: &mut Testbed, channel: Channel) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).channel(channel).launch(t).await?;
    lab.wait_ready().await?;
    let guest = lab["server-1"].guest().await?;
    for check in suite::checks() {
        t.step(check.name, async || check.run(&guest, LIMIT).await.map_err(anyhow::Error::msg)).await?;
    }
    let machine = &lab["server-1"];
    t.step("the journal from early boot on, through a reboot", async || journal(machine).await).await?;
    if channel == Channel::Virtserial {
        // What follows has to do with the machine, and not with the way in.
        t.step("a unit is waited for by systemd's own word", async || pushed(machine).await).await?;
        t.step("units have states and jobs", async || units(machine).await).await?;
        t.step("ports and unix sockets open and close", async || sockets(machine).await).await?;
        t.step("a port of the machine is one of the host", async || forwarded(&lab).await).await?;
        t.step("keys arrive, and the screen's text is read", async || keyboard(machine).await).await?;
        t.step("it powers itself off when it may", async || powers_off(machine).await).await?;
    }
    Ok(())
}

/// While it waits, the agent is connected to systemd itself: it does not ask again and again.
async fn pushed(machine: &Machine) -> Result {
    let unit = "--unit=pushed --property=Type=oneshot --property=RemainAfterExit=yes";
    machine
        .succeed(format!("mkfifo /run/go; systemd-run --no-block {unit} sh -c 'read go < /run/go'"))
        .await?;
    // A socket of systemd's that has its other end in the agent (the inodes of ss(8)).
    let connected = r#"ss -Hxnp | awk '$5 == "/run/systemd/private" { end[$8] } /rackless-agent/ { agent[$6] }
        END { for (it in end) if (it in agent) found = 1; exit !found }'"#;
    machine.fail(connected).await?;
    let wait = async { anyhow::Ok(machine.wait_for_unit("pushed.service").await?) };
    let look = async {
        machine.wait_until_succeeds(connected).await?;
        anyhow::Ok(machine.succeed("echo > /run/go").await?)
    };
    let (waited, looked) = futures::join!(wait, look);
    looked?;
    waited
}

async fn units(machine: &Machine) -> Result {
    machine.succeed("systemd-run --unit=states --remain-after-exit true").await?;
    machine.wait_for_unit("states.service").await?;
    machine.require_unit_state("states.service", "active").await?;
    machine.stop_job("states.service").await?;
    let error = machine.require_unit_state("states.service", "active").await.err().context("it is active")?;
    let told = "states.service is inactive, and must be active";
    ensure!(error.to_string().contains(told), "another error: {error}");
    let fails = "--unit=fails-as-well --property=Type=oneshot";
    machine.fail(format!("systemd-run {fails} false")).await?;
    ensure!(machine.unit_property("fails-as-well.service", "Result").await? == "exit-code");
    let status = machine.systemctl("is-failed fails-as-well.service").await?;
    ensure!(status.stdout == b"failed\n", "{status:?}");
    machine.systemctl("reset-failed").await?;
    Ok(())
}

async fn sockets(machine: &Machine) -> Result {
    machine.wait_for_closed_port(7000).await?;
    machine.succeed("systemd-run --unit=tcp nc -lk 127.0.0.1 7000").await?;
    machine.succeed("systemd-run --unit=unix nc -lkU /run/listens").await?;
    machine.wait_for_open_port(7000).await?;
    machine.wait_for_open_unix_socket("/run/listens").await?;
    machine.stop_job("tcp.service").await?;
    machine.stop_job("unix.service").await?;
    machine.wait_for_closed_port(7000).await?;
    let closed = machine.wait_for_open_unix_socket("/run/listens").within(Duration::from_millis(50)).await;
    ensure!(closed.is_err(), "a socket that nobody listens on takes connections");
    Ok(())
}

async fn forwarded(lab: &Lab) -> Result {
    let machine = &lab["server-1"];
    machine.succeed("systemd-run --unit=serves sh -c 'hostname | nc -Nl 7001'").await?;
    let vlan = VlanId::new(profiles::simple().switch_vlan("cluster")?)?;
    let host = Host::start(lab.switch(), HostOptions::new("tester", vlan, "192.168.1.200/24".parse()?))?;
    let forward = host.forward_to((machine.address("cluster")?, 7001).into())?;
    let mut said = String::new();
    machine.wait_until_succeeds("ss -Hltn 'sport = 7001' | grep -q .").await?;
    let mut stream = tokio::net::TcpStream::connect(forward.address()).await?;
    let read = tokio::time::timeout(secs(60), stream.read_to_string(&mut said)).await;
    read.with_context(|| format!("the port said {said:?} and no more"))??;
    ensure!(
        said == "server-1
",
        "it is another machine's: {said:?}"
    );
    Ok(())
}

async fn keyboard(machine: &Machine) -> Result {
    let terminal = "--property=StandardInput=tty --property=StandardOutput=tty --property=TTYPath=/dev/tty1";
    let reads = r#"echo "type now"; read -r line; echo "$line" > /run/typed"#;
    machine.succeed(format!("systemd-run --unit=types {terminal} sh -c '{reads}'")).await?;
    machine.wait_until_tty_matches(1, &Regex::new("type now")?, secs(30)).await?;
    machine.send_chars("It works: ~/a_B {42}|").await?;
    machine.send_key("ret").await?;
    machine.wait_for_file("/run/typed").await?;
    ensure!(
        machine.succeed("cat /run/typed").await?
            == "It works: ~/a_B {42}|
"
    );
    machine.wait_until_tty_matches(1, &Regex::new(r"It works: ~/a_B \{42\}\|")?, secs(30)).await?;
    let error = machine.wait_until_tty_matches(1, &Regex::new("never")?, Duration::from_millis(50)).await;
    let error = error.err().context("the terminal shows what nobody typed")?.to_string();
    ensure!(error.contains("It works"), "the error does not show the terminal: {error}");
    Ok(())
}

async fn powers_off(machine: &Machine) -> Result {
    let off = machine.wait_for_shutdown()?;
    machine.systemctl("poweroff --no-block").await?;
    off.await?;
    ensure!(!machine.is_running(), "QEMU still runs");
    Ok(())
}

/// It is in the file while the machine runs: of the first boot as of the second, from the kernel's first word on.
async fn journal(machine: &Machine) -> Result {
    say(machine, "before the reboot").await?;
    machine.reboot().await?;
    machine.wait_ready().await?;
    say(machine, "after the reboot").await?;
    let file = fs_err::read(machine.artifacts().join("journal.export"))?;
    let text = String::from_utf8_lossy(&file);
    let boots = text.matches("MESSAGE=Linux version").count();
    ensure!(boots == 2, "the first word of {boots} boots is in the journal");
    for once in ["MESSAGE=before the reboot\n", "MESSAGE=after the reboot\n"] {
        ensure!(text.matches(once).count() == 1, "{once:?} is not there exactly once");
    }
    Ok(())
}

async fn say(machine: &Machine, words: &str) -> Result {
    machine.succeed(format!("logger --tag=channel-test '{words}'")).await?;
    let entry = machine.wait_for_journal(&Regex::new(&format!("^{words}$"))?, secs(30)).await?;
    ensure!(entry.identifier.as_deref() == Some("channel-test"), "{entry:?}");
    Ok(())
}
