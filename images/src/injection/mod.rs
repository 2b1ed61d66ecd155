//! Getting the agent and a machine's own configuration into a guest whose image says nothing of either.
//!
//! systemd 254 and later take units and networkd files as credentials from SMBIOS (systemd.system-credentials(7)): the
//! image stays untouched, see [`credentials`]. Older ones get the same files written into a copy: [`by_debugfs`].

mod credentials;
mod debugfs;
mod unit;

pub use credentials::{CREDENTIALS_MAX, credentials, smbios_values};
pub use debugfs::by_debugfs;

use crate::error::Error;

/// The serial number of the disk that [`crate::Store::agent_disk`] makes, by which the guest finds it.
pub const AGENT_SERIAL: &str = "rackless-agent";
/// The file system label of that disk.
pub const AGENT_LABEL: &str = "rackless-agent";
/// The agent's file name, on that disk and in an image that it was written into.
pub const AGENT_FILE: &str = "rackless-agent";
/// The unit that runs the agent.
pub const AGENT_UNIT: &str = "rackless-agent.service";
/// The first systemd that takes units as credentials (`systemd.extra-unit.*`).
pub const CREDENTIALS_SINCE: u32 = 254;

/// What a machine gets besides its image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Injection {
    /// Whether the agent is started.
    pub agent: bool,
    /// The agent's arguments; without any it serves the virtserialport and vsock.
    pub agent_args: Vec<String>,
    /// The hostname. By credentials it counts only where the image has no `/etc/hostname`.
    pub hostname: Option<String>,
    /// Files of systemd-networkd: name (`20-cluster.network`, also `.netdev`, `.link`) and content.
    pub networkd: Vec<(String, String)>,
    /// Rules of udev: name (`05-names.rules`) and content. As credentials they count from systemd 256 on.
    pub udev: Vec<(String, String)>,
}

/// The kind and the stem of a networkd file's name.
fn networkd_kind(name: &str) -> Result<(&'static str, &str), Error> {
    let (stem, kind) = [".network", ".netdev", ".link"]
        .into_iter()
        .find_map(|kind| Some((name.strip_suffix(kind)?, &kind[1..])))
        .ok_or_else(|| bad_name(name, "a networkd file ends in .network, .netdev or .link"))?;
    check_stem(name, stem)?;
    Ok((kind, stem))
}

/// The stem of a udev rules file's name.
fn udev_stem(name: &str) -> Result<&str, Error> {
    let stem = name.strip_suffix(".rules").ok_or_else(|| bad_name(name, "udev's rules end in .rules"))?;
    check_stem(name, stem)?;
    Ok(stem)
}

fn bad_name(name: &str, problem: &'static str) -> Error {
    Error::BadCredential { name: name.to_owned(), problem }
}

fn check_stem(name: &str, stem: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    if stem.is_empty() || stem.len() > 200 || !stem.bytes().all(plain) || stem.starts_with('.') {
        return Err(bad_name(name, "use letters, digits and -_.:@ before the suffix"));
    }
    Ok(())
}

/// Checks a hostname by RFC 1123, which is what systemd takes.
fn check_hostname(name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(bad_name(name, "it is no hostname (RFC 1123, at most 64 bytes)"))
}
