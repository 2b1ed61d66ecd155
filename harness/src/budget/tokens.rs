//! The file of tokens and the locks on it.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::Error;

/// Where in the file each kind of token begins. Locks may lie beyond the end of a file, so it stays empty.
const GATE: u64 = 0;
const FRONT: u64 = 1;
const MEMORY: u64 = 1 << 20;
const VCPUS: u64 = 1 << 30;
const BOOTING: u64 = 1 << 31;

/// The file, opened once more: locks belong to this opening.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    file: File,
}

/// Tokens, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Held {
    _file: TokenFile,
}

/// The right to take tokens and to change the queue.
pub(super) struct Gate<'a>(&'a TokenFile);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        let _ = self.0.set(GATE, libc::F_UNLCK);
    }
}

impl TokenFile {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("budget.lock");
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        Ok(Self { file: opened.map_err(Error::io("open", &path))?, path })
    }

    /// Whether the lock could be set; someone else's is a `false`.
    fn set(&self, start: u64, kind: i32) -> Result<bool, Error> {
        let range = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: start as libc::off_t,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(Error::io("lock", &self.path)(errno.into())),
        }
    }

    pub(super) fn try_gate(&self) -> Result<Option<Gate<'_>>, Error> {
        Ok(self.set(GATE, libc::F_WRLCK)?.then_some(Gate(self)))
    }

    /// Takes all these tokens or none of them.
    pub(super) fn take(
        self,
        memory: u64,
        memory_capacity: u64,
        vcpus: u64,
        vcpu_capacity: u64,
    ) -> Result<Option<Held>, Error> {
        let all = self.take_some(MEMORY, memory, memory_capacity)?
            && self.take_some(VCPUS, vcpus, vcpu_capacity)?;
        // Dropping the file gives back what was taken of it.
        Ok(all.then_some(Held { _file: self }))
    }

    /// Takes tokens of CPUs that boot, as many as are free of those wanted, if this opening is at the front; whether it
    /// has all of them now. Call it again until it has: what it took it keeps.
    pub(super) fn take_turn(&self, wanted: u64, capacity: u64) -> Result<bool, Error> {
        if !self.set(FRONT, libc::F_WRLCK)? {
            return Ok(false);
        }
        // A lock that this opening holds already can be set again, and so counts.
        let all = self.take_some(BOOTING, wanted, capacity)?;
        if all {
            self.set(FRONT, libc::F_UNLCK)?;
        }
        Ok(all)
    }

    fn take_some(&self, base: u64, wanted: u64, capacity: u64) -> Result<bool, Error> {
        let mut taken = 0;
        for token in 0..capacity {
            if taken == wanted {
                break;
            }
            taken += u64::from(self.set(base + token, libc::F_WRLCK)?);
        }
        Ok(taken == wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is taken and given back in whatever order: never more than there is, and never a part.
        #[test]
        fn never_more_than_there_is(moves in prop::collection::vec((1u64..6, 1u64..4, 0usize..4), 1..24)) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut held: Vec<(u64, u64, Held)> = Vec::new();
            for (memory, vcpus, give_back) in moves {
                let used = |held: &[(u64, u64, Held)]| {
                    (held.iter().map(|h| h.0).sum::<u64>(), held.iter().map(|h| h.1).sum::<u64>())
                };
                let (used_memory, used_vcpus) = used(&held);
                let fits = used_memory + memory <= 8 && used_vcpus + vcpus <= 6;
                let taken = TokenFile::open(dir.path()).expect("opens").take(memory, 8, vcpus, 6).expect("locks");
                prop_assert_eq!(taken.is_some(), fits);
                held.extend(taken.map(|taken| (memory, vcpus, taken)));
                if give_back < held.len() {
                    held.remove(give_back);
                }
            }
        }
    }

    #[test]
    fn one_gate_at_a_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [one, two] = [(); 2].map(|()| TokenFile::open(dir.path()).expect("opens"));
        let gate = one.try_gate().expect("locks").expect("free");
        assert!(two.try_gate().expect("locks").is_none());
        drop(gate);
        assert!(two.try_gate().expect("locks").is_some());
    }
}
