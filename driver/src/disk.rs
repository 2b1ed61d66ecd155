//! Overlays: qcow2 files that take a machine's writes and live across its power cycles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Command;

use crate::Error;
use crate::spec::DiskSpec;

/// Far more than `qemu-img create` ever takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A qcow2 file on a read-only image. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Overlay {
    path: PathBuf,
}

impl Overlay {
    /// Makes a fresh overlay of `disk` at `path`.
    pub(crate) async fn create(machine: &str, disk: &DiskSpec, path: PathBuf) -> Result<Self, Error> {
        let image = fs_err::canonicalize(&disk.image)
            .map_err(|source| Error::Image { machine: machine.to_owned(), source })?;
        let mut command = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&image)
            .arg(&path);
        if let Some(bytes) = disk.grow_to {
            command = command.arg(bytes.to_string());
        }
        let overlay = Self { path };
        let output = process::run(command, LIMIT)
            .await
            .map_err(|source| Error::Tool { operation: "making an overlay with qemu-img", source })?;
        if !output.status.success() {
            return Err(Error::Overlay {
                machine: machine.to_owned(),
                path: overlay.path.clone(),
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(overlay)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an overlay could not be removed");
        }
    }
}
