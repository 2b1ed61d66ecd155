//! An image as a test uses it, and the words that describe one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The bus on which an image expects its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// `/dev/vda`, the fastest.
    #[default]
    VirtioBlk,
    /// `/dev/sda` on a virtio SCSI controller.
    VirtioScsi,
    /// `/dev/sda` on an AHCI controller.
    Sata,
    /// `/dev/nvme0n1`.
    Nvme,
}

impl fmt::Display for DiskBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DiskBus::VirtioBlk => "virtio-blk",
            DiskBus::VirtioScsi => "virtio-scsi",
            DiskBus::Sata => "sata",
            DiskBus::Nvme => "nvme",
        })
    }
}

/// How commands get into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayIn {
    /// Our agent, injected at start.
    #[default]
    Agent,
    /// A login shell on the serial line.
    Shell,
    /// A root shell on `/dev/hvc0`, as NixOS' test instrumentation and images made after it have.
    Backdoor,
    /// The console only.
    Console,
}

impl fmt::Display for WayIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WayIn::Agent => "agent",
            WayIn::Shell => "shell",
            WayIn::Backdoor => "backdoor",
            WayIn::Console => "console",
        })
    }
}

/// Who can log in on the console.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Their password; empty means that none is asked for.
    #[serde(default)]
    pub password: String,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built from a recipe of ours.
    Recipe,
    /// Put into the cache by `rackless image import`.
    Import,
    /// Named by a path; what named it.
    Override(String),
}

/// An image, ready to boot. Its files are never opened for writing: machines get overlays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name: `server`.
    pub name: String,
    /// The raw disk.
    pub disk: PathBuf,
    /// The kernel, for direct boot.
    pub kernel: Option<PathBuf>,
    /// The initrd that belongs to [`Image::kernel`].
    pub initrd: Option<PathBuf>,
    /// The kernel's command line in a direct boot: `root=… rw console=ttyS0`. By firmware the loader has its own.
    pub cmdline: String,
    /// The bus that the disk has to be on.
    pub bus: DiskBus,
    /// Whether it boots by UEFI firmware. Direct boot needs [`Image::kernel`].
    pub firmware: bool,
    /// How commands get in.
    pub way_in: WayIn,
    /// Who can log in on the console.
    pub login: Option<Login>,
    /// What is installed, by names that tests ask for: `etcd`, `iperf3`.
    pub provides: BTreeSet<String>,
    /// Identifies the content, in hexadecimal: BLAKE3 of the recipe's result, or of a foreign disk's bytes.
    pub digest: String,
    /// The major version of its systemd, if it has one that could be found.
    pub systemd: Option<u32>,
    /// Its operating system, for people.
    pub os: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Image {
    /// Whether it can be booted without firmware.
    pub fn direct(&self) -> bool {
        self.kernel.is_some()
    }
}
