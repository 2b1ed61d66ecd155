//! Conditions that the agent waits for inside the guest.

use super::exec::millis;
use super::{Exec, Guest, GuestError, SILENCE};
use agent_proto::message::{Condition, Outcome, Reply, Request};
use std::time::Duration;

impl Guest {
    /// Waits until a unit is active. One that failed, or that nothing will start any more, ends the wait at once
    /// with its status and its last journal lines.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`], [`GuestError::Impossible`].
    pub async fn wait_for_unit(&self, unit: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        self.wait_for_unit_state(unit, "active", limit).await
    }

    /// Waits until a unit's ActiveState is `state`.
    ///
    /// # Errors
    ///
    /// As [`Guest::wait_for_unit`].
    pub async fn wait_for_unit_state(
        &self,
        unit: impl AsRef<str>,
        state: impl AsRef<str>,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let (unit, state) = (unit.as_ref().to_owned(), state.as_ref().to_owned());
        self.wait(format!("{unit} {state}"), Condition::Unit { unit, state }, limit).await.map(drop)
    }

    /// Waits until a path exists.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`].
    pub async fn wait_for_file(&self, path: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        let path = path.as_ref().to_owned();
        self.wait(format!("{path} exists"), Condition::Path { path, exists: true }, limit).await.map(drop)
    }

    /// Waits until a path does not exist.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`].
    pub async fn wait_for_no_file(&self, path: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        let path = path.as_ref().to_owned();
        self.wait(format!("{path} is gone"), Condition::Path { path, exists: false }, limit).await.map(drop)
    }

    /// Waits until a TCP port of `host`, seen from the guest, accepts connections.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`].
    pub async fn wait_for_port(
        &self,
        host: impl AsRef<str>,
        port: u16,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let host = host.as_ref().to_owned();
        let condition = format!("{host} port {port} is open");
        self.wait(condition, Condition::Port { host, port, open: true }, limit).await.map(drop)
    }

    /// Waits until a TCP port of `host`, seen from the guest, accepts no connections.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`].
    pub async fn wait_for_closed_port(
        &self,
        host: impl AsRef<str>,
        port: u16,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let host = host.as_ref().to_owned();
        let condition = format!("{host} port {port} is closed");
        self.wait(condition, Condition::Port { host, port, open: false }, limit).await.map(drop)
    }

    /// Waits until a unix socket accepts connections.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`].
    pub async fn wait_for_unix_socket(
        &self,
        path: impl AsRef<str>,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let path = path.as_ref().to_owned();
        self.wait(format!("{path} accepts connections"), Condition::UnixSocket { path }, limit)
            .await
            .map(drop)
    }

    /// Runs a command again and again in the guest until it exits with 0; gives its last output (stdout and stderr
    /// as they came, at most 64 KiB).
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`] with status and output of the last attempt.
    pub async fn wait_until_succeeds(&self, exec: Exec, limit: Duration) -> Result<String, GuestError> {
        let condition = format!("{exec} succeeds");
        self.wait(condition, Condition::Command { spec: exec.into_spec(), succeeds: true }, limit).await
    }

    /// Runs a command again and again in the guest until it exits, and not with 0.
    ///
    /// # Errors
    ///
    /// [`GuestError::WaitTimeout`] with the output of the last attempt.
    pub async fn wait_until_fails(&self, exec: Exec, limit: Duration) -> Result<String, GuestError> {
        let condition = format!("{exec} fails");
        self.wait(condition, Condition::Command { spec: exec.into_spec(), succeeds: false }, limit).await
    }

    /// Gives the evidence that it came to be.
    async fn wait(
        &self,
        condition: String,
        request: Condition,
        limit: Duration,
    ) -> Result<String, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.wait(condition, request, limit).await;
        }
        let request = Request::Wait { condition: request, limit_ms: millis(limit) };
        let mut operation = self.begin(format!("wait until {condition}"), request)?;
        let waited = match operation.reply(limit + SILENCE).await? {
            Reply::Waited(waited) => waited,
            other => return Err(operation.nonsense(&other)),
        };
        let (machine, evidence) = (self.machine().to_owned(), waited.evidence);
        let elapsed = Duration::from_micros(waited.elapsed_us);
        match waited.outcome {
            Outcome::Met => Ok(evidence),
            Outcome::TimedOut => Err(GuestError::WaitTimeout {
                machine,
                condition,
                elapsed,
                attempts: waited.attempts,
                evidence,
            }),
            Outcome::Impossible => Err(GuestError::Impossible { machine, condition, elapsed, evidence }),
        }
    }
}
