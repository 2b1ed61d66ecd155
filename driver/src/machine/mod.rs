//! A machine, be it virtual or a board: power, verbs, waits, and the watch over its death.

mod board;
mod boot;
mod command;
mod diagnose;
mod files;
mod instance;
mod journal;
mod keys;
mod nic;
mod power;
mod saved;
mod script;
mod units;
mod waits;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use command::{Command, Execute, Fail, Succeed, WaitUntilFails, WaitUntilSucceeds};
pub use files::{CopyFrom, CopyTo};
pub use power::{Reboot, Shutdown, WaitShutdown};
pub use waits::{WaitFile, WaitPort, WaitReady, WaitUnit, WaitUnixSocket};

use crate::Error;
use crate::console::{Console, Stage};
use crate::death::{Cause, Died};
use crate::disk::Overlay;
use crate::guest::{Guest, GuestError};
use crate::journal::Journal;
use crate::lab::Context;
use crate::qemu::Accel;
use crate::spec::{MachineSpec, NicSpec};
use crate::supervisor::Event;
use board::Rig;
pub(crate) use board::problem as board_problem;
use instance::{Instance, Qemu};
pub(crate) use saved::{Incoming, Parts};
use script::Scripted;

/// How many console lines an error carries.
const EVIDENCE_LINES: usize = 12;

/// One machine of a lab. A cheap handle: clones are the same machine.
///
/// Verbs wait for the guest's agent by themselves, at most for what a boot may take.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    spec: MachineSpec,
    lab: Arc<Context>,
    artifacts: PathBuf,
    disk: Option<Overlay>,
    /// The data disks, in the spec's order.
    data: Vec<Overlay>,
    /// What it has besides if a start script starts it.
    scripted: Option<Scripted>,
    /// What it is if it is a board.
    board: Option<Rig>,
    /// This machine's own UEFI variables.
    vars: Option<PathBuf>,
    /// Held during a change of power, so that two of them don't mix.
    power: tokio::sync::Mutex<()>,
    /// The machine as it runs now.
    running: Mutex<Option<Arc<Instance>>>,
    /// What has to be so before it starts by itself.
    waits_for: watch::Sender<Option<String>>,
    /// The first unexpected end; it stays.
    death: watch::Sender<Option<Died>>,
    nics: Mutex<Vec<Plugged>>,
    journal: Journal,
}

