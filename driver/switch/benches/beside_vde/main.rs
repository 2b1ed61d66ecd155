//! This switch beside `vde_switch --hub`, the network of nixosTest, in the same run: CPU time of the switch's process for
//! each frame, frames per second, and the time that a frame takes to cross.
//!
//! `cargo xtask bench switch` installs the peer and runs it. Each switch is a process of its own: ours is this program
//! again, with `serve`. Frames go in and out as QEMU's do: one write for each frame, over a stream with length prefixes
//! to ours, as datagrams to the peer. Runs of the two alternate, so that what else the machine does hits both.

mod latency;
mod load;
mod peers;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use switch::{PortConfig, PortMode, Switch, SwitchOptions, VlanId};

use crate::load::Pattern;
use crate::peers::Peer;

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Runs of each case and switch.
const RUNS: usize = 5;

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
    /// Runs of each.
    runs: usize,
}

/// What is measured, for one case, of one switch, in each run.
#[derive(Debug, Default)]
struct Series {
    ours: Vec<f64>,
    peer: Vec<f64>,
}

impl Series {
    fn push(&mut self, peer: Peer, value: f64) {
        match peer {
            Peer::Ours => self.ours.push(value),
            Peer::Vde => self.peer.push(value),
        }
    }

    fn entry(&mut self, case: String, unit: &'static str, more_is_better: bool) -> Entry {
        let (ours, peer) = (median(&mut self.ours), median(&mut self.peer));
        let ratio = if more_is_better { ours / peer } else { peer / ours };
        let runs = self.ours.len();
        Entry { bench: "switch", case, unit, ours, peer, peer_name: "vde_switch --hub", ratio, runs }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", dir, ports] => serve(Path::new(dir), ports.parse()?),
        [] => compare(None),
        ["--json", file] => compare(Some(PathBuf::from(file))),
        other => Err(format!("expected nothing or --json FILE, not {other:?}").into()),
    }
}

/// Our switch, until stdin ends.
fn serve(dir: &Path, ports: usize) -> Result {
    let sw = Switch::start(SwitchOptions::new(peers::NAME, dir))?;
    for port in 0..ports {
        let mode = PortMode::Access { vlan: VlanId::new(1)? };
        sw.add_port(PortConfig::new(format!("port-{port}"), mode))?;
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    sw.stop()?;
    Ok(())
}

fn compare(json: Option<PathBuf>) -> Result {
    let cases: Vec<(Pattern, usize)> = [Pattern::Pair, Pattern::Pairs, Pattern::Broadcast]
        .into_iter()
        .flat_map(|pattern| [(pattern, 64), (pattern, 1514)])
        .collect();
    let mut cpu: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    let mut rate: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    let mut latencies: Vec<[Series; 2]> = latency::SIZES.iter().map(|_| Default::default()).collect();
    for run in 0..RUNS {
        eprintln!("run {} of {RUNS}", run + 1);
        // Who begins changes, so that neither always finds the caches that the other has left.
        let order = if run % 2 == 0 { [Peer::Ours, Peer::Vde] } else { [Peer::Vde, Peer::Ours] };
        for (place, &(pattern, size)) in cases.iter().enumerate() {
            for peer in order {
                let measured = load::measure(peer, pattern, size)?;
                if measured.lost > 0 {
                    eprintln!("  {peer:?}, {pattern}, {size} B: {} frames lost", measured.lost);
                }
                cpu[place].push(peer, measured.cpu_ns_per_frame);
                rate[place].push(peer, measured.frames_per_second);
            }
        }
        for (place, &size) in latency::SIZES.iter().enumerate() {
            for peer in order {
                let [p50, p99] = latency::measure(peer, size)?;
                latencies[place][0].push(peer, p50);
                latencies[place][1].push(peer, p99);
            }
        }
    }
    let mut entries = Vec::new();
    for ((pattern, size), series) in cases.iter().zip(&mut cpu) {
        entries.push(series.entry(format!("{pattern}, {size} B, CPU of the switch"), "ns/frame", false));
    }
    for ((pattern, size), series) in cases.iter().zip(&mut rate) {
        entries.push(series.entry(format!("{pattern}, {size} B, throughput"), "frames/s", true));
    }
    for (size, [p50, p99]) in latency::SIZES.iter().zip(&mut latencies) {
        entries.push(p50.entry(format!("2 ports, idle, {size} B, latency p50"), "us", false));
        entries.push(p99.entry(format!("2 ports, idle, {size} B, latency p99"), "us", false));
    }
    println!("{:48} {:>9} {:>12} {:>12} {:>7}", "switch", "unit", "ours", "vde --hub", "ratio");
    for Entry { case, unit, ours, peer, ratio, .. } in &entries {
        println!("{case:48} {unit:>9} {ours:>12.1} {peer:>12.1} {ratio:>7.2}");
    }
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(&entries)? + "\n")?;
    }
    Ok(())
}
