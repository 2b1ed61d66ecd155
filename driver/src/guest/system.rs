//! The guest as a whole: name, clock, units, end.

use super::{Exec, Guest, GuestError, Output, SILENCE};
use agent_proto::message::{Info, Power, Reply, Request};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Exits with 0 when `systemctl is-system-running` says that the boot is done, well or not, or that there is no systemd
/// whose boot could be waited for.
const BOOTED: &str = "state=$(systemctl is-system-running --wait 2>&1) || :
echo \"$state\"
case $state in running|degraded|maintenance|offline*|*\"not found\"*) ;; *) systemctl list-jobs --no-legend | head -n 20; exit 1 ;; esac";

/// What `systemctl is-system-running` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SystemState {
    /// Early in boot, before basic.target.
    Initializing,
    /// Jobs of the boot are still queued.
    Starting,
    /// Up, and no unit failed.
    Running,
    /// Up, and units failed: see [`Guest::units_failed`].
    Degraded,
    /// Rescue or emergency mode.
    Maintenance,
    /// Going down.
    Stopping,
    /// systemd doesn't answer, or is not there.
    Unknown,
}

impl SystemState {
    fn from_words(words: &str) -> Self {
        match words.split_whitespace().next().unwrap_or_default() {
            "initializing" => Self::Initializing,
            "starting" => Self::Starting,
            "running" => Self::Running,
            "degraded" => Self::Degraded,
            "maintenance" => Self::Maintenance,
            "stopping" => Self::Stopping,
            _ => Self::Unknown,
        }
    }
}

/// A unit that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUnit {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
}

impl Guest {
    /// Which system it is.
    ///
    /// # Errors
    ///
    /// [`GuestError::Lost`], [`GuestError::Silent`].
    pub async fn info(&self, limit: Duration) -> Result<Info, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.info(limit).await;
        }
        let mut operation = self.begin("system information", Request::Info)?;
        match operation.reply(limit).await? {
            Reply::Info(info) => Ok(info),
            other => Err(operation.nonsense(&other)),
        }
    }

    /// Sets the host name, in the kernel and in /etc/hostname.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the guest's system says no.
    pub async fn set_hostname(&self, name: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.set_hostname(name.as_ref(), limit).await;
        }
        let name = name.as_ref().to_owned();
        self.tell(format!("set the host name to {name}"), Request::SetHostname { name, persist: true }, limit)
            .await
    }

    /// Sets the realtime clock.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the guest's system says no.
    pub async fn set_time(&self, time: SystemTime, limit: Duration) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.set_time(time, limit).await;
        }
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        self.tell("set the clock", Request::SetTime { seconds, nanoseconds: since.subsec_nanos() }, limit)
            .await
    }

    /// Presses a key of the magic SysRq. With `c` and `b` the guest is gone a moment later; the agent replies before.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the agent isn't root.
    pub async fn sysrq(&self, key: char, limit: Duration) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.sysrq(key, limit).await;
        }
        self.tell(format!("sysrq {key}"), Request::Sysrq { key }, limit).await
    }

    /// Asks systemd to reboot and returns at once; wait for [`Guest::closed`] or QEMU's event, then
    /// [`Guest::reconnect`].
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the agent isn't root.
    pub async fn reboot(&self) -> Result<(), GuestError> {
        self.power(Power::Reboot).await
    }

    /// Asks systemd to power off and returns at once.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the agent isn't root.
    pub async fn poweroff(&self) -> Result<(), GuestError> {
        self.power(Power::Poweroff).await
    }

    /// Goes down in any of the ways. A channel that is lost before the reply is a success.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the agent isn't root.
    pub async fn power(&self, power: Power) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.power(power).await;
        }
        match self.tell(format!("{power:?}"), Request::Power(power), SILENCE).await {
            Err(error) if error.is_lost() => Ok(()),
            done => done,
        }
    }

    /// Waits until systemd has finished the boot, well ([`SystemState::Running`]) or not.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`] with the jobs that are still queued.
    pub async fn wait_booted(&self, limit: Duration) -> Result<SystemState, GuestError> {
        let evidence = self.wait_until_succeeds(Exec::shell(BOOTED), limit).await?;
        Ok(SystemState::from_words(evidence.lines().nth(1).unwrap_or_default()))
    }

    /// What systemd says of the system now.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] where there is no systemctl.
    pub async fn system_state(&self, limit: Duration) -> Result<SystemState, GuestError> {
        let output = self.run(Exec::argv(["systemctl", "is-system-running"]), limit).await?;
        Ok(SystemState::from_words(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The units that failed.
    ///
    /// # Errors
    ///
    /// [`GuestError::Command`] if systemd doesn't answer.
    pub async fn units_failed(&self, limit: Duration) -> Result<Vec<FailedUnit>, GuestError> {
        let list = [
            "systemctl",
            "list-units",
            "--failed",
            "--all",
            "--plain",
            "--no-legend",
            "--full",
            "--no-pager",
        ];
        let output = self.run(Exec::argv(list), limit).await?;
        let text = self.text_of("list failed units", output)?;
        Ok(text.lines().filter_map(failed_unit).collect())
    }

    /// The last lines of the journal of this boot.
    ///
    /// # Errors
    ///
    /// [`GuestError::Command`] if there is no journal.
    pub async fn journal_tail(&self, lines: u32, limit: Duration) -> Result<String, GuestError> {
        let lines = format!("--lines={lines}");
        let tail = ["journalctl", "--boot", "--no-pager", "--output=short-precise", &lines];
        let output = self.run(Exec::argv(tail), limit).await?;
        self.text_of("read the journal", output)
    }

    /// The stdout of a command that must have exited with 0.
    pub(super) fn text_of(&self, operation: &str, output: Output) -> Result<String, GuestError> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(GuestError::Command {
            machine: self.machine().to_owned(),
            operation: operation.to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// `name load active sub description`.
fn failed_unit(line: &str) -> Option<FailedUnit> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let description = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(FailedUnit { name, description })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_unit_is_read() {
        let unit = failed_unit("etcd.service loaded failed failed etcd - a key-value store").unwrap();
        assert_eq!(unit.name, "etcd.service");
        assert_eq!(unit.description, "etcd - a key-value store");
    }

    #[test]
    fn states_are_read() {
        assert_eq!(SystemState::from_words("degraded\n"), SystemState::Degraded);
        assert_eq!(SystemState::from_words("Failed to connect to bus"), SystemState::Unknown);
    }
}
