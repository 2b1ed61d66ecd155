//! The TOML beside an image of the user's own: what can't be read from the disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::error::{At, ConfigError, Error};
use crate::image::{DiskBus, Login, WayIn};
use crate::toml_file::TomlFile;

/// What a user says of their image. All of it is optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sidecar {
    /// The disk's bus; virtio-blk if not given.
    pub bus: Option<DiskBus>,
    /// How commands get in; the agent if not given.
    pub way_in: Option<WayIn>,
    /// Who can log in on the console.
    pub login: Option<Login>,
    /// What is installed, by names that tests ask for.
    pub provides: BTreeSet<String>,
    /// Whether it boots by UEFI; found out from its ESP if not given.
    pub firmware: Option<bool>,
    /// A kernel for direct boot; looked for in the image if not given.
    pub kernel: Option<PathBuf>,
    /// The initrd that belongs to it.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line in a direct boot; found in the image if not given.
    pub cmdline: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    bus: Option<DiskBus>,
    way_in: Option<WayIn>,
    login: Option<Login>,
    provides: BTreeSet<String>,
    boot: RawBoot,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawBoot {
    firmware: Option<bool>,
    kernel: Option<Spanned<PathBuf>>,
    initrd: Option<Spanned<PathBuf>>,
    cmdline: Option<String>,
}

impl Sidecar {
    /// Reads the file. Relative paths in it are relative to it.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read, [`Error::Config`] when it is wrong.
    pub fn load(path: &Path) -> Result<Sidecar, Error> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        Ok(Sidecar::parse(&text, path)?)
    }

    /// The TOML beside a disk: `disk.wic.toml` or `disk.toml`; what the defaults are when there is none.
    ///
    /// # Errors
    /// Those of [`Sidecar::load`].
    pub fn beside(disk: &Path) -> Result<Sidecar, Error> {
        Sidecar::path_beside(disk).map_or_else(|| Ok(Sidecar::default()), |path| Sidecar::load(&path))
    }

    /// Where [`Sidecar::beside`] would read.
    pub fn path_beside(disk: &Path) -> Option<PathBuf> {
        let mut appended = disk.as_os_str().to_owned();
        appended.push(".toml");
        [PathBuf::from(appended), disk.with_extension("toml")].into_iter().find(|path| path.is_file())
    }

    fn parse(text: &str, file: &Path) -> Result<Sidecar, ConfigError> {
        let toml = TomlFile { path: file, text };
        let raw: Raw = toml.parse()?;
        let directory = file.parent().unwrap_or(Path::new("."));
        let existing = |key, value: Option<Spanned<PathBuf>>| match value {
            None => Ok(None),
            Some(value) => {
                let path = directory.join(value.get_ref());
                if path.is_file() {
                    Ok(Some(path))
                } else {
                    Err(toml.wrong(key, &value, format!("{} does not exist", path.display())))
                }
            }
        };
        if let (Some(initrd), None) = (&raw.boot.initrd, &raw.boot.kernel) {
            return Err(toml.wrong("boot.initrd", initrd, "is given without boot.kernel"));
        }
        Ok(Sidecar {
            bus: raw.bus,
            way_in: raw.way_in,
            login: raw.login,
            provides: raw.provides,
            firmware: raw.boot.firmware,
            kernel: existing("boot.kernel", raw.boot.kernel)?,
            initrd: existing("boot.initrd", raw.boot.initrd)?,
            cmdline: raw.boot.cmdline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_line_and_what_was_expected() {
        let text = "way_in = \"agent\"\nbus = \"ide\"\n";
        let error = Sidecar::parse(text, Path::new("disk.toml")).unwrap_err().to_string();
        assert!(error.starts_with("disk.toml:2:") && error.contains("virtio-scsi"), "{error}");
        let error = Sidecar::parse("[boot]\nkernel = \"gone\"\n", Path::new("/x/disk.toml")).unwrap_err();
        assert_eq!(error.to_string(), "/x/disk.toml:2: `boot.kernel`: /x/gone does not exist");
        let error = Sidecar::parse("buss = 1\n", Path::new("d.toml")).unwrap_err().to_string();
        assert!(error.starts_with("d.toml:1:") && error.contains("buss"), "{error}");
    }

    #[test]
    fn both_names_beside_a_disk_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("own.wic");
        assert_eq!(Sidecar::beside(&disk).unwrap(), Sidecar::default());
        std::fs::write(dir.path().join("own.toml"), "bus = \"sata\"").unwrap();
        assert_eq!(Sidecar::beside(&disk).unwrap().bus, Some(DiskBus::Sata));
        std::fs::write(dir.path().join("own.wic.toml"), "bus = \"virtio-scsi\"").unwrap();
        assert_eq!(Sidecar::beside(&disk).unwrap().bus, Some(DiskBus::VirtioScsi));
    }
}
