//! Watching an instance: its boot up to readiness, and everything that can end it.

use std::sync::Arc;
use std::time::Duration;

use shell::Readiness;

use super::Machine;
use super::instance::{Body, Instance, Qemu, last_words};
use super::journal;
use crate::console::{Position, Severity, Stage};
use crate::death::Cause;
use crate::guest::{Carried, Guest, GuestError, GuestOptions, Transport};
use crate::qemu::AGENT_PORT_ID;
use crate::spec::ShellSpec;
use crate::supervisor::BootTurn;

/// What a boot may take from power-on to readiness, before scaling.
pub(super) const LIMIT: Duration = Duration::from_secs(75);
/// What one request of the set-up after the agent's greeting may take, before scaling.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// What carrying the agent in over a shell may take, before scaling: it takes half a minute under emulation where the
/// shell's line has to do.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(45);
/// What a kernel that panicked may take to write to its console why; writing takes no more than moments.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a shell's line may say nothing before a request is said again, before scaling.
const SHELL_SILENCE: Duration = Duration::from_secs(5);
/// How long QEMU may need to end after it announced a shutdown or closed its monitor.
const LAST_EVENTS: Duration = Duration::from_secs(2);

impl Machine {
    /// Starts the tasks that watch `instance` until it is over.
    pub(super) fn watch(&self, instance: &Arc<Instance>) {
        self.watch_restored(instance);
        self.watch_boot(instance);
        self.watch_journal(instance, journal::From::Boot);
    }

    /// The same for an instance whose guest has booted long ago.
    pub(super) fn watch_restored(&self, instance: &Arc<Instance>) {
        match instance.body {
            Body::Qemu(_) => {
                self.spawn_until_over(instance, |machine, instance| async move {
                    machine.watch_exit(&instance).await
                });
                self.spawn_until_over(instance, |machine, instance| async move {
                    machine.watch_monitor(&instance).await
                });
            }
            Body::Board(_) => self.watch_board(instance),
        }
        self.spawn_until_over(instance, |machine, instance| async move {
            machine.watch_findings(&instance).await
        });
        self.spawn_until_over(
            instance,
            |machine, instance| async move { machine.watch_stages(&instance).await },
        );
    }

    /// Starts the task that takes one boot to its end.
    pub(super) fn watch_boot(&self, instance: &Arc<Instance>) {
        if self.has_way_in() {
            self.spawn_until_over(instance, |machine, instance| async move {
                // An error is kept: whoever waits for readiness reports it with the console's last lines.
                if let Err(error) = machine.bring_up(&instance).await {
                    machine.event(
                        "note",
                        format!("the boot was not finished: {error}"),
                        serde_json::Value::Null,
                    );
                    machine.board_did_not_boot(&instance, &error);
                }
            });
        }
    }

    /// Keeps the turn to boot until the boot is over, however it ends.
    pub(super) fn hold_turn(&self, instance: &Arc<Instance>, turn: BootTurn) {
        // Without an agent, the console is all that tells.
        let booted = if self.spec().agent.is_some() { Stage::Ready } else { Stage::Init };
        self.spawn_until_over(instance, move |machine, instance| async move {
            let mut stages = instance.console.stages();
            let limit = machine.boot_limit();
            tokio::select! {
                _ = machine.died() => {}
                _ = tokio::time::timeout(limit, stages.wait_for(|&stage| stage >= booted)) => {}
            }
            drop(turn);
        });
    }

