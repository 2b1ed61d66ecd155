//! One machine's part in a checkpoint: pausing, saving its state to files, loading it again.
//!
//! QEMU's migration does the work (`migrate`, `migrate-incoming`; docs/devel/migration in its sources), over a pipe to
//! a file: `exec:` is there in every version. Memory that lies in a memfd is left out of the stream, which then takes
//! milliseconds (`x-ignore-shared`), and copied beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::instance::{self, Instance, Qemu};
use super::{Machine, Timer, boot, journal};
use crate::Error;
use crate::checkpoint::{Checkpoint, CheckpointError, SavedMachine, SavedNic};
use crate::console::Stage;
use crate::guest::{Guest, GuestOptions};
use crate::poll::Backoff;
use crate::qemu::{Memory, nic_id, quote};
use crate::spec::{AgentSource, AgentSpec, Boot, Channel, LabSpec, MachineSpec, NicBackend, NicSpec};

/// What saving or loading one machine's state may take, before scaling: seconds, unless the disk is slow.
const LIMIT: Duration = Duration::from_secs(60);
/// What a restored guest's agent may take to answer, before scaling.
const GREETING_LIMIT: Duration = Duration::from_secs(15);

/// Leaves memory that others can map out of the stream (QEMU 4.0).
const IGNORE_SHARED: &str = "x-ignore-shared";

/// Whether the answer to `query-migrate-capabilities` has one.
fn has_capability(answer: &Value, name: &str) -> bool {
    answer.as_array().is_some_and(|all| all.iter().any(|known| known["capability"] == name))
}

/// The device of which QEMU said that it can't be migrated: "State blocked by non-migratable device
/// '0000:00:05.0/nvme'".
fn blocking_device(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("non-migratable device '")?;
    rest.split_once('\'').map(|(device, _)| device)
}

impl LabSpec {
    /// Whether machines of this kind can be saved by any QEMU; what a single QEMU can't do shows when it is asked.
    ///
    /// # Errors
    /// [`CheckpointError::Unmigratable`], [`CheckpointError::Unfit`].
    pub fn check_fit(&self) -> Result<(), CheckpointError> {
        self.machines.iter().try_for_each(MachineSpec::check_fit)
    }
}

impl MachineSpec {
    fn check_fit(&self) -> Result<(), CheckpointError> {
        let machine = self.name.clone();
        if let Some(nic) = self.nics.iter().find(|nic| nic.backend == NicBackend::VhostUser) {
            let device = format!("{} (a fast NIC, vhost-user)", nic.name);
            return Err(CheckpointError::Unmigratable { machine, device });
        }
        if matches!(self.boot, Boot::Board(_)) {
            return Err(CheckpointError::Unfit {
                machine,
                why: "it is a board, whose memory nobody can save",
            });
        }
        if matches!(self.boot, Boot::Script(_)) {
            let why = "its start script decides what it is made of, so that it can't be made the same again";
            return Err(CheckpointError::Unfit { machine, why });
        }
        if self.disk.is_none() {
            return Err(CheckpointError::Unfit { machine, why: "it has no disk" });
        }
        match &self.agent {
            None => {
                Err(CheckpointError::Unfit { machine, why: "it has no agent that could be greeted anew" })
            }
            Some(AgentSpec { source: AgentSource::OverShell(_), .. }) => {
                let why = "its agent came in over a shell, which can't be attached anew";
                Err(CheckpointError::Unfit { machine, why })
            }
            Some(agent) if agent.channel == Channel::VhostUserVsock => {
                let device = "vhost-user-vsock, by which its agent is reached".to_owned();
                Err(CheckpointError::Unmigratable { machine, device })
            }
            Some(_) => Ok(()),
        }
    }
}

/// The name that a stream has until it is whole.
fn part(stream: &Path) -> PathBuf {
    stream.with_added_extension("part")
}

/// Where QEMU is told to write a machine's state: a program that leaves the whole of it, or nothing.
fn writing_to(stream: &Path) -> String {
    let (part, whole) = (quote(&part(stream).display().to_string()), quote(&stream.display().to_string()));
    format!("exec:cat > {part} && mv {part} {whole} || rm -f {part}")
}

/// What there is of a machine's state besides the stream.
pub(crate) struct Parts {
    /// Its memory, where the stream has it not: a path of the running QEMU's.
    pub(crate) ram: Option<PathBuf>,
    /// Its overlay.
    pub(crate) disk: PathBuf,
    /// Its data disks.
    pub(crate) data: Vec<PathBuf>,
    /// Its UEFI variables.
    pub(crate) vars: Option<PathBuf>,
    /// See [`SavedMachine`].
    pub(crate) named_memory: bool,
    /// The NICs that are plugged in.
    pub(crate) nics: Vec<SavedNic>,
    /// Whether a test has paused it.
    pub(crate) paused: bool,
}

