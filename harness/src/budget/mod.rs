//! Memory and virtual CPUs, shared by all test processes of one user.
//!
//! One file stands for the host. A byte of it is a token: 256 MiB of memory, or one virtual CPU. A grant holds
//! open-file-description locks on its tokens; the kernel gives them back when the holder ends, however it ends. A
//! whole grant is taken at once, under a lock on the file's first byte that is never held while waiting, so that
//! nobody holds a part and waits for the rest. Beside the file each waiting or holding test keeps a record under a
//! lock of its own: a queue by ticket, and the names for "waits for".

mod host;
mod records;
mod tokens;
mod turns;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::context::lock;
use crate::wait::rest;
use crate::{Error, Settings};

use host::Capacity;
use records::{Queue, Ticket};
use tokens::{Held, TokenFile};
pub use turns::{BootTurn, BootTurns};

/// Memory that one token stands for, in MiB.
pub const TOKEN_MIB: u64 = 256;

/// What a test asks for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) who: String,
    pub(crate) memory_mib: u64,
    pub(crate) vcpus: u32,
}

impl Request {
    fn tokens(&self) -> u64 {
        self.memory_mib.div_ceil(TOKEN_MIB)
    }
}

/// A share of the host. It lasts until the test's machines are gone, or until [`Grant::release`].
#[derive(Debug, Clone)]
pub struct Grant {
    memory_mib: u64,
    vcpus: u32,
    // The ticket first: a record must not outlive its locks, or the queue would name a holder that holds nothing.
    held: Arc<Mutex<Option<(Ticket, Held)>>>,
}

impl Grant {
    /// The memory granted, in MiB: what was asked for, rounded up to whole tokens.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// The virtual CPUs granted; fewer than asked for when the host has not as many.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// Gives the share back at once, for a test that goes on without its machines.
    pub fn release(self) {
        lock(&self.held).take();
    }

    pub(crate) fn is_held(&self) -> bool {
        lock(&self.held).is_some()
    }
}

/// The host's share for tests, as all processes of this user see it.
#[derive(Debug)]
pub(crate) struct Pool {
    dir: PathBuf,
    settings: Settings,
    capacity: Capacity,
}

impl Pool {
    pub(crate) fn of_user(settings: &Settings) -> Result<Self, Error> {
        Self::in_dir(host::runtime_dir()?, settings)
    }

    fn in_dir(dir: PathBuf, settings: &Settings) -> Result<Self, Error> {
        Ok(Self { dir, capacity: Capacity::of_host(settings)?, settings: settings.clone() })
    }

    /// Takes the whole request as soon as it is the first in the queue and all of it is free. `tell` hears for whom
    /// it waits, whenever that changes.
    pub(crate) async fn take(&self, request: &Request, mut tell: impl FnMut(&str)) -> Result<Grant, Error> {
        self.check_size(request, self.capacity.most_mib, &self.capacity.basis)?;
        let vcpus = request.vcpus.min(self.capacity.vcpus);
        if vcpus < request.vcpus {
            tracing::warn!(asked = request.vcpus, share = vcpus, "more virtual CPUs than the host's share");
            tell(&format!("asks for {} vCPUs, the host has {vcpus} for tests: it takes all", request.vcpus));
        }
        let file = TokenFile::open(&self.dir)?;
        let queue = Queue::open(&self.dir)?;
        let mut ticket = None;
        let mut told = String::new();
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(gate) = file.try_gate()? {
                let answer = self.look(&queue, &mut ticket, request, vcpus)?;
                drop(gate);
                match answer {
                    Answer::Granted(held, ticket) => {
                        let memory_mib = request.tokens() * TOKEN_MIB;
                        return Ok(Grant {
                            memory_mib,
                            vcpus,
                            held: Arc::new(Mutex::new(Some((ticket, held)))),
                        });
                    }
                    Answer::Wait(text) => {
                        if text != told {
                            tell(&text);
                            told = text;
                        }
                    }
                }
            }
            rest(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(250));
        }
    }

    /// One look, under the gate: queue up, and take the tokens if it is our turn and they are free.
    fn look(
        &self,
        queue: &Queue,
        slot: &mut Option<Ticket>,
        request: &Request,
        vcpus: u32,
    ) -> Result<Answer, Error> {
        let others = queue.others(slot.as_ref())?;
        let mut ticket = match slot.take() {
            Some(ticket) => ticket,
            None => queue.join(request)?,
        };
        let (holders, ahead): (Vec<_>, Vec<_>) = others
            .into_iter()
            .filter(|other| other.holds || other.ticket < ticket.number())
            .partition(|o| o.holds);
        // The first holder saw what was free before any machine filled it; later ones go by its figure.
        let capacity_mib = if holders.is_empty() {
            let now = Capacity::of_host(&self.settings)?;
            self.check_size(request, now.free_mib, &now.free_basis)?;
            now.free_mib
        } else {
            let seen = holders.iter().filter_map(|holder| holder.capacity_mib).min();
            seen.unwrap_or(self.capacity.most_mib)
        };
        let capacity_mib = capacity_mib.min(self.capacity.most_mib);
        if ahead.is_empty() {
            // A file of its own for each grant: locks belong to the open file, not to the process.
            let file = TokenFile::open(&self.dir)?;
            let capacity = capacity_mib / TOKEN_MIB;
            if let Some(held) =
                file.take(request.tokens(), capacity, vcpus.into(), self.capacity.vcpus.into())?
            {
                ticket.hold(request, capacity_mib)?;
                return Ok(Answer::Granted(held, ticket));
            }
        }
        *slot = Some(ticket);
        let names: Vec<String> = holders.iter().chain(&ahead).map(ToString::to_string).collect();
        let whom =
            if names.is_empty() { "processes that left no record".to_owned() } else { names.join("; ") };
        Ok(Answer::Wait(format!("waits for {} MiB and {vcpus} vCPUs, behind {whom}", request.memory_mib)))
    }

    fn check_size(&self, request: &Request, has_mib: u64, basis: &str) -> Result<(), Error> {
        if request.tokens() * TOKEN_MIB <= has_mib / TOKEN_MIB * TOKEN_MIB {
            return Ok(());
        }
        Err(Error::DoesNotFit {
            who: request.who.clone(),
            needs_mib: request.memory_mib,
            has_mib,
            basis: basis.to_owned(),
        })
    }
}

