//! What a machine and a lab are made of, before anything runs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
pub use shell::Login;
use switch::PortMode;

use crate::start::After;

/// How a machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// By UEFI firmware from the disk's ESP, as a board would.
    Firmware,
    /// By QEMU's own loader: quicker, and without a boot loader.
    Direct {
        /// The kernel, a bzImage or a PVH vmlinux.
        kernel: PathBuf,
        /// The initial RAM disk, if the kernel needs one.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// By a script that starts a QEMU of its own, as NixOS makes one for each VM.
    Script(StartScript),
    /// Not in QEMU: a board that is turned on. It has its own disks and firmware; of the spec it takes the name, the NICs,
    /// as far as its file has cables for them, the shell and the files.
    Board(Box<board::Board>),
}

/// An unmodified start script, `run-<name>-vm` of NixOS: it is run in a directory of the machine's own, which lives as
/// long as the lab, with the driver's monitor, console and channel among its arguments. It decides on memory, processors,
/// firmware and devices; what the spec says of the first two is for the budget. `docs/nixos.md` has the whole contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartScript {
    /// The script.
    pub program: PathBuf,
    /// The number of the VLAN that each of [`MachineSpec::nics`] is in, in their order: the script connects its NIC `n` by
    /// `-netdev vde,id=vlan<n>,sock=$QEMU_VDE_SOCKET_<number>`, counted from 1.
    pub vlans: Vec<u16>,
    /// Variables of its environment beside those that the driver sets, such as `QEMU_KERNEL_PARAMS`. What `QEMU_OPTS`
    /// has stands before what the driver adds to it.
    pub env: BTreeMap<String, String>,
}

impl Boot {
    /// Of a NixOS system: the kernel, the initial RAM disk and the parameters in its toplevel, with its `init`. Its
    /// store is on the disk, or comes in as the initial RAM disk has it.
    ///
    /// # Errors
    /// [`crate::Error::File`] when the directory is no toplevel.
    pub fn toplevel(toplevel: &Path) -> Result<Self, crate::Error> {
        let real = |file: &str| {
            let path = toplevel.join(file);
            fs_err::canonicalize(&path).map_err(crate::Error::file("finding", &path))
        };
        let params = real("kernel-params")?;
        let params = fs_err::read_to_string(&params).map_err(crate::Error::file("reading", &params))?;
        // The guest's path of it, which is this host's: links in the store lead to the same place in both.
        let init = toplevel.join("init");
        Ok(Self::Direct {
            kernel: real("kernel")?,
            initrd: Some(real("initrd")?),
            cmdline: format!("init={} {}", init.display(), params.trim()),
        })
    }

    /// The word for it in names of tests: `firmware`, `direct`, `script` or `board`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::Direct { .. } => "direct",
            Self::Script(_) => "script",
            Self::Board(_) => "board",
        }
    }
}

/// What makes a machine quicker under emulation, and which of it is on: all, unless a test turns it off. Under KVM
/// nothing of it does anything. `docs/performance.md` has what each saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A processor of the level x86-64-v2 without vector units beyond it: the guest's libraries then choose code that
    /// is translated well. Off, it has all that the emulator knows (`-cpu max`).
    pub lean_cpu: bool,
    /// In a direct boot on a QEMU older than 8, which translates a library anew for each address that it is mapped at:
    /// addresses that are the same in each process (`norandmaps`).
    pub fixed_addresses: bool,
    /// In a boot by firmware: a small buffer for translations. Those of what ran before a reset stay there, and each write to
    /// memory that any of them is of is slow, so that firmware and kernel, which unpack themselves there, take several times
    /// as long as after power-on.
    pub small_buffer: bool,
}

impl Tuning {
    /// Nothing of it.
    pub const OFF: Self = Self { lean_cpu: false, fixed_addresses: false, small_buffer: false };
}

impl Default for Tuning {
    fn default() -> Self {
        Self { lean_cpu: true, fixed_addresses: true, small_buffer: true }
    }
}