/// How a saved machine is started again.
pub(crate) struct Incoming<'c> {
    pub(crate) checkpoint: &'c Checkpoint,
    pub(crate) saved: &'c SavedMachine,
}

impl Incoming<'_> {
    /// Memory of the kind that it was saved from.
    pub(super) fn memory(&self) -> Memory {
        match &self.saved.ram {
            Some(ram) => Memory::CopyOf(self.checkpoint.path(ram)),
            None if self.saved.named_memory => Memory::Memfd,
            None => Memory::Own,
        }
    }

    /// What it had written to its disk.
    pub(super) fn disk(&self) -> PathBuf {
        self.checkpoint.path(&self.saved.disk)
    }

    /// What it had written to a data disk.
    pub(super) fn data(&self, index: usize) -> Result<PathBuf, CheckpointError> {
        let file = self.saved.data.get(index).ok_or_else(|| CheckpointError::NoSuchDisk {
            directory: self.checkpoint.directory().to_owned(),
            machine: self.saved.name.clone(),
            index,
        })?;
        Ok(self.checkpoint.path(file))
    }

    /// The NICs that were plugged in.
    pub(super) fn nics(&self) -> Vec<(NicSpec, usize)> {
        self.saved.nics.iter().map(|saved| (saved.nic.clone(), saved.slot)).collect()
    }

    /// Its UEFI variables.
    pub(super) fn vars(&self) -> Option<PathBuf> {
        self.saved.vars.as_ref().map(|vars| self.checkpoint.path(vars))
    }
}

impl Machine {
    /// Whether it can be saved.
    pub(crate) fn check_fit(&self) -> Result<(), CheckpointError> {
        self.inner.spec.check_fit()?;
        let unfit = |why| Err(CheckpointError::Unfit { machine: self.name().to_owned(), why });
        match self.instance() {
            None => unfit("it is off"),
            // A guest that was restored, and paused since, has booted before it was saved.
            Some(instance) if instance.to_be_greeted.load(Ordering::SeqCst) => Ok(()),
            Some(instance) if instance.console.stage() < Stage::Ready => {
                unfit("it has not finished its boot")
            }
            Some(_) => Ok(()),
        }
    }

    /// Stops the guest's processors for a moment.
    pub(crate) async fn stand_still(&self) -> Result<(), Error> {
        let instance = self.running("standing still")?;
        self.monitor_command(&instance, "stop", json!({})).await.map(drop)
    }

    /// Lets the guest go on, unless a test has paused it.
    pub(crate) async fn go_on(&self) -> Result<(), Error> {
        let instance = self.running("going on")?;
        if instance.paused.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.monitor_command(&instance, "cont", json!({})).await.map(drop)
    }

    /// Stops the guest's processors: it answers nobody, and sees a jump of the clock once [`Machine::resume`] lets it
    /// go on. A checkpoint keeps it as it is.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Qmp`].
    pub async fn pause(&self) -> Result<(), Error> {
        let instance = self.running("pause")?;
        self.monitor_command(&instance, "stop", json!({})).await?;
        instance.paused.store(true, Ordering::SeqCst);
        self.event("fault", "paused", json!({ "paused": true }));
        Ok(())
    }

    /// Lets a paused guest go on; one that runs is left alone.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Qmp`]; in a restored lab [`Error::Guest`] when its agent does not answer.
    pub async fn resume(&self) -> Result<(), Error> {
        let instance = self.running("resume")?;
        if !instance.paused.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.monitor_command(&instance, "cont", json!({})).await?;
        self.event("fault", "resumed", json!({ "paused": false }));
        match instance.to_be_greeted.load(Ordering::SeqCst) {
            true => self.greet_again().await,
            false => Ok(()),
        }
    }

