//! KVM where it really works, TCG elsewhere; decided once and said once.
//!
//! That `/dev/kvm` opens says little: there are software and nested KVMs on which QEMU aborts or a stock
//! kernel hangs. So a kernel is booted on it, with a deadline, and must reach its init.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Command;

use super::Qemu;
use crate::Error;

/// How long the probe's kernel may take to fail for want of a root file system. On KVM it takes a second.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The kernel's hypervisor.
    Kvm,
    /// QEMU's own translator: works everywhere, and is about ten times slower.
    Tcg,
}

impl Accel {
    /// The factor on every deadline: what is quick on KVM takes longer without it.
    #[must_use]
    pub fn time_factor(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 4,
        }
    }

    /// The CPU model; under TCG a [lean](crate::spec::Tuning::lean_cpu) one, or all that QEMU knows (measured: boots a
    /// quarter faster than with `max`).
    #[must_use]
    pub fn cpu(self, lean: bool) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg if !lean => "max",
            Self::Tcg => "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// An accelerator, and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The accelerator.
    pub accel: Accel,
    /// One clause: `RACKLESS_ACCEL asks for it`, `/dev/kvm can't be opened: …`.
    pub reason: String,
}

/// Chooses the accelerator.
///
/// `RACKLESS_ACCEL` (`kvm`, `tcg`, `auto`) decides when set. Otherwise KVM is taken if `/dev/kvm` opens and a
/// kernel boots on it: `kernel` is any Linux kernel image at hand. The answer of the probe is kept in
/// `memory`, a folder, for as long as the host runs the same kernel boot and the same QEMU and guest kernel.
///
/// # Errors
/// [`Error::AccelUnknown`] for another word in `RACKLESS_ACCEL`, [`Error::KvmUnusable`] when `kvm` is asked
/// for and `/dev/kvm` can't be opened.
pub async fn choose(qemu: &Qemu, kernel: Option<&Path>, memory: &Path) -> Result<Choice, Error> {
    let asked = std::env::var("RACKLESS_ACCEL").unwrap_or_default();
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match asked.as_str() {
        "tcg" => return Ok(Choice { accel: Accel::Tcg, reason: "RACKLESS_ACCEL asks for it".into() }),
        "kvm" => {
            return match device {
                Ok(_) => Ok(Choice { accel: Accel::Kvm, reason: "RACKLESS_ACCEL asks for it".into() }),
                Err(source) => Err(Error::KvmUnusable { source }),
            };
        }
        "" | "auto" => {}
        _ => return Err(Error::AccelUnknown { asked }),
    }
    if let Err(source) = device {
        return Ok(Choice { accel: Accel::Tcg, reason: format!("/dev/kvm can't be opened: {source}") });
    }
    let Some(kernel) = kernel else {
        return Ok(Choice {
            accel: Accel::Tcg,
            reason: "/dev/kvm opens, but no kernel is at hand to try it".into(),
        });
    };
    let note = memory.join(format!("kvm-{}", probe_key(qemu, kernel)));
    if let Ok(text) = fs_err::read_to_string(&note)
        && let Some((word, reason)) = text.trim_end().split_once(' ')
    {
        let accel = if word == "kvm" { Accel::Kvm } else { Accel::Tcg };
        return Ok(Choice { accel, reason: reason.to_owned() });
    }
    let choice = probe(qemu, kernel).await;
    let word = if choice.accel == Accel::Kvm { "kvm" } else { "tcg" };
    // A probe that can't be remembered is only made again.
    if fs_err::create_dir_all(memory).is_ok()
        && let Err(error) = fs_err::write(&note, format!("{word} {}\n", choice.reason))
    {
        tracing::debug!(%error, "the KVM probe's answer could not be kept");
    }
    Ok(choice)
}

/// A key that changes whenever the probe could answer otherwise.
fn probe_key(qemu: &Qemu, kernel: &Path) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(fs_err::read("/proc/sys/kernel/random/boot_id").unwrap_or_default().as_slice());
    hash.update(qemu.version.to_string().as_bytes());
    for path in [&qemu.program, &PathBuf::from(kernel)] {
        hash.update(path.as_os_str().as_encoded_bytes());
        if let Ok(meta) = fs_err::metadata(path) {
            hash.update(&meta.len().to_le_bytes());
        }
    }
    hash.finalize().to_hex()[..16].to_owned()
}

/// Boots `kernel` on KVM without a root file system: a working KVM brings it to its panic, and `panic=-1`
/// with `-no-reboot` ends QEMU.
async fn probe(qemu: &Qemu, kernel: &Path) -> Choice {
    let command = Command::new(&qemu.program)
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 panic=-1 mitigations=off"])
        .arg("-kernel")
        .arg(kernel);
    match process::run(command, PROBE_LIMIT).await {
        Ok(output) => {
            judge(output.status.success(), &String::from_utf8_lossy(&output.stdout), &output.stderr)
        }
        Err(process::Error::Limit { .. }) => Choice {
            accel: Accel::Tcg,
            reason: format!("/dev/kvm opens, but a Linux kernel hangs on it for {} s", PROBE_LIMIT.as_secs()),
        },
        Err(error) => Choice { accel: Accel::Tcg, reason: format!("the KVM probe did not run: {error}") },
    }
}

fn judge(exited_well: bool, console: &str, stderr: &[u8]) -> Choice {
    if exited_well && console.contains("Linux version") && console.contains("Kernel panic - not syncing") {
        return Choice { accel: Accel::Kvm, reason: "a Linux kernel boots on /dev/kvm".into() };
    }
    let stderr = String::from_utf8_lossy(stderr);
    let said = stderr.lines().find(|l| !l.trim().is_empty()).unwrap_or("no message").trim().to_owned();
    Choice { accel: Accel::Tcg, reason: format!("/dev/kvm opens, but QEMU fails on it: {said}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_reached_its_panic_is_a_working_kvm() {
        let console = "Linux version 6.12\n…\nKernel panic - not syncing: VFS: Unable to mount root fs";
        assert_eq!(judge(true, console, b"").accel, Accel::Kvm);
    }

    #[test]
    fn an_abort_names_what_qemu_said() {
        let choice = judge(false, "", b"qemu: error: failed to set MSR 0x10a\nassertion");
        assert_eq!(choice.accel, Accel::Tcg);
        assert!(choice.reason.contains("failed to set MSR 0x10a"), "{}", choice.reason);
    }

    #[test]
    fn silence_is_no_kvm() {
        assert_eq!(judge(true, "", b"").accel, Accel::Tcg);
    }
}
