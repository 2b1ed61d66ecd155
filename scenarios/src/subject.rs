//! A lab as the harness sees it, and the test as the driver sees it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use driver::{BootTurn, Event, Lab, Supervisor};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harness::{BootTurns, Deadline, Events, Lane, Subject, Testbed};
use services::Host;

/// The lab that a test owns.
pub(crate) struct LabSubject {
    lab: Lab,
    /// Hosts of this process on its switch, which live as long as it.
    _hosts: Vec<Host>,
    watched: bool,
}

impl LabSubject {
    /// A lab whose machines' death ends the test.
    pub(crate) fn watched(lab: Lab, hosts: Vec<Host>) -> Self {
        Self { lab, _hosts: hosts, watched: true }
    }

    /// A lab whose machines may die: that is what is tested.
    pub(crate) fn unwatched(lab: Lab, hosts: Vec<Host>) -> Self {
        Self { lab, _hosts: hosts, watched: false }
    }
}

impl Subject for LabSubject {
    fn name(&self) -> String {
        self.lab.name().to_owned()
    }

    fn died(&self) -> BoxFuture<'static, anyhow::Error> {
        if !self.watched {
            return std::future::pending().boxed();
        }
        let lab = self.lab.clone();
        async move { anyhow::Error::from(driver::Error::Died(Box::new(lab.died().await))) }.boxed()
    }

    fn diagnose<'a>(&'a self, _dir: &'a Path) -> BoxFuture<'a, ()> {
        self.lab.diagnose().boxed()
    }

    fn teardown(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { Ok(self.lab.teardown().await?) }.boxed()
    }

    fn hold(&self) -> BoxFuture<'_, Vec<String>> {
        let mut lines = Vec::new();
        for machine in self.lab.machines() {
            let name = machine.name();
            let state = if machine.is_running() { machine.stage().to_string() } else { "off".to_owned() };
            lines.push(format!("{name} ({state}): rackless shell {name} | rackless console {name} | rackless qmp {name} | rackless logs {name}"));
        }
        lines.push(format!("run: {}", self.lab.run_dir().display()));
        std::future::ready(lines).boxed()
    }

    fn kill(&self) {
        self.lab.kill();
    }
}

/// The test that a lab works for.
pub(crate) struct TestSupervisor {
    events: Events,
    deadline: Deadline,
    lanes: BTreeMap<String, Mutex<Lane>>,
    copy: Option<String>,
    turns: BootTurns,
}

impl TestSupervisor {
    /// Opens a live line for each machine. Those of a copy are told apart by its name: `copy-1/server-1`.
    ///
    /// # Errors
    /// When the locks that tests share cannot be used.
    pub(crate) fn new(
        t: &Testbed,
        machines: impl IntoIterator<Item = String>,
        copy: Option<&str>,
    ) -> Result<Self, harness::Error> {
        let lanes = machines.into_iter().map(|name| {
            let lane = t.lane(&full_name(&name, copy));
            (name, Mutex::new(lane))
        });
        Ok(Self {
            events: t.events().clone(),
            deadline: t.deadline().clone(),
            lanes: lanes.collect(),
            copy: copy.map(str::to_owned),
            turns: t.boot_turns()?,
        })
    }
}

impl Supervisor for TestSupervisor {
    fn event(&self, event: Event) {
        let machine = event.machine.as_ref().map(|name| full_name(name, self.copy.as_deref()));
        self.events.record(event.kind, machine.as_deref(), event.text.clone(), event.data);
        let lane = event.machine.as_ref().and_then(|name| self.lanes.get(name));
        // Commands would make the line flicker; they are in events.jsonl.
        if let Some(lane) = lane
            && event.kind != "command"
        {
            let first_line = event.text.lines().next().unwrap_or_default().to_owned();
            lane.lock().unwrap_or_else(std::sync::PoisonError::into_inner).set(first_line);
        }
    }

    fn remaining(&self) -> Duration {
        self.deadline.remaining()
    }

    fn boot_turn(&self, vcpus: u32) -> BoxFuture<'_, BootTurn> {
        async move {
            match self.turns.take(vcpus).await {
                Ok(turn) => Box::new(turn) as BootTurn,
                // Turns make boots quicker; no machine is to be held up by their bookkeeping.
                Err(error) => {
                    self.events.record(
                        "note",
                        None,
                        format!("boots out of turn: {error}"),
                        serde_json::Value::Null,
                    );
                    Box::new(())
                }
            }
        }
        .boxed()
    }
}

/// A machine's name among those of all copies.
fn full_name(machine: &str, copy: Option<&str>) -> String {
    copy.map_or_else(|| machine.to_owned(), |copy| format!("{copy}/{machine}"))
}