    /// Whether [`Machine::pause`] holds it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.instance().is_some_and(|instance| instance.paused.load(Ordering::SeqCst))
    }

    /// Writes the state of the paused machine to `stream`, and says where the rest of it is.
    pub(crate) async fn save(&self, stream: &Path) -> Result<Parts, Error> {
        let timer = Timer::start();
        let instance = self.running("saving")?;
        let qemu = self.qemu(&instance, "saving")?;
        let in_memfd = qemu.memory == Memory::Memfd;
        let known = self.monitor_command(&instance, "query-migrate-capabilities", json!({})).await?;
        if !has_capability(&known, IGNORE_SHARED) {
            return Err(self.too_old("the migration capability x-ignore-shared").into());
        }
        // All machines get the same, so that what an earlier try left set is undone.
        let ignore = json!([{ "capability": IGNORE_SHARED, "state": in_memfd }]);
        self.monitor_command(&instance, "migrate-set-capabilities", json!({ "capabilities": ignore }))
            .await?;
        // The default spares a network; this is a pipe.
        self.monitor_command(&instance, "migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))
            .await?;
        let uri = writing_to(stream);
        let failed = |said: String| Error::from(self.save_error(timer.elapsed(), said));
        let begun = qemu.qmp.execute_raw("migrate", json!({ "uri": uri })).await;
        begun.map_err(|refused| failed(refused.to_string()))?;
        let mut backoff = Backoff::new(self.limit(LIMIT));
        loop {
            let status = self.monitor_command(&instance, "query-migrate", json!({})).await?;
            match status["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    let said = status["error-desc"].as_str().unwrap_or("QEMU gives no reason");
                    return Err(failed(self.with_writers_words(said)));
                }
                _ if backoff.pause().await => {}
                _ => return Err(failed(format!("it is not done: {status}"))),
            }
        }
        // QEMU is done when the pipe has taken everything, and does not ask how its reader ended.
        while !stream.exists() {
            if !part(stream).exists() && !stream.exists() {
                return Err(failed(self.with_writers_words("its state could not be written")));
            }
            if !backoff.pause().await {
                return Err(failed("its state is not written yet".to_owned()));
            }
        }
        let ram = match in_memfd {
            true => Some(qemu.memfd(self.inner.spec.memory_mib).map_err(failed)?),
            false => None,
        };
        let disk = self.inner.disk.as_ref().ok_or_else(|| failed("it has no disk".to_owned()))?;
        Ok(Parts {
            ram,
            disk: disk.path().to_owned(),
            data: self.inner.data.iter().map(|disk| disk.path().to_owned()).collect(),
            vars: self.inner.vars.clone(),
            named_memory: qemu.memory != Memory::Own,
            nics: self.slots().into_iter().map(|(nic, slot)| SavedNic { nic, slot }).collect(),
            paused: instance.paused.load(Ordering::SeqCst),
        })
    }

    /// With what the program that writes the state said of it, such as that the disk is full.
    fn with_writers_words(&self, said: &str) -> String {
        let words = instance::last_words(&self.inner.artifacts.join("qemu.log"), "");
        if words.is_empty() { said.to_owned() } else { format!("{said} ({words})") }
    }

    /// Why QEMU did not save it, from what QEMU said.
    fn save_error(&self, elapsed: Duration, said: String) -> CheckpointError {
        let machine = self.name().to_owned();
        if let Some(device) = blocking_device(&said) {
            return CheckpointError::Unmigratable { machine, device: device.to_owned() };
        }
        if said.contains("unknown migration protocol") {
            return self.too_old("migration to a program (exec:)");
        }
        CheckpointError::Save { machine, elapsed, said }
    }

    fn too_old(&self, lacks: &'static str) -> CheckpointError {
        let (machine, qemu) = (self.name().to_owned(), &self.inner.lab.qemu);
        CheckpointError::QemuTooOld { machine, program: qemu.program.clone(), version: qemu.version, lacks }
    }

    /// Starts QEMU with the saved state loaded; the guest stands still until [`Machine::go_on`].
    pub(crate) async fn load(&self, incoming: Incoming<'_>) -> Result<(), Error> {
        let _power = self.inner.power.lock().await;
        let timer = Timer::start();
        let in_file = incoming.saved.ram.is_some();
        let stream = incoming.checkpoint.path(&incoming.saved.state);
        let failed = |said: String| {
            Error::from(CheckpointError::Load {
                machine: self.name().to_owned(),
                directory: incoming.checkpoint.directory().to_owned(),
                elapsed: timer.elapsed(),
                said,
            })
        };
        let instance = Arc::new(instance::power_on(self, Some(&incoming)).await?);
        let qemu = self.qemu(&instance, "loading")?;
        let ignore = json!([{ "capability": IGNORE_SHARED, "state": in_file }]);
        self.monitor_command(&instance, "migrate-set-capabilities", json!({ "capabilities": ignore }))
            .await?;
        let uri = format!("exec:cat {}", quote(&stream.display().to_string()));
        let begun = qemu.qmp.execute_raw("migrate-incoming", json!({ "uri": uri })).await;
        begun.map_err(|refused| failed(refused.to_string()))?;
        let mut backoff = Backoff::new(self.limit(LIMIT));
        loop {
            if qemu.child.try_status().is_some() {
                let log = self.inner.artifacts.join("qemu.log");
                return Err(failed(instance::last_words(&log, "QEMU ended without a word")));
            }
            // A QEMU that can't load the state ends: its last words say more than the monitor's silence.
            let status = qemu.qmp.execute_raw("query-status", json!({})).await.unwrap_or(Value::Null);
            match status["status"].as_str() {
                Some("inmigrate") | None if backoff.pause().await => {}
                Some("inmigrate") | None => return Err(failed("its state is not loaded yet".into())),
                Some(_) => break,
            }
        }
        // The links' state comes with the guest's; what had cut them does not.
        for nic in self.nics() {
            let up = json!({ "name": nic_id(&nic), "up": true });
            self.monitor_command(&instance, "set_link", up).await?;
        }
        instance.paused.store(incoming.saved.paused, Ordering::SeqCst);
        instance.to_be_greeted.store(true, Ordering::SeqCst);
        instance.console.set_stage(Stage::Agent);
        self.event("power", "restored", json!({ "qemu_pid": qemu.child.pid() }));
        self.set_instance(Some(instance.clone()));
        self.watch_restored(&instance);
        Ok(())
    }

    /// Greets the agent of a guest that goes on after a restore, and sets its clock.
    pub(crate) async fn greet_again(&self) -> Result<(), Error> {
        let instance = self.running("greeting the agent")?;
        let Some(transport) = instance.transport.clone() else { return Ok(()) };
        let limit = self.limit(GREETING_LIMIT);
        let options = GuestOptions { machine: self.name().to_owned(), limit };
        let greeted = async {
            let guest = Guest::connect(transport, options).await?;
            guest.set_time(std::time::SystemTime::now(), limit).await?;
            Ok(guest)
        };
        let guest = self.until_death(greeted).await?.map_err(|e| self.guest_error(e))?;
        instance.know_guest(&guest);
        instance.to_be_greeted.store(false, Ordering::SeqCst);
        instance.guest.send_replace(Some(guest));
        instance.console.set_stage(Stage::Ready);
        self.watch_journal(&instance, journal::From::Now);
        Ok(())
    }

    async fn monitor_command(
        &self,
        instance: &Instance,
        command: &str,
        arguments: Value,
    ) -> Result<Value, Error> {
        let qemu = self.qemu(instance, command)?;
        let answer = qemu.qmp.execute_raw_within(command, arguments, self.limit(boot::LIMIT)).await;
        answer.map_err(|error| self.qmp_error(command, error))
    }
}

