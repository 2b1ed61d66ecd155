//! The guest's clock beside the host's, so that what happens in the guest has a time of the host.

use std::time::{Duration, Instant};

use driver::guest::{Chunk, Exec, Guest, Running, Stdin};
use scenarios::prelude::*;

/// Looks at the clock; the quickest counts.
const LOOKS: usize = 40;

/// A bash in the guest that does what it is told and says when it was done, without starting a process.
pub(crate) struct Clock {
    running: Running,
    stdin: Stdin,
    /// The host's time that belongs to `guest_zero`.
    host_zero: Instant,
    guest_zero: f64,
}

impl Clock {
    pub(crate) async fn start(guest: &Guest) -> Result<Self> {
        let script = r#"while IFS= read -r line; do eval "$line"; echo "$EPOCHREALTIME"; done"#;
        let mut running = guest.exec(Exec::argv(["bash", "-c", script]).stdin_streamed()).await?;
        let stdin = running.take_stdin().context("stdin can't be taken")?;
        let mut clock = Self { running, stdin, host_zero: Instant::now(), guest_zero: 0.0 };
        clock.compare().await?;
        Ok(clock)
    }

    /// Compares the clocks: half of a look's time is how wrong it can be.
    pub(crate) async fn compare(&mut self) -> Result {
        let mut quickest = Duration::MAX;
        for _ in 0..LOOKS {
            let before = Instant::now();
            let guest = self.seconds(":").await?;
            let took = before.elapsed();
            if took < quickest {
                (quickest, self.host_zero, self.guest_zero) = (took, before + took / 2, guest);
            }
        }
        Ok(())
    }

    /// Does something in the guest, and says at which of the host's times it was done.
    pub(crate) async fn done(&mut self, line: &str) -> Result<Instant> {
        let seconds = self.seconds(line).await?;
        Ok(self.host_time(seconds))
    }

    /// The host's time for one of the guest's, in seconds since 1970.
    pub(crate) fn host_time(&self, seconds: f64) -> Instant {
        let since = seconds - self.guest_zero;
        if since < 0.0 {
            self.host_zero - Duration::from_secs_f64(-since)
        } else {
            self.host_zero + Duration::from_secs_f64(since)
        }
    }

    async fn seconds(&mut self, line: &str) -> Result<f64> {
        self.stdin.write(format!("{line}\n").as_bytes()).await;
        match self.running.next().await? {
            Some(Chunk::Stdout(text)) => Ok(String::from_utf8(text)?.trim_end().parse()?),
            other => bail!("the clock in the guest said {other:?}"),
        }
    }
}
