//! A boot until the machine is ready, beside the same system as its distribution makes it: Debian's initrd, all units,
//! the processor that QEMU gives with `-cpu max`.
//!
//! `cargo xtask bench boot` runs it. CPU seconds are those of the QEMU process; they say more than seconds on the clock
//! where something else runs on the host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bench_table::{Better, Table, json_argument};
use driver::spec::Tuning;
use scenarios::prelude::*;

/// Launches of each case and side.
const RUNS: usize = 3;
const PEER: &str = "Debian's own boot, -cpu max";

/// Where the results go besides the terminal.
static JSON: OnceLock<PathBuf> = OnceLock::new();

/// What each launch took, by case and side.
static TOOK: Mutex<Vec<(Launch, Took)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    match json_argument() {
        Ok(Some(file)) => JSON.set(file).expect("set once"),
        Ok(None) => {}
        Err(code) => return code,
    }
    // Each launch is a test of its own, since a test takes its share of the host once; the two sides alternate.
    let rounds = (1..=RUNS).flat_map(|run| {
        CASES.iter().flat_map(move |&case| {
            [Side::Ours, Side::Peer].map(|side| {
                (format!("{}.{side:?}.{run}", case.name.replace(' ', "-")), Launch { case, side })
            })
        })
    });
    suite("bench-boot")
        .cases("boot", rounds, boot)
        .test("table", table)
        .run_with(["bench-boot", "--test-threads=1"].map(OsString::from))
}

/// What is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    name: &'static str,
    machines: &'static [&'static str],
    boot: BootMode,
    /// What is measured is the boot after the first one.
    again: bool,
}

const CASES: &[Case] = &[
    Case { name: "one machine", machines: &["server-1"], boot: BootMode::Direct, again: false },
    Case {
        name: "three machines at once",
        machines: &["server-1", "server-2", "server-3"],
        boot: BootMode::Direct,
        again: false,
    },
    Case { name: "one machine by firmware", machines: &["server-1"], boot: BootMode::Firmware, again: false },
    Case { name: "a reboot by firmware", machines: &["server-1"], boot: BootMode::Firmware, again: true },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Launch {
    case: Case,
    side: Side,
}

/// Seconds from power-on, or from the reboot's start, until all machines of a launch were ready.
#[derive(Debug, Clone, Copy)]
struct Took {
    cpu: f64,
    clock: f64,
}

async fn boot(t: &mut Testbed, launch: &Launch) -> Result {
    let (image, tuning) = match launch.side {
        Side::Ours => ("server", Tuning::default()),
        Side::Peer => ("plain", Tuning::OFF),
    };
    let rack = Rack::of(profiles::simple(), launch.case.machines).image(image).tuning(tuning);
    let lab = rack.boot(launch.case.boot).prepare(t).await?;
    let used = || lab.machines().iter().map(cpu_seconds).sum::<Result<f64>>();
    let mut begun = Instant::now();
    lab.start().await?;
    lab.wait_ready().await?;
    let mut before = 0.0;
    if launch.case.again {
        (begun, before) = (Instant::now(), used()?);
        for machine in lab.machines() {
            machine.reboot().await?;
        }
    }
    let (clock, cpu) = (begun.elapsed().as_secs_f64(), used()? - before);
    TOOK.lock().unwrap_or_else(PoisonError::into_inner).push((*launch, Took { cpu, clock }));
    Ok(())
}

async fn table(_: &mut Testbed) -> Result {
    let took = TOOK.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut table = Table::of("boot");
    for &case in CASES {
        let of = |side, value: fn(&Took) -> f64| -> Result<Vec<f64>> {
            let of = took.iter().filter(|(launch, _)| *launch == Launch { case, side });
            let values: Vec<f64> = of.map(|(_, took)| value(took)).collect();
            ensure!(
                values.len() == RUNS,
                "{}: {} of {RUNS} boots of {side:?} ended well",
                case.name,
                values.len()
            );
            Ok(values)
        };
        for (what, value) in
            [("CPU", (|took| took.cpu) as fn(&Took) -> f64), ("on the clock", |took| took.clock)]
        {
            let (mut ours, mut peer) = (of(Side::Ours, value)?, of(Side::Peer, value)?);
            table.add(&format!("{}, {what}", case.name), "s", Better::Less, &mut ours, PEER, &mut peer);
        }
    }
    table.print();
    match JSON.get() {
        Some(file) => Ok(table.write(file)?),
        None => Ok(()),
    }
}

/// What a machine's QEMU has used so far, in user and in kernel mode.
fn cpu_seconds(machine: &Machine) -> Result<f64> {
    let pid = machine.qemu_pid().with_context(|| format!("{} is off", machine.name()))?;
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): the second field ends with the last parenthesis; utime and stime are the 14th and 15th.
    let (_, after) = stat.rsplit_once(')').context("a line of /proc/PID/stat")?;
    let ticks = |index: usize| {
        let field = after.split_whitespace().nth(index).context("a field of /proc/PID/stat")?;
        Ok::<f64, anyhow::Error>(field.parse()?)
    };
    // The unit of both, USER_HZ, is a hundredth of a second on every architecture that we run on.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
