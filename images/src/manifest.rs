//! The manifest beside a disk: what the image is, and the digests of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::ext4::Root;
use crate::error::{At, Error};
use crate::foreign::natural;
use crate::image::{DiskBus, Login, WayIn};
use cache::sparse;

/// The version of this format.
pub(crate) const FORMAT: u32 = 1;
/// The manifest's name in an entry.
pub(crate) const FILE: &str = "manifest.json";

/// What an image in the cache is. Written last, so that an entry without one is no entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format, now 1.
    pub format: u32,
    /// The image's name.
    pub name: String,
    /// Identifies the content: BLAKE3 over the digests of the files, in hexadecimal.
    pub digest: String,
    /// BLAKE3 of the recipe and the builder's version, in hexadecimal; of an import, its path.
    pub source: String,
    /// Role (`disk`, `kernel`, `initrd`) to file.
    pub files: BTreeMap<String, FileEntry>,
    /// The kernel's command line in a direct boot.
    pub cmdline: String,
    /// The bus of the disk.
    pub bus: DiskBus,
    /// Whether it boots by UEFI firmware.
    pub firmware: bool,
    /// How commands get in.
    pub way_in: WayIn,
    /// Who can log in.
    pub login: Option<Login>,
    /// What is installed, by names that tests ask for.
    pub provides: BTreeSet<String>,
    /// `PRETTY_NAME` of os-release.
    pub os: Option<String>,
    /// The kernel's version.
    pub kernel: Option<String>,
    /// The major version of systemd.
    pub systemd: Option<u32>,
    /// Packages and their versions, as dpkg lists them.
    pub packages: BTreeMap<String, String>,
    /// The tools that built it, with what they say of their version.
    pub tools: BTreeMap<String, String>,
}

/// A file of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the entry's directory.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its content, in hexadecimal, as `b3sum` prints it.
    pub blake3: String,
}

impl Manifest {
    /// Reads the manifest of an entry.
    pub(crate) fn load(name: &str, entry: &Path) -> Result<Manifest, Error> {
        let path = entry.join(FILE);
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let damaged =
            |problem: String| Error::Corrupt { name: name.into(), entry: entry.to_owned(), problem };
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| damaged(format!("{FILE} can't be read: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("{FILE} has format {}, expected {FORMAT}", manifest.format)));
        }
        Ok(manifest)
    }

    pub(crate) fn save(&self, entry: &Path) -> Result<(), Error> {
        let path = entry.join(FILE);
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain data");
        text.push('\n');
        std::fs::write(&path, text).at("write", &path)
    }

    /// Digests the entry's files; with the manifest's own digest.
    pub(crate) fn seal(&mut self, entry: &Path, files: &[(&str, &str)]) -> Result<(), Error> {
        let mut hasher = blake3::Hasher::new();
        for (role, file) in files {
            let blake3 = self.add(role, entry, file)?;
            hasher.update(role.as_bytes()).update(&[0]).update(blake3.as_bytes());
        }
        self.digest = hasher.finalize().to_hex().to_string();
        Ok(())
    }

    /// Digests one file of the entry.
    pub(crate) fn add(&mut self, role: &str, entry: &Path, file: &str) -> Result<String, Error> {
        let path = entry.join(file);
        let bytes = path.metadata().at("read", &path)?.len();
        let blake3 = sparse::digest(&path)?;
        self.files
            .insert(role.to_owned(), FileEntry { file: file.to_owned(), bytes, blake3: blake3.clone() });
        Ok(blake3)
    }

    /// Checks that the files are there with their sizes; with `content`, also their digests.
    pub(crate) fn check(&self, entry: &Path, content: bool) -> Result<(), Error> {
        let damaged = |problem: String| {
            Err(Error::Corrupt { name: self.name.clone(), entry: entry.to_owned(), problem })
        };
        for file in self.files.values() {
            let path = entry.join(&file.file);
            let Ok(meta) = path.metadata() else { return damaged(format!("{} is gone", file.file)) };
            if meta.len() != file.bytes {
                return damaged(format!("{} has {} bytes instead of {}", file.file, meta.len(), file.bytes));
            }
            if content {
                let found = sparse::digest(&path)?;
                if found != file.blake3 {
                    return damaged(format!("{} has digest {found} instead of {}", file.file, file.blake3));
                }
            }
        }
        Ok(())
    }
}

/// What a root tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Facts {
    pub(crate) os: Option<String>,
    pub(crate) kernels: Vec<String>,
    pub(crate) systemd: Option<u32>,
    pub(crate) packages: BTreeMap<String, String>,
}

impl Facts {
    pub(crate) fn of(root: &Root) -> Facts {
        let os = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| root.text(path));
        let os = os.and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
            Some(line.trim_matches('"').to_owned())
        });
        let packages = root.text("/var/lib/dpkg/status").map(|text| installed(&text)).unwrap_or_default();
        let mut kernels = root.names("/usr/lib/modules");
        if kernels.is_empty() {
            kernels = root.names("/lib/modules");
        }
        kernels.sort_by(|one, other| natural(one, other));
        let systemd = packages.get("systemd").and_then(|version| major(version)).or_else(|| by_library(root));
        Facts { os, kernels, systemd, packages }
    }
}

/// The packages of a dpkg status file that are installed.
fn installed(status: &str) -> BTreeMap<String, String> {
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    status
        .split("\n\n")
        .filter(|paragraph| field(paragraph, "Status:").is_some_and(|status| status.ends_with(" installed")))
        .filter_map(|paragraph| Some((field(paragraph, "Package:")?, field(paragraph, "Version:")?)))
        .collect()
}

fn major(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Without dpkg: systemd's own library carries its version in its name.
fn by_library(root: &Root) -> Option<u32> {
    ["/usr/lib/systemd", "/lib/systemd", "/usr/lib/x86_64-linux-gnu/systemd"].iter().find_map(|directory| {
        root.names(directory).iter().find_map(|name| major(name.strip_prefix("libsystemd-shared-")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let status = "Package: systemd\nStatus: install ok installed\nVersion: 257.13-1~deb13u1\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: x\nStatus: install ok installed\nVersion: 1:2\n";
        let packages = installed(status);
        assert_eq!(packages.keys().collect::<Vec<_>>(), ["systemd", "x"]);
        assert_eq!(major(&packages["systemd"]), Some(257));
        assert_eq!(major(&packages["x"]), Some(2));
        assert_eq!(major("~rc"), None);
    }
}
