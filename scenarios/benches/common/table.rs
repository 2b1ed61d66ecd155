//! What a bench of this crate measured, as a table and as the JSON that `docs/performance.md` tells of.

use std::path::{Path, PathBuf};

use scenarios::prelude::*;
use serde::Serialize;

/// One line of the result. A ratio above 1 means that ours is better.
#[derive(Debug, Serialize)]
struct Entry {
    bench: &'static str,
    case: String,
    unit: &'static str,
    /// The median of our runs.
    ours: f64,
    /// The median of the peer's.
    peer: f64,
    peer_name: &'static str,
    ratio: f64,
    /// Runs of each, at least.
    runs: usize,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// The results of one bench.
#[derive(Debug)]
pub(crate) struct Table {
    bench: &'static str,
    entries: Vec<Entry>,
}

impl Table {
    pub(crate) fn of(bench: &'static str) -> Self {
        Self { bench, entries: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        case: &str,
        unit: &'static str,
        better: Better,
        ours: &mut [f64],
        peer_name: &'static str,
        peer: &mut [f64],
    ) {
        let runs = ours.len().min(peer.len());
        let (ours, peer) = (median(ours), median(peer));
        let ratio = if better == Better::More { ours / peer } else { peer / ours };
        self.entries.push(Entry {
            bench: self.bench,
            case: case.to_owned(),
            unit,
            ours,
            peer,
            peer_name,
            ratio,
            runs,
        });
    }

    pub(crate) fn print(&self) {
        println!("{:52} {:>6} {:>10} {:>10} {:>8}  beside", self.bench, "unit", "ours", "peer", "ratio");
        for Entry { case, unit, ours, peer, peer_name, ratio, .. } in &self.entries {
            println!("{case:52} {unit:>6} {ours:>10.2} {peer:>10.2} {ratio:>8.2}  {peer_name}");
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result {
        fs_err::write(file, serde_json::to_string_pretty(&self.entries)? + "\n")?;
        Ok(())
    }
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The FILE of `--json FILE`, the only argument that a bench takes; cargo puts `--bench` before it.
///
/// # Errors
/// The exit code for any other argument, which is named on stderr.
pub(crate) fn json_argument() -> std::result::Result<Option<PathBuf>, ExitCode> {
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(None),
        (Some(flag), Some(file)) if flag == "--json" => Ok(Some(file.into())),
        (Some(other), _) => {
            eprintln!("expected nothing or --json FILE, not {}", other.display());
            Err(ExitCode::from(2))
        }
    }
}
