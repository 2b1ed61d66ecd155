//! Finds what the host lacks, says it, and installs it where that is possible.

mod apt;
mod host;
pub(crate) mod needs;
mod privileged;
mod subuid;
mod vsock;

use std::time::Instant;

use anyhow::{Result, bail};

use crate::command::Command;
use host::Family;
pub(crate) use host::Host;
pub(crate) use needs::Need;
use needs::{NEEDS, PEERS};
use privileged::Privileged;

/// What `cargo xtask setup` was asked.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only say what is missing; exit 1 when something is
    #[arg(long)]
    check: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Show the commands, run none that changes anything
    #[arg(long)]
    dry_run: bool,
}

impl Options {
    /// As part of another command.
    pub(crate) fn unattended(yes: bool) -> Self {
        Self { yes, ..Self::default() }
    }
}

/// Sets the host up. Where nothing is missing, this reads a few dozen paths and starts no program.
///
/// # Errors
/// Something is missing and can't, or may not, be installed from here.
pub(crate) fn run(options: Options) -> Result<()> {
    let start = Instant::now();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("Rackless runs on x86-64 Linux");
    }
    let host = Host::detect();
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| need.missing(&host)).collect();
    let no_ids = needs::subordinate_ids_missing(&host);
    let no_daemon = vsock::wanted_and_missing()?;

    if missing.is_empty() && !no_ids && !no_daemon {
        println!("set-up: everything is here, nothing to do ({:.2} s)", start.elapsed().as_secs_f64());
        if options.check {
            note(&host);
        }
        return Ok(());
    }

    println!("set-up: this host ({}) lacks", host.pretty);
    for need in &missing {
        let packages: Vec<_> = need.packages(host.family).collect();
        println!("  {:<34} {} [{}]", need.what, need.why, packages.join(" "));
    }
    if no_ids {
        println!(
            "  {:<34} mmdebstrap unpacks a root as them [usermod]",
            format!("subordinate ids for {}", host.user)
        );
    }
    if no_daemon {
        println!("  {:<34} RACKLESS_CHANNEL=vsock asks for it [cargo install]", vsock::PROGRAM);
    }
    if options.check {
        note(&host);
        bail!("set-up is not complete: `cargo xtask setup` completes it");
    }

    let consent = privileged::Consent { yes: options.yes, dry_run: options.dry_run };
    let mut privileged = Privileged::new(&host, consent);
    let packages = packages(&missing, host.family);
    if !packages.is_empty() {
        if host.family != Family::Debian {
            bail!(by_hand(&host, &packages, no_ids));
        }
        apt::install(&packages, &mut privileged)?;
    }
    if no_ids {
        privileged.about("subordinate ids");
        privileged.run(&usermod(&host))?;
    }
    if no_daemon {
        vsock::install(options.dry_run)?;
    }
    if options.dry_run {
        return Ok(());
    }

    let still: Vec<&str> = NEEDS.iter().filter(|need| need.missing(&host)).map(|need| need.what).collect();
    if !still.is_empty() {
        bail!(
            "installed, and still not found: {}. Where they are looked for stands in xtask/src/setup/needs.rs",
            still.join(", ")
        );
    }
    note(&host);
    println!("set-up: done ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// Installs what benchmarks compare with.
///
/// # Errors
/// As [`install`].
pub(crate) fn peers(yes: bool) -> Result<()> {
    install(&PEERS.iter().collect::<Vec<_>>(), yes)
}

/// Installs what a few of the VM tests need besides. Where that is not possible they are ignored, with the reason, so that it
/// is no error.
pub(crate) fn for_vm_tests(yes: bool) {
    if let Err(error) = install(&[&needs::SER2NET], yes) {
        eprintln!("note: tests of boards behind {} will be ignored: {error:#}", needs::SER2NET.what);
    }
}

/// Installs what is missing of these.
///
/// # Errors
/// It can't, or may not, be installed from here.
pub(crate) fn install(needs: &[&Need], yes: bool) -> Result<()> {
    let host = Host::detect();
    let missing: Vec<&Need> = needs.iter().copied().filter(|need| need.missing(&host)).collect();
    let packages = packages(&missing, host.family);
    if packages.is_empty() {
        return Ok(());
    }
    if host.family != Family::Debian {
        bail!(by_hand(&host, &packages, false));
    }
    let consent = privileged::Consent { yes, dry_run: false };
    apt::install(&packages, &mut Privileged::new(&host, consent))?;
    match needs.iter().find(|need| need.missing(&host)) {
        Some(need) => bail!("installed, and still not found: {}", need.what),
        None => Ok(()),
    }
}

fn note(host: &Host) {
    for note in needs::notes(host) {
        println!("note: {note}");
    }
}

/// Each package once, in the order of [`NEEDS`].
fn packages(missing: &[&Need], family: Family) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for package in missing.iter().flat_map(|need| need.packages(family)) {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

fn usermod(host: &Host) -> Command {
    let read = |file: &str| std::fs::read_to_string(host.at(file)).unwrap_or_default();
    let (first, last) = subuid::free_range(&read("/etc/subuid"), &read("/etc/subgid"));
    let range = format!("{first}-{last}");
    Command::new("usermod").args(["--add-subuids", &range, "--add-subgids", &range, &host.user])
}

/// What someone on another distribution does.
fn by_hand(host: &Host, packages: &[&str], no_ids: bool) -> String {
    let names = packages.join(" ");
    let install = match host.family {
        Family::Debian | Family::Other => format!("the packages that Debian calls {names}"),
        Family::Fedora => format!("sudo dnf install {names}"),
        Family::Arch => format!("sudo pacman -S --needed {names}   (mmdebstrap is in the AUR)"),
        Family::Suse => format!("sudo zypper install {names}"),
        Family::Alpine => format!("sudo apk add {names}"),
    };
    let ids = if no_ids { format!("\n  sudo {}", usermod(host)) } else { String::new() };
    format!(
        "set-up installs by itself only on Debian and Ubuntu. Here, install\n  {install}{ids}\nor use the Nix \
         shell, which has all of it:\n  nix develop\nThen run this again. (Names for this distribution are given \
         to the best of our knowledge; only Debian 12's were tried.)"
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn host(family: Family) -> Host {
        Host {
            root: PathBuf::from("/nonexistent"),
            family,
            pretty: "a test".into(),
            user: "ada".into(),
            superuser: false,
            path: Vec::new(),
            ours: Vec::new(),
        }
    }

    #[test]
    fn elsewhere_packages_and_the_nix_shell_are_named() {
        let all: Vec<&Need> = NEEDS.iter().collect();
        for (family, tool) in [
            (Family::Fedora, "dnf install qemu-system-x86 "),
            (Family::Arch, "pacman"),
            (Family::Suse, "zypper"),
            (Family::Alpine, "apk add"),
            (Family::Other, "Debian calls qemu-system-x86 "),
        ] {
            let text = by_hand(&host(family), &packages(&all, family), true);
            assert!(text.contains(tool) && text.contains("nix develop"), "{text}");
            assert!(text.contains("usermod --add-subuids 100000-165535"), "{text}");
        }
    }

    #[test]
    fn a_package_is_asked_for_once() {
        let all: Vec<&Need> = NEEDS.iter().chain(NEEDS).collect();
        let once = packages(&all, Family::Debian);
        assert_eq!(once.iter().filter(|name| **name == apt::EMULATOR).count(), 1);
        assert_eq!(once.len(), NEEDS.len());
    }
}
