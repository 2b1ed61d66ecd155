//! Files in and out of the guest, and pictures of its screen.

use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::Machine;
use crate::Error;
use crate::guest::CopyOptions;

/// What a copy may take, before scaling.
const LIMIT: Duration = Duration::from_secs(120);
/// What a screenshot may take; not scaled, since the guest has no part in it.
const SCREENSHOT_LIMIT: Duration = Duration::from_secs(20);

/// [`Machine::copy_to`].
#[must_use = "does nothing until it is awaited"]
pub struct CopyTo<'m> {
    machine: &'m Machine,
    from: PathBuf,
    to: String,
    options: CopyOptions,
    limit: Duration,
}

/// [`Machine::copy_from`].
#[must_use = "does nothing until it is awaited"]
pub struct CopyFrom<'m> {
    machine: &'m Machine,
    from: String,
    to: PathBuf,
    limit: Duration,
}

impl Machine {
    /// Copies a file or a folder of the host to `to` in the guest, with modes, and compares digests.
    ///
    /// Limit: 120 s before scaling.
    pub fn copy_to(&self, from: impl AsRef<Path>, to: impl Into<String>) -> CopyTo<'_> {
        CopyTo {
            machine: self,
            from: from.as_ref().to_owned(),
            to: to.into(),
            options: CopyOptions::default(),
            limit: LIMIT,
        }
    }

    /// Copies a file or a folder of the guest to `to` on the host, with modes, and compares digests.
    pub fn copy_from(&self, from: impl Into<String>, to: impl AsRef<Path>) -> CopyFrom<'_> {
        CopyFrom { machine: self, from: from.into(), to: to.as_ref().to_owned(), limit: LIMIT }
    }

    /// Writes a PNG of the machine's screen to `<artefacts>/screenshot-<name>.png` and gives the path.
    ///
    /// # Errors
    /// [`Error::Off`] or [`Error::Qmp`]; [`Error::Unsupported`] of a board.
    pub async fn screenshot(&self, name: &str) -> Result<PathBuf, Error> {
        let instance = self.running("a screenshot")?;
        let path = self.inner.artifacts.join(format!("screenshot-{name}.png"));
        let arguments = json!({ "filename": path, "format": "png" });
        let qemu = self.qemu(&instance, "a screenshot")?;
        let taken = qemu.qmp.execute_raw_within("screendump", arguments, SCREENSHOT_LIMIT).await;
        taken.map_err(|source| self.qmp_error("taking a screenshot", source))?;
        Ok(path)
    }
}

impl CopyTo<'_> {
    /// Sets the limit, before scaling.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the mode of the file in the guest, such as `0o600`; without it the host's is kept.
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.mode = Some(mode);
        self
    }

    /// Sets owner and group in the guest, by name or number: `etcd:etcd`; without it they are root's.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.options.owner = Some(owner.into());
        self
    }

    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        let copied = machine.until_death(guest.copy_to(&self.from, &self.to, self.options, limit)).await?;
        copied.map(drop).map_err(|e| machine.guest_error(e))
    }
}

impl CopyFrom<'_> {
    /// Sets the limit, before scaling.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let machine = self.machine;
        let guest = machine.guest().await?;
        let limit = machine.limit(self.limit);
        let copied = machine.until_death(guest.copy_from(&self.from, &self.to, limit)).await?;
        copied.map(drop).map_err(|e| machine.guest_error(e))
    }
}

impl<'m> IntoFuture for CopyTo<'m> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}

impl<'m> IntoFuture for CopyFrom<'m> {
    type Output = Result<(), Error>;
    type IntoFuture = BoxFuture<'m, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.run().boxed()
    }
}
