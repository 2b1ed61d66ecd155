//! The system as a whole: who it is, its name, its clock, its end.

use crate::exec::{argv, capture};
use crate::failure::{Answer, Doing, failure};
use agent_proto::message::{Failure, FailureKind, Info, Power, Reply, Status};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::fs;
use std::time::Duration;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

pub(crate) fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

pub(crate) async fn info() -> Result<Info, Failure> {
    let os_release = [read("/etc/os-release"), read("/usr/lib/os-release")];
    let os_release = os_release.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let systemd = capture(&argv(&["systemctl", "--version"]), Duration::from_secs(10)).await.ok();
    let systemd_version = systemd.and_then(|(_, text)| {
        text.split_whitespace().nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).doing("read the clock")?;
    Ok(Info {
        os_release: os_release.lines().filter_map(key_value).collect(),
        systemd_version,
        boot_id: boot_id(),
        machine_id: read("/etc/machine-id"),
        hostname: read("/proc/sys/kernel/hostname"),
        kernel: read("/proc/sys/kernel/osrelease"),
        uptime_ms: u64::try_from(Duration::from(uptime).as_millis()).unwrap_or(u64::MAX),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn key_value(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    Some((key.to_owned(), value.to_owned()))
}

pub(crate) fn set_hostname(name: &str, persist: bool) -> Answer {
    nix::unistd::sethostname(name).doing(format_args!("set the host name to `{name}`"))?;
    if persist {
        fs::write("/etc/hostname", format!("{name}\n")).doing("write /etc/hostname")?;
    }
    Ok(Reply::Done)
}

pub(crate) fn set_time(seconds: i64, nanoseconds: u32) -> Answer {
    let time = TimeSpec::new(seconds, nanoseconds.into());
    clock_settime(ClockId::CLOCK_REALTIME, time).doing("set the clock")?;
    Ok(Reply::Done)
}

/// Replied before the end: whether the agent could bring it about at all.
pub(crate) fn may_go_down() -> Answer {
    if nix::unistd::geteuid().is_root() {
        Ok(Reply::Done)
    } else {
        Err(failure(FailureKind::Denied, "the agent isn't root: it can't stop the machine or use sysrq"))
    }
}

/// What is done once the reply is out.
pub(crate) enum After {
    Sysrq(char),
    Power(Power),
}

impl After {
    pub(crate) async fn perform(self) -> Result<(), Failure> {
        match self {
            Self::Sysrq(key) => {
                fs::write("/proc/sysrq-trigger", key.to_string()).doing("write /proc/sysrq-trigger")
            }
            Self::Power(Power::Reboot) => systemctl("reboot").await,
            Self::Power(Power::Poweroff) => systemctl("poweroff").await,
            Self::Power(Power::ForcedReboot) => forced(RebootMode::RB_AUTOBOOT).await,
            Self::Power(Power::ForcedPoweroff) => forced(RebootMode::RB_POWER_OFF).await,
        }
    }
}

async fn systemctl(verb: &str) -> Result<(), Failure> {
    let (status, output) =
        capture(&argv(&["systemctl", "--no-block", verb]), Duration::from_secs(30)).await?;
    match status {
        Status::Code(0) => Ok(()),
        status => {
            Err(failure(FailureKind::Io, format!("`systemctl {verb}`: {status}: {}", output.trim_end())))
        }
    }
}

async fn forced(mode: RebootMode) -> Result<(), Failure> {
    let work = move || {
        nix::unistd::sync();
        let Err(error) = reboot(mode);
        error
    };
    let error = tokio::task::spawn_blocking(work).await.unwrap_or(nix::errno::Errno::EIO);
    Err(error).doing("call reboot(2)")
}

#[cfg(test)]
mod tests {
    use super::key_value;

    #[test]
    fn os_release_is_unquoted() {
        assert_eq!(key_value("NAME=\"Debian GNU/Linux\""), Some(("NAME".into(), "Debian GNU/Linux".into())));
        assert_eq!(key_value("ID=debian"), Some(("ID".into(), "debian".into())));
        assert_eq!(key_value("# comment"), None);
    }
}
