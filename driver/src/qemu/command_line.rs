//! The command line of one machine, from its spec: pure, so that a snapshot test pins every word.
//!
//! Every device has a fixed PCI address, since a checkpoint only restores onto the same machine; NICs hang
//! on root ports of their own, since q35's root bus takes no hot-plug.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Accel, Firmware, Opts, Qemu, nics};
use crate::Error;
use crate::spec::{Boot, Channel, DiskBus, DiskSpec, MachineSpec, NicBackend, NicSpec, ShellSpec};

/// With as much, a boot to the login prompt was no slower than with QEMU's own 1 GiB.
const SMALL_BUFFER_MIB: u32 = 64;

/// What QEMU's events call the agent's port.
pub(crate) const AGENT_PORT_ID: &str = "agentport";

/// What a machine is wired to on the host.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// The accelerator.
    pub accel: Accel,
    /// The firmware and this machine's own copy of the variables, for [`Boot::Firmware`].
    pub firmware: Option<(Firmware, PathBuf)>,
    /// The qcow2 overlay of the system disk.
    pub overlay: Option<PathBuf>,
    /// The qcow2 files of the data disks, in their order.
    pub data: Vec<PathBuf>,
    /// The NICs that are plugged in, each with the index of its root port.
    pub nics: Vec<(NicSpec, usize)>,
    /// Where the guest's memory lies.
    pub memory: Memory,
    /// Whether QEMU waits for a state to be loaded, instead of starting the guest.
    pub incoming: bool,
    /// Where QEMU finds the other ends.
    pub plugs: Plugs,
}

/// Where a guest's memory lies. A checkpoint is only restored onto memory of the same name, which is what tells
/// [`Memory::Own`] from the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Memory {
    /// In QEMU alone.
    #[default]
    Own,
    /// In a memfd, from which a checkpoint copies it.
    Memfd,
    /// A private copy, made page by page as the guest writes, of this file.
    CopyOf(PathBuf),
}

/// The other ends of QEMU's sockets.
#[derive(Debug, Clone)]
pub enum Plugs {
    /// The driver's sockets; QEMU connects to all but the second monitor, which it listens on.
    Driver {
        /// QMP of the driver.
        qmp: PathBuf,
        /// QMP for people (`rackless qmp`).
        qmp_people: PathBuf,
        /// The serial console.
        serial: PathBuf,
        /// The agent's port, or the vhost-user-vsock device's socket.
        agent: Option<PathBuf>,
        /// The port over which the journal is followed, where the agent has one.
        journal: Option<PathBuf>,
        /// The shell's virtio console.
        shell: Option<PathBuf>,
        /// The context id for AF_VSOCK.
        cid: Option<u32>,
        /// The switch's socket of each NIC that is plugged in, in their order.
        nics: Vec<PathBuf>,
    },
    /// Nobody: for `cmdline.sh`, with the console on the terminal and unconnected NICs.
    ByHand,
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// QEMU.
    pub program: PathBuf,
    /// The arguments, one option and its value after the other.
    pub args: Vec<String>,
}

impl CommandLine {
    pub(super) fn push(&mut self, option: &str, value: impl ToString) {
        self.args.push(option.to_owned());
        self.args.push(value.to_string());
    }

    /// One option a line, quoted for a POSIX shell.
    #[must_use]
    pub fn to_shell(&self) -> String {
        let mut text = quote(&self.program.display().to_string());
        for arg in &self.args {
            // A new line for each option; its value stays beside it.
            let separator = if arg.starts_with('-') { " \\\n  " } else { " " };
            let _ = write!(text, "{separator}{}", quote(arg));
        }
        text.push('\n');
        text
    }
}

/// Quotes a word for a POSIX shell where it needs it.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Builds the command line of `spec` as `wiring` has it.
#[must_use]
pub fn command_line(qemu: &Qemu, spec: &MachineSpec, wiring: &Wiring) -> CommandLine {
    let mut line = CommandLine { program: qemu.program.clone(), args: Vec::new() };
    machine(&mut line, spec, wiring);
    boot(&mut line, qemu, spec, wiring);
    if let Some((disk, overlay)) = spec.disk.as_ref().zip(wiring.overlay.as_ref()) {
        system_disk(&mut line, disk, overlay);
    }
    data_disks(&mut line, spec, &wiring.data);
    monitors_and_console(&mut line, wiring);
    agent(&mut line, spec, wiring);
    backdoor(&mut line, spec, wiring);
    nics::add(&mut line, qemu, spec, wiring);
    credentials(&mut line, spec);
    line
}

