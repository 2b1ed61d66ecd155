//! Power: on, off, cut, reset.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::instance::{self, Body, Instance};
use super::{Machine, Timer};
use crate::Error;
use crate::death::Cause;

/// What an orderly shutdown may take, before scaling.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
/// What QEMU may take to be gone after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// What the guest may take from being asked to reboot to its reset, before scaling.
const RESET_LIMIT: Duration = Duration::from_secs(60);

impl Machine {
    /// Powers the machine on, when it is its turn: no more virtual CPUs boot at once than the host can run. Returns once
    /// QEMU runs, or the board has power, and its console is captured; the boot goes on, and [`Machine::wait_ready`] waits for its end. A machine
    /// that runs already is left alone, and so is one whose lab is over.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::QemuMissing`], or a file of the run that can't be made.
    pub async fn start(&self) -> Result<(), Error> {
        if self.is_running() {
            return Ok(());
        }
        // A board takes nothing of the host.
        let turn = if self.inner.board.is_some() { Box::new(()) } else { self.turn_to_boot().await };
        let _power = self.inner.power.lock().await;
        if self.is_running() || self.inner.lab.over.is_cancelled() {
            return Ok(());
        }
        let instance = match &self.inner.board {
            Some(rig) => rig.power_on(self).await?,
            None => instance::power_on(self, None).await?,
        };
        let instance = Arc::new(instance);
        let pid = instance.qemu().map(|qemu| qemu.child.pid());
        self.event("power", "on", serde_json::json!({ "qemu_pid": pid }));
        self.set_instance(Some(instance.clone()));
        self.end_waiting();
        self.watch(&instance);
        self.hold_turn(&instance, turn);
        Ok(())
    }

    /// Asks the guest to power itself off, and waits until QEMU has ended, or the board is off. The disk stays as it is.
    ///
    /// Limit: 60 s before scaling; `.within(..)` sets another.
    pub fn shutdown(&self) -> Shutdown<'_> {
        Shutdown { machine: self, limit: SHUTDOWN_LIMIT }
    }

    /// Waits for a shutdown that the test or the guest brings about by itself. From this call on it is no death, so that it
    /// comes before whatever makes the guest go down:
    ///
    /// ```no_run
    /// # async fn example(machine: &driver::Machine) -> Result<(), driver::Error> {
    /// let off = machine.wait_for_shutdown()?;
    /// machine.send_key("ctrl-alt-delete").await?;
    /// off.await
    /// # }
    /// ```
    ///
    /// Limit: 60 s before scaling; `.within(..)` sets another. Dropped before its end, a shutdown is a death again.
    ///
    /// # Errors
    /// [`Error::Off`] when it is not running.
    pub fn wait_for_shutdown(&self) -> Result<WaitShutdown<'_>, Error> {
        let instance = self.running("waiting for its shutdown")?;
        instance.expect_end();
        instance.mark();
        Ok(WaitShutdown { machine: self, instance, limit: SHUTDOWN_LIMIT, over: false })
    }

    /// Cuts the power: QEMU gets SIGKILL, a board is turned off, and the guest has no chance to write anything.
    ///
    /// # Errors
    /// [`Error::Off`] when it is not running, [`Error::Board`].
    pub async fn crash(&self) -> Result<(), Error> {
        let _power = self.inner.power.lock().await;
        let instance = self.running("crash")?;
        instance.expect_end();
        self.event("power", "cut", serde_json::Value::Null);
        match (&instance.body, &self.inner.board) {
            (Body::Qemu(qemu), _) => {
                qemu.child.kill_group();
                let _ = tokio::time::timeout(KILL_LIMIT, qemu.child.wait()).await;
            }
            (Body::Board(_), Some(rig)) => rig.power_off(self, &instance).await?,
            (Body::Board(_), None) => {}
        }
        self.powered_off();
        Ok(())
    }

    /// Reboots the guest through its own init, and waits until it has been reset and is ready again.
    ///
    /// Limit for each of the two: 60 s for the reset, the boot's own for the rest.
    pub fn reboot(&self) -> Reboot<'_> {
        Reboot { machine: self, limit: RESET_LIMIT }
    }

    /// Ends QEMU whatever it does: politely over QMP, then by SIGKILL. For teardown.
    pub(crate) async fn quit(&self, grace: Duration) {
        let _power = self.inner.power.lock().await;
        if let Some(rig) = &self.inner.board
            && !rig.give_back(self).await
        {
            return;
        }
        let Some(instance) = self.instance() else { return };
        instance.expect_end();
        if let Body::Qemu(qemu) = &instance.body
            && qemu.child.try_status().is_none()
        {
            let quit = qemu.qmp.execute_raw("quit", serde_json::json!({}));
            let polite = async {
                let _ = quit.await;
                qemu.child.wait().await
            };
            if tokio::time::timeout(grace, polite).await.is_err() {
                qemu.child.kill_group();
                let _ = tokio::time::timeout(KILL_LIMIT, qemu.child.wait()).await;
            }
        }
        self.powered_off();
    }

    /// Resolves when a guest that was asked to power off has done so.
    async fn ended(&self, instance: &Instance) {
        match (&instance.body, &self.inner.board) {
            (Body::Qemu(qemu), _) => drop(qemu.child.wait().await),
            (Body::Board(board), Some(rig)) => rig.ended(instance, board).await,
            (Body::Board(_), None) => {}
        }
    }

    /// Waits for the same; `limit` is before scaling.
    async fn ended_within(
        &self,
        instance: &Instance,
        limit: Duration,
        what: &str,
        timer: &Timer,
    ) -> Result<(), Error> {
        tokio::time::timeout(self.limit(limit), self.ended(instance)).await.map_err(|_| {
            let last = instance.console.tail(super::EVIDENCE_LINES);
            self.condition_error(what.to_owned(), timer, 1, last)
        })
    }

    /// Takes note of a guest that has powered itself off.
    async fn has_shut_down(&self, instance: &Instance) -> Result<(), Error> {
        if let Some(rig) = &self.inner.board {
            // What has shut itself down may still have power.
            rig.power_off(self, instance).await?;
        }
        self.powered_off();
        self.event("power", "off", serde_json::Value::Null);
        Ok(())
    }

    /// Kills QEMU now, without waiting: the backstop.
    pub(crate) fn kill_now(&self) {
        if let Some(instance) = self.instance() {
            instance.expect_end();
            // A board's power is turned by commands, for which there is no time here: it stays as it is.
            if let Body::Qemu(qemu) = &instance.body {
                qemu.child.kill_group();
            }
        }
    }

    fn powered_off(&self) {
        if let Some(instance) = self.set_instance(None) {
            instance.over.cancel();
            self.inner.lab.forget(self.name());
            self.unplug_scripted();
        }
    }
}

