//! `cargo xtask demo`: from nothing to a verdict on the default image.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::command::Command;
use crate::{setup, stages, workspace};

/// The main job.
const TEST: [&str; 4] = ["test", "--workspace", "--test", "cluster_vlans"];

/// Sets up, builds, runs the main job, says how it went.
pub(crate) fn run(yes: bool) -> Result<()> {
    let start = Instant::now();
    let root = workspace::root()?;
    setup::run(setup::Options::unattended(yes))?;

    println!("\nbuilding the tests (the first time takes minutes)");
    let build = Command::cargo(&root).args(TEST).arg("--no-run");
    let status = build.run()?;
    if !status.success() {
        bail!("`{build}` failed ({status}); the compiler's words are above");
    }
    let built = start.elapsed();

    println!(
        "\nthree Debian machines on a VLAN switch: a quorum forms, a wrong tag is isolated, a cut trunk heals\n\
         (the first run builds the Debian image from packages)\n"
    );
    let test = Command::cargo(&root).args(TEST);
    let status = test.run()?;
    let took = start.elapsed();

    let artifacts = newest(&stages::artifacts(&root));
    println!("\nverdict    {}", if status.success() { "passed" } else { "FAILED" });
    println!(
        "time       {:.0} s, {:.0} s of it set-up and building",
        took.as_secs_f64(),
        built.as_secs_f64()
    );
    println!("artefacts  {}", artifacts.display());
    println!(
        "           console.log, qmp.jsonl and cmdline.sh of each machine, net/ports.json, result.json\n"
    );
    if !status.success() {
        bail!("`{test}` failed ({status}); docs/debugging.md tells how to read the artefacts");
    }
    println!(
        "next       cargo test --test cluster_vlans -- forms               one test\n           \
         cargo test --test cluster_vlans -- forms --keep-vms    and stay: `cargo run -p cli -- shell server-1`\n           \
         cargo run -p cli -- profile show vlans                 the network it ran on\n           \
         docs/writing-tests.md                                  a test of your own"
    );
    Ok(())
}

/// The newest run below `dir`; the harness links it as `latest`.
fn newest(dir: &Path) -> PathBuf {
    let runs = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let started = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    runs.filter(|path| path.is_dir() && !path.is_symlink()).max_by_key(started).unwrap_or(dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_run_the_place_itself_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest(dir.path()), dir.path());
        fs_err::create_dir(dir.path().join("run")).unwrap();
        assert_eq!(newest(dir.path()), dir.path().join("run"));
    }
}
