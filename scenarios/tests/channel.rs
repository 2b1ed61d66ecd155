//! The guest channel keeps its promises over each transport that this host can have, in a real guest.

use driver::guest::suite;
use driver::spec::Channel;
use scenarios::prelude::*;

/// What one step of a check may take on a guest under TCG.
const LIMIT: std::time::Duration = secs(60);

fn main() -> ExitCode {
    let mut channels = scenarios::suite("channel").test("virtserialport", virtserialport);
    channels = channels.test("vhost_user_vsock", vhost_user_vsock);
    if !Rack::has_vhost_user_vsock() {
        channels =
            channels.ignored("no vhost-device-vsock: `RACKLESS_CHANNEL=vsock cargo xtask setup` builds it");
    }
    channels = channels.test("vsock", vsock);
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
    t.step("the journal from early boot on, through a reboot", async || journal(&lab["server-1"]).await).await
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
