//! Finds what no healthy boot prints: panics, oopses, emergency mode, failed units.
//!
//! A message of the kernel counts at the beginning of a line or behind a printk time stamp, so that a command that
//! only names it (`grep 'Kernel panic' …` typed on the console) does not.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use regex::{Regex, RegexSet};

/// Whether a finding ends a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The machine can't go on, or not as it should.
    Fatal,
    /// Worth telling. It may be wanted, or come from an overloaded host.
    Note,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// The kernel panicked.
    KernelPanic,
    /// The kernel made a mistake of its own: oops, BUG, general protection fault.
    Oops,
    /// A task was blocked for minutes.
    HungTask,
    /// The machine ran out of memory and a process was killed.
    OomKill,
    /// A filesystem is damaged or went read-only.
    FilesystemError,
    /// systemd gave up: emergency or rescue mode.
    EmergencyMode,
    /// The initrd found no root filesystem and stopped at a shell.
    InitramfsShell,
    /// A CPU did not schedule for long. Under emulation on a busy host this happens to healthy guests.
    SoftLockup,
    /// A CPU did not pass a grace period for long. As with a soft lockup, often the host is to blame.
    RcuStall,
    /// The kernel warns of a state that it did not expect.
    KernelWarning,
    /// A control group reached its memory limit and a process was killed.
    CgroupOomKill,
    /// A block device failed to read or write.
    IoError,
    /// systemd waited for a device in vain.
    DeviceTimeout,
    /// A unit, or what it depends on, failed.
    FailedUnit,
}

impl FindingKind {
    /// Whether it ends a test.
    pub fn severity(self) -> Severity {
        match self {
            FindingKind::KernelPanic
            | FindingKind::Oops
            | FindingKind::HungTask
            | FindingKind::OomKill
            | FindingKind::FilesystemError
            | FindingKind::EmergencyMode
            | FindingKind::InitramfsShell => Severity::Fatal,
            FindingKind::SoftLockup
            | FindingKind::RcuStall
            | FindingKind::KernelWarning
            | FindingKind::CgroupOomKill
            | FindingKind::IoError
            | FindingKind::DeviceTimeout
            | FindingKind::FailedUnit => Severity::Note,
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FindingKind::KernelPanic => "kernel panic",
            FindingKind::Oops => "kernel oops",
            FindingKind::HungTask => "hung task",
            FindingKind::OomKill => "out of memory",
            FindingKind::FilesystemError => "filesystem error",
            FindingKind::EmergencyMode => "emergency mode",
            FindingKind::InitramfsShell => "no root filesystem, shell of the initrd",
            FindingKind::SoftLockup => "soft lockup",
            FindingKind::RcuStall => "RCU stall",
            FindingKind::KernelWarning => "kernel warning",
            FindingKind::CgroupOomKill => "memory limit of a control group",
            FindingKind::IoError => "I/O error",
            FindingKind::DeviceTimeout => "device that does not appear",
            FindingKind::FailedUnit => "failed unit",
        })
    }
}

/// Something that the scanner found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// The line that shows it, without escape sequences.
    pub line: String,
    /// Time since power-on.
    pub at: Duration,
    /// What to do about it, where that is known.
    pub advice: Option<String>,
}

