//! Which host this is, as far as set-up must know.

use std::path::{Path, PathBuf};

/// Families of distributions that name packages alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Debian, Ubuntu and what is built from them: the one that set-up installs on.
    Debian,
    Fedora,
    Arch,
    Suse,
    Alpine,
    Other,
}

/// The host as probes see it. `root` is `/` but in tests.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    pub(crate) family: Family,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub(crate) pretty: String,
    pub(crate) user: String,
    pub(crate) superuser: bool,
    /// Where programs are looked for, inside `root`.
    pub(crate) path: Vec<PathBuf>,
    /// The variables of the environment that are ours: `RACKLESS_QEMU` and the like.
    pub(crate) ours: Vec<String>,
}

impl Host {
    /// This machine.
    pub(crate) fn detect() -> Self {
        let root = Path::new("/");
        let release = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|file| std::fs::read_to_string(root.join(file)).ok())
            .unwrap_or_default();
        let uid = effective_uid();
        let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| user_name(&passwd, uid));
        let user = name.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| uid.to_string());
        let path = std::env::var_os("PATH").unwrap_or_default();
        // An unprivileged user's PATH on Debian leaves out where mke2fs lies.
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        Self {
            root: root.to_owned(),
            family: family(&release),
            pretty: field(&release, "PRETTY_NAME").unwrap_or_else(|| "an unknown system".into()),
            user,
            superuser: uid == 0,
            path: std::env::split_paths(&path).chain(system).collect(),
            ours: std::env::vars_os()
                .filter(|(name, value)| name.to_string_lossy().starts_with("RACKLESS_") && !value.is_empty())
                .map(|(name, _)| name.to_string_lossy().into_owned())
                .collect(),
        }
    }

    /// A Debian of an unprivileged user, whose files lie below `root`: for tests.
    #[cfg(test)]
    pub(crate) fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            family: Family::Debian,
            pretty: "a test".into(),
            user: "ada".into(),
            superuser: false,
            path: vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/sbin")],
            ours: Vec::new(),
        }
    }

    /// `path` (absolute) inside the host's root.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether a program of this name can be run.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        self.path.iter().map(|dir| self.at(dir).join(name)).any(|program| {
            program.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    }
}

fn effective_uid() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()).unwrap_or(u32::MAX)
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    })
}

fn field(release: &str, name: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn family(release: &str) -> Family {
    let ids = [field(release, "ID"), field(release, "ID_LIKE")].map(Option::unwrap_or_default).join(" ");
    let known = ids.split_whitespace().find_map(|id| match id {
        "debian" | "ubuntu" => Some(Family::Debian),
        "fedora" | "rhel" | "centos" => Some(Family::Fedora),
        "arch" => Some(Family::Arch),
        "alpine" => Some(Family::Alpine),
        id if id.contains("suse") => Some(Family::Suse),
        _ => None,
    });
    known.unwrap_or(Family::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_by_id_and_by_what_it_is_like() {
        assert_eq!(family("ID=debian\n"), Family::Debian);
        assert_eq!(family("NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Family::Debian);
        assert_eq!(family("ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n"), Family::Suse);
        assert_eq!(family("ID=nixos\n"), Family::Other);
        assert_eq!(family(""), Family::Other);
    }

    #[test]
    fn the_user_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/user:/bin/sh\nbroken\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("ada"));
        assert_eq!(user_name(passwd, 7), None);
    }
}
