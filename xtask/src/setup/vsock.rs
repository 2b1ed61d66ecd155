//! `vhost-device-vsock`: gives QEMU a vsock where the host's kernel has none. Built only when asked for.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::command::Command;
use crate::workspace;

/// The daemon's program and crate.
pub(crate) const PROGRAM: &str = "vhost-device-vsock";
/// The version whose traps are known.
const VERSION: &str = "0.3.0";

/// Where cargo installs it: `bin/` below this is where the driver looks.
fn tools() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("tools"))
}

/// Whether `RACKLESS_CHANNEL=vsock` asks for the daemon and it isn't built yet.
pub(crate) fn wanted_and_missing() -> Result<bool> {
    let wanted = std::env::var("RACKLESS_CHANNEL").is_ok_and(|channel| channel == "vsock");
    let told = std::env::var_os("RACKLESS_VHOST_VSOCK").is_some_and(|path| !path.is_empty());
    Ok(wanted
        && !told
        && !tools()?.join("bin").join(PROGRAM).is_file()
        && workspace::program(PROGRAM).is_none())
}

/// Builds it into the cache.
pub(crate) fn install(dry_run: bool) -> Result<()> {
    let root = workspace::root()?;
    let build = Command::cargo(&root)
        .args(["install", PROGRAM, "--version", VERSION, "--locked", "--root"])
        .arg(tools()?);
    if dry_run {
        println!("would run: {build}");
        return Ok(());
    }
    println!("+ {build}");
    let status = build.run()?;
    ensure!(status.success(), "`{build}` failed ({status})");
    Ok(())
}
