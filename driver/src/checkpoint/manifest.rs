//! What a checkpoint is made of, and whether it still is.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cache::{At as _, sparse};
use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::learnt::Learnt;
use crate::machine::Incoming;
use crate::spec::NicSpec;

/// The version of the layout. Another one is no checkpoint to us.
const VERSION: u32 = 2;
const MANIFEST: &str = "manifest.json";
/// The manifest's digest, in the words of `b3sum`.
const SUM: &str = "manifest.b3sum";
/// The files as they were found in order last time: see [`Checkpoint::open`].
const VERIFIED: &str = "verified.json";

/// What a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The lab's name.
    pub lab: String,
    /// What state it is of, in the words of whoever saved it.
    pub about: String,
    /// When it was saved, in seconds since 1970.
    pub saved_at: u64,
    /// The machines, in the lab's order.
    pub machines: Vec<SavedMachine>,
    /// The addresses that the switch had learnt.
    pub fdb: Vec<Learnt>,
}

/// One machine of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMachine {
    /// Its name.
    pub name: String,
    /// Whether its memory had a name of its own in QEMU; it is restored onto the like only.
    pub(crate) named_memory: bool,
    /// QEMU's migration stream.
    pub(crate) state: SavedFile,
    /// The memory, where the stream has it not.
    pub(crate) ram: Option<SavedFile>,
    /// What it has written to its disk.
    pub(crate) disk: SavedFile,
    /// The same of its data disks.
    pub(crate) data: Vec<SavedFile>,
    /// Its UEFI variables.
    pub(crate) vars: Option<SavedFile>,
    /// The NICs that were plugged in.
    pub(crate) nics: Vec<SavedNic>,
    /// Whether a test had paused it.
    pub(crate) paused: bool,
}

/// A NIC of a saved machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedNic {
    pub(crate) nic: NicSpec,
    /// The index of its root port.
    pub(crate) slot: usize,
}

impl SavedMachine {
    /// Its files, with their lengths in bytes, holes included.
    pub fn lengths(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files().map(|file| (file.name.as_str(), file.bytes))
    }

    fn files(&self) -> impl Iterator<Item = &SavedFile> {
        [&self.state, &self.disk].into_iter().chain(&self.ram).chain(&self.vars).chain(&self.data)
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedFile {
    /// Its name in the directory.
    pub(crate) name: String,
    /// Its length in bytes, holes included.
    bytes: u64,
    /// Its BLAKE3 digest.
    blake3: String,
}

impl SavedFile {
    /// Reads and digests a file of `directory`.
    pub(super) fn of(directory: &Path, name: String) -> Result<Self, CheckpointError> {
        let path = directory.join(&name);
        let bytes = std::fs::metadata(&path).at("read", &path)?.len();
        Ok(Self { name, bytes, blake3: sparse::digest(&path)? })
    }
}

/// A file as the system sees it: a change of any kind moves its `ctime`, which nobody can set back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    name: String,
    inode: u64,
    bytes: u64,
    ctime: (i64, i64),
}

impl Seen {
    fn of(directory: &Path, name: &str) -> Result<Self, CheckpointError> {
        let path = directory.join(name);
        let meta = std::fs::metadata(&path).at("read", &path)?;
        let ctime = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { name: name.to_owned(), inode: meta.ino(), bytes: meta.len(), ctime })
    }
}

