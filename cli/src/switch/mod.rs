//! `rackless switch`: the switch of a running lab.

mod text;

use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use driver::control::{Answer, LabNetwork, Request, connect};
use process::RunInfo;

use crate::drawing;
use crate::runs::LabTarget;

/// Clears a terminal and goes to its first line (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// How a lab that ends, or has ended, is met.
const GONE: [ErrorKind; 5] = [
    ErrorKind::NotFound,
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
];

/// What `rackless switch` was asked.
#[derive(Debug, Args)]
pub(crate) struct Command {
    #[command(flatten)]
    lab: LabTarget,
    /// All of it as JSON; with --watch, one object a line
    #[arg(long, conflicts_with = "svg")]
    json: bool,
    /// Draw it to this file as SVG instead; `-` is stdout
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    svg: Option<PathBuf>,
    /// Show it again every so many seconds, until the lab ends
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("expected 0.1 to 3600 seconds".to_owned())
    }
}

/// Shows the switch.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let run = command.lab.find()?;
    let mut network = ask(&run)?.with_context(|| not_there(&run))?;
    if let Some(to) = &command.svg {
        return drawing::write(&drawing::of_lab(&run.run, &network), to);
    }
    let Some(every) = command.watch else { return show(command, &run, &network) };
    loop {
        if !command.json {
            print!("{CLEAR}");
        }
        show(command, &run, &network)?;
        wait(every);
        match ask(&run)? {
            Some(now) => network = now,
            None => {
                eprintln!("rackless: the lab {} has ended", network.lab);
                return Ok(());
            }
        }
    }
}

fn show(command: &Command, run: &RunInfo, network: &LabNetwork) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match (command.json, command.watch) {
        (true, None) => writeln!(out, "{}", serde_json::to_string_pretty(network)?)?,
        (true, Some(_)) => writeln!(out, "{}", serde_json::to_string(network)?)?,
        (false, _) => out.write_all(text::network(&run.run, network).as_bytes())?,
    }
    Ok(out.flush()?)
}

/// The lab's network; none when the run has no lab, not yet or not any more.
fn ask(run: &RunInfo) -> anyhow::Result<Option<LabNetwork>> {
    match connect(&run.path, &Request::Switch) {
        Ok(connection) => match connection.answer {
            Answer::Switch { network } => Ok(Some(*network)),
            Answer::Error { message } => bail!("{}: {message}", run.run),
            Answer::Ok | Answer::Machines { .. } | Answer::Frames { .. } => {
                bail!("{}: not an answer to what was asked", run.run)
            }
        },
        Err(error) if GONE.contains(&error.kind()) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: the lab's control socket", run.run)),
    }
}

fn not_there(run: &RunInfo) -> String {
    format!(
        "the run {} has no lab now: its lab is not made yet, or is being torn down; what it was at its end stands in \
         net/ports.json of its test (docs/debugging.md)",
        run.run
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is waited for is the time itself: the next picture is due"
)]
fn wait(every: Duration) {
    std::thread::sleep(every);
}
