//! Running labs: what runs, and the one that a command means.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use driver::control::{Answer, MachineState, Request, connect};
use process::{RunInfo, RunState};

use crate::outcome::BadInput;

/// A machine of a running lab.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The machine's name
    machine: String,
    /// The run, as `rackless ps` names it; needed when several have such a machine
    #[arg(long)]
    run: Option<String>,
}

impl Target {
    /// Finds the machine among all running labs.
    pub(crate) fn find(&self) -> anyhow::Result<(RunInfo, MachineState)> {
        let mut found = Vec::new();
        let mut known = Vec::new();
        for run in alive()? {
            if self.run.as_ref().is_some_and(|wanted| *wanted != run.run) {
                continue;
            }
            for machine in machines(&run)? {
                if machine.name == self.machine {
                    found.push((run.clone(), machine));
                } else {
                    known.push(format!("{} ({})", machine.name, run.run));
                }
            }
        }
        match found.len() {
            1 => found.pop().context("one was counted"),
            0 if known.is_empty() => {
                bail!("no lab is running; `--keep-vms` keeps the machines of a test that failed")
            }
            0 => Err(BadInput::new(anyhow::anyhow!(
                "no running machine {:?}; there are {}",
                self.machine,
                known.join(", ")
            ))
            .into()),
            _ => {
                let runs: Vec<&str> = found.iter().map(|(run, _)| run.run.as_str()).collect();
                Err(BadInput::new(anyhow::anyhow!(
                    "several labs have a machine {:?}: choose with --run, one of {}",
                    self.machine,
                    runs.join(", ")
                ))
                .into())
            }
        }
    }

    /// The machine's name.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }
}

/// A running lab.
#[derive(Debug, Args)]
pub(crate) struct LabTarget {
    /// The run, as `rackless ps` names it; needed when several labs are running
    #[arg(long)]
    run: Option<String>,
}

impl LabTarget {
    /// Finds the one running lab, or the one of the run that was named.
    pub(crate) fn find(&self) -> anyhow::Result<RunInfo> {
        choose(process::runs()?, self.run.as_deref())
    }
}

fn choose(runs: Vec<RunInfo>, wanted: Option<&str>) -> anyhow::Result<RunInfo> {
    if let Some(wanted) = wanted {
        return match runs.iter().find(|run| run.run == wanted) {
            Some(run) if run.state == RunState::Alive => Ok(run.clone()),
            Some(_) => Err(BadInput::new(anyhow::anyhow!(
                "the run {wanted} was killed and its lab ended with it; `rackless gc` clears what it left"
            ))
            .into()),
            None => Err(BadInput::new(anyhow::anyhow!("no run {wanted:?}; {}", names(&runs))).into()),
        };
    }
    let mut alive: Vec<RunInfo> = runs.into_iter().filter(|run| run.state == RunState::Alive).collect();
    match alive.len() {
        0 => bail!("no lab is running; `--keep-vms` keeps the machines of a test that failed"),
        1 => alive.pop().context("one was counted"),
        _ => Err(BadInput::new(anyhow::anyhow!(
            "several labs are running: choose with --run; {}",
            names(&alive)
        ))
        .into()),
    }
}

/// The runs that live, for a message.
fn names(runs: &[RunInfo]) -> String {
    let alive: Vec<&str> =
        runs.iter().filter(|run| run.state == RunState::Alive).map(|run| run.run.as_str()).collect();
    match alive.as_slice() {
        [] => "no lab is running".to_owned(),
        _ => format!("there are {}", alive.join(", ")),
    }
}

fn alive() -> anyhow::Result<Vec<RunInfo>> {
    Ok(process::runs()?.into_iter().filter(|run| run.state == RunState::Alive).collect())
}