/// The bus that the system disk hangs on; the guest names its disk by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// `virtio-blk-pci`: `/dev/vda` in a Linux guest.
    #[default]
    VirtioBlk,
    /// `virtio-scsi-pci` with a `scsi-hd`: `/dev/sda`.
    VirtioScsi,
    /// An AHCI port of the chipset: `/dev/sda`.
    Sata,
    /// An NVMe controller: `/dev/nvme0n1`.
    Nvme,
}

impl DiskBus {
    /// The name that a Linux guest gives to the whole disk on this bus.
    #[must_use]
    pub fn guest_device(self) -> &'static str {
        match self {
            Self::VirtioBlk => "/dev/vda",
            Self::VirtioScsi | Self::Sata => "/dev/sda",
            Self::Nvme => "/dev/nvme0n1",
        }
    }
}

impl fmt::Display for DiskBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
        })
    }
}

/// The system disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// The raw image below the overlay. It is never opened for writing.
    pub image: PathBuf,
    /// The bus.
    pub bus: DiskBus,
    /// The size that the guest sees, in bytes, when it is to be larger than the image.
    pub grow_to: Option<u64>,
}

/// A disk besides the system disk, on virtio-blk: `/dev/disk/by-id/virtio-<name>` in a Linux guest, also where udev has
/// not looked yet by `/sys/block/*/serial`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    /// Its serial number: up to 20 letters, digits and hyphens, which is what virtio-blk has room for.
    pub name: String,
    /// Its size in bytes, whole sectors of 512.
    pub bytes: u64,
    /// The raw image that it begins as, of that size at most; `None` for zeros. It is never opened for writing.
    pub image: Option<PathBuf>,
}

/// A network card, and the switch port that it is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// The name within the machine, such as `eth1`. The switch port is `<machine>/<name>`.
    pub name: String,
    /// The MAC address, `52:54:00:…`.
    pub mac: String,
    /// How the switch's port treats VLAN tags.
    pub port: PortMode,
    /// How frames get from QEMU to the switch.
    pub backend: NicBackend,
}

/// How frames get from QEMU to the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicBackend {
    /// By a socket, one frame at a time: all that the switch can do is done to it.
    #[default]
    Stream,
    /// Through memory that the guest shares with the switch (vhost-user), for tests of throughput. Checksums and TCP
    /// segmentation are left out between two such NICs. There is no capture and there are no impairments on it, the
    /// machine can't be saved, and it must be there when the machine starts.
    VhostUser,
}

/// The way to the agent in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// A named virtserialport: always there, flow-controlled, survives checkpoints.
    #[default]
    Virtserial,
    /// AF_VSOCK through the host's `/dev/vhost-vsock`.
    Vsock,
    /// vhost-user-vsock through the `vhost-device-vsock` daemon.
    VhostUserVsock,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Virtserial => "virtserialport",
            Self::Vsock => "vsock",
            Self::VhostUserVsock => "vhost-user-vsock",
        })
    }
}

/// The agent in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// How it gets there.
    pub source: AgentSource,
    /// The transport.
    pub channel: Channel,
}

/// How the agent gets into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSource {
    /// The image has it inside.
    Image,
    /// From a disk that holds its binary, attached read-only with the serial `rackless-agent`.
    Disk(PathBuf),
    /// This binary is carried in over [`MachineSpec::shell`] once that is up, at each boot. Where the guest can't take it,
    /// the shell stays the way in, and an event says why.
    OverShell(PathBuf),
}

impl AgentSpec {
    /// The disk that brings it in.
    #[must_use]
    pub fn disk(&self) -> Option<&Path> {
        match &self.source {
            AgentSource::Disk(disk) => Some(disk),
            AgentSource::Image | AgentSource::OverShell(_) => None,
        }
    }
}