impl Finding {
    /// Whether it ends a test.
    pub fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the console after {:.1} s: {}", self.kind, self.at.as_secs_f64(), self.line.trim())?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

/// Behind a printk stamp (with the caller where CONFIG_PRINTK_CALLER is on), or at the line's beginning.
const PRINTK: &str = r"(?:^(?:<\d>)?|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )";

/// Kinds and their patterns; the first that matches names the line.
const KERNEL: [(FindingKind, &str); 11] = [
    (FindingKind::KernelPanic, r"Kernel panic - not syncing"),
    (FindingKind::SoftLockup, r"(?:watchdog: )?BUG: soft lockup"),
    (FindingKind::Oops, r"(?:BUG: |kernel BUG at |Oops: |Internal error: |double fault: )"),
    (FindingKind::Oops, r"(?:general protection fault[,:]|invalid opcode: 0000|Unable to handle kernel )"),
    (
        FindingKind::RcuStall,
        r"(?:rcu: )?INFO: rcu_\S+ (?:self-detected stall|detected (?:expedited )?stalls)",
    ),
    (FindingKind::HungTask, r"INFO: task .+ blocked for more than \d+ seconds"),
    (FindingKind::CgroupOomKill, r"Memory cgroup out of memory: "),
    (FindingKind::OomKill, r"Out of memory(?: and no killable processes|: Kill(?:ed)? process )"),
    (
        FindingKind::FilesystemError,
        r"(?:EXT4-fs error |EXT4-fs \(\S+\): Remounting filesystem read-only|XFS \(\S+\): (?:Corruption|Metadata corruption)|BTRFS error )",
    ),
    (
        FindingKind::IoError,
        r"(?:blk_update_request: |print_req_error: )?(?:I/O error, dev |Buffer I/O error on dev |critical medium error, dev )",
    ),
    (FindingKind::KernelWarning, r"WARNING: CPU: \d+ "),
];

const USER: [(FindingKind, &str); 6] = [
    (FindingKind::EmergencyMode, r"^You are in (?:emergency|rescue) mode"),
    (
        FindingKind::EmergencyMode,
        r"^\[ +OK +\] (?:Started|Reached target) (?:emergency|rescue)\.|^\[ +OK +\] (?:Started Emergency Shell|Started Rescue Shell|Reached target (?:Emergency|Rescue) Mode)|^Entering (?:emergency|rescue) mode",
    ),
    (FindingKind::EmergencyMode, r"^Cannot open access to console, the root account is locked"),
    (
        FindingKind::InitramfsShell,
        r"^(?:ALERT! .* does not exist|Gave up waiting for root (?:file system )?device|dracut-initqueue.*: Warning: .* does not exist)",
    ),
    (
        FindingKind::DeviceTimeout,
        r"^\[ *TIME *\] Timed out waiting for device |systemd\[1\]: Timed out waiting for device ",
    ),
    (
        FindingKind::FailedUnit,
        r"^\[ *FAILED *\] |^\[ *DEPEND *\] |systemd\[1\]: Failed to start |systemd\[1\]: Dependency failed for ",
    ),
];

static RULES: LazyLock<(RegexSet, Vec<FindingKind>)> = LazyLock::new(|| {
    let kernel = KERNEL.iter().map(|(kind, pattern)| (*kind, format!("{PRINTK}{pattern}")));
    let rules: Vec<_> =
        kernel.chain(USER.iter().map(|(kind, pattern)| (*kind, (*pattern).to_owned()))).collect();
    let set = RegexSet::new(rules.iter().map(|(_, pattern)| pattern)).expect("the patterns above are valid");
    (set, rules.into_iter().map(|(kind, _)| kind).collect())
});

/// Prompts: no newline follows them, so they are looked for in the beginning of a line as well.
static PROMPT: LazyLock<Regex> = LazyLock::new(|| {
    let prompt =
        r"^\s*(?:(?<initramfs>\(initramfs\))|Give root password for maintenance|Press Enter for maintenance)";
    Regex::new(prompt).expect("the pattern above is valid")
});

/// A device that something waits for in vain, as it is written in the image.
static MISSING: LazyLock<Regex> = LazyLock::new(|| {
    let device = r"(?<device>/dev/[^\s.]+|(?:PART)?(?:UUID|LABEL)=\S+)";
    let missing = format!(
        r"(?:ALERT! +{device} +does not exist|Timed out waiting for device (?:\S+\.device - )?{device}|Warning: {device} does not exist)"
    );
    // The same group in each alternative, under different names.
    let mut count = 0;
    let named = missing.split("(?<device>").map(str::to_owned).reduce(|text, part| {
        count += 1;
        format!("{text}(?<device{count}>{part}")
    });
    Regex::new(&named.expect("a text has a first part")).expect("the pattern above is valid")
});

/// Scans line after line.
#[derive(Debug, Default, Clone)]
pub struct Scanner {
    missing: Option<String>,
    prompted: bool,
}

impl Scanner {
    /// Looks at the beginning of a line of which more may come.
    pub fn beginning(&mut self, line: &str, at: Duration) -> Option<Finding> {
        if self.prompted {
            return None;
        }
        let prompt = PROMPT.captures(line)?;
        self.prompted = true;
        let initramfs = prompt.name("initramfs").is_some();
        let kind = if initramfs { FindingKind::InitramfsShell } else { FindingKind::EmergencyMode };
        Some(self.finding(kind, &prompt[0], at))
    }

