//! Who waits and who holds: a file for each, locked by its owner for as long as it counts.
//!
//! Everything here happens under the gate, but for the end of a process, which the kernel makes known by freeing the
//! lock.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Request;
use crate::Error;
use crate::error::human;

/// The directory of records.
#[derive(Debug)]
pub(super) struct Queue {
    dir: PathBuf,
}

/// What a record says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Place in the queue; also the name of the file.
    #[serde(skip)]
    pub(super) ticket: u64,
    who: String,
    pid: u32,
    memory_mib: u64,
    vcpus: u32,
    since: jiff::Timestamp,
    /// Whether it has what it asked for.
    pub(super) holds: bool,
    /// The memory for tests in all that it went by, in MiB; once it holds.
    pub(super) capacity_mib: Option<u64>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, pid, memory_mib, vcpus, .. } = self;
        let state = if self.holds { "holds" } else { "waits for" };
        // Coarse on purpose: the text is told again whenever it changes.
        write!(f, "{who} (pid {pid}, {state} {memory_mib} MiB and {vcpus} vCPUs)")
    }
}

/// Our own record; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    path: PathBuf,
    file: File,
    since: jiff::Timestamp,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let waited = jiff::Timestamp::now().duration_since(self.since);
        tracing::debug!(
            ticket = self.number,
            lasted = human(waited.unsigned_abs()),
            "left the budget's queue"
        );
    }
}

impl Ticket {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// From now on it holds what it asked for.
    pub(super) fn hold(&mut self, request: &Request, capacity_mib: u64) -> Result<(), Error> {
        self.write(request, Some(capacity_mib))
    }

    fn write(&mut self, request: &Request, capacity_mib: Option<u64>) -> Result<(), Error> {
        let entry = Entry {
            ticket: self.number,
            who: request.who.clone(),
            pid: std::process::id(),
            memory_mib: request.memory_mib,
            vcpus: request.vcpus,
            since: self.since,
            holds: capacity_mib.is_some(),
            capacity_mib,
        };
        let text =
            serde_json::to_vec(&entry).map_err(|error| Error::io("write", &self.path)(error.into()))?;
        let file = &mut self.file;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
        written.map_err(Error::io("write", &self.path))
    }
}

impl Queue {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let dir = dir.join("budget.d");
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(Self { dir })
    }

    /// Everyone else who waits or holds, in the order of tickets. Records of ended processes are removed.
    pub(super) fn others(&self, own: Option<&Ticket>) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for (number, path) in self.files()? {
            if own.is_some_and(|own| own.number == number) {
                continue;
            }
            let Ok(mut file) = File::open(&path) else { continue };
            match file.try_lock_shared() {
                Ok(()) => {
                    let _ = std::fs::remove_file(&path);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    // Half a record is one whose disk is full; its owner is alive all the same.
                    let read =
                        file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
                    let mut entry: Entry = read.unwrap_or_else(|| Entry::unknown(&path));
                    entry.ticket = number;
                    entries.push(entry);
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            }
        }
        Ok(entries)
    }

    /// Queues up behind everyone.
    pub(super) fn join(&self, request: &Request) -> Result<Ticket, Error> {
        let number = self.files()?.last().map_or(1, |(last, _)| last + 1);
        let path = self.dir.join(format!("{number:012}"));
        let created = File::options().create_new(true).read(true).write(true).open(&path);
        let file = created.map_err(Error::io("create", &path))?;
        let mut ticket = Ticket { number, path, file, since: jiff::Timestamp::now() };
        ticket.file.lock().map_err(Error::io("lock", &ticket.path))?;
        ticket.write(request, None)?;
        Ok(ticket)
    }

    fn files(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let entries = std::fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?;
        let numbered =
            |entry: std::fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
        let mut files: Vec<(u64, PathBuf)> = entries.flatten().filter_map(numbered).collect();
        files.sort();
        Ok(files)
    }
}

impl Entry {
    fn unknown(path: &Path) -> Self {
        Self {
            ticket: 0,
            who: format!("an unreadable record, {}", path.display()),
            pid: 0,
            memory_mib: 0,
            vcpus: 0,
            since: jiff::Timestamp::UNIX_EPOCH,
            holds: true,
            capacity_mib: None,
        }
    }
}
