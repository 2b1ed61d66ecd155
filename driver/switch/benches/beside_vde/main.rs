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
use std::process::ExitCode;

use bench_table::{Better, Table, json_argument};
use switch::{PortConfig, PortMode, Switch, SwitchOptions, VlanId};

use crate::load::{Measured, Pattern};
use crate::peers::{Packet, Peer, mac};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The sizes of frames, in bytes.
const SMALL: usize = 64;
const LARGE: usize = 1514;

/// Runs of each case and switch.
const RUNS: usize = 5;

const VDE: &str = "vde_switch --hub";

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
    fn add(&mut self, table: &mut Table, case: &str, unit: &'static str, better: Better) {
        table.add(case, unit, better, &mut self.ours, VDE, &mut self.peer);
    }

    /// Our vhost-user ports beside the same peer.
    fn add_fast(&mut self, table: &mut Table, case: &str, unit: &'static str, better: Better) {
        table.add(&format!("vhost-user, {case}"), unit, better, &mut self.fast, VDE, &mut self.peer);
    }
}

/// One run, with a word if frames were lost.
fn counted(peer: Peer, pattern: Pattern, size: usize) -> Result<Measured> {
    let measured = load::measure(peer, pattern, size)?;
    if measured.lost > 0 {
        eprintln!("  {peer:?}, {pattern}, {size} B: {} frames lost", measured.lost);
    }
    Ok(measured)
}

fn kib(bytes: usize) -> f64 {
    bytes as f64 / 1024.0
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", dir, ports] => serve(Path::new(dir), ports, false),
        ["serve-fast", dir, ports] => serve(Path::new(dir), ports, true),
        _ => match json_argument() {
            Ok(file) => compare(file),
            Err(code) => return code,
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Our switch, until stdin ends.
fn serve(dir: &Path, ports: &str, fast: bool) -> Result {
    let ports: usize = ports.parse()?;
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
    let mut table = Table::of("switch");
    let loads = |series: Vec<Series>| -> Vec<(String, Series)> {
        let names = cases.iter().map(|(pattern, size)| format!("{pattern}, {size} B"));
        names.zip(series).collect()
    };
    let (mut cpu, mut rate) = (loads(cpu), loads(rate));
    for (case, series) in &mut cpu {
        series.add(&mut table, &format!("{case}, CPU of the switch"), "ns/frame", Better::Less);
    }
    for (case, series) in &mut rate {
        series.add(&mut table, &format!("{case}, throughput"), "frames/s", Better::More);
    }
    for (size, [p50, p99]) in latency::SIZES.iter().zip(&mut latencies) {
        p50.add(&mut table, &format!("2 ports, idle, {size} B, latency p50"), "µs", Better::Less);
        p99.add(&mut table, &format!("2 ports, idle, {size} B, latency p99"), "µs", Better::Less);
    }
    for (case, series) in &mut cpu {
        series.add_fast(&mut table, &format!("{case}, CPU of the switch"), "ns/frame", Better::Less);
    }
    for (case, series) in &mut rate {
        series.add_fast(&mut table, &format!("{case}, throughput"), "frames/s", Better::More);
    }
    let [cpu, rate] = &mut bulk;
    let case = format!("TCP of 64 KiB against frames of {LARGE} B");
    cpu.add_fast(&mut table, &format!("{case}, CPU of the switch"), "ns/KiB", Better::Less);
    rate.add_fast(&mut table, &format!("{case}, throughput"), "MiB/s", Better::More);
    table.print();
    if let Some(file) = json {
        table.write(&file)?;
    }
    Ok(())
}
