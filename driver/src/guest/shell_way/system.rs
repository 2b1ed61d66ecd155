//! The guest as a whole, over a shell.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_proto::message::{Info, Power};

use super::ShellWay;
use crate::guest::{Exec, GuestError};

/// What going down may take to be begun.
const POWER_LIMIT: Duration = Duration::from_secs(30);

/// One fact a line, os-release last.
const INFO: &str =
    "uname -r; uname -n; cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id 2>/dev/null || echo
read -r up _ </proc/uptime; echo \"$up\"
systemctl --version 2>/dev/null | head -n 1 || :; echo -
cat /etc/os-release 2>/dev/null || cat /usr/lib/os-release 2>/dev/null || :";

impl ShellWay {
    pub(in crate::guest) async fn info(&self, limit: Duration) -> Result<Info, GuestError> {
        let text = self.script("system information", INFO.to_owned(), limit).await?;
        let nonsense = || GuestError::Nonsense {
            machine: self.machine.clone(),
            operation: "system information".to_owned(),
            answer: format!("{text:.200?}"),
        };
        read_info(&text).ok_or_else(nonsense)
    }

    pub(in crate::guest) async fn set_hostname(&self, name: &str, limit: Duration) -> Result<(), GuestError> {
        let script = "echo \"$1\" >/proc/sys/kernel/hostname; echo \"$1\" >/etc/hostname";
        self.tell(&format!("set the host name to {name}"), script, &[name], limit).await
    }

    pub(in crate::guest) async fn set_time(
        &self,
        time: SystemTime,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.tell("set the clock", "date -s \"@$1\"", &[&seconds.to_string()], limit).await
    }

    pub(in crate::guest) async fn sysrq(&self, key: char, limit: Duration) -> Result<(), GuestError> {
        // After the answer, for with some keys the guest is gone.
        let script =
            "{ sleep 0.2; echo \"$1\" >/proc/sysrq-trigger; } >/dev/null 2>&1 & [ -w /proc/sysrq-trigger ]";
        self.tell(&format!("sysrq {key}"), script, &[&key.to_string()], limit).await
    }

    pub(in crate::guest) async fn power(&self, power: Power) -> Result<(), GuestError> {
        let down = match power {
            Power::Reboot => "systemctl reboot || reboot",
            Power::Poweroff => "systemctl poweroff || poweroff",
            Power::ForcedReboot => "sync; reboot -f",
            Power::ForcedPoweroff => "sync; poweroff -f",
        };
        // It outlives its command, and the shell's session with it. After the answer, which would be asked for again and
        // again else, and typed to whatever reads the line next: firmware, a boot loader's menu.
        let script = format!("[ \"$(id -u)\" = 0 ]; setsid sh -c '{{ sleep 2; {down}; }} >/dev/null 2>&1' &");
        match self.tell(&format!("{power:?}"), &script, &[], POWER_LIMIT).await {
            Err(error) if error.is_lost() => Ok(()),
            done => done,
        }
    }

    /// A script with its arguments, which has nothing to tell.
    async fn tell(
        &self,
        operation: &str,
        script: &str,
        words: &[&str],
        limit: Duration,
    ) -> Result<(), GuestError> {
        let argv = [&["sh", "-euc", script, "sh"], words].concat();
        let output = self.run(Exec::argv(argv), limit).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(GuestError::Refused {
            machine: self.machine.clone(),
            operation: operation.to_owned(),
            kind: agent_proto::message::FailureKind::Io,
            message: format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            elapsed: output.elapsed,
        })
    }
}

fn read_info(text: &str) -> Option<Info> {
    let mut lines = text.lines();
    let mut next = || lines.next().map(str::to_owned);
    let (kernel, hostname, boot_id, machine_id, uptime) = (next()?, next()?, next()?, next()?, next()?);
    let systemd = next()?;
    // `systemd 257 (257.3-1)`, or the dash alone.
    let systemd_version = systemd.split_whitespace().nth(1).and_then(|version| version.parse().ok());
    if systemd != "-" {
        next()?;
    }
    let os_release = lines.filter_map(|line| line.split_once('='));
    let os_release =
        os_release.map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned()));
    let seconds: f64 = uptime.parse().ok()?;
    Some(Info {
        os_release: os_release.collect(),
        systemd_version,
        boot_id,
        machine_id,
        hostname,
        kernel,
        uptime_ms: Duration::try_from_secs_f64(seconds).ok()?.as_millis().try_into().ok()?,
        agent_version: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_read_with_and_without_systemd() {
        let with =
            "6.12\nserver-1\nb\nm\n12.50\nsystemd 257 (257.3-1)\n-\nID=debian\nNAME=\"Debian GNU/Linux\"\n";
        let info = read_info(with).unwrap();
        assert_eq!((info.systemd_version, info.uptime_ms), (Some(257), 12_500));
        assert_eq!(info.os_release[1], ("NAME".to_owned(), "Debian GNU/Linux".to_owned()));
        let without = read_info("6.12\nserver-1\nb\n\n1.00\n-\nID=x\n").unwrap();
        assert_eq!((without.systemd_version, without.machine_id.as_str()), (None, ""));
        assert_eq!(without.os_release.len(), 1);
        assert!(read_info("6.12\n").is_none());
    }
}
