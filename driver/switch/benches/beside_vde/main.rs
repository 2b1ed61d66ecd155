//! This switch beside `vde_switch --hub`, the network of nixosTest, in the same run: CPU time of the switch's process for
//! each frame, frames per second, and the time that a frame takes to cross.
//!
//! `cargo xtask bench switch` installs the peer and runs it. Each switch is a process of its own: ours is this program
//! again, with `serve`. Frames go in and out as QEMU's do: one write for each frame, over a stream with length prefixes
//! to ours, as datagrams to the peer; and through a guest's memory to our vhost-user ports (`serve-fast`), with the same
//! peer. Runs alternate, so that what else the machine does hits all.

mod guest;
mod latency;
mod load;
mod peers;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use switch::{PortConfig, PortMode, Switch, SwitchOptions, VlanId};

use crate::load::{Measured, Pattern};
use crate::peers::{Packet, Peer, mac};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The sizes of frames, in bytes.
const SMALL: usize = 64;
const LARGE: usize = 1514;

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
    fast: Vec<f64>,
    peer: Vec<f64>,
}

impl Series {
    fn push(&mut self, peer: Peer, value: f64) {
        match peer {
            Peer::Ours => self.ours.push(value),
            Peer::Fast => self.fast.push(value),
            Peer::Vde => self.peer.push(value),
        }
    }

    /// Ours beside the peer.
    fn entry(&mut self, case: String, unit: &'static str, more_is_better: bool) -> Entry {
        beside(&mut self.ours, &mut self.peer, case, unit, more_is_better)
    }

    /// Our vhost-user ports beside the same peer.
    fn fast_entry(&mut self, case: &str, unit: &'static str, more_is_better: bool) -> Entry {
        beside(&mut self.fast, &mut self.peer, format!("vhost-user, {case}"), unit, more_is_better)
    }
}

fn beside(
    ours: &mut [f64],
    peer: &mut [f64],
    case: String,
    unit: &'static str,
    more_is_better: bool,
) -> Entry {
    let runs = ours.len();
    let (ours, peer) = (median(ours), median(peer));
    let ratio = if more_is_better { ours / peer } else { peer / ours };
    Entry { bench: "switch", case, unit, ours, peer, peer_name: "vde_switch --hub", ratio, runs }
}

/// One run, with a word if frames were lost.
fn counted(peer: Peer, pattern: Pattern, size: usize) -> Result<Measured> {
    let measured = load::measure(peer, pattern, size)?;
    if measured.lost > 0 {
        eprintln!("  {peer:?}, {pattern}, {size} B: {} frames lost", measured.lost);
    }
    Ok(measured)
}

/// A figure as `docs/performance.md` has it: `343,145`, or `25.9` if it is small.
fn readable(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn kib(bytes: usize) -> f64 {
    bytes as f64 / 1024.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", dir, ports] => serve(Path::new(dir), ports.parse()?, false),
        ["serve-fast", dir, ports] => serve(Path::new(dir), ports.parse()?, true),
        [] => compare(None),
        ["--json", file] => compare(Some(PathBuf::from(file))),
        other => Err(format!("expected nothing or --json FILE, not {other:?}").into()),
    }
}

/// Our switch, until stdin ends.
fn serve(dir: &Path, ports: usize, fast: bool) -> Result {
    let sw = Switch::start(SwitchOptions::new(peers::NAME, dir))?;
    for port in 0..ports {
        let mode = PortMode::Access { vlan: VlanId::new(1)? };
        sw.add_port(PortConfig::new(format!("port-{port}"), mode).fast(fast))?;
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    sw.stop()?;
    Ok(())
}

fn compare(json: Option<PathBuf>) -> Result {
    let cases: Vec<(Pattern, usize)> = [Pattern::Pair, Pattern::Pairs, Pattern::Broadcast]
        .into_iter()
        .flat_map(|pattern| [(pattern, SMALL), (pattern, LARGE)])
        .collect();
    let mut cpu: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    let mut rate: Vec<Series> = cases.iter().map(|_| Series::default()).collect();
    let mut bulk = [Series::default(), Series::default()];
    let mut latencies: Vec<[Series; 2]> = latency::SIZES.iter().map(|_| Default::default()).collect();
    for run in 0..RUNS {
        eprintln!("run {} of {RUNS}", run + 1);
        // Who begins changes, so that none always finds the caches that another has left.
        let mut order = [Peer::Ours, Peer::Fast, Peer::Vde];
        order.rotate_left(run % 3);
        for (place, &(pattern, size)) in cases.iter().enumerate() {
            for peer in order {
                let measured = counted(peer, pattern, size)?;
                cpu[place].push(peer, measured.cpu_ns_per_frame);
                rate[place].push(peer, measured.frames_per_second);
                if (peer, pattern, size) == (Peer::Vde, Pattern::Pair, LARGE) {
                    bulk[0].push(peer, measured.cpu_ns_per_frame / kib(size));
                    bulk[1].push(peer, measured.frames_per_second * kib(size) / 1024.0);
                }
            }
        }
        let size = Packet::bulk(mac(1), mac(0))?.len();
        let measured = counted(Peer::Fast, Pattern::Bulk, size)?;
        bulk[0].push(Peer::Fast, measured.cpu_ns_per_frame / kib(size));
        bulk[1].push(Peer::Fast, measured.frames_per_second * kib(size) / 1024.0);
        for (place, &size) in latency::SIZES.iter().enumerate() {
            for peer in order.into_iter().filter(|peer| *peer != Peer::Fast) {
                let [p50, p99] = latency::measure(peer, size)?;
                latencies[place][0].push(peer, p50);
                latencies[place][1].push(peer, p99);
            }
        }
    }
    let (mut entries, mut fast) = (Vec::new(), Vec::new());
    for ((pattern, size), series) in cases.iter().zip(&mut cpu) {
        let case = format!("{pattern}, {size} B, CPU of the switch");
        fast.push(series.fast_entry(&case, "ns/frame", false));
        entries.push(series.entry(case, "ns/frame", false));
    }
    for ((pattern, size), series) in cases.iter().zip(&mut rate) {
        let case = format!("{pattern}, {size} B, throughput");
        fast.push(series.fast_entry(&case, "frames/s", true));
        entries.push(series.entry(case, "frames/s", true));
    }
    for (size, [p50, p99]) in latency::SIZES.iter().zip(&mut latencies) {
        entries.push(p50.entry(format!("2 ports, idle, {size} B, latency p50"), "µs", false));
        entries.push(p99.entry(format!("2 ports, idle, {size} B, latency p99"), "µs", false));
    }
    entries.append(&mut fast);
    let [cpu, rate] = &mut bulk;
    let case = format!("TCP of 64 KiB against frames of {LARGE} B");
    entries.push(cpu.fast_entry(&format!("{case}, CPU of the switch"), "ns/KiB", false));
    entries.push(rate.fast_entry(&format!("{case}, throughput"), "MiB/s", true));
    println!("| case | unit | ours | vde_switch | ratio |");
    println!("|---|---|--:|--:|--:|");
    for Entry { case, unit, ours, peer, ratio, .. } in &entries {
        println!("| {case} | {unit} | {} | {} | {ratio:.2} |", readable(*ours), readable(*peer));
    }
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(&entries)? + "\n")?;
    }
    Ok(())
}
