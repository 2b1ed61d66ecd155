//! Taking a user's own disk into the cache.

use std::path::Path;

use crate::build::DISK;
use crate::error::{At, Error};
use crate::foreign;
use crate::manifest::Manifest;
use crate::progress::{Phase, Reporter};
use crate::recipe::is_name;
use crate::sidecar::Sidecar;
use crate::store::Store;
use cache::sparse;

impl Store {
    /// Copies the disk at `path` into the cache as the image `name`, with kernel and initrd taken out of it for direct
    /// boot. It then goes before a recipe of the same name. An earlier import of the name is replaced.
    ///
    /// `sidecar` says what can't be read from the disk; see [`Sidecar::beside`].
    ///
    /// # Errors
    /// [`Error::NotADisk`], [`Error::Truncated`], [`Error::Table`] for a file that is no sound disk;
    /// [`Error::BadName`]; [`Error::DiskFull`].
    pub fn import(&self, name: &str, path: &Path, sidecar: &Sidecar) -> Result<Manifest, Error> {
        if !is_name(name) {
            return Err(Error::BadName { name: name.into() });
        }
        let mut file = std::fs::File::open(path).at("open", path)?;
        crate::disk::table::read(&mut file, path)?;
        let report = Reporter::new(name, self.listener());
        let entry = self.import_dir(name);
        let _held = self.lock(&entry, &report)?;
        let work = self.work_dir(&entry);
        std::fs::create_dir_all(&work).at("make", &work)?;
        let filled = || -> Result<Manifest, Error> {
            report.phase(Phase::Derive);
            let disk = work.join(DISK);
            sparse::copy(path, &disk)?;
            report.phase(Phase::Seal);
            let mut manifest = foreign::describe(name, path, &disk, sidecar, &work)?;
            manifest.add("disk", &work, DISK)?;
            manifest.save(&work)?;
            Ok(manifest)
        };
        let manifest = filled().inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&work);
        })?;
        self.put(&work, &entry)?;
        report.phase(Phase::Done);
        Ok(manifest)
    }
}