impl Qemu {
    /// The memfd of the guest's memory, as a path that this process can open.
    fn memfd(&self, memory_mib: u32) -> Result<PathBuf, String> {
        let descriptors = PathBuf::from(format!("/proc/{}/fd", self.child.pid()));
        let wanted = u64::from(memory_mib) << 20;
        let entries =
            std::fs::read_dir(&descriptors).map_err(|e| format!("{}: {e}", descriptors.display()))?;
        let is_memory = |path: &PathBuf| {
            let target = std::fs::read_link(path)
                .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"));
            target && std::fs::metadata(path).is_ok_and(|meta| meta.len() == wanted)
        };
        let found = entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_memory);
        found.ok_or_else(|| format!("no memfd of {memory_mib} MiB is among {}", descriptors.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::machine;

    #[test]
    fn what_qemu_says_of_itself_is_read() {
        let answer = json!([{ "capability": "xbzrle", "state": false }, { "capability": "x-ignore-shared", "state": false }]);
        assert!(has_capability(&answer, IGNORE_SHARED) && !has_capability(&answer, "mapped-ram"));
        assert!(!has_capability(&Value::Null, IGNORE_SHARED));
        let said = "QEMU refused migrate: State blocked by non-migratable device '0000:00:05.0/nvme'";
        assert_eq!(blocking_device(said), Some("0000:00:05.0/nvme"));
        assert_eq!(blocking_device("Unable to write to socket: Broken pipe"), None);
    }

    #[test]
    fn what_can_never_be_saved_is_known_before_anything_starts() {
        let told = |spec: MachineSpec| {
            LabSpec { name: "lab".into(), machines: vec![spec] }
                .check_fit()
                .err()
                .map(|error| error.to_string())
        };
        let from =
            |source, channel| MachineSpec { agent: Some(AgentSpec { source, channel }), ..machine("a") };
        let with = |channel| from(AgentSource::Image, channel);
        assert_eq!(told(with(Channel::Virtserial)), None);
        assert_eq!(told(with(Channel::Vsock)), None);
        let cant = "a can't be saved: QEMU has no way to save the state of its device";
        let vsock = told(with(Channel::VhostUserVsock)).unwrap();
        assert_eq!(vsock, format!("{cant} vhost-user-vsock, by which its agent is reached"));
        let mut fast = with(Channel::Virtserial);
        fast.nics[1].backend = NicBackend::VhostUser;
        assert_eq!(told(fast).unwrap(), format!("{cant} eth1 (a fast NIC, vhost-user)"));
        let lone = "a can't be part of a checkpoint: it has no agent that could be greeted anew";
        assert_eq!(told(machine("a")).unwrap(), lone);
        let carried = from(AgentSource::OverShell("/agent".into()), Channel::Virtserial);
        let over_shell =
            "a can't be part of a checkpoint: its agent came in over a shell, which can't be attached anew";
        assert_eq!(told(carried).unwrap(), over_shell);
    }
}