/// A checkpoint that is whole.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    directory: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Opens the checkpoint in a directory and checks every file against its digest. What was found in order once and
    /// was not touched since is not read again: that takes as long as restoring.
    ///
    /// # Errors
    /// [`CheckpointError::Foreign`], [`CheckpointError::Damaged`], [`CheckpointError::File`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let directory = directory.into();
        let manifest = read(&directory)?;
        let seen = seen(&directory, &manifest)?;
        let path = directory.join(VERIFIED);
        let verified =
            std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Vec<Seen>>(&text).ok());
        let checkpoint = Self { directory, manifest };
        if verified.as_ref() != Some(&seen) {
            checkpoint.verify()?;
            remember(&checkpoint.directory, &seen);
        }
        Ok(checkpoint)
    }

    /// Reads every file and compares its digest.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`], [`CheckpointError::File`].
    pub fn verify(&self) -> Result<(), CheckpointError> {
        for file in self.manifest.machines.iter().flat_map(SavedMachine::files) {
            let found = SavedFile::of(&self.directory, file.name.clone())?;
            if found != *file {
                let problem = match found.bytes == file.bytes {
                    true => format!("has the digest {}, not {}", found.blake3, file.blake3),
                    false => format!("has {} bytes, not {}", found.bytes, file.bytes),
                };
                return Err(CheckpointError::Damaged {
                    directory: self.directory.clone(),
                    file: file.name.clone(),
                    problem,
                });
            }
        }
        Ok(())
    }

    /// Writes the manifest: the last file of a checkpoint.
    pub(super) fn write(
        directory: &Path,
        (lab, about): (&str, &str),
        machines: Vec<SavedMachine>,
        fdb: Vec<Learnt>,
    ) -> Result<Self, CheckpointError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let manifest = Manifest {
            version: VERSION,
            lab: lab.to_owned(),
            about: about.to_owned(),
            saved_at: since.as_secs(),
            machines,
            fdb,
        };
        let path = directory.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::from).at("write", &path)?;
        let sum = directory.join(SUM);
        std::fs::write(&sum, format!("{}  {MANIFEST}\n", blake3::hash(&text))).at("write", &sum)?;
        std::fs::write(&path, text).at("write", &path)?;
        // Their digests were taken a moment ago.
        remember(directory, &seen(directory, &manifest)?);
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it has of a machine.
    pub(crate) fn incoming(&self, name: &str) -> Option<Incoming<'_>> {
        let saved = self.manifest.machines.iter().find(|machine| machine.name == name)?;
        Some(Incoming { checkpoint: self, saved })
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &SavedFile) -> PathBuf {
        self.directory.join(&file.name)
    }
}

/// What every version of a manifest has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads the manifest of a directory.
pub(super) fn read(directory: &Path) -> Result<Manifest, CheckpointError> {
    let path = directory.join(MANIFEST);
    let text = std::fs::read(&path).at("read", &path)?;
    let foreign = |problem| CheckpointError::Foreign { directory: directory.to_owned(), problem };
    let not_read = |error| foreign(format!("{MANIFEST}: {error}"));
    // The version first: the rest of another one may have other fields.
    let Versioned { version } = serde_json::from_slice(&text).map_err(not_read)?;
    if version != VERSION {
        return Err(foreign(format!("its layout has the version {version}, not {VERSION}")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(not_read)?;
    // Names become paths: a manifest from elsewhere must not reach out of its directory.
    let names = manifest.machines.iter().flat_map(SavedMachine::files).map(|file| &file.name);
    if let Some(name) = names.into_iter().find(|name| name.contains('/') || name.starts_with('.')) {
        return Err(foreign(format!("{name:?} is no file of it")));
    }
    let sum = directory.join(SUM);
    let (saved, digest) = (std::fs::read_to_string(&sum).at("read", &sum)?, blake3::hash(&text));
    let saved = saved.split_whitespace().next().unwrap_or_default();
    if saved != digest.to_hex().as_str() {
        return Err(CheckpointError::Damaged {
            directory: directory.to_owned(),
            file: MANIFEST.to_owned(),
            problem: format!("has the digest {digest}, not {saved}"),
        });
    }
    Ok(manifest)
}

/// Only a shortcut for the next time: without it, files are read once more.
fn remember(directory: &Path, seen: &[Seen]) {
    let _ = std::fs::write(directory.join(VERIFIED), serde_json::to_vec(seen).unwrap_or_default());
}

fn seen(directory: &Path, manifest: &Manifest) -> Result<Vec<Seen>, CheckpointError> {
    manifest
        .machines
        .iter()
        .flat_map(SavedMachine::files)
        .map(|file| Seen::of(directory, &file.name))
        .collect()
}
