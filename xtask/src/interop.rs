//! Tests against code that is not ours: tshark, DHCP clients, VDE, ser2net, the kernel's own interfaces. They are `#[ignore]`d,
//! since they need programs, kernels and privileges that not every host has.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::closing::Closing;
use crate::command::Command;
use crate::setup::{self, Host, Need, needs};
use crate::workspace;

/// What `cargo xtask interop` was asked.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Don't ask before installing what is missing
    #[arg(long, short)]
    yes: bool,
}

/// One test binary and what all of its ignored tests need.
struct Suite {
    package: &'static str,
    test: &'static str,
    /// What it is about.
    about: &'static str,
    needs: &'static [&'static Need],
    root: bool,
    kernel: &'static [Kernel],
}

/// Something of the kernel's, which no package brings.
#[derive(Clone, Copy)]
enum Kernel {
    Tun,
    /// A kind of interface.
    Link(&'static str),
}

const SUITES: &[Suite] = &[
    Suite {
        package: "switch",
        test: "tshark",
        about: "captures and LLDP, read by tshark",
        needs: &[&needs::TSHARK],
        root: false,
        kernel: &[],
    },
    Suite {
        package: "switch",
        test: "vde",
        about: "vde_plug, dpipe and QEMU's -netdev vde",
        needs: &[&needs::VDE_PLUG],
        root: false,
        kernel: &[],
    },
    Suite {
        package: "switch",
        test: "vxlan",
        about: "the kernel's vxlan",
        needs: &[&needs::IP, &needs::PING],
        root: true,
        kernel: &[Kernel::Link("veth"), Kernel::Link("vxlan")],
    },
    Suite {
        package: "switch",
        test: "interfaces",
        about: "taps and NICs",
        needs: &[&needs::IP],
        root: true,
        kernel: &[Kernel::Tun, Kernel::Link("veth")],
    },
    Suite {
        package: "board",
        test: "ser2net",
        about: "serial lines behind ser2net",
        needs: &[&needs::SER2NET],
        root: false,
        kernel: &[],
    },
    Suite {
        package: "services",
        test: "clients",
        about: "udhcpc, dhclient, dhcpcd, kdig, curl, the kernel's SLAAC",
        needs: &[
            &needs::IP,
            &needs::PING,
            &needs::UDHCPC,
            &needs::DHCLIENT,
            &needs::DHCPCD,
            &needs::KDIG,
            &needs::CURL,
        ],
        root: true,
        kernel: &[Kernel::Tun],
    },
];

impl Kernel {
    /// Why it can't be had.
    fn lacking(self, host: &Host) -> Option<String> {
        match self {
            Self::Tun => {
                let tun = host.at("/dev/net/tun");
                let opened = std::fs::OpenOptions::new().read(true).write(true).open(tun);
                opened.err().map(|error| format!("/dev/net/tun: {error}"))
            }
            Self::Link(kind) => {
                let probe = ["--net", "ip", "link", "add", "probe", "type", kind];
                // A VXLAN device is not made without its network's number and its port.
                let more: &[&str] = if kind == "vxlan" { &["id", "1", "dstport", "4789"] } else { &[] };
                let made = Command::new("unshare").args(probe).args(more).capture();
                let no = || Some(format!("the kernel makes no {kind} device here"));
                if made.is_ok_and(|made| made.status.success()) { None } else { no() }
            }
        }
    }
}

impl Suite {
    /// Why it can't run here, whatever is installed.
    fn refused(&self, host: &Host) -> Option<String> {
        (self.root && !host.superuser).then(|| "it needs root".to_owned())
    }

    /// Why it can't run with what is there now.
    fn lacking(&self, host: &Host) -> Option<String> {
        let missing: Vec<&str> =
            self.needs.iter().filter(|need| need.missing(host)).map(|need| need.what).collect();
        let programs = || (!missing.is_empty()).then(|| format!("it needs {}", missing.join(", ")));
        let kernel = || self.kernel.iter().find_map(|kernel| kernel.lacking(host));
        self.refused(host).or_else(programs).or_else(kernel)
    }
}

/// Installs what is missing, and runs all that this user may.
///
/// # Errors
/// What can't be installed, and a suite that fails; the others ran.
pub(crate) fn run(options: Options) -> Result<()> {
    let root = workspace::root()?;
    let host = Host::detect();
    let may = SUITES.iter().filter(|suite| suite.refused(&host).is_none());
    let mut wanted: Vec<&Need> = Vec::new();
    for need in may.flat_map(|suite| suite.needs.iter().copied()) {
        if !wanted.iter().any(|other| other.what == need.what) {
            wanted.push(need);
        }
    }
    setup::install(&wanted, options.yes)?;
    let mut closing = Closing::default();
    let verdict = suites(&root, &mut closing);
    print!("\n{}", closing.lines());
    println!("{}", verdict?);
    Ok(())
}

/// Runs what can run with what is there, and says what can't, and why.
///
/// # Errors
/// A suite that fails; the others ran.
pub(crate) fn suites(root: &Path, closing: &mut Closing) -> Result<String> {
    let host = Host::detect();
    let (mut ran, mut left_out, mut failed) = (0, Vec::new(), Vec::new());
    for suite in SUITES {
        if let Some(why) = suite.lacking(&host) {
            eprintln!("left out: {} ({}): {why}", suite.test, suite.about);
            left_out.push(suite.test);
            continue;
        }
        eprintln!("{} of {}: {}", suite.test, suite.package, suite.about);
        let start = Instant::now();
        // As the stages select crates, so that no dependency is compiled anew with other features.
        let command =
            Command::cargo(root).args(["test", "--workspace", "--test", suite.test, "--", "--ignored"]);
        let status = command.tee(&mut |line| closing.line(line))?;
        eprintln!("{}: {:.1} s", suite.test, start.elapsed().as_secs_f64());
        if !status.success() {
            failed.push(command.to_string());
        }
        ran += 1;
    }
    if !failed.is_empty() {
        bail!("interoperability: {} failed; its own words are above", failed.join(", "));
    }
    let out = if left_out.is_empty() { "none".to_owned() } else { left_out.join(", ") };
    Ok(format!("interoperability: {ran} suites passed, left out: {out}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn suite(test: &str) -> &'static Suite {
        SUITES.iter().find(|suite| suite.test == test).unwrap()
    }

    #[test]
    fn who_is_not_root_is_told_so_before_anything_else() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { superuser: false, ..Host::of(root.path()) };
        assert_eq!(suite("clients").lacking(&host).as_deref(), Some("it needs root"));
        assert_eq!(suite("tshark").refused(&host), None);
    }

    #[test]
    fn a_suite_is_left_out_for_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { superuser: true, ..Host::of(root.path()) };
        assert_eq!(suite("tshark").lacking(&host).as_deref(), Some("it needs tshark"));
        let program = root.path().join("usr/bin/tshark");
        fs_err::create_dir_all(program.parent().unwrap()).unwrap();
        fs_err::write(&program, "").unwrap();
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(suite("tshark").lacking(&host), None);
        let told = Kernel::Tun.lacking(&host).unwrap();
        assert!(told.starts_with("/dev/net/tun: "), "{told}");
    }

    /// Each suite is a test binary of its crate, and has ignored tests.
    #[test]
    fn the_suites_are_there() {
        let root = workspace::root().unwrap();
        for suite in SUITES {
            let path =
                root.join("driver").join(suite.package).join("tests").join(format!("{}.rs", suite.test));
            let text = fs_err::read_to_string(&path).unwrap();
            assert!(text.contains("#[ignore = "), "{} has no ignored test", path.display());
        }
    }
}