    /// A task holds the machine and the instance only weakly between its steps: it ends with the instance.
    pub(super) fn spawn_until_over<F, W>(&self, instance: &Arc<Instance>, work: F)
    where
        F: FnOnce(Machine, Arc<Instance>) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let over = instance.over.clone();
        let work = work(self.clone(), instance.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn watch_exit(&self, instance: &Instance) {
        let Some(qemu) = instance.qemu() else { return };
        let status = qemu.child.wait().await;
        let log = self.inner.artifacts.join("qemu.log");
        let said = vec![last_words(&log, "it said nothing")];
        self.die(instance, Cause::QemuExited { status: status.to_string(), said });
    }

    async fn watch_monitor(&self, instance: &Arc<Instance>) {
        let Some(qemu) = instance.qemu() else { return };
        let mut events = qemu.qmp.events();
        while let Ok(event) = events.recv().await {
            let reason = || event.data["reason"].as_str().unwrap_or("no reason given").to_owned();
            match event.name.as_str() {
                "GUEST_PANICKED" => {
                    self.hear_out(instance, qemu).await;
                    self.die(instance, Cause::GuestPanicked);
                }
                "SHUTDOWN" if event.data["guest"].as_bool() == Some(true) => {
                    self.die(instance, Cause::UnexpectedShutdown { reason: reason() });
                }
                "RESET" => self.was_reset(instance, reason()),
                "VSERPORT_CHANGE"
                    if event.data["open"].as_bool() == Some(false)
                        && event.data["id"].as_str() == Some(AGENT_PORT_ID) =>
                {
                    self.agent_left(instance, qemu).await
                }
                _ => {}
            }
        }
    }

    /// QEMU stops the machine at the moment when the guest's kernel tells it of its panic. A kernel that panics in an NMI
    /// or after a double fault has not written a word of it to the console by then, so it goes on until it has, and
    /// stands still again for the diagnosis. The registers are kept as they were at the panic.
    async fn hear_out(&self, instance: &Instance, qemu: &Qemu) {
        let registers = self.inner.artifacts.join("registers-at-panic.txt");
        let kept = match qemu.registers(LAST_WORDS).await {
            Ok(text) => fs_err::write(&registers, text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            self.event("note", format!("no registers of the panic: {error}"), serde_json::Value::Null);
        }
        // By panic(9) of Linux, kernel/panic.c: the last that it writes before it stops for ever.
        let end = regex::Regex::new(r"---\[ end Kernel panic").expect("a valid expression");
        let nothing = || serde_json::json!({});
        if qemu.qmp.execute_raw_within("cont", nothing(), LAST_WORDS).await.is_ok() {
            // What is missing after that is missing: the death has what there is.
            let _ = instance.console.wait_for(&end, Position::START, LAST_WORDS).await;
            let _ = qemu.qmp.execute_raw_within("stop", nothing(), LAST_WORDS).await;
        }
    }

    /// A reset that was asked for begins a new boot. Firmware resets its machine at will (SeaBIOS does so after
    /// each reset of the guest); any later one is the guest's.
    pub(super) fn was_reset(&self, instance: &Arc<Instance>, reason: String) {
        if instance.take_expected_reset() {
            instance.guest.send_replace(None);
            instance.console.set_stage(Stage::Spawned);
            instance.resets.send_modify(|count| *count += 1);
            self.watch_boot(instance);
        } else if instance.console.stage() > Stage::Firmware {
            self.die(instance, Cause::UnexpectedReset { reason });
        }
    }

    /// The agent closed its port. That is a death of its own unless the guest goes down anyway, which the
    /// monitor then tells within moments.
    async fn agent_left(&self, instance: &Instance, qemu: &Qemu) {
        let greeted = instance.guest.borrow().is_some();
        if !greeted || instance.is_expected_to_reset() || instance.is_expected_to_end() {
            return;
        }
        let mut events = qemu.qmp.events();
        let going_down = async {
            while let Ok(event) = events.recv().await {
                if matches!(event.name.as_str(), "SHUTDOWN" | "RESET" | "GUEST_PANICKED") {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_EVENTS, going_down).await.is_err() {
            self.die(instance, Cause::AgentLost);
        }
    }

    async fn watch_findings(&self, instance: &Instance) {
        let mut findings = instance.console.findings();
        while let Some(finding) = findings.next().await {
            let data = serde_json::json!({ "line": finding.line });
            self.event("finding", finding.to_string(), data);
            if finding.severity() == Severity::Fatal {
                self.die(instance, Cause::Console(finding));
            }
        }
    }

    async fn watch_stages(&self, instance: &Instance) {
        let mut stages = instance.console.stages();
        loop {
            let stage = *stages.borrow_and_update();
            let seconds = instance.started.elapsed().as_secs_f64();
            self.event("stage", stage.to_string(), serde_json::json!({ "seconds": seconds }));
            if stages.changed().await.is_err() {
                return;
            }
        }
    }

    /// Greets the agent, gives the guest its name and files, and waits for systemd to finish the boot.
    async fn bring_up(&self, instance: &Instance) -> Result<(), crate::Error> {
        let Some(transport) = instance.transport.clone() else { return Ok(()) };
        self.talk_to_boot_loader(instance).await?;
        let options = GuestOptions { machine: self.name().to_owned(), limit: self.boot_limit() };
        let limit = options.limit;
        let earlier = instance.known_guest();
        let guest = match earlier {
            // After a reboot of the guest, so that handles which a test still holds go on working.
            Some(guest) => guest.begin_anew(limit).await.map(|()| guest),
            None => self.first_guest(transport, options).await,
        };
        let guest = guest.map_err(|e| self.guest_error(e))?;
        instance.know_guest(&guest);
        self.hand_over(instance, &guest).await;
        self.set_up(&guest).await?;
        instance.console.set_stage(Stage::Agent);
        instance.guest.send_replace(Some(guest.clone()));
        guest.wait_booted(self.boot_limit()).await.map_err(|e| self.guest_error(e))?;
        instance.console.set_stage(Stage::Ready);
        Ok(())
    }

    /// Has the shell carry the agent in, where the spec wants it; what the guest can't take is no reason not to go on.
    async fn hand_over(&self, instance: &Instance, guest: &Guest) {
        let Some(to) = &instance.hand_over else { return };
        let (text, data) = match guest.hand_over(to, self.limit(HAND_OVER_LIMIT)).await {
            Ok(Carried { bytes, over_line, elapsed }) => {
                let seconds = elapsed.as_secs_f64();
                let over = if over_line { "the shell's line" } else { "a port of its own" };
                let text = format!("the agent came in over {over}: {bytes} bytes, {seconds:.1} s");
                (text, serde_json::json!({ "bytes": bytes, "seconds": seconds }))
            }
            Err(error) => (format!("the shell stays the way in: {error}"), serde_json::Value::Null),
        };
        self.event("note", text, data);
    }

    /// Greets the agent, or finds the shell.
    async fn first_guest(
        &self,
        transport: Arc<dyn Transport>,
        options: GuestOptions,
    ) -> Result<Guest, GuestError> {
        let spec = self.spec();
        let readiness = match spec.first_shell() {
            Some(ShellSpec::Serial(_)) if self.has_own_login() => Readiness::Now,
            None => return Guest::connect(transport, options).await,
            Some(ShellSpec::Backdoor) => Readiness::Text(ShellSpec::BACKDOOR_READY.to_owned()),
            Some(ShellSpec::Serial(login)) => Readiness::Login(login.clone()),
        };
        let silence = self.board_silence().unwrap_or(SHELL_SILENCE * self.lab().accel.time_factor());
        Guest::over_shell(transport, readiness, options, silence).await
    }

    /// What every boot gives to the guest: its hostname, and the files of its spec.
    async fn set_up(&self, guest: &Guest) -> Result<(), crate::Error> {
        let limit = self.limit(SETUP_LIMIT);
        let spec = self.spec();
        if let Some(hostname) = &spec.hostname {
            let done = guest.set_hostname(hostname, limit).await;
            done.map_err(|e| self.guest_error(e))?;
        }
        for file in &spec.files {
            let done = guest.write_file(&file.path, file.content.as_bytes(), 0o644, limit).await;
            done.map_err(|e| self.guest_error(e))?;
        }
        self.take_up_network(guest, limit * 4).await
    }
}
