//! A formed cluster out of a checkpoint beside one that boots and forms: the same machines, in the same run.
//!
//! `cargo xtask bench checkpoint` runs it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bench_table::{Better, Table, json_argument};
use scenarios::prelude::*;

/// Restores that are timed, and labs that are saved.
const RUNS: u32 = 5;
/// Labs that are restored at once.
const LABS: u32 = 4;

/// Where the results go besides the terminal.
static JSON: OnceLock<PathBuf> = OnceLock::new();
/// What it took from power-on to a command on each machine of a formed cluster, in seconds.
static COLD: Mutex<Option<f64>> = Mutex::new(None);

fn main() -> ExitCode {
    match json_argument() {
        Ok(Some(file)) => JSON.set(file).expect("set once"),
        Ok(None) => {}
        Err(code) => return code,
    }
    let suite = suite("bench-checkpoint").test("cold", cold).test("restored", restored);
    suite.run_with(["bench-checkpoint", "--test-threads=1"].map(OsString::from))
}

/// The peer: every test boots and forms its own.
async fn cold(t: &mut Testbed) -> Result {
    let cluster = Cluster::on(profiles::vlans()).servers(3).prepare(t).await?;
    let begun = Instant::now();
    cluster.lab().start().await?;
    cluster.form().await?;
    answers(&cluster).await?;
    *COLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.elapsed().as_secs_f64());
    Ok(())
}

async fn restored(t: &mut Testbed) -> Result {
    let cold =
        COLD.lock().unwrap_or_else(PoisonError::into_inner).context("the cold cluster did not form")?;
    let formed = Cluster::on(profiles::vlans()).servers(3).copies(LABS - 1).formed_often(t).await?;
    let (mut alone, mut saving) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let begun = Instant::now();
        let c = formed.restore(t, &format!("alone-{run}")).await?;
        answers(&c).await?;
        alone.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        c.lab().checkpoint(&t.artifacts().join(format!("saved-{run}")), "bench").await?;
        saving.push(begun.elapsed().as_secs_f64());
        c.end(t).await?;
    }
    let begun = Instant::now();
    let labs = (1..=LABS).map(async |lab| answers(&formed.restore(t, &format!("lab-{lab}")).await?).await);
    futures::future::try_join_all(labs).await?;
    let mut at_once = vec![begun.elapsed().as_secs_f64()];
    let mut table = Table::of("checkpoint");
    let mut add = |case, ours: &mut [f64], cold| {
        table.add(case, "s", Better::Less, ours, "booting and forming", &mut [cold]);
    };
    add("a cluster of three, until each has run a command", &mut alone, cold);
    add("four of them at once", &mut at_once, f64::from(LABS) * cold);
    add("saving a restored cluster of three", &mut saving, cold);
    table.print();
    if let Some(file) = JSON.get() {
        table.write(file)?;
    }
    Ok(())
}

/// The first command on each machine.
async fn answers(c: &Cluster) -> Result {
    futures::future::try_join_all(c.servers().map(|machine| machine.succeed("true").into_future())).await?;
    Ok(())
}
