//! Which machine starts when: in turn, so that not more of them boot at once than the host can run, and after what it
//! needs of others.

use std::fmt;
use std::future::IntoFuture as _;
use std::pin::pin;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::machine::Machine;
use crate::qemu::quote;
use crate::supervisor::BootTurn;
use crate::{Cause, Error, Lab};

/// What has to be so before a machine starts: another one is ready, or has a unit running, or takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// The other machine.
    pub machine: String,
    /// What is waited for on it.
    pub condition: Condition,
}

/// What a machine that starts later waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The other machine is ready, as [`Machine::wait_ready`] has it.
    Ready,
    /// This systemd unit is active on it.
    Unit(String),
    /// It accepts TCP connections on this port, on its own `127.0.0.1`.
    Port(u16),
}

impl After {
    /// Once that machine is ready; the name alone says the same.
    pub fn ready(machine: impl Into<String>) -> Self {
        Self { machine: machine.into(), condition: Condition::Ready }
    }

    /// Once the unit is active on that machine.
    pub fn unit(machine: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { machine: machine.into(), condition: Condition::Unit(unit.into()) }
    }

    /// Once that machine accepts connections on the TCP port.
    pub fn port(machine: impl Into<String>, port: u16) -> Self {
        Self { machine: machine.into(), condition: Condition::Port(port) }
    }

    /// Waits until it is so, for as long as the test may take: who makes it so may be the test itself.
    async fn come_true(&self, lab: &Lab) -> Result<(), Error> {
        let machine = lab.machine(&self.machine)?;
        let limit = lab.context().supervisor.remaining();
        match &self.condition {
            Condition::Ready => machine.wait_ready().into_future().await,
            Condition::Unit(unit) => {
                // The test may start it later, or bring it first: that nothing is about to is no reason to give up.
                let unit_word = quote(unit);
                let settled =
                    format!("systemctl is-active -q -- {unit_word} || systemctl is-failed -q -- {unit_word}");
                machine.wait_until_succeeds(settled).within(limit).into_future().await?;
                // One that failed has last words.
                machine.wait_for_unit(unit).within(limit).into_future().await
            }
            Condition::Port(port) => machine.wait_for_open_port(*port).within(limit).into_future().await,
        }
    }
}

impl From<&str> for After {
    fn from(machine: &str) -> Self {
        Self::ready(machine)
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, condition } = self;
        match condition {
            Condition::Ready => write!(f, "{machine} to be ready"),
            Condition::Unit(unit) => write!(f, "{unit} of {machine}"),
            Condition::Port(port) => write!(f, "port {port} of {machine}"),
        }
    }
}

impl Lab {
    /// Powers the machines on, in the order of the spec, and in turn: a machine whose boot would be one too many for
    /// the host starts when another one's is over. Returns when all of them run, but for those that start
    /// [after](crate::spec::MachineSpec::after) something: these start by themselves, and verbs that need their
    /// guest wait for it. When one of these can't start, it counts as dead.
    ///
    /// # Errors
    /// The first machine's that does not start.
    pub async fn start(&self) -> Result<(), Error> {
        let (now, later): (Vec<_>, Vec<_>) =
            self.machines().iter().partition(|machine| machine.spec().after.is_empty());
        // Before anything waits for one of them: until it runs, it is not off but about to start.
        let about_to: Vec<_> = now.into_iter().filter_map(|it| AboutToStart::because(it, TURN)).collect();
        for machine in later {
            self.start_later(machine);
        }
        let starts = about_to.into_iter().map(|it| async move { it.0.start().await });
        futures::future::try_join_all(starts).await.map(drop)
    }

    /// Starts a machine as soon as all is so that it starts after. The task ends with the lab.
    fn start_later(&self, machine: &Machine) {
        let waits_for = machine.spec().after.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(about_to) = AboutToStart::because(machine, &waits_for) else { return };
        machine.event("power", format!("waits for {waits_for}"), serde_json::Value::Null);
        let (weak, over) = (self.downgrade(), self.context().over.clone());
        tokio::spawn(async move {
            let machine = &about_to.0;
            // The lab may be gone, and then nothing is left to start.
            let Some(lab) = weak.upgrade() else { return };
            let Some(so) = over.run_until_cancelled(all_true(&lab, machine)).await else { return };
            drop(lab);
            // Not raced against the lab's end: what is half started would be lost. A lab that is over starts nothing.
            let started = match so {
                Ok(()) => machine.start().await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                let (kind, why) = (error.kind(), error.to_string());
                machine.die_unstarted(Cause::NotStarted { waited_for: waits_for, why, kind });
            }
        });
    }
}

/// What a machine waits for that starts after nothing.
const TURN: &str = "its turn to boot";

/// A machine that will be started, until it runs, or never will.
struct AboutToStart(Machine);

impl AboutToStart {
    /// `None` if it runs, or is about to start already.
    fn because(machine: &Machine, waits_for: &str) -> Option<Self> {
        (!machine.is_running() && machine.begin_to_wait(waits_for)).then(|| Self(machine.clone()))
    }
}

impl Drop for AboutToStart {
    fn drop(&mut self) {
        self.0.end_waiting();
    }
}

/// Waits for all that a machine starts after.
fn all_true<'a>(lab: &'a Lab, machine: &'a Machine) -> BoxFuture<'a, Result<(), Error>> {
    async {
        for after in &machine.spec().after {
            after.come_true(lab).await?;
        }
        Ok(())
    }
    .boxed()
}

impl Machine {
    /// Waits until it is this machine's turn to boot.
    pub(crate) async fn turn_to_boot(&self) -> BootTurn {
        let lab = self.lab();
        let turn = async {
            // The machines of a lab boot in their order, so only one of them asks at a time.
            let _line = lab.line.lock().await;
            lab.supervisor.boot_turn(self.spec().vcpus).await
        };
        let mut turn = pin!(turn);
        match futures::poll!(&mut turn) {
            std::task::Poll::Ready(turn) => turn,
            std::task::Poll::Pending => {
                self.event("power", format!("waits for {TURN}"), serde_json::Value::Null);
                turn.await
            }
        }
    }
}

/// What is wrong with what the machines start after: a name that is not there, or a circle.
pub(crate) fn problem(machines: &[crate::spec::MachineSpec]) -> Option<(String, String)> {
    let find = |name: &str| machines.iter().find(|machine| machine.name == name);
    for machine in machines {
        if let Some(after) = machine.after.iter().find(|after| find(&after.machine).is_none()) {
            let problem = format!("it is to start after {}, and there is no such machine", after.machine);
            return Some((machine.name.clone(), problem));
        }
    }
    // Those that start at once, then those that start after them, and so on: what is left waits in a circle.
    let mut left: Vec<_> = machines.iter().collect();
    loop {
        let before = left.len();
        let names: Vec<String> = left.iter().map(|machine| machine.name.clone()).collect();
        left.retain(|machine| machine.after.iter().any(|after| names.contains(&after.machine)));
        let first = left.first()?;
        if left.len() == before {
            let problem = format!("these start after one another, so none would: {}", names.join(", "));
            return Some((first.name.clone(), problem));
        }
    }
}

#[cfg(test)]
mod tests;
