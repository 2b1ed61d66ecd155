//! What Rackless needs from the host, how to see whether it is there, and which package brings it.
//!
//! Probes look at files only: a set-up with nothing to do starts no program.

use super::host::{Family, Host};
use super::subuid;

/// One thing that must be there.
pub(crate) struct Need {
    /// Its name to a reader.
    pub(crate) what: &'static str,
    /// What for.
    pub(crate) why: &'static str,
    probe: Probe,
    /// Variables that, all set, say where it is instead (the Nix shell does that).
    instead: &'static [&'static str],
    packages: Packages,
}

enum Probe {
    /// Every one of these programs.
    Programs(&'static [&'static str]),
    /// One of these programs.
    AnyProgram(&'static [&'static str]),
    /// Every file of one of these groups.
    AnyFiles(&'static [&'static [&'static str]]),
}

struct Packages {
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    suse: &'static str,
    alpine: &'static str,
}

/// OVMF as distributions place it: code and variables.
const FIRMWARE: &[&[&str]] = &[
    &["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"],
    &["/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"],
    &["/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"],
    &["/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"],
    &["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"],
    &["/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"],
];

const STATIC_LIBC: &[&[&str]] =
    &[&["/usr/lib/x86_64-linux-gnu/libc.a"], &["/usr/lib64/libc.a"], &["/usr/lib/libc.a"]];

const KEYRING: &[&[&str]] = &[
    &["/usr/share/keyrings/debian-archive-keyring.gpg"],
    &["/usr/share/keyrings/debian-archive-keyring.pgp"],
];

pub(crate) const NEEDS: &[Need] = &[
    Need {
        what: "QEMU for x86-64",
        why: "runs the machines of a test",
        probe: Probe::Programs(&["qemu-system-x86_64"]),
        instead: &["RACKLESS_QEMU"],
        packages: Packages {
            debian: super::apt::EMULATOR,
            fedora: "qemu-system-x86",
            arch: "qemu-system-x86",
            suse: "qemu-x86",
            alpine: "qemu-system-x86_64",
        },
    },
    Need {
        what: "qemu-img",
        why: "makes the overlay that each machine writes to",
        probe: Probe::Programs(&["qemu-img"]),
        instead: &[],
        packages: Packages {
            debian: "qemu-utils",
            fedora: "qemu-img",
            arch: "qemu-img",
            suse: "qemu-img",
            alpine: "qemu-img",
        },
    },
    Need {
        what: "UEFI firmware (OVMF)",
        why: "boots a .wic the way a board does",
        probe: Probe::AnyFiles(FIRMWARE),
        instead: &["RACKLESS_FIRMWARE_CODE", "RACKLESS_FIRMWARE_VARS"],
        packages: Packages {
            debian: "ovmf",
            fedora: "edk2-ovmf",
            arch: "edk2-ovmf",
            suse: "qemu-ovmf-x86_64",
            alpine: "ovmf",
        },
    },
    Need {
        what: "mmdebstrap",
        why: "builds a Debian root from packages, without root",
        probe: Probe::Programs(&["mmdebstrap"]),
        instead: &[],
        packages: Packages {
            debian: "mmdebstrap",
            fedora: "mmdebstrap",
            arch: "mmdebstrap",
            suse: "mmdebstrap",
            alpine: "mmdebstrap",
        },
    },
    Need {
        what: "newuidmap and newgidmap",
        why: "let mmdebstrap use the user's range of subordinate ids",
        probe: Probe::Programs(&["newuidmap", "newgidmap"]),
        instead: &[],
        packages: Packages {
            debian: "uidmap",
            fedora: "shadow-utils",
            arch: "shadow",
            suse: "shadow",
            alpine: "shadow-uidmap",
        },
    },
    Need {
        what: "unshare",
        why: "enters the user namespace in which the root is packed",
        probe: Probe::Programs(&["unshare"]),
        instead: &[],
        packages: Packages {
            debian: "util-linux",
            fedora: "util-linux",
            arch: "util-linux",
            suse: "util-linux",
            alpine: "util-linux-misc",
        },
    },
    Need {
        what: "mke2fs and debugfs",
        why: "make the root file system and the agent's disk",
        probe: Probe::Programs(&["mke2fs", "debugfs"]),
        instead: &[],
        packages: Packages {
            debian: "e2fsprogs",
            fedora: "e2fsprogs",
            arch: "e2fsprogs",
            suse: "e2fsprogs",
            alpine: "e2fsprogs e2fsprogs-extra",
        },
    },
    Need {
        what: "Debian's archive keyring",
        why: "checks the signatures of the packages that go into an image",
        probe: Probe::AnyFiles(KEYRING),
        instead: &[],
        packages: Packages {
            debian: "debian-archive-keyring",
            fedora: "debian-keyring",
            arch: "debian-archive-keyring",
            suse: "debian-archive-keyring",
            alpine: "debian-archive-keyring",
        },
    },
    Need {
        what: "a C compiler",
        why: "links Rust programs and builds the C inside zstd-sys and blake3",
        probe: Probe::AnyProgram(&["cc", "gcc", "clang"]),
        instead: &[],
        packages: Packages { debian: "gcc", fedora: "gcc", arch: "gcc", suse: "gcc", alpine: "gcc" },
    },
    Need {
        what: "the C library for static linking",
        why: "the guest agent is one static binary",
        probe: Probe::AnyFiles(STATIC_LIBC),
        instead: &[],
        packages: Packages {
            debian: "libc6-dev",
            fedora: "glibc-static",
            arch: "glibc",
            suse: "glibc-devel-static",
            alpine: "musl-dev",
        },
    },
];

/// What only benchmarks need: programs to compare with.
pub(crate) const PEERS: &[Need] = &[
    Need {
        what: "vde_switch",
        why: "the switch that ours is measured beside",
        probe: Probe::Programs(&["vde_switch"]),
        instead: &[],
        packages: Packages { debian: "vde2", fedora: "vde2", arch: "vde2", suse: "vde2", alpine: "vde2" },
    },
    Need {
        what: "ssh",
        why: "a way into a guest that ours is measured beside",
        probe: Probe::Programs(&["ssh", "ssh-keygen"]),
        instead: &[],
        packages: Packages {
            debian: "openssh-client",
            fedora: "openssh-clients",
            arch: "openssh",
            suse: "openssh-clients",
            alpine: "openssh-client",
        },
    },
];

// What only the tests of interoperability need, and those of boards ser2net: the other side.

pub(crate) const TSHARK: Need = Need {
    what: "tshark",
    why: "reads captures",
    probe: Probe::Programs(&["tshark"]),
    instead: &[],
    packages: Packages {
        debian: "tshark",
        fedora: "wireshark-cli",
        arch: "wireshark-cli",
        suse: "wireshark",
        alpine: "tshark",
    },
};

pub(crate) const VDE_PLUG: Need = Need {
    what: "vde_plug and dpipe",
    why: "connect to a VDE switch",
    probe: Probe::Programs(&["vde_plug", "dpipe"]),
    instead: &[],
    packages: Packages { debian: "vde2", fedora: "vde2", arch: "vde2", suse: "vde2", alpine: "vde2" },
};

pub(crate) const SER2NET: Need = Need {
    what: "ser2net",
    why: "serves serial lines over TCP",
    probe: Probe::Programs(&["ser2net"]),
    instead: &[],
    packages: Packages {
        debian: "ser2net",
        fedora: "ser2net",
        arch: "ser2net",
        suse: "ser2net",
        alpine: "ser2net",
    },
};

pub(crate) const IP: Need = Need {
    what: "ip",
    why: "makes interfaces and namespaces",
    probe: Probe::Programs(&["ip"]),
    instead: &[],
    packages: Packages {
        debian: "iproute2",
        fedora: "iproute",
        arch: "iproute2",
        suse: "iproute2",
        alpine: "iproute2",
    },
};

pub(crate) const PING: Need = Need {
    what: "ping",
    why: "asks the other end",
    probe: Probe::Programs(&["ping"]),
    instead: &[],
    packages: Packages {
        debian: "iputils-ping",
        fedora: "iputils",
        arch: "iputils",
        suse: "iputils",
        alpine: "iputils",
    },
};

pub(crate) const UDHCPC: Need = Need {
    what: "udhcpc",
    why: "a DHCP client",
    probe: Probe::Programs(&["udhcpc"]),
    instead: &[],
    packages: Packages {
        debian: "udhcpc",
        fedora: "busybox",
        arch: "busybox",
        suse: "busybox",
        alpine: "busybox",
    },
};

pub(crate) const DHCLIENT: Need = Need {
    what: "dhclient",
    why: "a DHCP client",
    probe: Probe::Programs(&["dhclient"]),
    instead: &[],
    packages: Packages {
        debian: "isc-dhcp-client",
        fedora: "dhcp-client",
        arch: "dhclient",
        suse: "dhcp-client",
        alpine: "dhclient",
    },
};

pub(crate) const DHCPCD: Need = Need {
    what: "dhcpcd",
    why: "a DHCP client",
    probe: Probe::Programs(&["dhcpcd"]),
    instead: &[],
    packages: Packages {
        debian: "dhcpcd-base",
        fedora: "dhcpcd",
        arch: "dhcpcd",
        suse: "dhcpcd",
        alpine: "dhcpcd",
    },
};

pub(crate) const KDIG: Need = Need {
    what: "kdig",
    why: "asks for names",
    probe: Probe::Programs(&["kdig"]),
    instead: &[],
    packages: Packages {
        debian: "knot-dnsutils",
        fedora: "knot-utils",
        arch: "knot",
        suse: "knot-utils",
        alpine: "knot-utils",
    },
};

pub(crate) const CURL: Need = Need {
    what: "curl",
    why: "fetches files",
    probe: Probe::Programs(&["curl"]),
    instead: &[],
    packages: Packages { debian: "curl", fedora: "curl", arch: "curl", suse: "curl", alpine: "curl" },
};

impl Need {
    /// Whether the host lacks it.
    pub(crate) fn missing(&self, host: &Host) -> bool {
        let told = !self.instead.is_empty();
        if told && self.instead.iter().all(|name| host.ours.iter().any(|ours| ours == name)) {
            return false;
        }
        match self.probe {
            Probe::Programs(names) => !names.iter().all(|name| host.has_program(name)),
            Probe::AnyProgram(names) => !names.iter().any(|name| host.has_program(name)),
            Probe::AnyFiles(groups) => {
                !groups.iter().any(|group| group.iter().all(|file| host.at(file).is_file()))
            }
        }
    }

    /// The packages that bring it, named as this host names them; on an unknown host, as Debian does.
    pub(crate) fn packages(&self, family: Family) -> impl Iterator<Item = &'static str> + use<> {
        let names = match family {
            Family::Debian | Family::Other => self.packages.debian,
            Family::Fedora => self.packages.fedora,
            Family::Arch => self.packages.arch,
            Family::Suse => self.packages.suse,
            Family::Alpine => self.packages.alpine,
        };
        names.split_whitespace()
    }
}

