//! The guest channel beside the ways that others have into a guest, in the same guest and run: the shell on hvc0 that
//! nixosTest speaks to, ssh over the switch, and QEMU's guest agent.
//!
//! `cargo xtask bench channel` installs ssh and runs it. The guest is the image `peers`, which has all their servers.

mod cases;
mod clock;
mod guest_agent;
mod shell;
mod ssh;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bench_table::{Table, json_argument};
use driver::spec::Channel;
use scenarios::prelude::*;

use crate::cases::{Alone, Kind, Room};
use crate::clock::Clock;
use crate::guest_agent::GuestAgent;
use crate::shell::Shell;
use crate::ssh::Ssh;

/// Where the results go besides the terminal.
static JSON: OnceLock<PathBuf> = OnceLock::new();

/// What was measured so far.
static MEASURED: Mutex<Option<(Table, Alone)>> = Mutex::new(None);

/// All of it, on a loaded machine under TCG.
const DEADLINE: std::time::Duration = secs(20 * 60);

fn main() -> ExitCode {
    match json_argument() {
        Ok(Some(file)) => JSON.set(file).expect("set once"),
        Ok(None) => {}
        Err(code) => return code,
    }
    // A test takes its share of the host once, so that the second guest is another test's.
    let suite = scenarios::suite("bench-channel").test("channel", channel).deadline(DEADLINE);
    let suite = suite.test("other_way", other_way).deadline(DEADLINE).test("table", table);
    suite.run_with(["bench-channel", "--test-threads=1"].map(OsString::from))
}

async fn channel(t: &mut Testbed) -> Result {
    let mut table = Table::of("channel");
    let lab = boot(t, Channel::Virtserial).await?;
    let room = Room::new(lab["server-1"].guest().await?)?;
    let mut shell = Shell::open(&lab).await?;
    let mut agent = GuestAgent::open(&lab).await?;
    let ssh = Ssh::open(&lab).await?;
    let mut clock = Clock::start(&room.guest).await?;
    t.step("exec", async || cases::exec(&room, &mut shell, &ssh, &mut agent, &mut table).await).await?;
    for (name, kind) in [("files", Kind::File), ("units", Kind::Unit)] {
        t.step(name, async || cases::comes_to_be(kind, &room, &mut shell, &mut clock, &mut table).await)
            .await?;
    }
    t.step("copies", async || cases::copies(&room, &mut shell, &ssh, &mut table).await).await?;
    t.step("stalled reader", async || cases::stalled(&room, &mut shell, &mut table).await).await?;
    let alone = t.step("virtserialport", async || cases::alone(&room).await).await?;
    *measured() = Some((table, alone));
    Ok(())
}

/// The other way to our agent, where the host has it.
async fn other_way(t: &mut Testbed) -> Result {
    if !Rack::has_vhost_user_vsock() {
        return Ok(());
    }
    let lab = boot(t, Channel::VhostUserVsock).await?;
    let room = Room::new(lab["server-1"].guest().await?)?;
    let mut vsock = t.step("vhost-user-vsock", async || cases::alone(&room).await).await?;
    let mut measured = measured();
    let (table, ours) = measured.as_mut().context("the first guest was not measured to the end")?;
    cases::choice(ours, &mut vsock, table);
    Ok(())
}

async fn table(_: &mut Testbed) -> Result {
    let measured = measured();
    let (table, _) = measured.as_ref().context("no guest was measured to the end")?;
    table.print();
    match JSON.get() {
        Some(file) => Ok(table.write(file)?),
        None => Ok(()),
    }
}

fn measured() -> MutexGuard<'static, Option<(Table, Alone)>> {
    MEASURED.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn boot(t: &Testbed, channel: Channel) -> Result<Launched> {
    let rack = Rack::of(profiles::simple(), &["server-1"]).image("peers").channel(channel).vcpus(2);
    let lab = rack.launch(t).await?;
    lab.wait_ready().await?;
    Ok(lab)
}
