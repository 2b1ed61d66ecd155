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
    let lab = Rack::of(profiles::simple(), &["server-1"]).channel(channel).vcpus(2).launch(t).await?;
    lab.wait_ready().await?;
    let guest = lab["server-1"].guest().await?;
    for check in suite::checks() {
        t.step(check.name, async || check.run(&guest, LIMIT).await.map_err(anyhow::Error::msg)).await?;
    }
    Ok(())
}