/// What is there but keeps Rackless slower or an image from being built: said, never a failure of set-up.
pub(crate) fn notes(host: &Host) -> Vec<String> {
    let mut notes = Vec::new();
    let kvm = host.at("/dev/kvm");
    if kvm.exists() {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(&kvm) {
            notes.push(format!(
                "/dev/kvm can't be opened ({error}): tests run under TCG, several times slower. When your user \
                 may use it: `sudo usermod -aG kvm {}` and a new login",
                host.user
            ));
        }
    } else {
        notes.push(
            "no /dev/kvm: tests run under TCG, several times slower; deadlines are scaled for it".into(),
        );
    }
    if sysctl(host, "kernel/unprivileged_userns_clone") == Some(0) && !host.superuser {
        notes.push(
            "user namespaces are off for users (kernel.unprivileged_userns_clone=0): images can't be built \
             without root until `sudo sysctl kernel.unprivileged_userns_clone=1`"
                .into(),
        );
    }
    if sysctl(host, "user/max_user_namespaces") == Some(0) {
        notes.push(
            "user namespaces are off (user.max_user_namespaces=0): images can't be built until \
             `sudo sysctl user.max_user_namespaces=10000`"
                .into(),
        );
    }
    let restricted = sysctl(host, "kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    if restricted && !host.superuser && !host.at("/etc/apparmor.d/mmdebstrap").exists() {
        notes.push(
            "AppArmor may refuse user namespaces (kernel.apparmor_restrict_unprivileged_userns=1): if building \
             an image is refused, `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
                .into(),
        );
    }
    notes
}

