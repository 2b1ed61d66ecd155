//! A machine that is a board: its line, power, cables and boot dialogue in the place of a QEMU.

mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use board::dialogue::{Talk, Waited, hold, login_steps};
use board::{Board, Cable, Holder, Lock, OnFailure, Power, State, Tags};
use regex::Regex;
use serde_json::json;
use switch::{PortMode, UplinkConfig, UplinkId, UplinkKind, VdeConfig, VlanId, Vni};

use super::instance::{Body, Instance};
use super::{EVIDENCE_LINES, Machine, Plugged};
use crate::Error;
use crate::console::{Console, ConsoleError, ConsoleOptions, Position, Stage};
use crate::error::last_lines;
use crate::guest::{ConsoleLine, Exec, Guest};
use crate::lab::Context;
use crate::poll::Backoff;
use crate::spec::{Boot, MachineSpec};

/// What a serial server may take to be connected, and to set its port.
const LINE_LIMIT: Duration = Duration::from_secs(20);
/// What is left of a test's time for its end, when it has waited for a board in vain.
const LOCK_RESERVE: Duration = Duration::from_secs(5);
/// The longest that a board is waited for which somebody else has.
const LOCK_LIMIT: Duration = Duration::from_secs(600);

/// Where networkd reads files that are gone at the next boot.
const NETWORK: &str = "/run/systemd/network/";
/// Names and addresses as those files say.
const TAKE_UP: &str = "udevadm control --reload && udevadm trigger --action=add --subsystem-match=net && \
                       udevadm settle --timeout=30 && networkctl reload";

/// What a machine has besides if it is a board.
pub(super) struct Rig {
    board: Board,
    power: Power,
    uplinks: BTreeMap<String, UplinkId>,
    /// What is this run's alone, from the first power-on to the end of the lab.
    held: tokio::sync::Mutex<Held>,
    /// Whether something failed, so that the end goes by the board's own policy.
    failed: AtomicBool,
}

#[derive(Default)]
struct Held {
    lock: Option<Lock>,
    /// It stays over power cycles, so that its log begins before each of them.
    console: Option<Console>,
}

/// A board that was turned on.
pub(super) struct PoweredBoard {
    on: AtomicBool,
    /// Where the text of this boot begins on the console.
    boot: Mutex<Position>,
}

impl PoweredBoard {
    /// Whether it has power, as far as is known.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    fn boot(&self) -> Position {
        *self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instance {
    /// What a board says from now on belongs to its next boot, or to its shutdown.
    pub(super) fn mark(&self) {
        if let Body::Board(board) = &self.body {
            *board.boot.lock().unwrap_or_else(PoisonError::into_inner) = self.console.position();
        }
    }
}

/// What is wrong with a board in a lab.
pub(crate) fn problem(spec: &MachineSpec, board: &Board) -> Option<String> {
    let missing = board.uplinks.keys().find(|name| !spec.nics.iter().any(|nic| nic.name == **name));
    if let Some(name) = missing {
        let nics: Vec<&str> = spec.nics.iter().map(|nic| nic.name.as_str()).collect();
        return Some(format!(
            "{} has a cable for {name}, and this machine has the NICs {}",
            board.file.display(),
            nics.join(", ")
        ));
    }
    if spec.disk.is_some() || !spec.data_disks.is_empty() {
        return Some("it is a board, whose disks are its own: no disk of the lab's can be in it".to_owned());
    }
    spec.agent.is_some().then(|| "it is a board, and no agent can be brought into one".to_owned())
}

impl Rig {
    /// Makes the switch's ends of its cables; `None` for a machine that is none.
    pub(super) fn create(spec: &MachineSpec, lab: &Context) -> Result<Option<Self>, Error> {
        let Boot::Board(board) = &spec.boot else { return Ok(None) };
        let mut uplinks = BTreeMap::new();
        for nic in &spec.nics {
            let Some(uplink) = board.uplinks.get(&nic.name) else { continue };
            let wrong = |problem| Error::Spec { machine: spec.name.clone(), problem };
            let mode = match &uplink.tags {
                None => nic.port.clone(),
                Some(tags) => mode(tags).map_err(wrong)?,
            };
            let kind = match &uplink.cable {
                Cable::Nic(interface) => UplinkKind::Nic { interface: interface.clone() },
                Cable::Tap(interface) => UplinkKind::Tap { interface: interface.clone() },
                Cable::Vde(dir) => {
                    UplinkKind::Vde(VdeConfig { dir: Some(dir.clone()), ..VdeConfig::default() })
                }
                Cable::Vxlan { local, peer, vni } => {
                    let vni = Vni::new(*vni).map_err(|error| wrong(error.to_string()))?;
                    UplinkKind::Vxlan { local: *local, peer: *peer, vni }
                }
            };
            let name = format!("{}/{}", spec.name, nic.name);
            uplinks.insert(nic.name.clone(), lab.switch.add_uplink(UplinkConfig { name, mode, kind })?);
        }
        Ok(Some(Self {
            power: Power::of(board),
            board: (**board).clone(),
            uplinks,
            held: tokio::sync::Mutex::default(),
            failed: AtomicBool::new(false),
        }))
    }

