//! Stages of boot, and what shows them on a console.

use std::fmt;
use std::sync::LazyLock;

use regex::RegexSet;

/// How far a boot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The machine is on; nothing was printed yet.
    Spawned,
    /// Something was printed: SeaBIOS, OVMF, a board's ROM.
    Firmware,
    /// systemd-boot, GRUB, U-Boot, or the kernel's EFI stub.
    Bootloader,
    /// The kernel.
    Kernel,
    /// Process 1, in the initrd or on the root filesystem.
    Init,
    /// The agent answers. Not seen on the console: see [`Console::set_stage`](super::Console::set_stage).
    Agent,
    /// The boot is done. Not seen on the console.
    Ready,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Spawned => "Spawned",
            Stage::Firmware => "Firmware",
            Stage::Bootloader => "Bootloader",
            Stage::Kernel => "Kernel",
            Stage::Init => "Init",
            Stage::Agent => "Agent",
            Stage::Ready => "Ready",
        })
    }
}

/// Tells the stage from lines. A line may be given again when more of it came: a pattern that matches its beginning
/// matches all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageDetector;

static PATTERNS: LazyLock<(RegexSet, Vec<Stage>)> = LazyLock::new(|| {
    let patterns = [
        (
            Stage::Bootloader,
            r"systemd-boot|GNU GRUB|GRUB loading|Welcome to GRUB!|U-Boot \d|ISOLINUX|SYSLINUX",
        ),
        (
            Stage::Bootloader,
            r"^\s*(Booting `|Loading Linux |Loading initial ramdisk|Boot in \d+ ?s|EFI stub: )",
        ),
        (Stage::Kernel, r"Linux version \d|^\[ {4}0\.\d{6}\]|^(Decompressing|Uncompressing) Linux"),
        (
            Stage::Init,
            r"^(\[[ \d]+\.\d+\](\[ *[TC]\d+\])? )?(systemd\[1\]: |Run /(init|sbin/init)\b|INIT: version )",
        ),
        // Not GRUB, which welcomes too.
        (Stage::Init, r"^(<<< )?Welcome to ([^G]|G[^R]).*(!| >>>)"),
        (Stage::Init, r"^\[ +OK +\] |^Begin: (Loading essential drivers|Running /scripts/init-top)"),
    ];
    let set =
        RegexSet::new(patterns.iter().map(|(_, pattern)| pattern)).expect("the patterns above are valid");
    (set, patterns.iter().map(|(stage, _)| *stage).collect())
});

impl StageDetector {
    /// The latest stage that a line, without escape sequences, shows.
    pub fn of_line(line: &str) -> Option<Stage> {
        let (set, stages) = &*PATTERNS;
        set.matches(line).iter().map(|index| stages[index]).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_real_boots() {
        for (line, stage) in [
            ("BdsDxe: loading Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)", None),
            ("Welcome to GRUB!", Some(Stage::Bootloader)),
            ("  Booting `Debian GNU/Linux'", Some(Stage::Bootloader)),
            ("Loading Linux 6.12.43+deb13-cloud-amd64 ...", Some(Stage::Bootloader)),
            ("EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path", Some(Stage::Bootloader)),
            (
                "[    0.000000] Linux version 6.12.43+deb13-cloud-amd64 (debian-kernel@lists.debian.org)",
                Some(Stage::Kernel),
            ),
            ("[    1.234567] Run /init as init process", Some(Stage::Init)),
            ("[    5.123456] systemd[1]: systemd 257.8-1~deb13u2 running in system mode", Some(Stage::Init)),
            ("Welcome to Debian GNU/Linux 13 (trixie)!", Some(Stage::Init)),
            ("<<< Welcome to NixOS 25.05 (x86_64) - ttyS0 >>>", Some(Stage::Init)),
            ("Loading, please wait...", None),
            ("root@server-1:~# echo Welcome to nowhere!", None),
        ] {
            assert_eq!(StageDetector::of_line(line), stage, "{line}");
        }
    }

    #[test]
    fn stages_are_ordered() {
        assert!(
            Stage::Spawned < Stage::Firmware && Stage::Init < Stage::Agent && Stage::Agent < Stage::Ready
        );
    }
}
