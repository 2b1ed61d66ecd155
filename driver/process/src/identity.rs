//! Which process a pid means: the kernel hands out numbers again, so a start time goes with each.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The environment variable that [`spawn`](crate::spawn) sets in each child, with the [`owner_mark`] as value.
/// What a child started itself inherits it, so that it is found again even if it left the process group.
pub const OWNER_VARIABLE: &str = "RACKLESS_OWNER";

/// A process: its pid and when it started. Two processes never share both before a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start: u64,
}

impl Identity {
    /// The process that has this pid now, or `None` if there is none. A zombie counts: it has the pid.
    pub fn of(pid: u32) -> io::Result<Option<Identity>> {
        Ok(Stat::read(pid)?.map(|stat| Identity { pid, start: stat.start }))
    }

    /// This process.
    pub fn of_self() -> io::Result<Identity> {
        let pid = std::process::id();
        Identity::of(pid)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "/proc has no entry for this process"))
    }

    /// Whether the process still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        matches!(Stat::read(self.pid), Ok(Some(stat)) if stat.start == self.start && !stat.is_dead())
    }

    /// Waits until the process has ended, whoever its parent is. False if it still runs after `limit`.
    pub fn wait_gone(&self, limit: Duration) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(true) };
        let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        loop {
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }

    /// Signals exactly this process, never one that got its pid later. False if it had ended.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A pidfd is opened first and the start time compared after: a pidfd never moves to another process.
    fn open(&self) -> io::Result<Option<std::os::fd::OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(self.is_alive().then_some(pidfd))
    }
}

/// What marks the children of this process: `pid:start`.
pub fn owner_mark() -> io::Result<&'static str> {
    static MARK: OnceLock<String> = OnceLock::new();
    if let Some(mark) = MARK.get() {
        return Ok(mark);
    }
    let mark = Identity::of_self()?.mark();
    Ok(MARK.get_or_init(|| mark))
}

impl Identity {
    pub(crate) fn mark(&self) -> String {
        format!("{}:{}", self.pid, self.start)
    }
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) start: u64,
}

impl Stat {
    pub(crate) fn read(pid: u32) -> io::Result<Option<Stat>> {
        let path = format!("/proc/{pid}/stat");
        // std's error, not fs_err's, which hides the number that `gone` looks at.
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Stat::parse(&text).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} does not read as proc_pid_stat(5)"))
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// The command's name stands in parentheses and may contain anything, parentheses and spaces included:
    /// the fields are counted from the last closing one.
    fn parse(text: &[u8]) -> Option<Stat> {
        let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
        let mut fields = std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let start = fields.nth(16)?.parse().ok()?;
        Some(Stat { state, parent, group, start })
    }
}

/// A process that ends while its files in /proc are read gives ESRCH instead of ENOENT.
pub(crate) fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let text = b"42 (a) Z 1 ) b) S 7 43 43 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(Stat::parse(text), Some(Stat { state: b'S', parent: 7, group: 43, start: 12345 }));
        assert_eq!(Stat::parse(b"42 (cut"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn this_process_is_alive_and_its_pid_at_another_time_is_not() {
        let me = Identity::of_self().unwrap();
        assert!(me.is_alive());
        let earlier = Identity { start: me.start - 1, ..me };
        assert!(!earlier.is_alive());
        assert!(earlier.wait_gone(Duration::ZERO).unwrap());
        assert!(
            !earlier.signal(Signal::KILL).unwrap(),
            "another process with that pid must not be signalled"
        );
    }
}
