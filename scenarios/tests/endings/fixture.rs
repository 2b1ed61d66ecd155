//! The suite that is started as a child.

use std::time::Duration;

use harness::Suite;
use scenarios::prelude::*;

pub(crate) fn suite() -> Suite {
    scenarios::suite("fixture")
        .test("stays", stays)
        .test("loses_qemu", loses_qemu)
        .test("frames_cross", frames_cross)
        .test("frames_cross_and_it_fails", frames_cross_and_it_fails)
}

/// A machine runs until somebody ends the test.
async fn stays(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).launch(t).await?;
    println!("qemu-pid {}", lab["server-1"].qemu_pid().context("QEMU runs")?);
    lab["server-1"].wait_until_succeeds("false").within(Duration::from_secs(3600)).await?;
    Ok(())
}

/// The machine's QEMU is killed from outside.
async fn loses_qemu(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).launch(t).await?;
    let pid = lab["server-1"].qemu_pid().context("QEMU runs")?;
    let kill = process::Command::new("kill").args(["-KILL", &pid.to_string()]);
    process::run(kill, secs(10)).await?.checked()?;
    lab.wait_ready().await?;
    Ok(())
}

/// No machine runs: what plays its part on the wire is this process.
async fn frames_cross(t: &mut Testbed) -> Result {
    let lab = Rack::of(profiles::simple(), &["server-1"]).prepare(t).await?;
    let port = lab.switch().ports()?.first().context("server-1 has a port")?.id;
    lab.switch()
        .attach_channel(port)?
        .send(&[&[0xff; 6], &[0x52; 6], &b"\x88\xb5from server-1"[..]].concat())?;
    Ok(())
}

async fn frames_cross_and_it_fails(t: &mut Testbed) -> Result {
    frames_cross(t).await?;
    bail!("frames crossed")
}
