//! Waits inside the guest. Paths, unix sockets and units are pushed: the kernel's inotify and systemd say when another
//! look is worth it. Whatever else is looked at again after 10 ms and then ever less often, and so are those, in case
//! their source says nothing: /proc, a network's file system, a directory that something was mounted on. The kernel
//! says nothing about a port that somebody begins to listen on (sock_diag tells of sockets that end), so that a port
//! of the guest itself is tried every 10 ms.

use crate::exec::capture;
use crate::paths::PathEvents;
use crate::units::Unit;
use agent_proto::message::{Condition, ExecSpec, Failure, Outcome, Status, Waited};
use std::io;
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};

/// The first pause between two looks.
pub(crate) const FIRST: Duration = Duration::from_millis(10);

/// The pause after something happened that was not yet it: a socket has its name before somebody listens on it.
const SOON: Duration = Duration::from_millis(1);

/// What one look saw.
pub(crate) struct Look {
    /// Set when the wait is over.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) evidence: String,
}

impl Look {
    pub(crate) fn new(met: bool, evidence: impl Into<String>) -> Self {
        Self { outcome: met.then_some(Outcome::Met), evidence: evidence.into() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one pause between two looks at a condition")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What is waited for, and what tells when another look is worth it.
enum Subject {
    Path { path: String, exists: bool, events: PathEvents },
    UnixSocket { path: String, events: PathEvents },
    Unit(Unit),
    Port { host: String, port: u16, open: bool },
    Command { spec: ExecSpec, succeeds: bool },
}

impl From<Condition> for Subject {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Path { path, exists } => Self::Path { events: PathEvents::new(&path), path, exists },
            Condition::UnixSocket { path } => Self::UnixSocket { events: PathEvents::new(&path), path },
            Condition::Unit { unit, state } => Self::Unit(Unit::new(unit, state)),
            Condition::Port { host, port, open } => Self::Port { host, port, open },
            Condition::Command { spec, succeeds } => Self::Command { spec, succeeds },
        }
    }
}

impl Subject {
    /// The longest pause between two looks where nothing is pushed, or what is pushed doesn't come. Cheap looks stay
    /// frequent; those that start a process back off further.
    fn slowest(&self) -> Duration {
        match self {
            Self::Port { host, .. } if is_here(host) => FIRST,
            Self::Path { .. } | Self::UnixSocket { .. } | Self::Port { .. } => Duration::from_millis(50),
            Self::Unit(_) => Duration::from_millis(250),
            Self::Command { .. } => Duration::from_secs(1),
        }
    }

    /// Looks, for no longer than `cut`; `None` if that was too short.
    async fn look(&mut self, cut: Duration) -> Option<Result<Look, Failure>> {
        match self {
            Self::Path { path, exists, events } => {
                events.arm();
                Some(Ok(look_at_path(path, *exists)))
            }
            Self::UnixSocket { path, events } => {
                events.arm();
                tokio::time::timeout(cut, look_at_socket(path)).await.ok().map(Ok)
            }
            Self::Unit(unit) => tokio::time::timeout(cut, unit.look()).await.ok(),
            Self::Port { host, port, open } => {
                Some(Ok(look_at_port(host, *port, *open, cut.min(Duration::from_secs(1))).await))
            }
            Self::Command { spec, succeeds } => Some(run_command(spec, *succeeds, cut).await),
        }
    }

    /// Resolves when something has happened since the last look; never where nobody tells. Cancel-safe.
    async fn changed(&mut self) {
        match self {
            Self::Path { events, .. } | Self::UnixSocket { events, .. } => events.changed().await,
            Self::Unit(unit) => unit.changed().await,
            Self::Port { .. } | Self::Command { .. } => std::future::pending().await,
        }
    }
}

/// Whether a connection to it never leaves the guest.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Looks until it is met, impossible, or too late. The last look always completes or is cut at the limit.
pub(crate) async fn wait(condition: Condition, limit: Duration) -> Result<Waited, Failure> {
    let started = Instant::now();
    let mut subject = Subject::from(condition);
    let (mut between, mut attempts) = (FIRST, 0);
    let mut evidence = String::from("it was never looked at to the end");
    loop {
        attempts += 1;
        let left = limit.saturating_sub(started.elapsed());
        let mut outcome = None;
        if let Some(look) = subject.look(left.max(FIRST)).await {
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
        tokio::select! {
            () = subject.changed() => between = SOON,
            () = pause(between.min(limit.saturating_sub(started.elapsed()))) => {
                between = (between * 3 / 2).min(subject.slowest());
            }
        }
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