    /// What a boot may take.
    pub(super) fn boot_limit(&self) -> Duration {
        self.board.boot.within
    }

    /// Takes the board, opens its line, and turns it on.
    pub(super) async fn power_on(&self, machine: &Machine) -> Result<Instance, Error> {
        let failed = |source| machine.board_error(source);
        let mut held = self.held.lock().await;
        if held.lock.is_none() {
            let me = Holder::me(run_name(&machine.inner.lab.artifacts));
            let left = machine.inner.lab.supervisor.remaining().saturating_sub(LOCK_RESERVE);
            let waiting = |holder: &Holder| {
                machine.event("power", format!("waits for {}: {holder}", self.board.name), json!(null));
            };
            held.lock =
                Some(Lock::take(&self.board, &me, left.min(LOCK_LIMIT), waiting).await.map_err(failed)?);
        }
        let console = match held.console.take().filter(|console| !console.is_closed()) {
            Some(console) => console,
            None => self.open(machine).await?,
        };
        held.console = Some(console.clone());
        drop(held);
        // A board that was in the middle of something may print until its power goes.
        console.set_stage(Stage::Spawned);
        let from = console.position();
        let started = Instant::now();
        let limit = machine.inner.lab.supervisor.remaining();
        let done = tokio::time::timeout(limit, self.power.boot()).await;
        done.unwrap_or_else(|_| Err(self.stuck("on", started))).map_err(failed)?;
        let line = Arc::new(ConsoleLine::new(console.clone()));
        let body = Body::Board(PoweredBoard { on: AtomicBool::new(true), boot: Mutex::new(from) });
        let instance = Instance::new(body, console, Some(line), None, started);
        crate::lab::join_bundles(machine, &machine.inner.lab.switch)?;
        Ok(instance)
    }

    async fn open(&self, machine: &Machine) -> Result<Console, Error> {
        let limit = LINE_LIMIT.min(machine.inner.lab.supervisor.remaining());
        let stream = board::line::open(&self.board, limit).await.map_err(|e| machine.board_error(e))?;
        let log = machine.inner.artifacts.join("console.log");
        let options =
            ConsoleOptions { machine: machine.name().to_owned(), log: log.clone(), started: Instant::now() };
        Console::capture(stream, options).map_err(Error::file("writing", &log))
    }

    fn stuck(&self, wanted: &'static str, since: Instant) -> board::Error {
        board::Error::PowerStuck { board: self.board.name.clone(), wanted, elapsed: since.elapsed() }
    }

