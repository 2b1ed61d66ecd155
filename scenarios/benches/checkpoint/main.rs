//! A formed cluster out of a checkpoint beside one that boots and forms: the same machines, in the same run.
//!
//! `cargo xtask bench checkpoint` runs it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use scenarios::prelude::*;
use serde::Serialize;

/// Restores that are timed, and labs that are saved.
const RUNS: u32 = 5;
/// Labs that are restored at once.
const LABS: u32 = 4;

/// Where the results go besides the terminal.
static JSON: OnceLock<PathBuf> = OnceLock::new();
/// What it took from power-on to a command on each machine of a formed cluster, in seconds.
static COLD: Mutex<Option<f64>> = Mutex::new(None);

/// One line of the result. A ratio above 1 means that ours is better.
#[derive(Debug, Serialize)]
struct Entry {
    bench: &'static str,
    case: &'static str,
    unit: &'static str,
    /// The median of our runs.
    ours: f64,
    peer: f64,
    peer_name: &'static str,
    ratio: f64,
    runs: usize,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next(), arguments.next()) {
        (None, _) => {}
        (Some(flag), Some(file)) if flag == "--json" => JSON.set(file.into()).expect("set once"),
        (Some(other), _) => {
            eprintln!("expected nothing or --json FILE, not {}", other.display());
            return ExitCode::from(2);
        }
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
    let entry = |case, ours: &mut [f64], peer: f64| {
        let runs = ours.len();
        let ours = median(ours);
        let peer_name = "booting and forming";
        Entry { bench: "checkpoint", case, unit: "s", ours, peer, peer_name, ratio: peer / ours, runs }
    };
    let entries = [
        entry("a cluster of three, until each has run a command", &mut alone, cold),
        entry("four of them at once", &mut at_once, f64::from(LABS) * cold),
        entry("saving a restored cluster of three", &mut saving, cold),
    ];
    println!("{:52} {:>6} {:>10} {:>10} {:>8}", "checkpoint", "unit", "ours", "cold", "ratio");
    for Entry { case, unit, ours, peer, ratio, .. } in &entries {
        println!("{case:52} {unit:>6} {ours:>10.2} {peer:>10.2} {ratio:>8.2}");
    }
    if let Some(file) = JSON.get() {
        fs_err::write(file, serde_json::to_string_pretty(&entries)? + "\n")?;
    }
    Ok(())
}

/// The first command on each machine.
async fn answers(c: &Cluster) -> Result {
    futures::future::try_join_all(c.servers().map(|machine| machine.succeed("true").into_future())).await?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