/// A shell in the guest, for a machine without an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShellSpec {
    /// A root shell on the first virtio console, `/dev/hvc0`, that says so when it is there: the backdoor of NixOS' test
    /// instrumentation and of images made after it.
    Backdoor,
    /// The login on the serial console.
    Serial(Login),
}

impl ShellSpec {
    /// What a backdoor prints when its shell reads.
    pub const BACKDOOR_READY: &str = "Spawning backdoor root shell";
}

/// A file that the agent writes before a machine counts as ready, at every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// The absolute path in the guest.
    pub path: String,
    /// The whole content.
    pub content: String,
}

/// Network cards of one machine whose ports the switch aggregates: the other end of the guest's bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleSpec {
    /// Its name on the switch, `server-1/bond0`.
    pub name: String,
    /// The names of its network cards; their ports have the same VLANs.
    pub nics: Vec<String>,
    /// Whether the switch speaks LACP on them (IEEE 802.1AX), or aggregates them without asking (balance-rr and
    /// balance-xor of a guest).
    pub lacp: bool,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// The name: also its hostname, unless [`MachineSpec::hostname`] says otherwise.
    pub name: String,
    /// Memory of the guest in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// How it starts.
    pub boot: Boot,
    /// What makes it quicker under emulation.
    pub tuning: Tuning,
    /// The system disk. A start script gets an overlay of it as `NIX_DISK_IMAGE`, and makes its own disk without it.
    pub disk: Option<DiskSpec>,
    /// Further disks, up to [`MachineSpec::DATA_DISKS`].
    pub data_disks: Vec<DataDisk>,
    /// Network cards, in PCI order.
    pub nics: Vec<NicSpec>,
    /// Links that the switch aggregates, each of some of the network cards.
    pub bundles: Vec<BundleSpec>,
    /// The agent; without it there is the shell.
    pub agent: Option<AgentSpec>,
    /// A shell, for a machine without an agent, or that the agent comes in over. With neither there is only the console.
    pub shell: Option<ShellSpec>,
    /// systemd credentials, passed by SMBIOS type 11: name and content.
    pub credentials: Vec<(String, Vec<u8>)>,
    /// The hostname that the agent sets; `None` leaves the image's.
    pub hostname: Option<String>,
    /// Files that the agent writes at every boot (`/etc/hosts`).
    pub files: Vec<GuestFile>,
    /// Addresses by network name, for tests and error texts.
    pub addresses: BTreeMap<String, IpAddr>,
    /// What has to be so before it starts: clients of an API start after it is there.
    pub after: Vec<After>,
}

impl MachineSpec {
    /// What QEMU itself takes beside the guest's memory under TCG, in MiB (measured: about 350 at most).
    pub const QEMU_OVERHEAD_MIB: u32 = 256;

    /// How many disks there is room for besides the system disk.
    pub const DATA_DISKS: usize = 8;

    /// The shell that a boot begins with; `None` where the agent gets in by itself.
    #[must_use]
    pub fn first_shell(&self) -> Option<&ShellSpec> {
        match self.agent.as_ref().map(|agent| &agent.source) {
            None | Some(AgentSource::OverShell(_)) => self.shell.as_ref(),
            Some(AgentSource::Image | AgentSource::Disk(_)) => None,
        }
    }

    /// Whether it runs on this host, and takes memory and processors of it.
    fn is_virtual(&self) -> bool {
        !matches!(self.boot, Boot::Board(_))
    }
}

/// A whole topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabSpec {
    /// The name, used for the switch and in messages.
    pub name: String,
    /// The machines.
    pub machines: Vec<MachineSpec>,
}

impl LabSpec {
    /// What the whole lab takes of the host's memory, in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        let of_this_host = self.machines.iter().filter(|m| m.is_virtual());
        of_this_host.map(|m| m.memory_mib + MachineSpec::QEMU_OVERHEAD_MIB).sum()
    }

    /// The sum of the virtual CPUs.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.machines.iter().filter(|m| m.is_virtual()).map(|m| m.vcpus).sum()
    }
}