/// A NIC and where it is plugged.
#[derive(Clone)]
struct Plugged {
    spec: NicSpec,
    port: switch::PortId,
    /// Index of its PCIe root port.
    slot: usize,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("name", &self.name())
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes the machine's overlay, variables and switch ports; it stays off. Disk and variables begin as `saved` has
    /// them, if it was saved.
    pub(crate) async fn create(
        spec: MachineSpec,
        lab: Arc<Context>,
        saved: Option<&Incoming<'_>>,
    ) -> Result<Self, Error> {
        let artifacts = lab.artifacts.join(&spec.name);
        fs_err::create_dir_all(&artifacts).map_err(Error::file("making", &artifacts))?;
        let scratch = lab.scratch.join(&spec.name);
        let overlay = scratch.with_extension("qcow2");
        let disk = match (saved, &spec.disk) {
            (_, None) => None,
            (Some(saved), Some(_)) => Some(Overlay::of_overlay(&spec.name, &saved.disk(), overlay).await?),
            (None, Some(disk)) => Some(Overlay::create(&spec.name, disk, overlay).await?),
        };
        let vars = match &lab.firmware {
            Some(firmware) if spec.boot == crate::spec::Boot::Firmware => {
                let copy = scratch.with_extension("vars.fd");
                let from = saved.and_then(Incoming::vars);
                fs_err::copy(from.as_ref().unwrap_or(&firmware.vars), &copy)
                    .map_err(Error::file("copying UEFI variables to", &copy))?;
                Some(copy)
            }
            _ => None,
        };
        let mut data = Vec::new();
        for (index, disk) in spec.data_disks.iter().enumerate() {
            let path = scratch.with_extension(format!("{}.qcow2", disk.name));
            data.push(match saved {
                Some(saved) => Overlay::of_overlay(&spec.name, &saved.data(index)?, path).await?,
                None => Overlay::of_data(&spec.name, disk, path).await?,
            });
        }
        let scripted = Scripted::create(&spec, &lab)?;
        let board = Rig::create(&spec, &lab)?;
        let plugged = match (saved, &scripted) {
            (Some(saved), _) => saved.nics(),
            // A board's are where its cables lead to.
            _ if board.is_some() => Vec::new(),
            // The NICs of a start script are plugged in once it runs.
            (None, Some(_)) => Vec::new(),
            (None, None) => spec.nics.iter().cloned().zip(0..).collect(),
        };
        let mut nics = Vec::new();
        for (nic, slot) in plugged {
            let port = lab.add_port(&spec.name, &nic)?;
            nics.push(Plugged { spec: nic, port, slot });
        }
        let inner = Inner {
            journal: Journal::new(artifacts.join("journal.export")),
            spec,
            lab,
            artifacts,
            disk,
            data,
            scripted,
            board,
            vars,
            power: tokio::sync::Mutex::default(),
            running: Mutex::default(),
            waits_for: watch::Sender::new(None),
            death: watch::Sender::new(None),
            nics: Mutex::new(nics),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &MachineSpec {
        &self.inner.spec
    }

    /// The folder of its artefacts: `console.log`, `qmp.jsonl`, `cmdline.sh` and more.
    #[must_use]
    pub fn artifacts(&self) -> &Path {
        &self.inner.artifacts
    }

    /// Its address on a network of the profile.
    ///
    /// # Errors
    /// [`Error::Spec`] when it has none there.
    pub fn address(&self, network: &str) -> Result<IpAddr, Error> {
        let addresses = &self.inner.spec.addresses;
        addresses.get(network).copied().ok_or_else(|| Error::Spec {
            machine: self.name().to_owned(),
            problem: format!(
                "no address on a network {network:?}; it has {}",
                addresses.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// The last stage of boot that was seen; [`Stage::Spawned`] while it is off.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.instance().map_or(Stage::Spawned, |i| i.console.stage())
    }

    /// Whether QEMU runs, or the board has power as far as is known.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.instance().is_some_and(|i| i.is_running())
    }

    /// The serial console of the machine as it runs now.
    ///
    /// # Errors
    /// [`Error::Off`].
    pub fn console(&self) -> Result<Console, Error> {
        Ok(self.running("the console")?.console.clone())
    }

    /// The process id of QEMU, for tests that kill it; a board has none.
    #[must_use]
    pub fn qemu_pid(&self) -> Option<u32> {
        self.instance().and_then(|i| i.qemu().map(|qemu| qemu.child.pid()))
    }

    /// QEMU's monitor, for what the driver has no verb for.
    ///
    /// # Errors
    /// [`Error::Off`]; [`Error::Unsupported`] of a board.
    pub fn monitor(&self) -> Result<qmp::Client, Error> {
        let instance = self.running("the monitor")?;
        Ok(self.qemu(&instance, "the monitor")?.qmp.clone())
    }

    /// The QEMU of what runs.
    fn qemu<'i>(&self, instance: &'i Instance, operation: &str) -> Result<&'i Qemu, Error> {
        instance.qemu().ok_or_else(|| self.not_on_a_board(operation))
    }

    /// The channel to the agent or the shell, once the guest is up far enough to have one.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::NoAgent`], [`Error::Died`], or [`Error::Boot`] when the agent does not answer
    /// within the time that a boot may take.
    pub async fn guest(&self) -> Result<Guest, Error> {
        self.end_of_waiting().await?;
        let instance = self.running("the guest channel")?;
        if !self.has_way_in() {
            return Err(Error::NoAgent { machine: self.name().to_owned(), operation: "this".to_owned() });
        }
        let limit = self.boot_limit();
        let ready = async {
            let mut guest = instance.guest.subscribe();
            guest.wait_for(Option::is_some).await.ok().and_then(|guest| guest.clone())
        };
        match self.until_death(tokio::time::timeout(limit, ready)).await? {
            Ok(Some(guest)) => Ok(guest),
            Ok(None) => Err(self.off("the guest channel")),
            Err(_) => Err(self.boot_error(&instance, Stage::Agent, Vec::new())),
        }
    }

    /// Whether commands get in: by the agent or a shell.
    fn has_way_in(&self) -> bool {
        self.inner.spec.agent.is_some() || self.inner.spec.shell.is_some()
    }

    /// Resolves when the machine dies without being asked to.
    pub async fn died(&self) -> Died {
        let mut death = self.inner.death.subscribe();
        let died = death.wait_for(Option::is_some).await.ok().and_then(|died| died.clone());
        match died {
            Some(died) => died,
            // The sender lives in `self`, so this is never reached.
            None => std::future::pending().await,
        }
    }

    /// What a boot may take: a board's file says it.
    pub(crate) fn boot_limit(&self) -> Duration {
        match &self.inner.board {
            Some(rig) => rig.boot_limit().min(self.inner.lab.supervisor.remaining()),
            None => self.limit(boot::LIMIT),
        }
    }

    /// Scales a limit by the accelerator and cuts it to what is left of the test.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        // A board with a flash card behind a serial line may well be as slow as an emulated machine.
        let accel = if self.inner.board.is_some() { Accel::Tcg } else { self.inner.lab.accel };
        let factor = accel.time_factor();
        (limit * factor).min(self.inner.lab.supervisor.remaining())
    }

    /// Runs `work`, unless the machine dies first.
    pub(crate) async fn until_death<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            died = self.died() => Err(Error::Died(Box::new(died))),
            done = work => Ok(done),
        }
    }

    /// A path for a socket of this machine in the run's directory.
    pub(crate) fn lab_socket(&self, kind: &str) -> Result<PathBuf, Error> {
        self.inner.lab.socket(&format!("{}.{kind}", self.name()))
    }

    /// What it shares with the other machines of its lab.
    pub(crate) fn lab(&self) -> &Arc<Context> {
        &self.inner.lab
    }

    /// Tells the supervisor.
    pub(crate) fn event(&self, kind: &'static str, text: impl Into<String>, data: serde_json::Value) {
        let event = Event { kind, machine: Some(self.name().to_owned()), text: text.into(), data };
        self.inner.lab.supervisor.event(event);
    }

    fn instance(&self) -> Option<Arc<Instance>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_instance(&self, instance: Option<Arc<Instance>>) -> Option<Arc<Instance>> {
        std::mem::replace(&mut *self.inner.running.lock().unwrap_or_else(PoisonError::into_inner), instance)
    }

    fn running(&self, operation: &str) -> Result<Arc<Instance>, Error> {
        self.instance().ok_or_else(|| self.off(operation))
    }

    fn off(&self, operation: &str) -> Error {
        let waits_for = self.inner.waits_for.borrow().clone();
        Error::Off { machine: self.name().to_owned(), operation: operation.to_owned(), waits_for }
    }

    /// From now on it starts by itself once something is so; `false` if it waits already.
    pub(crate) fn begin_to_wait(&self, what: &str) -> bool {
        self.inner.waits_for.send_if_modified(|waits_for| {
            let begins = waits_for.is_none();
            waits_for.get_or_insert_with(|| what.to_owned());
            begins
        })
    }

    /// It runs, or never will.
    pub(crate) fn end_waiting(&self) {
        self.inner.waits_for.send_replace(None);
    }

    /// Resolves when the machine no longer waits to be started.
    pub(crate) async fn end_of_waiting(&self) -> Result<(), Error> {
        let mut waits_for = self.inner.waits_for.subscribe();
        if waits_for.borrow().is_none() {
            return Ok(());
        }
        // The sender lives in `self`, so it can't be gone.
        self.until_death(async { waits_for.wait_for(Option::is_none).await.map(drop).unwrap_or_default() })
            .await
    }

    /// Keeps the first cause of death, and tells of it.
    fn die(&self, instance: &Instance, cause: Cause) {
        if instance.is_expected_to_end() {
            return;
        }
        let died = Died {
            machine: self.name().to_owned(),
            cause,
            stage: instance.console.stage(),
            after: instance.started.elapsed(),
            console: instance.console.tail(EVIDENCE_LINES),
            artifacts: self.inner.artifacts.clone(),
        };
        self.keep_death(died);
    }

    /// It was to start and can't; no news once the lab is over.
    pub(crate) fn die_unstarted(&self, cause: Cause) {
        if self.inner.lab.over.is_cancelled() {
            return;
        }
        self.keep_death(Died {
            machine: self.name().to_owned(),
            cause,
            stage: Stage::Spawned,
            after: Duration::ZERO,
            console: Vec::new(),
            artifacts: self.inner.artifacts.clone(),
        });
    }

    fn keep_death(&self, died: Died) {
        let (text, stage) = (died.cause.to_string(), died.stage.to_string());
        let first = self.inner.death.send_if_modified(|death| {
            let first = death.is_none();
            death.get_or_insert(died);
            first
        });
        if first {
            self.event("death", text, serde_json::json!({ "stage": stage }));
        }
    }

    fn guest_error(&self, source: GuestError) -> Error {
        Error::Guest { source: Box::new(source), artifacts: self.inner.artifacts.clone() }
    }

    fn qmp_error(&self, operation: impl Into<String>, source: qmp::Error) -> Error {
        Error::Qmp { operation: operation.into(), source, artifacts: self.inner.artifacts.clone() }
    }

    /// A condition that did not come true, with the last words of its last attempt.
    fn condition_error(&self, operation: String, timer: &Timer, attempts: u64, last: Vec<String>) -> Error {
        Error::Condition {
            machine: self.name().to_owned(),
            operation,
            elapsed: timer.elapsed(),
            attempts,
            last,
            artifacts: self.inner.artifacts.clone(),
        }
    }

    fn boot_error(&self, instance: &Instance, wanted: Stage, mut evidence: Vec<String>) -> Error {
        evidence.extend(instance.console.tail(EVIDENCE_LINES));
        Error::Boot {
            machine: self.name().to_owned(),
            wanted,
            reached: instance.console.stage(),
            elapsed: instance.started.elapsed(),
            evidence,
            artifacts: self.inner.artifacts.clone(),
        }
    }
}

/// A deadline of one operation, to tell how long it took.
pub(crate) struct Timer(Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
