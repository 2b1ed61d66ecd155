//! UEFI firmware: where distributions put OVMF.

use std::path::{Path, PathBuf};

use crate::Error;

/// Code and pristine variables of a UEFI firmware. Each machine gets a copy of the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// The code, mapped read-only.
    pub code: PathBuf,
    /// The variable store to copy.
    pub vars: PathBuf,
}

/// Code and variables as Debian and Ubuntu, Fedora, Arch, openSUSE, and a QEMU built from source have them.
const PLACES: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
    (
        "/run/current-system/sw/share/qemu/edk2-x86_64-code.fd",
        "/run/current-system/sw/share/qemu/edk2-i386-vars.fd",
    ),
];

impl Firmware {
    /// Finds the firmware: `RACKLESS_FIRMWARE_CODE` with `RACKLESS_FIRMWARE_VARS` when set, else the
    /// places where distributions keep it.
    ///
    /// # Errors
    /// [`Error::FirmwareMissing`] names every place that was looked at.
    pub fn find() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).map(PathBuf::from);
        if let (Some(code), Some(vars)) = (set("RACKLESS_FIRMWARE_CODE"), set("RACKLESS_FIRMWARE_VARS")) {
            let firmware = Self { code, vars };
            return if firmware.exists() {
                Ok(firmware)
            } else {
                Err(Error::FirmwareMissing { looked_at: vec![firmware.code, firmware.vars] })
            };
        }
        PLACES
            .iter()
            .map(|(code, vars)| Self { code: Path::new(code).to_owned(), vars: Path::new(vars).to_owned() })
            .find(Self::exists)
            .ok_or_else(|| Error::FirmwareMissing {
                looked_at: PLACES.iter().map(|(code, _)| PathBuf::from(code)).collect(),
            })
    }

    fn exists(&self) -> bool {
        self.code.is_file() && self.vars.is_file()
    }
}