/// Whether a machine can have this name: one label of a host's name, as RFC 1123 (2.1) has it.
#[must_use]
pub fn is_hostname(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
pub(crate) mod tests {
    use switch::VlanId;

    use super::*;

    /// A machine with two NICs, as tests of other modules want one.
    pub(crate) fn machine(name: &str) -> MachineSpec {
        let vlan = |id| VlanId::new(id).expect("a valid VLAN id");
        let nic = |index: u8, port| NicSpec {
            name: format!("eth{index}"),
            mac: format!("52:54:00:00:01:{index:02x}"),
            port,
            backend: NicBackend::default(),
        };
        MachineSpec {
            name: name.to_owned(),
            memory_mib: 768,
            vcpus: 2,
            boot: Boot::Firmware,
            tuning: Tuning::default(),
            disk: Some(DiskSpec {
                image: "/images/debian.raw".into(),
                bus: DiskBus::VirtioBlk,
                grow_to: None,
            }),
            data_disks: Vec::new(),
            nics: vec![
                nic(0, PortMode::Access { vlan: vlan(10) }),
                nic(1, PortMode::Access { vlan: vlan(20) }),
            ],
            bundles: Vec::new(),
            agent: None,
            shell: None,
            credentials: Vec::new(),
            hostname: None,
            files: Vec::new(),
            addresses: BTreeMap::new(),
            after: Vec::new(),
        }
    }

    #[test]
    fn a_lab_takes_the_sum_of_its_machines_and_qemu_besides() {
        let lab = LabSpec { name: "lab".into(), machines: vec![machine("a"), machine("b")] };
        assert_eq!(lab.memory_mib(), 2 * (768 + MachineSpec::QEMU_OVERHEAD_MIB));
        assert_eq!(lab.vcpus(), 4);
    }

    #[test]
    fn a_toplevel_says_how_it_boots() {
        let folder = tempfile::tempdir().expect("a folder");
        let toplevel = folder.path().join("system");
        fs_err::create_dir(&toplevel).expect("a toplevel");
        let store = fs_err::canonicalize(folder.path()).expect("a path");
        for file in ["kernel", "initrd"] {
            fs_err::write(store.join(file), file).expect("written");
            std::os::unix::fs::symlink(store.join(file), toplevel.join(file)).expect("linked");
        }
        let refused = Boot::toplevel(&toplevel).expect_err("no parameters").to_string();
        assert!(refused.starts_with("finding ") && refused.contains("kernel-params"), "{refused}");
        fs_err::write(toplevel.join("kernel-params"), "console=ttyS0 loglevel=4\n").expect("written");
        assert_eq!(
            Boot::toplevel(&toplevel).expect("a toplevel"),
            Boot::Direct {
                kernel: store.join("kernel"),
                initrd: Some(store.join("initrd")),
                cmdline: format!("init={}/init console=ttyS0 loglevel=4", toplevel.display()),
            }
        );
    }

    #[test]
    fn words_for_test_names_and_files_are_stable() {
        for (bus, word, device) in [
            (DiskBus::VirtioBlk, "virtio-blk", "/dev/vda"),
            (DiskBus::VirtioScsi, "virtio-scsi", "/dev/sda"),
            (DiskBus::Sata, "sata", "/dev/sda"),
            (DiskBus::Nvme, "nvme", "/dev/nvme0n1"),
        ] {
            assert_eq!((bus.to_string().as_str(), bus.guest_device()), (word, device));
            assert_eq!(serde_json::to_value(bus).expect("JSON"), word);
            assert_eq!(serde_json::from_value::<DiskBus>(word.into()).expect("a bus"), bus);
        }
        assert_eq!(Boot::Firmware.word(), "firmware");
        let direct = Boot::Direct { kernel: "/k".into(), initrd: None, cmdline: String::new() };
        assert_eq!(direct.word(), "direct");
    }
}
