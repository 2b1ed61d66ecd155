//! Waiting for a unit: pushed by systemd over D-Bus, or by asking `systemctl` where its socket can't be had.

use crate::exec::{argv, capture};
use crate::failure::failure;
use crate::manager::{self, Manager, UNIT};
use crate::wait::{FIRST, Look};
use agent_proto::message::{Failure, FailureKind, Outcome};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use zvariant::Value;

/// The kinds of units (systemd.unit(5)) and, where their objects have a `Result`, the interface that has it.
const KINDS: [(&str, Option<&str>); 11] = [
    (".service", Some("Service")),
    (".socket", Some("Socket")),
    (".mount", Some("Mount")),
    (".automount", Some("Automount")),
    (".swap", Some("Swap")),
    (".timer", Some("Timer")),
    (".path", Some("Path")),
    (".scope", Some("Scope")),
    (".target", None),
    (".device", None),
    (".slice", None),
];

/// A unit that is waited for.
pub(crate) struct Unit {
    /// Where PID 1 listens.
    socket: PathBuf,
    name: String,
    wanted: String,
    manager: Option<Manager>,
    /// Since when every look saw it inactive, with no job, where it should be active.
    idle: Option<Instant>,
}

/// What systemd says of a unit, in the words of its properties.
#[derive(Default)]
struct State {
    load: String,
    active: String,
    sub: String,
    result: String,
    condition: bool,
    job: bool,
}

impl Unit {
    pub(crate) fn new(name: String, wanted: String) -> Self {
        Self { socket: manager::SOCKET.into(), name, wanted, manager: None, idle: None }
    }

    /// Resolves when systemd says that something about it has changed; never where it can't say so.
    pub(crate) async fn changed(&mut self) {
        let Some(manager) = &mut self.manager else { return std::future::pending().await };
        if manager.changed().await.is_err() {
            // It runs itself anew, say: the next look connects again.
            self.manager = None;
        }
    }

    pub(crate) async fn look(&mut self) -> Result<Look, Failure> {
        let told = self.manager.as_mut().and_then(Manager::told);
        if told.as_ref() == Some(&self.wanted) {
            return Ok(Look::new(true, format!("{} is {}", self.name, self.wanted)));
        }
        let state = match self.ask().await {
            Some(state) => state,
            None => match systemctl(&self.name).await? {
                Ok(state) => state,
                Err(silence) => return Ok(Look::new(false, silence)),
            },
        };
        let State { load, active, sub, result, .. } = &state;
        let seen = format!("{} is {active} ({sub}), load state {load}, result {result}", self.name);
        if *active == self.wanted {
            return Ok(Look::new(true, seen));
        }
        // Between two jobs, or before its file is written, a unit is inactive for a moment.
        let idle = active == "inactive" && self.wanted == "active" && !state.job;
        let since = *self.idle.get_or_insert_with(Instant::now);
        if !idle {
            self.idle = None;
        }
        let stuck = idle && since.elapsed() >= FIRST && no_jobs_at_all().await?;
        if active != "failed" && !stuck {
            return Ok(Look::new(false, seen));
        }
        let why = match (active.as_str(), state.condition, load.as_str()) {
            ("failed", _, _) => "it failed",
            (_, _, "not-found") => "there is no such unit, and no job is left that could bring it",
            (_, false, _) => "its conditions don't hold, and no job is pending",
            _ => "no job is pending: nothing will start it",
        };
        let evidence = format!("{seen}: {why}\n{}", look_closer(&self.name).await);
        Ok(Look { outcome: Some(Outcome::Impossible), evidence })
    }

    /// Asks PID 1; `None` where it can't be asked or has no answer, and `systemctl` finds the words for it.
    async fn ask(&mut self) -> Option<State> {
        // systemctl(1) takes paths and patterns as well, which have no object.
        if self.name.contains(['/', '*', '?', '[']) {
            return None;
        }
        let kind = KINDS.iter().find(|(suffix, _)| self.name.ends_with(suffix));
        let object = match kind {
            Some(_) => manager::object_of(&self.name),
            None => manager::object_of(&format!("{}.service", self.name)),
        };
        if self.manager.is_none() {
            self.manager = Manager::connect(&self.socket, object).await.ok();
        }
        let (_, typed) = kind.unwrap_or(&KINDS[0]);
        let asked = state(self.manager.as_mut()?, *typed).await;
        asked.unwrap_or_else(|_| {
            self.manager = None;
            None
        })
    }
}