    /// Looks at a whole line, without its newline and escape sequences.
    pub fn line(&mut self, line: &str, at: Duration) -> impl Iterator<Item = Finding> + use<> {
        if let Some(missing) = MISSING.captures(line) {
            let device = missing.iter().skip(1).flatten().next().map(|device| device.as_str().to_owned());
            self.missing = device.or(self.missing.take());
        }
        let prompt = self.beginning(line, at);
        self.prompted = false;
        let (set, kinds) = &*RULES;
        let found = set.matches(line).iter().next().map(|rule| self.finding(kinds[rule], line, at));
        prompt.into_iter().chain(found)
    }

    fn finding(&self, kind: FindingKind, line: &str, at: Duration) -> Finding {
        let advice = match kind {
            FindingKind::EmergencyMode | FindingKind::InitramfsShell => {
                Some(bus_advice(self.missing.as_deref()))
            }
            FindingKind::DeviceTimeout => self.missing.as_deref().map(|device| bus_advice(Some(device))),
            FindingKind::SoftLockup | FindingKind::RcuStall => {
                Some("A host with more to do than it has cores causes this in healthy guests.".to_owned())
            }
            _ => None,
        };
        Finding { kind, line: line.to_owned(), at, advice }
    }
}

/// By far the most common reason for emergency mode of a foreign image: it names its disk by a bus that it is not on.
fn bus_advice(device: Option<&str>) -> String {
    let Some(device) = device else {
        return "If the image's fstab or kernel command line names a disk (/dev/sda1, /dev/vda1), its bus must fit: \
                set `bus` to \"virtio-blk\", \"virtio-scsi\" or \"sata\" in the TOML beside the image. \
                The console log says what failed before."
            .to_owned();
    };
    let bus = match device.strip_prefix("/dev/") {
        Some(name) if name.starts_with("sd") => "`bus = \"virtio-scsi\"` (or \"sata\")",
        Some(name) if name.starts_with("vd") => "`bus = \"virtio-blk\"`",
        _ => {
            return format!(
                "The image waits for {device}, which did not appear. If no partition has that name, the image is \
                 wrong; if one has, its initrd lacks the driver of the disk's bus: set `bus` to \"virtio-blk\", \
                 \"virtio-scsi\" or \"sata\" in the TOML beside the image."
            );
        }
    };
    format!(
        "The image's fstab or kernel command line names {device}, and there is no such disk on this bus: \
         set {bus} in the TOML beside the image."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Vec<Finding> {
        let mut scanner = Scanner::default();
        text.lines().flat_map(|line| scanner.line(line, Duration::from_secs(1))).collect()
    }

    fn kinds(text: &str) -> Vec<FindingKind> {
        scan(text).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn a_line_has_its_kind() {
        for (line, kind) in [
            ("[   12.345678] Kernel panic - not syncing: sysrq triggered crash", FindingKind::KernelPanic),
            (
                "[   12.345678][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs",
                FindingKind::KernelPanic,
            ),
            (
                "server-1 login: [   99.000001] Kernel panic - not syncing: Fatal exception",
                FindingKind::KernelPanic,
            ),
            ("[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000000", FindingKind::Oops),
            (
                "[    9.100000] Oops: general protection fault, probably for non-canonical address",
                FindingKind::Oops,
            ),
            ("[    9.100000] kernel BUG at mm/slub.c:448!", FindingKind::Oops),
            (
                "[   60.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
                FindingKind::SoftLockup,
            ),
            ("[   60.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", FindingKind::RcuStall),
            ("[   60.000000] rcu: INFO: rcu_sched self-detected stall on CPU", FindingKind::RcuStall),
            (
                "[  242.000000] INFO: task jbd2/vda2-8:123 blocked for more than 120 seconds.",
                FindingKind::HungTask,
            ),
            (
                "[   30.000000] Out of memory: Killed process 512 (etcd) total-vm:11223344kB",
                FindingKind::OomKill,
            ),
            (
                "[   30.000000] Memory cgroup out of memory: Killed process 512 (stress)",
                FindingKind::CgroupOomKill,
            ),
            (
                "[   30.000000] EXT4-fs error (device vda2): ext4_lookup:1855: inode #2",
                FindingKind::FilesystemError,
            ),
            (
                "[   30.000000] I/O error, dev vda, sector 2048 op 0x0:(READ) flags 0x80700",
                FindingKind::IoError,
            ),
            (
                "[   30.000000] Buffer I/O error on dev vda2, logical block 0, async page read",
                FindingKind::IoError,
            ),
            ("[   30.000000] WARNING: CPU: 1 PID: 77 at kernel/softirq.c:362", FindingKind::KernelWarning),
            (
                "You are in emergency mode. After logging in, type \"journalctl -xb\" to view",
                FindingKind::EmergencyMode,
            ),
            ("You are in rescue mode. After logging in, type", FindingKind::EmergencyMode),
            ("[  OK  ] Started emergency.service - Emergency Shell.", FindingKind::EmergencyMode),
            ("[  OK  ] Reached target emergency.target - Emergency Mode.", FindingKind::EmergencyMode),
            ("Cannot open access to console, the root account is locked.", FindingKind::EmergencyMode),
            ("Give root password for maintenance", FindingKind::EmergencyMode),
            ("(initramfs) ", FindingKind::InitramfsShell),
            ("[FAILED] Failed to start etcd.service - etcd.", FindingKind::FailedUnit),
            ("[DEPEND] Dependency failed for data.mount - /data.", FindingKind::FailedUnit),
            ("[    7.000000] systemd[1]: Failed to start etcd.service - etcd.", FindingKind::FailedUnit),
            (
                "[ TIME ] Timed out waiting for device dev-sda1.device - /dev/sda1.",
                FindingKind::DeviceTimeout,
            ),
        ] {
            assert_eq!(kinds(line), [kind], "{line}");
        }
    }

    #[test]
    fn what_only_names_them_is_not_found() {
        for line in [
            "root@server-1:~# grep -c 'Kernel panic - not syncing' /var/log/kern.log",
            "Nov 21 10:00:00 server-1 kernel: BUG: unable to handle page fault",
            "[    1.000000] Kernel command line: panic=-1 emergency",
            "[    1.000000] Memory: 1014532K/1048040K available",
            "[    1.200000] pstore: Registered oops backend",
            "[  OK  ] Started rescue-ssh.service",
            "[  OK  ] Started sshd.service - OpenBSD Secure Shell server.",
            "echo (initramfs)",
            "traps: app[123] general protection fault ip:1 sp:2 error:0",
        ] {
            assert_eq!(kinds(line), [], "{line}");
        }
    }

    #[test]
    fn emergency_mode_names_the_device_and_the_bus() {
        let found = scan(
            "[ TIME ] Timed out waiting for device dev-sda1.device - /dev/sda1.\n\
             [DEPEND] Dependency failed for boot-efi.mount - /boot/efi.\n\
             [DEPEND] Dependency failed for local-fs.target - Local File Systems.\n\
             You are in emergency mode. After logging in, type \"journalctl -xb\" to view\n",
        );
        let last = found.last().unwrap();
        assert_eq!((last.kind, last.severity()), (FindingKind::EmergencyMode, Severity::Fatal));
        assert_eq!(
            last.to_string(),
            "emergency mode on the console after 1.0 s: You are in emergency mode. After logging in, type \
             \"journalctl -xb\" to view\n  The image's fstab or kernel command line names /dev/sda1, and there is no \
             such disk on this bus: set `bus = \"virtio-scsi\"` (or \"sata\") in the TOML beside the image."
        );
        assert_eq!(found[1].severity(), Severity::Note);
    }

    #[test]
    fn older_systemd_and_initramfs_tools_name_the_device_too() {
        for (text, expected) in [
            (
                "[ TIME ] Timed out waiting for device /dev/vda1.\nPress Enter for maintenance",
                "bus = \"virtio-blk\"",
            ),
            ("ALERT!  /dev/sda2 does not exist.  Dropping to a shell!", "bus = \"virtio-scsi\""),
            (
                "ALERT!  UUID=1b2c-3d4e does not exist.  Dropping to a shell!",
                "The image waits for UUID=1b2c-3d4e",
            ),
            ("Give root password for maintenance", "If the image's fstab"),
        ] {
            let advice = scan(text).pop().unwrap().advice.unwrap();
            assert!(advice.contains(expected), "{advice}");
        }
    }

    #[test]
    fn a_prompt_is_found_before_its_line_ends_and_only_once() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.beginning("(initr", Duration::ZERO), None);
        assert_eq!(
            scanner.beginning("(initramfs) ", Duration::ZERO).unwrap().kind,
            FindingKind::InitramfsShell
        );
        assert_eq!(scanner.beginning("(initramfs) ls", Duration::ZERO), None);
        assert_eq!(scanner.line("(initramfs) ls", Duration::ZERO).count(), 0);
        assert_eq!(scanner.line("(initramfs) ", Duration::ZERO).count(), 1);
    }
}
