//! One machine's part in a checkpoint: pausing, saving its state to files, loading it again.
//!
//! QEMU's migration does the work (`migrate`, `migrate-incoming`; docs/devel/migration in its sources), over a pipe to
//! a file: `exec:` is there in every version. Memory that lies in a memfd is left out of the stream, which then takes
//! milliseconds (`x-ignore-shared`), and copied beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::instance::{self, Instance};
use super::{Machine, Timer, boot};
use crate::Error;
use crate::checkpoint::{Checkpoint, CheckpointError, SavedMachine};
use crate::console::Stage;
use crate::guest::{Guest, GuestOptions};
use crate::poll::Backoff;
use crate::qemu::{Memory, quote};
use crate::spec::NicBackend;

/// What saving or loading one machine's state may take, before scaling: seconds, unless the disk is slow.
const LIMIT: Duration = Duration::from_secs(60);
/// What a restored guest's agent may take to answer, before scaling.
const GREETING_LIMIT: Duration = Duration::from_secs(15);

/// What there is of a machine's state besides the stream.
pub(crate) struct Parts {
    /// Its memory, where the stream has it not: a path of the running QEMU's.
    pub(crate) ram: Option<PathBuf>,
    /// Its overlay.
    pub(crate) disk: PathBuf,
    /// Its UEFI variables.
    pub(crate) vars: Option<PathBuf>,
    /// See [`SavedMachine`].
    pub(crate) named_memory: bool,
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

    /// Its UEFI variables.
    pub(super) fn vars(&self) -> Option<PathBuf> {
        self.saved.vars.as_ref().map(|vars| self.checkpoint.path(vars))
    }
}

impl Machine {
    /// Whether it can be saved.
    pub(crate) fn check_fit(&self) -> Result<(), CheckpointError> {
        let unfit = |why| Err(CheckpointError::Unfit { machine: self.name().to_owned(), why });
        let nics = self.inner.spec.nics.iter().map(|nic| &nic.name);
        if self.inner.spec.nics.iter().any(|nic| nic.backend == NicBackend::VhostUser) {
            return unfit("it has a fast NIC, whose state is not QEMU's to save");
        }
        match self.instance() {
            None => unfit("it is off"),
            Some(_) if self.inner.spec.agent.is_none() => unfit("it has no agent that could be greeted anew"),
            Some(instance) if instance.console.stage() < Stage::Ready => {
                unfit("it has not finished its boot")
            }
            Some(_) if !nics.eq(&self.nics()) => unfit("its NICs are not those that it starts with"),
            Some(_) => Ok(()),
        }
    }

    /// Stops the guest's processors.
    pub(crate) async fn pause(&self) -> Result<(), Error> {
        let instance = self.running("pausing")?;
        self.monitor_command(&instance, "stop", json!({})).await.map(drop)
    }

    /// Lets the guest go on.
    pub(crate) async fn go_on(&self) -> Result<(), Error> {
        let instance = self.running("going on")?;
        self.monitor_command(&instance, "cont", json!({})).await.map(drop)
    }

    /// Writes the state of the paused machine to `stream`, and says where the rest of it is.
    pub(crate) async fn save(&self, stream: &Path) -> Result<Parts, Error> {
        let timer = Timer::start();
        let instance = self.running("saving")?;
        let in_memfd = instance.memory == Memory::Memfd;
        // All machines get the same, so that what an earlier try left set is undone.
        let ignore = json!([{ "capability": "x-ignore-shared", "state": in_memfd }]);
        self.monitor_command(&instance, "migrate-set-capabilities", json!({ "capabilities": ignore }))
            .await?;
        // The default spares a network; this is a pipe.
        self.monitor_command(&instance, "migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))
            .await?;
        let uri = format!("exec:cat > {}", quote(&stream.display().to_string()));
        let failed = |said: String| {
            Error::from(CheckpointError::Save {
                machine: self.name().to_owned(),
                elapsed: timer.elapsed(),
                said,
            })
        };
        let begun = instance.qmp.execute_raw("migrate", json!({ "uri": uri })).await;
        begun.map_err(|refused| failed(refused.to_string()))?;
        let mut backoff = Backoff::new(self.limit(LIMIT));
        loop {
            let status = self.monitor_command(&instance, "query-migrate", json!({})).await?;
            match status["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    let said = status["error-desc"].as_str().unwrap_or("QEMU gives no reason").to_owned();
                    return Err(failed(said));
                }
                _ if backoff.pause().await => {}
                _ => return Err(failed(format!("it is not done: {status}"))),
            }
        }
        let ram = match in_memfd {
            true => Some(instance.memfd(self.inner.spec.memory_mib).map_err(failed)?),
            false => None,
        };
        Ok(Parts {
            ram,
            disk: self.inner.disk.path().to_owned(),
            vars: self.inner.vars.clone(),
            named_memory: instance.memory != Memory::Own,
        })
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
        let ignore = json!([{ "capability": "x-ignore-shared", "state": in_file }]);
        self.monitor_command(&instance, "migrate-set-capabilities", json!({ "capabilities": ignore }))
            .await?;
        let uri = format!("exec:cat {}", quote(&stream.display().to_string()));
        let begun = instance.qmp.execute_raw("migrate-incoming", json!({ "uri": uri })).await;
        begun.map_err(|refused| failed(refused.to_string()))?;
        let mut backoff = Backoff::new(self.limit(LIMIT));
        loop {
            if instance.child.try_status().is_some() {
                let log = self.inner.artifacts.join("qemu.log");
                return Err(failed(instance::last_words(&log, "QEMU ended without a word")));
            }
            // A QEMU that can't load the state ends: its last words say more than the monitor's silence.
            let status = instance.qmp.execute_raw("query-status", json!({})).await.unwrap_or(Value::Null);
            match status["status"].as_str() {
                Some("inmigrate") | None if backoff.pause().await => {}
                Some("inmigrate") | None => return Err(failed("its state is not loaded yet".into())),
                Some(_) => break,
            }
        }
        instance.console.set_stage(Stage::Agent);
        self.event("power", "restored", json!({ "qemu_pid": instance.child.pid() }));
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
        instance.guest.send_replace(Some(guest));
        instance.console.set_stage(Stage::Ready);
        Ok(())
    }

    async fn monitor_command(
        &self,
        instance: &Instance,
        command: &str,
        arguments: Value,
    ) -> Result<Value, Error> {
        let answer = instance.qmp.execute_raw_within(command, arguments, self.limit(boot::LIMIT)).await;
        answer.map_err(|error| self.qmp_error(command, error))
    }
}

impl Instance {
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