/// The command line of `spec` with names in place of all that is a single run's: overlay, sockets, this machine's copy of
/// the variables. To a guest, two machines with the same one and the same files are the same machine; it is part of what
/// a checkpoint is kept by.
///
/// # Errors
/// [`Error::FirmwareMissing`].
pub fn recipe(qemu: &Qemu, accel: Accel, spec: &MachineSpec, memory: Memory) -> Result<CommandLine, Error> {
    let firmware = match spec.boot {
        Boot::Firmware => Some((Firmware::find()?, "variables".into())),
        // A start script brings its own.
        Boot::Direct { .. } | Boot::Script(_) | Boot::Board(_) => None,
    };
    let plugs = Plugs::Driver {
        qmp: "monitor".into(),
        qmp_people: "monitor of people".into(),
        serial: "serial".into(),
        agent: Some("agent".into()),
        journal: Some("journal".into()),
        shell: Some("shell".into()),
        cid: Some(u32::MAX),
        nics: spec.nics.iter().map(|nic| nic.name.clone().into()).collect(),
    };
    let wiring = Wiring {
        accel,
        firmware,
        overlay: spec.disk.as_ref().map(|_| "overlay".into()),
        data: spec.data_disks.iter().map(|disk| disk.name.clone().into()).collect(),
        nics: spec.nics.iter().cloned().zip(0..).collect(),
        memory,
        incoming: false,
        plugs,
    };
    Ok(command_line(qemu, spec, &wiring))
}

fn machine(line: &mut CommandLine, spec: &MachineSpec, wiring: &Wiring) {
    line.push("-name", Opts::keyed("guest", &spec.name).set("debug-threads", "on"));
    // A user's own ~/.config/qemu must not change a test.
    line.args.push("-no-user-config".into());
    line.args.push("-nodefaults".into());
    let mut machine = Opts::new("q35").set("usb", "off").set("vmport", "off");
    // What is not QEMU can only read memory that is shared.
    let vsock = spec.agent.as_ref().is_some_and(|a| a.channel == Channel::VhostUserVsock);
    let shared = vsock || spec.nics.iter().any(|nic| nic.backend == NicBackend::VhostUser);
    let ram = match &wiring.memory {
        Memory::Own if !shared => None,
        Memory::Own | Memory::Memfd => Some(Opts::new("memory-backend-memfd").set("share", "on")),
        Memory::CopyOf(file) => {
            Some(Opts::new("memory-backend-file").set("share", "off").path("mem-path", file))
        }
    };
    if let Some(ram) = ram {
        machine = machine.set("memory-backend", "ram0");
        line.push("-object", ram.set("id", "ram0").set("size", format!("{}M", spec.memory_mib)));
    }
    line.push("-machine", machine);
    line.push(
        "-accel",
        match wiring.accel {
            Accel::Kvm => Opts::new("kvm"),
            Accel::Tcg => tcg(spec),
        },
    );
    line.push("-cpu", wiring.accel.cpu(spec.tuning.lean_cpu));
    line.push("-smp", spec.vcpus);
    line.push("-m", format!("{}M", spec.memory_mib));
    line.push("-rtc", Opts::keyed("base", "utc"));
    line.push("-display", "none");
    line.push("-device", pci("VGA", "vga", 0x2));
    line.push("-device", pci("virtio-rng-pci", "rng", 0x3));
    // A panic is reported over QMP and the machine stays for the diagnosis.
    line.push("-device", pci("pvpanic-pci", "pvpanic", 0x4));
    // Tells a guest that was restored, so that its random numbers go other ways than those of its twins.
    line.push("-device", Opts::new("vmgenid").set("id", "vmgenid").set("guid", "auto"));
    if wiring.incoming {
        line.push("-incoming", "defer");
    }
    line.push("-action", Opts::keyed("panic", "pause").set("watchdog", "pause"));
}

fn tcg(spec: &MachineSpec) -> Opts {
    let tcg = Opts::new("tcg").set("thread", "multi");
    match spec.boot {
        Boot::Firmware if spec.tuning.small_buffer => tcg.set("tb-size", SMALL_BUFFER_MIB),
        Boot::Firmware | Boot::Direct { .. } | Boot::Script(_) | Boot::Board(_) => tcg,
    }
}

