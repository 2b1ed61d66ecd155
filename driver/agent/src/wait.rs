//! Waits inside the guest. What can't be pushed is looked at again after 10 ms and then ever less often.

use crate::exec::{argv, capture};
use crate::failure::failure;
use agent_proto::message::{Condition, ExecSpec, Failure, FailureKind, Outcome, Status, Waited};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};

/// The first pause between two looks.
const FIRST: Duration = Duration::from_millis(10);

/// What one look saw.
struct Look {
    /// Set when the wait is over.
    outcome: Option<Outcome>,
    evidence: String,
}

impl Look {
    fn new(met: bool, evidence: impl Into<String>) -> Self {
        Self { outcome: met.then_some(Outcome::Met), evidence: evidence.into() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one pause between two looks at a condition")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Looks until it is met, impossible, or too late. The last look always completes or is cut at the limit.
pub(crate) async fn wait(condition: Condition, limit: Duration) -> Result<Waited, Failure> {
    let started = Instant::now();
    // Cheap looks stay frequent; those that start a process back off further.
    let slowest = match condition {
        Condition::Path { .. } | Condition::UnixSocket { .. } => FIRST,
        Condition::Port { .. } => Duration::from_millis(50),
        Condition::Unit { .. } => Duration::from_millis(250),
        Condition::Command { .. } => Duration::from_secs(1),
    };
    let (mut between, mut attempts) = (FIRST, 0);
    let mut evidence = String::from("it was never looked at to the end");
    let mut unit_inactive = 0;
    loop {
        attempts += 1;
        let left = limit.saturating_sub(started.elapsed());
        let cut = left.max(FIRST);
        let look = match &condition {
            Condition::Unit { unit, state } => {
                tokio::time::timeout(cut, look_at_unit(unit, state, &mut unit_inactive)).await
            }
            Condition::Path { path, exists } => Ok(Ok(look_at_path(path, *exists))),
            Condition::Port { host, port, open } => {
                Ok(Ok(look_at_port(host, *port, *open, cut.min(Duration::from_secs(1))).await))
            }
            Condition::UnixSocket { path } => tokio::time::timeout(cut, look_at_socket(path)).await.map(Ok),
            Condition::Command { spec, succeeds } => Ok(run_command(spec, *succeeds, cut).await),
        };
        let mut outcome = None;
        if let Ok(look) = look {
            let look = look?;
            (outcome, evidence) = (look.outcome, look.evidence);
        }
        if outcome.is_none() && started.elapsed() >= limit {
            outcome = Some(Outcome::TimedOut);
        }
        if let Some(outcome) = outcome {
            let elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            return Ok(Waited { outcome, attempts, elapsed_us, evidence });
        }
        pause(between.min(limit.saturating_sub(started.elapsed()))).await;
        between = (between * 3 / 2).min(slowest);
    }
}

fn look_at_path(path: &str, exists: bool) -> Look {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Look::new(exists, format!("{path} exists")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Look::new(!exists, format!("{path} does not exist"))
        }
        Err(error) => Look::new(false, format!("{path}: {error}")),
    }
}

async fn look_at_port(host: &str, port: u16, open: bool, limit: Duration) -> Look {
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Look::new(open, format!("{host} port {port} accepts connections")),
        Ok(Err(error)) => Look::new(!open, format!("{host} port {port}: {error}")),
        Err(_) => Look::new(!open, format!("{host} port {port}: no answer in {limit:.1?}")),
    }
}

async fn look_at_socket(path: &str) -> Look {
    match UnixStream::connect(path).await {
        Ok(_) => Look::new(true, format!("{path} accepts connections")),
        // A datagram socket is there as soon as it is bound.
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTOTYPE) => {
            Look::new(true, format!("{path} is a datagram socket"))
        }
        Err(error) => Look::new(false, format!("{path}: {error}")),
    }
}

async fn run_command(spec: &ExecSpec, succeeds: bool, limit: Duration) -> Result<Look, Failure> {
    let limit = spec.limit_ms.map_or(limit, |own| limit.min(Duration::from_millis(own)));
    let (status, output) = capture(spec, limit).await?;
    let output = output.trim_end();
    let evidence =
        if output.is_empty() { format!("{status}, no output") } else { format!("{status}\n{output}") };
    let met = match succeeds {
        true => status.success(),
        false => !status.success() && status != Status::TimedOut,
    };
    Ok(Look::new(met, evidence))
}

async fn look_at_unit(unit: &str, wanted: &str, inactive: &mut u32) -> Result<Look, Failure> {
    let properties = "--property=LoadState,ActiveState,SubState,Result,ConditionResult,Job,ExecMainStatus";
    let show = argv(&["systemctl", "show", properties, "--", unit]);
    let (status, text) = capture(&show, Duration::from_secs(30)).await?;
    if !status.success() {
        if text.contains("Invalid unit name") || text.contains("not a valid unit name") {
            return Err(failure(FailureKind::Invalid, text.trim_end()));
        }
        // Early in boot systemd doesn't answer yet.
        return Ok(Look::new(false, format!("systemctl: {status}: {}", text.trim_end())));
    }
    let values: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key| values.get(key).copied().unwrap_or_default();
    let active = value("ActiveState");
    let seen = format!(
        "{unit} is {active} ({}), load state {}, result {}",
        value("SubState"),
        value("LoadState"),
        value("Result")
    );
    if active == wanted {
        return Ok(Look::new(true, seen));
    }
    let no_job = matches!(value("Job"), "" | "0");
    // Seen twice: between two jobs, or before its file is written, a unit is inactive for a moment.
    *inactive = if active == "inactive" && wanted == "active" && no_job { *inactive + 1 } else { 0 };
    let stuck = *inactive >= 2 && no_jobs_at_all().await?;
    if active != "failed" && !stuck {
        return Ok(Look::new(false, seen));
    }
    let why = match (active, value("ConditionResult"), value("LoadState")) {
        ("failed", _, _) => "it failed",
        (_, _, "not-found") => "there is no such unit, and no job is left that could bring it",
        (_, "no", _) => "its conditions don't hold, and no job is pending",
        _ => "no job is pending: nothing will start it",
    };
    let evidence = format!("{seen}: {why}\n{}", look_closer(unit).await);
    Ok(Look { outcome: Some(Outcome::Impossible), evidence })
}

async fn no_jobs_at_all() -> Result<bool, Failure> {
    let (status, text) =
        capture(&argv(&["systemctl", "list-jobs", "--no-legend"]), Duration::from_secs(30)).await?;
    Ok(status.success() && (text.trim().is_empty() || text.starts_with("No jobs")))
}

/// What `systemctl status` and the journal say, as far as they do.
async fn look_closer(unit: &str) -> String {
    let status = ["systemctl", "status", "--full", "--lines=0", "--no-pager", "--", unit];
    let journal = ["journalctl", "--lines=20", "--no-pager", "--output=short-precise", "--unit", unit];
    let mut text = String::new();
    for command in [&status[..], &journal[..]] {
        if let Ok((_, output)) = capture(&argv(command), Duration::from_secs(10)).await {
            text.push_str(output.trim_end());
            text.push('\n');
        }
    }
    text
}
