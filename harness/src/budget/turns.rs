//! Turns to boot: how many virtual CPUs may be booting at once, over all test processes of one user.
//!
//! A boot is work without a pause, above all under emulation: more virtual CPUs that boot than the host can run make
//! each boot longer and none shorter, until limits pass that a machine alone would keep with ease. Tokens are bytes of
//! the budget's file; who is at the front takes them one by one as they are given back, and nobody else does, so that a
//! machine with many CPUs is not overtaken for ever by machines with one.

use std::path::PathBuf;
use std::time::Duration;

use super::host;
use super::tokens::TokenFile;
use crate::wait::rest;
use crate::{Error, Settings};

/// The longest pause between two looks at whether it is our turn.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Where machines queue up to boot. A cheap handle.
#[derive(Debug, Clone)]
pub struct BootTurns {
    dir: PathBuf,
    limit: u32,
}

/// The right to boot, until it is dropped or the process ends.
#[derive(Debug)]
#[must_use = "the turn is over when it is dropped"]
pub struct BootTurn {
    _file: TokenFile,
}

impl BootTurns {
    pub(crate) fn of_user(settings: &Settings) -> Result<Self, Error> {
        Ok(Self { dir: host::runtime_dir()?, limit: host::booting_vcpus(settings) })
    }

    /// How many virtual CPUs may be booting at once: `RACKLESS_BOOTING_VCPUS`, else two for each core of the host.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Waits until so many more virtual CPUs may boot. A machine with more than the limit boots alone.
    ///
    /// # Errors
    /// [`Error::Io`] when the locks cannot be used.
    pub async fn take(&self, vcpus: u32) -> Result<BootTurn, Error> {
        let file = TokenFile::open(&self.dir)?;
        let wanted = vcpus.clamp(1, self.limit);
        let mut pause = Duration::from_millis(10);
        while !file.take_turn(wanted.into(), self.limit.into())? {
            rest(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
        Ok(BootTurn { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn turns(dir: &tempfile::TempDir, limit: u32) -> BootTurns {
        BootTurns { dir: dir.path().to_path_buf(), limit }
    }

    /// A turn that must come; generous, since the host may be loaded.
    async fn soon(turn: impl Future<Output = Result<BootTurn, Error>>) -> BootTurn {
        tokio::time::timeout(Duration::from_secs(30), turn)
            .await
            .expect("within 30 s")
            .expect("the locks work")
    }

    #[tokio::test]
    async fn no_more_boot_at_once_than_the_limit_says() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let turns = turns(&dir, 3);
        let first = turns.take(2).now_or_never().expect("free").expect("the locks work");
        let second = turns.take(1).now_or_never().expect("free").expect("the locks work");
        let mut third = Box::pin(turns.take(1));
        assert!(futures::poll!(&mut third).is_pending(), "four of three CPUs boot");
        drop(first);
        drop(soon(third).await);
        drop(second);
    }

    #[tokio::test]
    async fn who_wants_more_than_there_is_gets_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let turns = turns(&dir, 2);
        let wide = turns.take(8).now_or_never().expect("free").expect("the locks work");
        assert!(turns.take(1).now_or_never().is_none(), "it does not boot alone");
        drop(wide);
        drop(soon(turns.take(1)).await);
    }

    #[tokio::test]
    async fn a_wide_machine_at_the_front_is_not_overtaken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let turns = turns(&dir, 2);
        let first = turns.take(1).now_or_never().expect("free").expect("the locks work");
        let mut wide = Box::pin(turns.take(2));
        assert!(futures::poll!(&mut wide).is_pending());
        assert!(turns.take(1).now_or_never().is_none(), "there is room for it, and another is at the front");
        drop(first);
        let wide = soon(wide).await;
        drop(wide);
        drop(soon(turns.take(1)).await);
    }

    #[tokio::test]
    async fn who_gives_up_at_the_front_leaves_nothing_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let turns = turns(&dir, 2);
        let first = turns.take(1).now_or_never().expect("free").expect("the locks work");
        assert!(turns.take(2).now_or_never().is_none(), "it takes a part and is dropped");
        drop(soon(turns.take(1)).await);
        drop(first);
    }
}
