//! What a benchmark measured beside a peer: a table for people, and the JSON that `docs/performance.md` tells of.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
pub enum Better {
    /// Less is: a time, a cost.
    Less,
    /// More is: a rate.
    More,
}

/// The results of one bench.
#[derive(Debug)]
pub struct Table {
    bench: &'static str,
    entries: Vec<Entry>,
}

impl Table {
    /// An empty one, of the bench of this name.
    #[must_use]
    pub fn of(bench: &'static str) -> Self {
        Self { bench, entries: Vec::new() }
    }

    /// Adds a case: what each run of ours and of the peer gave, in `unit`. The runs are put in order.
    ///
    /// # Panics
    /// If a side has no run.
    pub fn add(
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
        let (bench, case) = (self.bench, case.to_owned());
        self.entries.push(Entry { bench, case, unit, ours, peer, peer_name, ratio, runs });
    }

    /// Prints it as Markdown has tables.
    pub fn print(&self) {
        print!("{}", self.markdown());
    }

    fn markdown(&self) -> String {
        let mut text = format!("| {} | unit | ours | peer | ratio | beside |\n", self.bench);
        text += "|---|---|--:|--:|--:|---|\n";
        for Entry { case, unit, ours, peer, peer_name, ratio, .. } in &self.entries {
            let (ours, peer) = (readable(*ours), readable(*peer));
            text += &format!("| {case} | {unit} | {ours} | {peer} | {ratio:.2} | {peer_name} |\n");
        }
        text
    }

    /// Writes it as JSON, a list of the lines.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        fs_err::write(file, serde_json::to_string_pretty(&self.entries)? + "\n")
    }
}

/// The median; the values are put in order.
///
/// # Panics
/// If there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The FILE of `--json FILE`, the only argument that a bench takes; cargo puts `--bench` before it.
///
/// # Errors
/// The exit code for any other argument, which is named on stderr.
pub fn json_argument() -> Result<Option<PathBuf>, ExitCode> {
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

/// A figure as `docs/performance.md` has it: `343,145`, `25.9` if it is small, `0.64` if it is very small.
fn readable(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_ours_whichever_way_is_better() {
        let mut table = Table::of("speed");
        table.add("cost", "ns", Better::Less, &mut [3.0, 1.0, 2.0], "them", &mut [4.0, 8.0, 6.0]);
        table.add("rate", "frames/s", Better::More, &mut [400_000.0], "them", &mut [100_000.0, 300_000.0]);
        assert_eq!(
            table.markdown(),
            "| speed | unit | ours | peer | ratio | beside |\n|---|---|--:|--:|--:|---|\n\
             | cost | ns | 2.00 | 6.00 | 3.00 | them |\n\
             | rate | frames/s | 400,000 | 200,000 | 2.00 | them |\n"
        );
        let entry = serde_json::to_value(&table.entries[1]).unwrap();
        let expected = serde_json::json!({
            "bench": "speed", "case": "rate", "unit": "frames/s", "ours": 400_000.0, "peer": 200_000.0,
            "peer_name": "them", "ratio": 2.0, "runs": 1,
        });
        assert_eq!(entry, expected);
    }
}