enum Answer {
    Granted(Held, Ticket),
    Wait(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(dir: &std::path::Path, memory_mib: u64, vcpus: u32) -> Pool {
        let settings = Settings { memory_mib: Some(memory_mib), vcpus: Some(vcpus), ..Settings::default() };
        Pool::in_dir(dir.to_path_buf(), &settings).expect("no host is asked")
    }

    fn request(who: &str, memory_mib: u64, vcpus: u32) -> Request {
        Request { who: who.to_owned(), memory_mib, vcpus }
    }

    /// A wait that must end; generous, since the host may be loaded.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), what).await.expect("within 30 s")
    }

    #[tokio::test]
    async fn too_big_is_said_at_once_with_both_figures() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let refused = pool(dir.path(), 1024, 4).take(&request("huge", 4096, 1), |_| {}).await;
        let text = refused.expect_err("does not fit").to_string();
        assert!(text.contains("needs 4096 MiB") && text.contains("has 1024 MiB"), "{text}");
    }

    #[tokio::test]
    async fn more_cpus_than_there_are_is_a_warning() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut said = String::new();
        let grant =
            pool(dir.path(), 1024, 4).take(&request("wide", 256, 9), |text| said.push_str(text)).await;
        assert_eq!(grant.expect("granted").vcpus(), 4);
        assert!(said.contains("asks for 9 vCPUs"), "{said}");
    }

    #[tokio::test]
    async fn the_queue_is_fair_and_says_whom_it_waits_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = Arc::new(pool(dir.path(), 1024, 8));
        let first = pool.take(&request("first", 700, 1), |_| {}).await.expect("granted");
        assert_eq!(first.memory_mib(), 768);

        let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let big = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.take(&request("big", 1024, 1), |text| drop(said.send(text.to_owned()))).await }
        });
        let told = soon(hears.recv()).await.expect("the waiting is told");
        assert!(told.contains("behind first"), "{told}");

        // Small enough to fit beside the first, but it came after the big one.
        let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let small = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.take(&request("small", 256, 1), |text| drop(said.send(text.to_owned()))).await }
        });
        let told = soon(hears.recv()).await.expect("the waiting is told");
        assert!(told.contains("big"), "{told}");

        first.release();
        let big = soon(big).await.expect("no panic").expect("granted");
        assert!(!small.is_finished());
        drop(big);
        soon(small).await.expect("no panic").expect("granted");
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_the_queue() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(dir.path(), 512, 8);
        let first = pool.take(&request("first", 512, 1), |_| {}).await.expect("granted");
        let (told, request_2) = (tokio::sync::Notify::new(), request("second", 512, 1));
        tokio::select! {
            _ = pool.take(&request_2, |_| told.notify_one()) => panic!("granted twice"),
            () = told.notified() => {}
        }
        drop(first);
        soon(pool.take(&request("third", 512, 1), |_| {})).await.expect("granted");
    }
}