/// [`Machine::shutdown`].
#[must_use = "does nothing until it is awaited"]
pub struct Shutdown<'m> {
    machine: &'m Machine,
    limit: Duration,
}

impl Shutdown<'_> {
    /// Sets the limit, before scaling.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let _power = machine.inner.power.lock().await;
        let instance = machine.running("shutdown")?;
        let timer = Timer::start();
        instance.expect_end();
        machine.event("power", "shutting down", serde_json::Value::Null);
        instance.mark();
        guest.poweroff().await.map_err(|e| machine.guest_error(e))?;
        let what = "a guest that was asked to power off is off";
        machine.ended_within(&instance, self.limit, what, &timer).await?;
        machine.has_shut_down(&instance).await
    }
}

impl<'m> IntoFuture for Shutdown<'m> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}

/// [`Machine::wait_for_shutdown`].
#[must_use = "dropped at once, a shutdown is a death again"]
pub struct WaitShutdown<'m> {
    machine: &'m Machine,
    instance: Arc<Instance>,
    limit: Duration,
    /// It has come.
    over: bool,
}

impl WaitShutdown<'_> {
    /// Sets the limit, before scaling.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(mut self) -> Result<(), Error> {
        let (machine, timer) = (self.machine, Timer::start());
        let what = "a guest whose shutdown was waited for is off";
        machine.ended_within(&self.instance, self.limit, what, &timer).await?;
        let status = self.instance.qemu().and_then(|qemu| qemu.child.try_status());
        if let Some(status) = status.filter(|status| !status.success()) {
            // This is no shutdown: QEMU crashed, or somebody killed it.
            self.instance.expect_no_end();
            let said =
                vec![instance::last_words(&machine.inner.artifacts.join("qemu.log"), "it said nothing")];
            machine.die(&self.instance, Cause::QemuExited { status: status.to_string(), said });
            return Err(Error::Died(Box::new(machine.died().await)));
        }
        self.over = true;
        let _power = machine.inner.power.lock().await;
        machine.has_shut_down(&self.instance).await
    }
}

impl Drop for WaitShutdown<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.instance.expect_no_end();
        }
    }
}

impl<'m> IntoFuture for WaitShutdown<'m> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}

/// [`Machine::reboot`].
#[must_use = "does nothing until it is awaited"]
pub struct Reboot<'m> {
    machine: &'m Machine,
    limit: Duration,
}

impl Reboot<'_> {
    /// Sets the limit for the reset, before scaling.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        {
            let _power = machine.inner.power.lock().await;
            let instance = machine.running("reboot")?;
            let timer = Timer::start();
            let mut resets = instance.resets.subscribe();
            resets.mark_unchanged();
            instance.expect_reset(true);
            instance.mark();
            machine.event("power", "rebooting", serde_json::Value::Null);
            let asked = tokio::select! {
                asked = guest.reboot() => asked,
                () = machine.goes_down(&instance) => Ok(()),
            };
            asked.map_err(|e| machine.guest_error(e))?;
            let limit = machine.limit(self.limit);
            let reset = machine.until_death(tokio::time::timeout(limit, resets.changed())).await?;
            if !matches!(reset, Ok(Ok(()))) {
                instance.expect_reset(false);
                let last = instance.console.tail(super::EVIDENCE_LINES);
                let what = "a guest that was asked to reboot resets its machine".to_owned();
                return Err(machine.condition_error(what, &timer, 1, last));
            }
        }
        machine.wait_ready().await
    }
}

impl<'m> IntoFuture for Reboot<'m> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}
