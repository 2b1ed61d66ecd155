//! Following the guest's journal, over a session of its own with the agent: what the test does on its channel and
//! what the journal brings don't wait for each other, and the end of one is not the end of the other.

use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use serde_json::json;

use super::Machine;
use super::instance::Instance;
use crate::Error;
use crate::guest::{Exec, Guest, GuestError, GuestOptions};
use crate::journal::{ExportStream, JournalEntry};

/// What the agent may take to answer, before scaling. A guest that was stopped in its boot loader answers never.
const GREETING_LIMIT: Duration = Duration::from_secs(15 * 60);
/// What journald may take to be there once the agent is, before scaling.
const START_LIMIT: Duration = Duration::from_secs(75);

/// From where the journal is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The first entry of the boot.
    Boot,
    /// What comes from now on: a restored guest's boot is in the artefacts of the lab that was saved, and to read it
    /// once more would take from each copy the time in which it could begin its test.
    Now,
}

impl Machine {
    /// The latest entries of the guest's journal, the oldest first, at most 4 MiB of them: from the boot's first on, or
    /// from when it was restored. `journal.export` in the machine's artefacts has all of them, with all fields; there
    /// is nothing where the guest has no agent or no journald.
    #[must_use]
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.inner.journal.entries()
    }

    /// Waits until an entry of the guest's journal says `pattern`, among those that [`Machine::journal`] has or those
    /// that come within `limit` (before scaling).
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::Died`], or [`Error::Journal`] with the last entries.
    pub async fn wait_for_journal(&self, pattern: &Regex, limit: Duration) -> Result<JournalEntry, Error> {
        self.running("waiting for the journal")?;
        let limit = self.limit(limit);
        let journal = &self.inner.journal;
        let found = self.until_death(tokio::time::timeout(limit, journal.wait_for(pattern))).await?;
        found.map_err(|_| {
            let (entries, left_out) = journal.counts();
            Error::Journal {
                machine: self.name().to_owned(),
                pattern: pattern.as_str().to_owned(),
                elapsed: limit,
                entries,
                left_out,
                last: journal.tail(),
                file: journal.path().to_owned(),
            }
        })
    }

    /// Follows the journal until the instance is over, through reboots of the guest.
    pub(super) fn watch_journal(&self, instance: &Arc<Instance>, from: From) {
        let Some(transport) = instance.journal.clone() else { return };
        self.spawn_until_over(instance, move |machine, _| async move {
            let options =
                GuestOptions { machine: machine.name().to_owned(), limit: machine.limit(GREETING_LIMIT) };
            let followed = async {
                let guest = Guest::connect(transport, options).await?;
                let (mut boot, mut from) = (guest.agent().boot_id, from);
                loop {
                    match machine.follow(&guest, from).await {
                        Err(GuestError::Lost { .. } | GuestError::Silent { .. }) => {}
                        end => return end,
                    }
                    let again = guest.reconnect(machine.limit(GREETING_LIMIT)).await?.boot_id;
                    if again != boot {
                        (boot, from) = (again, From::Boot);
                        machine.inner.journal.forget_cursor();
                    }
                }
            };
            if let Err(error) = followed.await {
                machine.event("note", format!("the journal is not followed any more: {error}"), json!(null));
            }
        });
    }

    /// Reads the journal as it is written, until the session ends or `journalctl` does.
    async fn follow(&self, guest: &Guest, from: From) -> Result<(), GuestError> {
        // journalctl does not find a directory that is made after it began.
        guest.wait_for_unit("systemd-journald.service", self.limit(START_LIMIT)).await?;
        let journal = &self.inner.journal;
        let begin = match (journal.cursor(), from) {
            (Some(cursor), _) => format!("--after-cursor={cursor}"),
            (None, From::Boot) => "--lines=all".to_owned(),
            (None, From::Now) => "--lines=0".to_owned(),
        };
        // What is tested goes first.
        let nice: &[&str] = if from == From::Now { &["nice", "-n", "10"] } else { &[] };
        let journalctl =
            ["journalctl", "--boot", "--follow", "--output=export", "--no-pager", "--quiet", &begin];
        let mut running = guest.exec(Exec::argv([nice, &journalctl[..]].concat())).await?;
        let Some(mut output) = running.take_stdout() else { return Ok(()) };
        let mut stream = ExportStream::default();
        while let Some(bytes) = output.next().await? {
            stream.push(&bytes);
            if let Err(error) = journal.take(&mut stream) {
                let text = format!("{} can't be written: {error}", journal.path().display());
                self.event("note", text, json!(null));
                return Ok(());
            }
        }
        let exit = running.wait().await?;
        self.event("note", format!("journalctl ended: {}", exit.status), json!(null));
        Ok(())
    }
}
