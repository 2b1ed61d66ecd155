//! The cluster suites with checkpoints, beside the same with a boot for each test.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::command::Command;

/// The suites, one of each profile.
const SUITES: [&str; 4] = ["cluster_simple", "cluster_vlans", "cluster_bonding_vlans", "cluster_dhcp_simple"];

/// Runs them cold, once more to make what checkpoints are missing, and warm.
pub(super) fn measure(root: &Path) -> Result<Vec<Value>> {
    let tests =
        |root| Command::cargo(root).arg("test").args(SUITES.iter().flat_map(|suite| ["--test", suite]));
    succeed(&tests(root).arg("--no-run"))?;
    let cold = succeed(&tests(root).env("RACKLESS_CHECKPOINTS", "off"))?;
    succeed(&tests(root).env("RACKLESS_CHECKPOINTS", "on"))?;
    let warm = succeed(&tests(root).env("RACKLESS_CHECKPOINTS", "on"))?;
    let suites = SUITES.join(", ");
    println!("{suites}: {warm:.1} s warm, {cold:.1} s cold, ratio {:.2}", cold / warm);
    Ok(vec![json!({
        "bench": "suites", "case": suites, "unit": "s", "ours": warm, "peer": cold,
        "peer_name": "a boot for each test", "ratio": cold / warm, "runs": 1,
    })])
}

/// How long it took, in seconds.
fn succeed(command: &Command) -> Result<f64> {
    println!("+ {command}");
    let begun = Instant::now();
    let status = command.run()?;
    ensure!(status.success(), "`{command}` failed ({status}); its own words are above");
    Ok(begun.elapsed().as_secs_f64())
}