fn boot(line: &mut CommandLine, qemu: &Qemu, spec: &MachineSpec, wiring: &Wiring) {
    match &spec.boot {
        Boot::Firmware => {
            if let Some((firmware, vars)) = &wiring.firmware {
                let flash = |unit| Opts::keyed("if", "pflash").set("unit", unit).set("format", "raw");
                line.push("-drive", flash(0).set("readonly", "on").path("file", &firmware.code));
                line.push("-drive", flash(1).path("file", vars));
            }
        }
        // It has a command line of its own: see `script`.
        Boot::Script(_) | Boot::Board(_) => {}
        Boot::Direct { kernel, initrd, cmdline } => {
            line.push("-kernel", kernel.display());
            if let Some(initrd) = initrd {
                line.push("-initrd", initrd.display());
            }
            let mut cmdline = cmdline.clone();
            if wiring.accel == Accel::Tcg {
                // Linux counts ticks of the timer in a busy loop and panics ("IO-APIC + timer doesn't work!") when a
                // starved host gives it none meanwhile. It leaves that out by itself where it sees KVM.
                cmdline.push_str(" no_timer_check");
                if spec.tuning.fixed_addresses && translates_per_address(qemu) {
                    cmdline.push_str(" norandmaps");
                }
            }
            line.push("-append", cmdline);
        }
    }
}

/// Whether this QEMU's TCG translates a library anew for each address that it is mapped at. With randomised
/// addresses that is each process: a Debian 13 boot on QEMU 7.2 then translates 924,000 blocks instead of 298,000,
/// and takes a third longer. QEMU 10.0 takes the same time either way; what lies between was not measured.
fn translates_per_address(qemu: &Qemu) -> bool {
    qemu.version.major < 8
}

fn system_disk(line: &mut CommandLine, disk: &DiskSpec, overlay: &Path) {
    let drive = Opts::keyed("if", "none").set("id", "disk0").set("format", "qcow2");
    // The overlay dies with the test: what matters is that a killed QEMU keeps what the guest wrote, and the
    // host's page cache does.
    line.push("-drive", drive.set("cache", "unsafe").set("discard", "unmap").path("file", overlay));
    // 0 is the kernel's that QEMU loads itself.
    let with_drive = |opts: Opts| opts.set("drive", "disk0").set("bootindex", 1);
    match disk.bus {
        DiskBus::VirtioBlk => line.push("-device", with_drive(pci("virtio-blk-pci", "sysdisk", 0x5))),
        DiskBus::VirtioScsi => {
            line.push("-device", pci("virtio-scsi-pci", "scsi0", 0x5));
            line.push("-device", with_drive(Opts::new("scsi-hd").set("id", "sysdisk").set("bus", "scsi0.0")));
        }
        // The chipset's own AHCI controller.
        DiskBus::Sata => {
            line.push("-device", with_drive(Opts::new("ide-hd").set("id", "sysdisk").set("bus", "ide.0")));
        }
        DiskBus::Nvme => {
            line.push("-device", with_drive(pci("nvme", "sysdisk", 0x5).set("serial", "rackless-system")));
        }
    }
}

/// The first data disk's place on the root bus; the others follow.
const FIRST_DATA_SLOT: u8 = 0x8;

fn data_disks(line: &mut CommandLine, spec: &MachineSpec, files: &[PathBuf]) {
    for ((disk, file), slot) in spec.data_disks.iter().zip(files).zip(FIRST_DATA_SLOT..) {
        let id = format!("data-{}", disk.name);
        let drive = Opts::keyed("if", "none").set("id", &id).set("format", "qcow2");
        line.push("-drive", drive.set("cache", "unsafe").set("discard", "unmap").path("file", file));
        let device = pci("virtio-blk-pci", &format!("disk-{}", disk.name), slot);
        line.push("-device", device.set("drive", id).set("serial", &disk.name));
    }
}

