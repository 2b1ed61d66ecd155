//! What the host has for tests, and where this user's locks are.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::{Error, Settings};

/// Virtual CPUs for each core of the host: guests wait a lot while they boot.
const VCPUS_PER_CORE: u32 = 2;

/// Virtual CPUs that may be booting at once, for each core of the host. Measured under TCG on two cores: two machines
/// boot in the time of one, four in that of two waves of two; more at once get in each other's way.
const BOOTING_VCPUS_PER_CORE: u32 = 2;

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// How many virtual CPUs may be booting at once.
pub(super) fn booting_vcpus(settings: &Settings) -> u32 {
    settings.booting_vcpus.unwrap_or(BOOTING_VCPUS_PER_CORE * cores()).max(1)
}

/// What tests may use together.
#[derive(Debug, Clone)]
pub(super) struct Capacity {
    /// The most they can ever get, in MiB.
    pub(super) most_mib: u64,
    /// How `most_mib` came about, for an error.
    pub(super) basis: String,
    /// What they can get now, if no test holds anything, in MiB.
    pub(super) free_mib: u64,
    /// How `free_mib` came about.
    pub(super) free_basis: String,
    pub(super) vcpus: u32,
}

impl Capacity {
    pub(super) fn of_host(settings: &Settings) -> Result<Self, Error> {
        let vcpus = settings.vcpus.unwrap_or(VCPUS_PER_CORE * cores()).max(1);
        if let Some(memory_mib) = settings.memory_mib {
            let basis = "as RACKLESS_MEMORY or --memory says".to_owned();
            let free_basis = basis.clone();
            return Ok(Self { most_mib: memory_mib, basis, free_mib: memory_mib, free_basis, vcpus });
        }
        let path = Path::new("/proc/meminfo");
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let group = group_limit_mib(Path::new("/sys/fs/cgroup"), &own_group());
        Ok(Self::from_figures(field_mib(&text, "MemTotal"), field_mib(&text, "MemAvailable"), group, vcpus))
    }

    fn from_figures(total: u64, available: u64, group: Option<u64>, vcpus: u32) -> Self {
        let (whole, what) = match group {
            Some(limit) if limit < total => (limit, "the control group's limit"),
            _ => (total, "MemTotal"),
        };
        // For the host itself and the test processes.
        let reserve = (whole / 10).clamp(512, 4096);
        Self {
            most_mib: whole.saturating_sub(reserve),
            basis: format!("{what} of {whole} MiB less a reserve of {reserve} MiB"),
            free_mib: available.min(whole).saturating_sub(reserve),
            free_basis: format!(
                "{available} MiB of {whole} MiB are available, other programs use the rest, less a reserve of \
                 {reserve} MiB"
            ),
            vcpus,
        }
    }
}

fn field_mib(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Path of this process's control group (version 2) below the mount point.
fn own_group() -> String {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned()
}

/// The smallest limit on the way up from a control group, in MiB.
fn group_limit_mib(mount: &Path, group: &str) -> Option<u64> {
    let leaf = mount.join(group);
    let on_the_way = leaf.ancestors().take_while(|dir| dir.starts_with(mount));
    let limits =
        on_the_way.filter_map(|dir| fs::read_to_string(dir.join("memory.max")).ok()?.trim().parse().ok());
    limits.min().map(|bytes: u64| bytes >> 20)
}

/// `$XDG_RUNTIME_DIR/rackless`, else `/tmp/rackless-<uid>`; ours alone.
pub(super) fn runtime_dir() -> Result<PathBuf, Error> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir());
    let dir = match named {
        Some(dir) => Path::new(&dir).join("rackless"),
        None => PathBuf::from(format!("/tmp/rackless-{}", nix::unistd::geteuid())),
    };
    private_dir(&dir)?;
    Ok(dir)
}

/// Makes a directory, or checks one, that only this user can enter: `/tmp` is everyone's, and a stranger's directory
/// could block our tests.
fn private_dir(dir: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("create", dir)(error)),
    }
    let found = fs::symlink_metadata(dir).map_err(Error::io("look at", dir))?;
    let refuse = |reason: String| Err(Error::RuntimeDir { path: dir.to_path_buf(), reason });
    if !found.is_dir() {
        return refuse("it is not a directory".into());
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return refuse(format!("it belongs to user {}; set XDG_RUNTIME_DIR, or remove it", found.uid()));
    }
    if found.mode() & 0o077 != 0 {
        return refuse(format!("others may enter it (mode {:o}); chmod 700 it", found.mode() & 0o777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn figures() {
        let text = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   8000000 kB\n";
        assert_eq!((field_mib(text, "MemTotal"), field_mib(text, "MemAvailable")), (15625, 7812));
        let host = Capacity::from_figures(16384, 8192, None, 4);
        assert_eq!((host.most_mib, host.free_mib), (14746, 6554));
        let grouped = Capacity::from_figures(16384, 8192, Some(4096), 4);
        assert_eq!((grouped.most_mib, grouped.free_mib), (3584, 3584));
        assert!(grouped.basis.contains("control group"));
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let mount = tempfile::tempdir().expect("a temporary directory");
        let leaf = mount.path().join("user/tests");
        fs::create_dir_all(&leaf).expect("creates");
        fs::write(leaf.join("memory.max"), "max\n").expect("writes");
        fs::write(mount.path().join("user/memory.max"), "1073741824\n").expect("writes");
        assert_eq!(group_limit_mib(mount.path(), "user/tests"), Some(1024));
        assert_eq!(group_limit_mib(mount.path(), ""), None);
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = parent.path().join("rackless");
        private_dir(&dir).expect("made");
        private_dir(&dir).expect("found");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("changes the mode");
        assert!(private_dir(&dir).expect_err("refused").to_string().contains("mode 755"));
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).expect("links");
        assert!(private_dir(&link).expect_err("refused").to_string().contains("not a directory"));
    }
}
