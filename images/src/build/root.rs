//! The root, from packages: mmdebstrap, as root or as a plain user in a user namespace.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, User};
use process::Command;

use crate::error::{At, Error};
use crate::progress::{Phase, Reporter};
use crate::recipe::{Initrd, Packages};
use crate::tools::{Job, MMDEBSTRAP, NEWUIDMAP, UNSHARE};

/// A slow mirror and a loaded machine have room; a build that hangs ends.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Left out of the root: nobody reads them in a test.
const EXCLUDED: [&str; 4] =
    ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// Checks what a build needs before it begins, so that a missing piece is told at once and not after a minute.
pub(crate) fn check_host() -> Result<(), Error> {
    MMDEBSTRAP.find()?;
    if Uid::effective().is_root() {
        return Ok(());
    }
    NEWUIDMAP.find()?;
    UNSHARE.find()?;
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !has_range(&text, &user, uid.as_raw()) {
            return Err(Error::NoSubordinateIds { user, file });
        }
    }
    Ok(())
}

/// Whether subuid(5) gives the user 65536 ids.
fn has_range(text: &str, user: &str, uid: u32) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        matches!(fields[..], [who, _, count] if (who == user || who == uid.to_string())
            && count.trim().parse::<u32>().is_ok_and(|count| count >= 65_536))
    })
}

/// What a root is built from.
pub(crate) struct Order<'a> {
    pub(crate) packages: &'a Packages,
    pub(crate) mirror: Option<&'a str>,
    pub(crate) hook: &'a str,
    /// Whether the kernel's package is to have its initrd made.
    pub(crate) initrd: Initrd,
    /// A directory for temporary files that every user of the host can enter: mmdebstrap's own user is another.
    pub(crate) scratch: &'a Path,
}

/// Builds the root into a tar at `tar`.
pub(crate) fn build(order: &Order<'_>, tar: &Path, log: &Path, report: &Reporter) -> Result<(), Error> {
    let output = File::create(tar).at("create", tar)?;
    let mut command = MMDEBSTRAP
        .command()?
        .env("TMPDIR", order.scratch)
        .env("SOURCE_DATE_EPOCH", super::EPOCH.to_string())
        .arg(format!("--mode={}", mode()?))
        .args(["--variant=minbase", "--format=tar"])
        .arg(format!("--architectures={}", order.packages.architecture))
        .arg(format!("--include={}", order.packages.packages.join(",")))
        .arg(format!("--customize-hook={}", order.hook));
    if order.initrd == Initrd::Small {
        // Debian's hook for kernels then makes no initrd: ours replaces it.
        command = command.env("INITRD", "No");
    }
    for path in EXCLUDED {
        command = command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command = command.args([&order.packages.suite, "-"]);
    if let Some(mirror) = order.mirror {
        command = command.arg(mirror);
    }
    let job = Job {
        image: report.image(),
        operation: "building the root from packages",
        log: Some(log),
        limit: LIMIT,
    };
    report.phase(Phase::Index);
    let mut now = Phase::Index;
    job.run(command.stdout(process::Stdio::File(output)), |line| {
        if let Some(phase) = phase(line).filter(|phase| *phase > now) {
            now = phase;
            report.phase(phase);
        }
    })
}

/// The phase that a line of mmdebstrap's begins.
fn phase(line: &str) -> Option<Phase> {
    let line = line.strip_prefix("I: ")?;
    [
        ("downloading packages", Phase::Download),
        ("extracting archives", Phase::Install),
        ("installing", Phase::Install),
        ("creating tarball", Phase::Pack),
    ]
    .into_iter()
    .find_map(|(begin, phase)| line.starts_with(begin).then_some(phase))
}

/// A user namespace also as root where the host lets us: the packages' scripts then can't touch the host.
fn mode() -> Result<&'static str, Error> {
    if !Uid::effective().is_root() {
        return Ok("unshare");
    }
    let probe = Command::new(UNSHARE.find()?).args([
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "true",
    ]);
    let works = process::run_blocking(probe, Duration::from_secs(20)).is_ok_and(|output| output.success());
    Ok(if works { "unshare" } else { "root" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mmdebstrap_are_phases() {
        assert_eq!(phase("I: downloading packages with apt..."), Some(Phase::Download));
        assert_eq!(phase("I: installing remaining packages inside the chroot..."), Some(Phase::Install));
        assert_eq!(phase("I: creating tarball..."), Some(Phase::Pack));
        assert_eq!(phase("Setting up systemd (257) ..."), None);
    }

    #[test]
    fn subordinate_ids_are_found_by_name_or_number_and_must_suffice() {
        assert!(has_range("ann:100000:65536\n", "ann", 1000));
        assert!(has_range("bob:1:1\n1000:100000:65536\n", "ann", 1000));
        assert!(!has_range("ann:100000:1000\n", "ann", 1000));
        assert!(!has_range("", "ann", 1000));
    }
}
