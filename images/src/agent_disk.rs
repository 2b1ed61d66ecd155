//! A small disk with the guest's agent on it, so that no image needs to be changed.

use std::path::{Path, PathBuf};

use crate::disk::guid;
use crate::error::{At, Error};
use crate::ext4_edit::{Edit, make_empty};
use crate::injection::{AGENT_FILE, AGENT_LABEL};
use crate::progress::Reporter;
use crate::store::Store;

impl Store {
    /// A disk with the agent's binary at its top, an ext4 file system without a partition table: attach it read-only
    /// with the serial [`crate::injection::AGENT_SERIAL`]. It is made once for each binary.
    ///
    /// # Errors
    /// [`Error::File`] when the binary can't be read; [`Error::MissingTool`], [`Error::Tool`], [`Error::DiskFull`].
    pub fn agent_disk(&self, agent: &Path) -> Result<PathBuf, Error> {
        let binary = std::fs::read(agent).at("read", agent)?;
        let digest = blake3::hash(&binary).to_hex()[..32].to_owned();
        let disk = self.root().join("agents").join(format!("{digest}.ext4"));
        if disk.is_file() {
            return Ok(disk);
        }
        let _held = self.lock(&disk, &Reporter::new("agent", self.listener()))?;
        if disk.is_file() {
            return Ok(disk);
        }
        let work = self.work_dir(&disk);
        std::fs::create_dir_all(&work).at("make", &work)?;
        let made = work.join("disk");
        let mib = (binary.len() as u64).div_ceil(1 << 20) + 2;
        make_empty("agent", &made, mib, AGENT_LABEL, &guid::text(guid::derived(&digest, "agent")))?;
        let mut edit = Edit::default();
        edit.file(&format!("/{AGENT_FILE}"), 0o755, binary);
        edit.apply("agent", &made, 0, mib << 20)?;
        std::fs::rename(&made, &disk).at("rename", &made)?;
        std::fs::remove_dir_all(&work).at("remove", &work)?;
        Ok(disk)
    }
}