fn sysctl(host: &Host, name: &str) -> Option<u64> {
    std::fs::read_to_string(host.at("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// Whether the user's range of subordinate ids is missing in either file.
pub(crate) fn subordinate_ids_missing(host: &Host) -> bool {
    ["/etc/subuid", "/etc/subgid"].iter().any(|file| {
        let text = std::fs::read_to_string(host.at(file)).unwrap_or_default();
        !subuid::has_range(&text, &host.user)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn put(root: &Path, path: &str, mode: u32) {
        let file = root.join(path.trim_start_matches('/'));
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, "x").unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn missing(host: &Host) -> Vec<&'static str> {
        NEEDS.iter().filter(|need| need.missing(host)).map(|need| need.what).collect()
    }

    #[test]
    fn an_empty_host_lacks_everything_and_a_full_one_nothing() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::of(root.path());
        assert_eq!(missing(&host).len(), NEEDS.len());
        for program in
            ["qemu-system-x86_64", "qemu-img", "mmdebstrap", "newuidmap", "newgidmap", "unshare", "clang"]
        {
            put(root.path(), &format!("/usr/bin/{program}"), 0o755);
        }
        for program in ["mke2fs", "debugfs"] {
            put(root.path(), &format!("/usr/sbin/{program}"), 0o755);
        }
        for file in ["/usr/lib64/libc.a", "/usr/share/keyrings/debian-archive-keyring.pgp"] {
            put(root.path(), file, 0o644);
        }
        put(root.path(), "/usr/share/edk2/x64/OVMF_CODE.4m.fd", 0o644);
        assert_eq!(missing(&host), ["UEFI firmware (OVMF)"], "code without variables is not enough");
        put(root.path(), "/usr/share/edk2/x64/OVMF_VARS.4m.fd", 0o644);
        assert_eq!(missing(&host), [""; 0]);
    }

    #[test]
    fn the_environment_may_say_where_things_are() {
        let root = tempfile::tempdir().unwrap();
        let mut host = Host::of(root.path());
        host.ours = vec!["RACKLESS_QEMU".into(), "RACKLESS_FIRMWARE_CODE".into()];
        assert!(!missing(&host).contains(&"QEMU for x86-64"));
        assert!(missing(&host).contains(&"UEFI firmware (OVMF)"), "variables are needed as well");
        host.ours.push("RACKLESS_FIRMWARE_VARS".into());
        assert!(!missing(&host).contains(&"UEFI firmware (OVMF)"));
    }

    #[test]
    fn a_file_that_cannot_be_run_is_no_program() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "/usr/bin/qemu-img", 0o644);
        assert!(missing(&Host::of(root.path())).contains(&"qemu-img"));
    }

    #[test]
    fn every_need_names_a_package_everywhere() {
        let interop = [&TSHARK, &VDE_PLUG, &IP, &PING, &UDHCPC, &DHCLIENT, &DHCPCD, &KDIG, &CURL];
        for need in NEEDS.iter().chain(PEERS).chain(interop) {
            for family in [Family::Debian, Family::Fedora, Family::Arch, Family::Suse, Family::Alpine] {
                assert!(need.packages(family).count() > 0, "{} on {family:?}", need.what);
            }
        }
    }

    #[test]
    fn ranges_must_be_in_both_files() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::of(root.path());
        assert!(subordinate_ids_missing(&host));
        fs_err::create_dir_all(root.path().join("etc")).unwrap();
        fs_err::write(root.path().join("etc/subuid"), "ada:100000:65536\n").unwrap();
        assert!(subordinate_ids_missing(&host));
        fs_err::write(root.path().join("etc/subgid"), "ada:100000:65536\n").unwrap();
        assert!(!subordinate_ids_missing(&host));
    }
}