async fn state(manager: &mut Manager, typed: Option<&str>) -> io::Result<Option<State>> {
    let typed = typed.map(|kind| format!("org.freedesktop.systemd1.{kind}"));
    let mut wanted =
        ["LoadState", "ActiveState", "SubState", "ConditionResult", "Job"].map(|name| (UNIT, name)).to_vec();
    wanted.extend(typed.iter().map(|interface| (interface.as_str(), "Result")));
    let values = manager.properties(&wanted).await?;
    let text = |at: usize| match values.get(at) {
        Some(Some(Value::Str(text))) => text.to_string(),
        _ => String::new(),
    };
    let state = State {
        load: text(0),
        active: text(1),
        sub: text(2),
        result: text(5),
        condition: values[3] == Some(Value::Bool(true)),
        // Its number and its object; 0 where there is none.
        job: matches!(&values[4], Some(Value::Structure(job)) if job.fields().first() != Some(&Value::U32(0))),
    };
    Ok(Some(state).filter(|state| !state.active.is_empty()))
}

/// What `systemctl show` says; the inner error is what it says while systemd doesn't answer yet.
async fn systemctl(unit: &str) -> Result<Result<State, String>, Failure> {
    let properties = "--property=LoadState,ActiveState,SubState,Result,ConditionResult,Job,ExecMainStatus";
    let show = argv(&["systemctl", "show", properties, "--", unit]);
    let (status, text) = capture(&show, Duration::from_secs(30)).await?;
    if !status.success() {
        if text.contains("Invalid unit name") || text.contains("not a valid unit name") {
            return Err(failure(FailureKind::Invalid, text.trim_end()));
        }
        return Ok(Err(format!("systemctl: {status}: {}", text.trim_end())));
    }
    let values: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key| values.get(key).copied().unwrap_or_default();
    Ok(Ok(State {
        load: value("LoadState").to_owned(),
        active: value("ActiveState").to_owned(),
        sub: value("SubState").to_owned(),
        result: value("Result").to_owned(),
        condition: value("ConditionResult") != "no",
        job: !matches!(value("Job"), "" | "0"),
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::object_of;
    use crate::manager::tests::FakeManager;
    use tokio::net::UnixListener;

    const LIMIT: Duration = Duration::from_secs(20);

    fn unit(directory: &tempfile::TempDir, name: &str, wanted: &str) -> (UnixListener, Unit) {
        let socket = directory.path().join("private");
        let listener = UnixListener::bind(&socket).unwrap();
        (listener, Unit { socket, ..Unit::new(name.into(), wanted.into()) })
    }

    /// Looks, waits for systemd's word, and looks again, which is the end of the wait. The first look.
    async fn looks_twice(unit: &mut Unit, systemd: impl Future<Output = FakeManager>) -> Look {
        let looks = async {
            let first = unit.look().await.unwrap();
            unit.changed().await;
            assert_eq!(unit.look().await.unwrap().outcome, Some(Outcome::Met));
            first
        };
        let both = async { tokio::join!(systemd, looks) };
        let (_systemd, first) = tokio::time::timeout(LIMIT, both).await.expect("systemd's word is heard");
        first
    }

    #[tokio::test]
    async fn a_unit_that_becomes_active_is_seen_when_systemd_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, mut unit) = unit(&directory, "some", "active");
        let systemd = async {
            let mut fake = FakeManager::accept(&listener).await;
            // Another unit's signal while it is asked, and its own right after the look.
            fake.signal(&object_of("other.service"), UNIT, Some("active")).await;
            fake.answer("activating").await;
            fake.signal(&object_of("other.service"), UNIT, Some("active")).await;
            fake.signal(&object_of("some.service"), UNIT, None).await;
            fake.answer("active").await;
            fake
        };
        let first = looks_twice(&mut unit, systemd).await;
        assert_eq!(
            (first.outcome, first.evidence.as_str()),
            (None, "some is activating (dead), load state loaded, result ")
        );
    }

    /// It is not asked again: this one would not answer.
    #[tokio::test]
    async fn a_state_that_systemd_tells_with_the_change_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, mut unit) = unit(&directory, "some.service", "active");
        let systemd = async {
            let mut fake = FakeManager::accept(&listener).await;
            fake.answer("activating").await;
            // What is the service's own comes first, and says nothing of its state.
            fake.signal(&object_of("some.service"), "org.freedesktop.systemd1.Service", None).await;
            fake.signal(&object_of("some.service"), UNIT, Some("active")).await;
            fake
        };
        assert_eq!(looks_twice(&mut unit, systemd).await.outcome, None);
    }

    /// It looks again, and connects anew.
    #[tokio::test]
    async fn a_systemd_that_runs_itself_anew_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, mut unit) = unit(&directory, "some.service", "active");
        let systemd = async {
            FakeManager::accept(&listener).await.answer("activating").await;
            let mut fake = FakeManager::accept(&listener).await;
            fake.answer("active").await;
            fake
        };
        assert_eq!(looks_twice(&mut unit, systemd).await.outcome, None);
    }
}