    /// Turns it off.
    pub(super) async fn power_off(&self, machine: &Machine, instance: &Instance) -> Result<(), Error> {
        self.power.off().await.map_err(|source| machine.board_error(source))?;
        if let Body::Board(board) = &instance.body {
            board.on.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Resolves when the guest has shut itself down: its kernel says so, or its power is off.
    pub(super) async fn ended(&self, instance: &Instance, board: &PoweredBoard) {
        // kernel_power_off and kernel_halt of Linux, kernel/reboot.c.
        let last_words = Regex::new("reboot: (Power down|System halted)").expect("a valid expression");
        let says = instance.console.wait_for(&last_words, board.boot(), Duration::MAX);
        let off = async {
            let mut backoff = Backoff::new(Duration::from_secs(u64::from(u32::MAX)));
            while !matches!(self.power.state().await, Ok(Some(State::Off))) && backoff.pause().await {}
        };
        tokio::select! {
            said = says => match said {
                Ok(_) => {}
                // Without a line there is only the power.
                Err(_) => std::future::pending().await,
            },
            () = off => {}
        }
    }

    /// From now on the end goes by the board's policy.
    pub(super) fn note_failure(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Turns its power as its file says, and gives it to others; `false` when it could not be turned off.
    pub(super) async fn give_back(&self, machine: &Machine) -> bool {
        let mut held = self.held.lock().await;
        if held.lock.is_none() {
            return true;
        }
        if let Some(instance) = machine.instance() {
            instance.expect_end();
        }
        let failed = self.failed.load(Ordering::SeqCst) || machine.inner.death.borrow().is_some();
        let policy = if failed { self.board.power.on_failure } else { OnFailure::Off };
        let turned = match policy {
            OnFailure::Leave => Ok(()),
            OnFailure::Off => self.power.off().await,
            OnFailure::Cycle => self.power.cycle().await,
        };
        let done = match &turned {
            Ok(()) => policy.to_string(),
            Err(error) => format!("{policy}: {error}"),
        };
        machine.event(
            "power",
            format!("at the end: {done}"),
            json!({ "on_failure": failed, "ok": turned.is_ok() }),
        );
        *held = Held::default();
        turned.is_ok()
    }

    /// The port that a cable of its leads to.
    pub(super) fn plugged(&self, machine: &Machine, nic: &str) -> Result<Plugged, Error> {
        let Some(spec) = machine.spec().nics.iter().find(|it| it.name == nic) else {
            let has: Vec<&str> = machine.spec().nics.iter().map(|it| it.name.as_str()).collect();
            let problem = format!("no NIC {nic:?}; it has {}", has.join(", "));
            return Err(Error::Spec { machine: machine.name().to_owned(), problem });
        };
        let unsupported = |why: String| Error::Unsupported {
            machine: machine.name().to_owned(),
            operation: format!("the network of {nic}"),
            why,
        };
        let Some(id) = self.uplinks.get(nic) else {
            let file = self.board.file.display();
            return Err(unsupported(format!(
                "{file} has no [uplink.{nic}] that would lead to the lab's switch"
            )));
        };
        let state = machine.inner.lab.switch.uplink(*id)?;
        let port = state.port.or_else(|| state.clients.last().map(|client| client.port));
        let port = port.ok_or_else(|| unsupported(format!("nobody is connected to {}", state.kind)))?;
        Ok(Plugged { spec: spec.clone(), port, slot: 0 })
    }
}

/// The VLANs of a cable.
fn mode(tags: &Tags) -> Result<PortMode, String> {
    let id = |vlan: u16| VlanId::new(vlan).map_err(|error| error.to_string());
    Ok(match tags {
        Tags::Access(vlan) => PortMode::Access { vlan: id(*vlan)? },
        Tags::Trunk { allowed, native } => PortMode::Trunk {
            allowed: allowed.parse().map_err(|error| format!("its trunk {allowed:?}: {error}"))?,
            native: native.map(id).transpose()?,
        },
    })
}

/// What others read of who has a board: `boot/serial_login`, from the folder of the test's artefacts.
fn run_name(artifacts: &Path) -> String {
    let parts: Vec<_> = artifacts.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// A console that a dialogue is held on.
struct ConsoleTalk {
    console: Console,
    from: Position,
}

impl Talk for ConsoleTalk {
    async fn expect(&mut self, pattern: &Regex, limit: Duration) -> Waited {
        match self.console.wait_for(pattern, self.from, limit).await {
            Ok(found) => {
                self.from = found.position;
                Waited::Came
            }
            Err(ConsoleError::Closed { .. }) => Waited::Closed("its line was closed".to_owned()),
            Err(_) => Waited::NotYet,
        }
    }

    fn send(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        self.console.send(bytes).map_err(|error| error.to_string())
    }
}

impl Machine {
    /// Takes a board from its firmware to its system, and through a login in words of its own. A machine that is none
    /// gets there by itself.
    pub(super) async fn talk_to_boot_loader(&self, instance: &Instance) -> Result<(), Error> {
        let (Some(rig), Body::Board(board)) = (&self.inner.board, &instance.body) else { return Ok(()) };
        let spec = &rig.board;
        let mut steps = spec.boot.steps.clone();
        if let Some(prompts) = &spec.prompts {
            steps.extend(login_steps(&spec.boot, &spec.login, prompts));
        }
        let mut talk = ConsoleTalk { console: instance.console.clone(), from: board.boot() };
        let told = |step: &str| self.event("stage", step, json!(null));
        let held = hold(&spec.name, &steps, self.boot_limit(), &mut talk, told).await;
        held.map_err(|source| self.board_error(source))
    }

    /// Makes a board's guest take up the files of its network that it was given: they came after its boot.
    pub(super) async fn take_up_network(&self, guest: &Guest, limit: Duration) -> Result<(), Error> {
        let given = self.spec().files.iter().any(|file| file.path.starts_with(NETWORK));
        if self.inner.board.is_none() || !given {
            return Ok(());
        }
        let done = guest.run(Exec::shell(TAKE_UP), limit).await.map_err(|e| self.guest_error(e))?;
        if done.status.success() {
            return Ok(());
        }
        Err(Error::CommandFailed {
            machine: self.name().to_owned(),
            command: TAKE_UP.to_owned(),
            status: done.status.to_string(),
            elapsed: done.elapsed,
            stdout: last_lines(&done.stdout, EVIDENCE_LINES),
            stderr: last_lines(&done.stderr, EVIDENCE_LINES),
            artifacts: self.inner.artifacts.clone(),
        })
    }

    /// How long a board's line may say nothing before a request is said again.
    pub(super) fn board_silence(&self) -> Option<Duration> {
        self.inner.board.as_ref().map(|rig| rig.board.silence)
    }

    /// Resolves when the kernel of a board says that it restarts: from then on nothing may be typed.
    pub(super) async fn goes_down(&self, instance: &Instance) {
        let Body::Board(board) = &instance.body else { return std::future::pending().await };
        // kernel_restart of Linux, kernel/reboot.c.
        let restarts = Regex::new("reboot: (Restarting system|machine restart)").expect("a valid expression");
        if instance.console.wait_for(&restarts, board.boot(), Duration::MAX).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether the board's dialogue has logged in already.
    pub(super) fn has_own_login(&self) -> bool {
        self.inner.board.as_ref().is_some_and(|rig| rig.board.prompts.is_some())
    }

    /// A board that does not boot has nobody else to say so.
    pub(super) fn board_did_not_boot(&self, instance: &Instance, error: &Error) {
        if self.inner.board.is_none() {
            return;
        }
        let why = match error {
            Error::Board { source, .. } => source.to_string(),
            error => error.to_string(),
        };
        self.die(instance, crate::Cause::NotBooted { why, kind: error.kind() });
    }

    fn board_error(&self, source: board::Error) -> Error {
        Error::Board {
            machine: self.name().to_owned(),
            source: Box::new(source),
            console: self.instance().map(|i| i.console.tail(EVIDENCE_LINES)).unwrap_or_default(),
            artifacts: self.inner.artifacts.clone(),
        }
    }

    /// What only QEMU can do.
    pub(super) fn not_on_a_board(&self, operation: &str) -> Error {
        let board = self.inner.board.as_ref().map_or("it", |rig| rig.board.name.as_str());
        Error::Unsupported {
            machine: self.name().to_owned(),
            operation: operation.to_owned(),
            why: format!("{board} is a board, and this needs QEMU"),
        }
    }

    /// Refuses what can't be done to cables and cards that somebody has plugged by hand.
    pub(super) fn has_own_cables(&self, operation: &str) -> Result<(), Error> {
        if self.inner.board.is_some() { Err(self.not_on_a_board(operation)) } else { Ok(()) }
    }

    /// What is known of a board after a failure; what its guest knows is asked for as of any machine.
    pub(super) async fn ask_board(&self, folder: &Path) -> Vec<String> {
        let Some(rig) = &self.inner.board else { return Vec::new() };
        let text = match rig.power.state().await {
            Ok(Some(state)) => format!("{}: its power is {state}\n", rig.board.name),
            Ok(None) => format!("{}: its file has no command that tells whether it is on\n", rig.board.name),
            Err(error) => format!("{error}\n"),
        };
        let path = folder.join("power.txt");
        fs_err::write(path, text).err().map(|error| error.to_string()).into_iter().collect()
    }
}
