//! Verbs on systemd's units: jobs, states, properties.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::{Command, EVIDENCE_LINES, Execute};
use super::{Machine, Timer};
use crate::Error;
use crate::error::last_lines;
use crate::guest::Exec;

/// What systemd may take for a job or an answer, before scaling.
const LIMIT: Duration = Duration::from_secs(60);

impl Machine {
    /// Runs `systemctl` with these arguments, words of a shell, and gives its output, however it ended.
    pub fn systemctl(&self, arguments: impl AsRef<str>) -> Command<'_, Execute> {
        self.execute(format!("systemctl --no-pager {}", arguments.as_ref()))
    }

    /// The same for the units of a user whose manager runs.
    pub fn systemctl_user(
        &self,
        user: impl Into<String>,
        arguments: impl AsRef<str>,
    ) -> Command<'_, Execute> {
        // Where a user's manager listens, by pam_systemd(8).
        let environment = "XDG_RUNTIME_DIR=/run/user/$(id -u)";
        self.execute(format!("{environment} systemctl --user --no-pager {}", arguments.as_ref())).user(user)
    }

    /// Starts a unit, and returns when systemd says that it has started.
    ///
    /// Limit, as for all of these: 60 s before scaling.
    ///
    /// # Errors
    /// [`Error::Guest`] with systemd's words.
    pub async fn start_job(&self, unit: &str) -> Result<(), Error> {
        let (guest, limit) = (self.guest().await?, self.limit(LIMIT));
        self.until_death(guest.start_job(unit, limit)).await?.map_err(|e| self.guest_error(e))?;
        self.event("command", format!("started {unit}"), serde_json::Value::Null);
        Ok(())
    }

    /// Stops a unit, and returns when systemd says that it has stopped.
    ///
    /// # Errors
    /// [`Error::Guest`] with systemd's words.
    pub async fn stop_job(&self, unit: &str) -> Result<(), Error> {
        let (guest, limit) = (self.guest().await?, self.limit(LIMIT));
        self.until_death(guest.stop_job(unit, limit)).await?.map_err(|e| self.guest_error(e))?;
        self.event("command", format!("stopped {unit}"), serde_json::Value::Null);
        Ok(())
    }

    /// All properties of a unit, as `systemctl show` has them.
    ///
    /// # Errors
    /// [`Error::Guest`].
    pub async fn unit_info(&self, unit: &str) -> Result<BTreeMap<String, String>, Error> {
        let (guest, limit) = (self.guest().await?, self.limit(LIMIT));
        self.until_death(guest.unit_info(unit, limit)).await?.map_err(|e| self.guest_error(e))
    }

    /// One property of a unit.
    ///
    /// # Errors
    /// [`Error::Guest`], also if there is no such property.
    pub async fn unit_property(&self, unit: &str, property: &str) -> Result<String, Error> {
        let (guest, limit) = (self.guest().await?, self.limit(LIMIT));
        self.until_death(guest.unit_property(unit, property, limit)).await?.map_err(|e| self.guest_error(e))
    }

    /// Looks once whether a unit's `ActiveState` is `state`; [`Machine::wait_for_unit`] waits.
    ///
    /// # Errors
    /// [`Error::UnitState`] with what `systemctl status` says of it, [`Error::Guest`].
    pub async fn require_unit_state(&self, unit: &str, state: &str) -> Result<(), Error> {
        let timer = Timer::start();
        let is = self.unit_property(unit, "ActiveState").await?;
        if is == state {
            return Ok(());
        }
        let guest = self.guest().await?;
        let status = Exec::argv(["systemctl", "status", "--no-pager", "--full", "--", unit]);
        let last = match self.until_death(guest.run(status, self.limit(LIMIT))).await? {
            Ok(output) => last_lines(&[output.stdout, output.stderr].concat(), EVIDENCE_LINES),
            Err(error) => vec![error.to_string()],
        };
        Err(Error::UnitState {
            machine: self.name().to_owned(),
            unit: unit.to_owned(),
            wanted: state.to_owned(),
            is,
            elapsed: timer.elapsed(),
            last,
            artifacts: self.artifacts().to_owned(),
        })
    }
}
