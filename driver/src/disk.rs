//! Overlays: qcow2 files that take a machine's writes and live across its power cycles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Command;

use crate::Error;
use crate::spec::{DataDisk, DiskSpec};

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
        Self::on(machine, Some((&disk.image, "raw")), disk.grow_to, path).await
    }

    /// Makes a fresh data disk at `path`.
    pub(crate) async fn of_data(machine: &str, disk: &DataDisk, path: PathBuf) -> Result<Self, Error> {
        let image = disk.image.as_deref().map(|image| (image, "raw"));
        Self::on(machine, image, Some(disk.bytes), path).await
    }

    /// Makes a fresh overlay at `path` of another one, such as a checkpoint's.
    pub(crate) async fn of_overlay(machine: &str, base: &Path, path: PathBuf) -> Result<Self, Error> {
        Self::on(machine, Some((base, "qcow2")), None, path).await
    }

    async fn on(
        machine: &str,
        base: Option<(&Path, &str)>,
        size: Option<u64>,
        path: PathBuf,
    ) -> Result<Self, Error> {
        let mut command = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]);
        if let Some((base, format)) = base {
            let base = fs_err::canonicalize(base)
                .map_err(|source| Error::Image { machine: machine.to_owned(), source })?;
            command = command.args(["-F", format, "-b"]).arg(&base);
        }
        command = command.arg(&path);
        if let Some(bytes) = size {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::DiskBus;

    const MIB: u64 = 1024 * 1024;

    /// A folder with a raw image of 2 MiB.
    fn image() -> (tempfile::TempDir, DiskSpec) {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("system, of a test.raw");
        fs_err::File::create(&image).and_then(|file| file.set_len(2 * MIB)).expect("an image");
        (folder, DiskSpec { image, bus: DiskBus::VirtioBlk, grow_to: None })
    }

    async fn info(overlay: &Overlay) -> serde_json::Value {
        let command = Command::new("qemu-img").args(["info", "--output=json"]).arg(overlay.path());
        let output = process::run(command, LIMIT).await.and_then(process::Output::checked);
        serde_json::from_slice(&output.expect("qemu-img").stdout).expect("JSON")
    }

    #[tokio::test]
    async fn an_overlay_lies_on_the_image_and_goes_when_dropped() {
        let (folder, disk) = image();
        let path = folder.path().join("server-1.qcow2");
        let overlay = Overlay::create("server-1", &disk, path.clone()).await.expect("an overlay");
        assert_eq!(overlay.path(), path);
        let info = info(&overlay).await;
        assert_eq!((&info["format"], &info["backing-filename-format"]), (&"qcow2".into(), &"raw".into()));
        assert_eq!(info["virtual-size"], 2 * MIB);
        let image = fs_err::canonicalize(&disk.image).expect("the image");
        assert_eq!(info["full-backing-filename"], image.to_str().expect("UTF-8"));

        drop(overlay);
        assert!(!path.exists() && disk.image.exists());
    }

    #[tokio::test]
    async fn an_overlay_can_be_larger_than_its_image() {
        let (folder, disk) = image();
        let disk = DiskSpec { grow_to: Some(64 * MIB), ..disk };
        let path = folder.path().join("server-1.qcow2");
        let overlay = Overlay::create("server-1", &disk, path).await.expect("an overlay");
        assert_eq!(info(&overlay).await["virtual-size"], 64 * MIB);
        assert_eq!(fs_err::metadata(&disk.image).expect("the image").len(), 2 * MIB);
    }

    #[tokio::test]
    async fn a_data_disk_begins_empty_or_as_an_image() {
        let (folder, disk) = image();
        let data = |image| DataDisk { name: "data".into(), bytes: 8 * MIB, image };
        for image in [None, Some(disk.image.clone())] {
            let path = folder.path().join("data.qcow2");
            let overlay = Overlay::of_data("server-1", &data(image.clone()), path).await.expect("a disk");
            let info = info(&overlay).await;
            assert_eq!(info["virtual-size"], 8 * MIB);
            assert_eq!(info.get("full-backing-filename").is_some(), image.is_some(), "{info}");
        }
    }

    #[tokio::test]
    async fn a_missing_image_is_named_with_its_machine() {
        let (folder, disk) = image();
        fs_err::remove_file(&disk.image).expect("to remove the image");
        let path = folder.path().join("server-1.qcow2");
        let error = Overlay::create("server-1", &disk, path.clone()).await.expect_err("no image");
        let told = error.to_string();
        assert!(told.starts_with("server-1: the disk image can't be used: "), "{told}");
        assert!(told.contains(disk.image.to_str().expect("UTF-8")), "{told}");
        assert!(told.contains("No such file or directory"), "{told}");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_missing_folder_is_told_in_qemu_imgs_words() {
        let (folder, disk) = image();
        let path = folder.path().join("nowhere/server-1.qcow2");
        let error = Overlay::create("server-1", &disk, path).await.expect_err("no folder");
        let told = error.to_string().replace(folder.path().to_str().expect("UTF-8"), "FOLDER");
        assert!(
            told.starts_with("server-1: no overlay at FOLDER/nowhere/server-1.qcow2: qemu-img: "),
            "{told}"
        );
        assert!(told.ends_with("No such file or directory"), "{told}");
        assert_eq!(error.kind(), crate::Kind::Infra);
    }
}