/// The machines of one run; none when it is on its way down and does not answer any more.
fn machines(run: &RunInfo) -> anyhow::Result<Vec<MachineState>> {
    match connect(&run.path, &Request::Machines) {
        Ok(connection) => match connection.answer {
            Answer::Machines { machines } => Ok(machines),
            Answer::Error { message } => bail!("{}: {message}", run.run),
            Answer::Ok | Answer::Switch { .. } | Answer::Frames { .. } => {
                bail!("{}: not an answer to what was asked", run.run)
            }
        },
        Err(_) => Ok(Vec::new()),
    }
}

/// `rackless ps`.
pub(crate) fn ps() -> anyhow::Result<()> {
    let runs = process::runs()?;
    if runs.is_empty() {
        println!("no lab is running");
    }
    for run in runs {
        let owner = run.owner.map_or_else(|| "unknown".to_owned(), |owner| owner.pid.to_string());
        match run.state {
            RunState::Alive => {
                println!("{}  pid {owner}  {}", run.run, run.path.display());
                for machine in machines(&run)? {
                    let pid = machine.pid.map_or_else(String::new, |pid| format!("  qemu {pid}"));
                    println!("  {}  {}{pid}  {}", machine.name, machine.state, machine.artifacts.display());
                }
            }
            RunState::Stale => println!("{}  killed (was pid {owner}); `rackless gc` clears it", run.run),
        }
    }
    Ok(())
}

/// `rackless gc`.
pub(crate) fn gc() -> anyhow::Result<()> {
    let reaped = process::reap_stale()?;
    if reaped.is_empty() {
        println!("nothing was left behind");
    }
    for run in reaped {
        println!("{}: cleared, {} processes killed", run.run, run.killed.len());
        for (identity, command) in &run.survivors {
            eprintln!("rackless: pid {} can't be killed: {command}", identity.pid);
        }
    }
    Ok(())
}

/// `rackless logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    target: Target,
    /// Which log: a file among the machine's artefacts
    #[arg(long, default_value = "console.log")]
    file: PathBuf,
}

/// Prints one of a machine's logs.
pub(crate) fn logs(command: &Logs) -> anyhow::Result<()> {
    let (_, machine) = command.target.find()?;
    let path = machine.artifacts.join(&command.file);
    let mut file = fs_err::File::open(&path).map_err(BadInput::new)?;
    std::io::copy(&mut file, &mut std::io::stdout())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, state: RunState) -> RunInfo {
        RunInfo { run: name.to_owned(), path: name.into(), state, owner: None, children: Vec::new() }
    }

    fn refusal(runs: &[RunInfo], wanted: Option<&str>) -> (bool, String) {
        let error = choose(runs.to_vec(), wanted).expect_err("a refusal");
        (error.is::<BadInput>(), error.to_string())
    }

    #[test]
    fn the_one_lab_that_lives_is_meant_and_of_several_the_one_that_is_named() {
        let (a, b, dead) =
            (run("a", RunState::Alive), run("b", RunState::Alive), run("dead", RunState::Stale));
        assert_eq!(choose(vec![dead.clone(), b.clone()], None).unwrap(), b);
        let all = [a.clone(), b, dead];
        assert_eq!(choose(all.to_vec(), Some("a")).unwrap(), a);
        let told = "several labs are running: choose with --run; there are a, b";
        assert_eq!(refusal(&all, None), (true, told.to_owned()));
        assert_eq!(refusal(&all, Some("c")), (true, r#"no run "c"; there are a, b"#.to_owned()));
    }

    #[test]
    fn a_lab_that_is_not_there_is_told_apart_from_one_that_was_killed() {
        let dead = [run("dead", RunState::Stale)];
        let none = "no lab is running; `--keep-vms` keeps the machines of a test that failed";
        assert_eq!(refusal(&dead, None), (false, none.to_owned()));
        assert_eq!(refusal(&[], Some("c")), (true, r#"no run "c"; no lab is running"#.to_owned()));
        let killed = "the run dead was killed and its lab ended with it; `rackless gc` clears what it left";
        assert_eq!(refusal(&dead, Some("dead")), (true, killed.to_owned()));
    }
}
