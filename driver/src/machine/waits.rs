//! Waits: for readiness, units, files, ports and console text. The agent waits in the guest.

use std::future::IntoFuture;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use regex::Regex;

use super::{Machine, boot};
use crate::Error;
use crate::console::{Match, Position, Stage};

/// How long a unit, file or port is waited for, before scaling.
const LIMIT: Duration = Duration::from_secs(60);

/// Declares the builder of one wait: what it takes, its limit, and the future that it turns into.
macro_rules! wait {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[must_use = "does nothing until it is awaited"]
        pub struct $name<'m> {
            machine: &'m Machine,
            limit: Duration,
            $($field: $type,)*
        }

        impl $name<'_> {
            /// Sets the limit, before scaling by the accelerator.
            pub fn within(mut self, limit: Duration) -> Self {
                self.limit = limit;
                self
            }
        }

        impl<'m> IntoFuture for $name<'m> {
            type Output = Result<(), Error>;
            type IntoFuture = BoxFuture<'m, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                self.run().boxed()
            }
        }
    };
}

wait! {
    /// [`Machine::wait_ready`].
    WaitReady {}
}
wait! {
    /// [`Machine::wait_for_unit`].
    WaitUnit { unit: String }
}
wait! {
    /// [`Machine::wait_for_file`].
    WaitFile { path: String }
}
wait! {
    /// [`Machine::wait_for_open_port`], [`Machine::wait_for_closed_port`].
    WaitPort { address: String, port: u16, open: bool }
}
wait! {
    /// [`Machine::wait_for_open_unix_socket`].
    WaitUnixSocket { path: String }
}

impl Machine {
    /// Waits until the guest has booted: the agent answers, hostname and files are set, and systemd has
    /// started what it was to start (with or without failed units). A fast NIC passes frames.
    ///
    /// Limit: 75 s before scaling, from now, or from when it starts if it starts after another one. For a board it is what
    /// its file says.
    pub fn wait_ready(&self) -> WaitReady<'_> {
        let limit = self.inner.board.as_ref().map_or(boot::LIMIT, |rig| rig.boot_limit());
        WaitReady { machine: self, limit }
    }

    /// Waits until a systemd unit is active. A unit that fails ends the wait at once, with its last words.
    ///
    /// Limit, as for the waits below: 60 s before scaling.
    pub fn wait_for_unit(&self, unit: impl Into<String>) -> WaitUnit<'_> {
        WaitUnit { machine: self, limit: LIMIT, unit: unit.into() }
    }

    /// Waits until a path exists in the guest.
    pub fn wait_for_file(&self, path: impl Into<String>) -> WaitFile<'_> {
        WaitFile { machine: self, limit: LIMIT, path: path.into() }
    }

    /// Waits until the guest can connect to a TCP port of its own: on `127.0.0.1`, unless
    /// [`WaitPort::at`] says otherwise.
    pub fn wait_for_open_port(&self, port: u16) -> WaitPort<'_> {
        WaitPort { machine: self, limit: LIMIT, address: "127.0.0.1".to_owned(), port, open: true }
    }

    /// Waits until the guest can't connect to a TCP port of its own any more, likewise.
    pub fn wait_for_closed_port(&self, port: u16) -> WaitPort<'_> {
        WaitPort { open: false, ..self.wait_for_open_port(port) }
    }

    /// Waits until a unix socket of the guest takes connections.
    pub fn wait_for_open_unix_socket(&self, path: impl Into<String>) -> WaitUnixSocket<'_> {
        WaitUnixSocket { machine: self, limit: LIMIT, path: path.into() }
    }

    /// Waits until the console shows `pattern`, in what was printed before or is printed within `limit`
    /// (before scaling), escape codes left out.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Died`], or [`Error::Console`] with the last lines.
    pub async fn wait_for_console_text(&self, pattern: &Regex, limit: Duration) -> Result<Match, Error> {
        self.wait_for_console_text_from(pattern, Position::START, limit).await
    }

    /// The same, only in what comes after `from`.
    ///
    /// # Errors
    /// As above.
    pub async fn wait_for_console_text_from(
        &self,
        pattern: &Regex,
        from: Position,
        limit: Duration,
    ) -> Result<Match, Error> {
        let console = self.console()?;
        let found = self.until_death(console.wait_for(pattern, from, self.limit(limit))).await?;
        found.map_err(|source| Error::Console { source, artifacts: self.artifacts().to_owned() })
    }
}

impl WaitReady<'_> {
    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        machine.end_of_waiting().await?;
        let instance = machine.running("waiting for readiness")?;
        if !machine.has_way_in() {
            return Err(Error::NoAgent {
                machine: machine.name().to_owned(),
                operation: "waiting for readiness".to_owned(),
            });
        }
        let mut stages = instance.console.stages();
        let ready = async { stages.wait_for(|&stage| stage == Stage::Ready).await.is_ok() };
        match machine.until_death(tokio::time::timeout(machine.limit(self.limit), ready)).await? {
            Ok(true) => machine.until_death(machine.check_fast_nics()).await?,
            Ok(false) => Err(machine.off("waiting for readiness")),
            Err(_) => Err(machine.boot_error(&instance, Stage::Ready, machine.unfinished_jobs().await)),
        }
    }
}

impl Machine {
    /// What systemd is still busy with, if the agent can be asked.
    async fn unfinished_jobs(&self) -> Vec<String> {
        let Some(guest) = self.instance().and_then(|i| i.guest.borrow().clone()) else { return Vec::new() };
        let exec = crate::guest::Exec::shell("systemctl list-jobs --no-legend");
        match guest.run(exec, Duration::from_secs(10)).await {
            Ok(output) => crate::error::last_lines(&output.stdout, 5),
            Err(error) => vec![format!("systemd's jobs can't be read: {error}")],
        }
    }
}

impl WaitUnit<'_> {
    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        machine.until_death(guest.wait_for_unit(&self.unit, limit)).await?.map_err(|e| machine.guest_error(e))
    }
}

impl WaitFile<'_> {
    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        machine.until_death(guest.wait_for_file(&self.path, limit)).await?.map_err(|e| machine.guest_error(e))
    }
}

impl WaitPort<'_> {
    /// Connects to another address than `127.0.0.1`.
    pub fn at(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        let wait = async {
            match self.open {
                true => guest.wait_for_port(&self.address, self.port, limit).await,
                false => guest.wait_for_closed_port(&self.address, self.port, limit).await,
            }
        };
        machine.until_death(wait).await?.map_err(|e| machine.guest_error(e))
    }
}

impl WaitUnixSocket<'_> {
    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        let wait = guest.wait_for_unix_socket(&self.path, limit);
        machine.until_death(wait).await?.map_err(|e| machine.guest_error(e))
    }
}