fn monitors_and_console(line: &mut CommandLine, wiring: &Wiring) {
    match &wiring.plugs {
        Plugs::Driver { qmp, qmp_people, serial, .. } => {
            line.push("-chardev", socket("qmp0", qmp));
            line.push("-mon", Opts::keyed("chardev", "qmp0").set("mode", "control"));
            line.push("-chardev", socket("qmp1", qmp_people).set("server", "on").set("wait", "off"));
            line.push("-mon", Opts::keyed("chardev", "qmp1").set("mode", "control"));
            line.push("-chardev", socket("serial0", serial));
            line.push("-serial", "chardev:serial0");
        }
        Plugs::ByHand => line.push("-serial", "mon:stdio"),
    }
}

fn agent(line: &mut CommandLine, spec: &MachineSpec, wiring: &Wiring) {
    let Some(agent) = &spec.agent else { return };
    if let Some(disk) = agent.disk() {
        let drive = Opts::keyed("if", "none").set("id", "agentdisk").set("format", "raw");
        line.push("-drive", drive.set("readonly", "on").path("file", disk));
        let device = pci("virtio-blk-pci", "agentblk", 0x6).set("drive", "agentdisk");
        line.push("-device", device.set("serial", "rackless-agent"));
    }
    match (agent.channel, &wiring.plugs) {
        (Channel::Virtserial, plugs) => {
            line.push("-device", pci("virtio-serial-pci", "vser0", 0x7));
            let (agent, journal) = match plugs {
                Plugs::Driver { agent, journal, .. } => (agent.as_deref(), journal.as_deref()),
                Plugs::ByHand => (None, None),
            };
            for (nr, id, chardev, name, path) in [
                (1, AGENT_PORT_ID, "agent0", agent_proto::PORT_NAME, agent),
                (2, "journalport", "journal0", agent_proto::JOURNAL_PORT_NAME, journal),
            ] {
                let null = || Opts::new("null").set("id", chardev);
                line.push("-chardev", path.map_or_else(null, |path| socket(chardev, path)));
                let port = Opts::new("virtserialport").set("bus", "vser0.0").set("nr", nr);
                line.push("-device", port.set("chardev", chardev).set("id", id).set("name", name));
            }
        }
        (Channel::Vsock, Plugs::Driver { cid: Some(cid), .. }) => {
            line.push("-device", pci("vhost-vsock-pci", "vsock0", 0x7).set("guest-cid", cid));
        }
        (Channel::VhostUserVsock, Plugs::Driver { agent: Some(path), .. }) => {
            line.push("-chardev", socket("vsock0", path));
            line.push("-device", pci("vhost-user-vsock-pci", "vsockdev", 0x7).set("chardev", "vsock0"));
        }
        _ => {}
    }
}

/// The first virtio console: `hvc0` in the guest. It is beside the agent's ports if there are any, and else on a controller
/// of its own, which has the place of the agent's disk: no disk brings an agent into a machine with a shell.
fn backdoor(line: &mut CommandLine, spec: &MachineSpec, wiring: &Wiring) {
    if spec.first_shell() != Some(&ShellSpec::Backdoor) {
        return;
    }
    match spec.agent.as_ref().map(|agent| agent.channel) {
        Some(Channel::Virtserial) => {}
        None => line.push("-device", pci("virtio-serial-pci", "vser0", 0x7)),
        Some(Channel::Vsock | Channel::VhostUserVsock) => {
            line.push("-device", pci("virtio-serial-pci", "vser0", 0x6));
        }
    }
    let chardev = match &wiring.plugs {
        Plugs::Driver { shell: Some(path), .. } => socket("shell0", path),
        _ => Opts::new("null").set("id", "shell0"),
    };
    line.push("-chardev", chardev);
    line.push(
        "-device",
        Opts::new("virtconsole").set("bus", "vser0.0").set("chardev", "shell0").set("id", "shellport"),
    );
}

pub(super) fn credentials(line: &mut CommandLine, spec: &MachineSpec) {
    use base64::Engine as _;
    for (name, content) in &spec.credentials {
        let encoded = base64::engine::general_purpose::STANDARD.encode(content);
        let value = format!("io.systemd.credential.binary:{name}={encoded}");
        line.push("-smbios", Opts::keyed("type", 11).set("value", value));
    }
}

fn pci(model: &str, id: &str, slot: u8) -> Opts {
    Opts::new(model).set("id", id).set("bus", "pcie.0").set("addr", format!("{slot:#x}"))
}

pub(super) fn socket(id: &str, path: &Path) -> Opts {
    Opts::new("socket").set("id", id).path("path", path)
}

#[cfg(test)]
mod tests;
