//! What can go wrong with a child or a run directory.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::command::CommandLine;

/// An error of this crate. Each names the program or path, and what is known of why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not exist, or is not on the PATH.
    #[error("{program} is not installed: looked {looked}")]
    NotFound {
        /// The program as it was asked for.
        program: String,
        /// Where it was looked for.
        looked: String,
    },
    /// The kernel refused to start the program.
    #[error("could not start `{command}`: {source}")]
    Spawn {
        /// What was to be run.
        command: CommandLine,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Two file descriptors were mapped to the same number in the child.
    #[error("could not start `{command}`: two files are mapped to one descriptor of the child")]
    DescriptorCollision {
        /// What was to be run.
        command: CommandLine,
    },
    /// SIGCHLD is ignored in this process, so that the kernel throws away how children end.
    #[error(
        "SIGCHLD is ignored in this process (inherited from what started it), so no child's end could be seen: \
         start it with the default disposition (`env --default-signal=CHLD …`)"
    )]
    ChildrenIgnored,
    /// The program ran longer than allowed. Its whole process group was killed.
    #[error("`{command}` still ran after {:.1} s (limit {:.1} s) and was killed{tail}", .elapsed.as_secs_f64(), .limit.as_secs_f64())]
    Limit {
        /// What was run.
        command: CommandLine,
        /// The limit.
        limit: Duration,
        /// How long it ran.
        elapsed: Duration,
        /// The last lines it printed.
        tail: Tail,
    },
    /// The program ended with another status than success.
    #[error("`{command}` failed: {status} after {:.1} s{tail}", .elapsed.as_secs_f64())]
    Failed {
        /// What was run.
        command: CommandLine,
        /// How it ended.
        status: ExitStatus,
        /// How long it ran.
        elapsed: Duration,
        /// The last lines it printed.
        tail: Tail,
    },
    /// The program printed more than is kept in memory. Nothing is returned rather than a part.
    #[error("`{command}` printed more than {limit} bytes on one stream; send it to a file instead")]
    TooMuchOutput {
        /// What was run.
        command: CommandLine,
        /// The most that is kept, in bytes.
        limit: usize,
    },
    /// A signal could not be sent.
    #[error("could not signal the process group of `{command}` (pid {pid}): {source}")]
    Signal {
        /// What runs.
        command: CommandLine,
        /// The leader's pid.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the run directory, or of /proc, could not be read or written.
    #[error("could not {operation} {}: {source}", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The directory for runs is not a directory of this user's own.
    #[error("{} can't hold run directories: {reason}; remove it, or set XDG_RUNTIME_DIR to a directory of your own", .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a run of this name already.
    #[error("there is a run {run} already: {}", .path.display())]
    RunExists {
        /// The run's name.
        run: String,
        /// Its directory.
        path: PathBuf,
    },
    /// A name that can't be a file name.
    #[error(
        "{name:?} can't be the name of a {what}: use letters, digits, `-`, `_` and `.`, not starting with `.`"
    )]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A Unix socket's path is longer than the kernel allows (`unix(7)`).
    #[error(
        "socket path {} has {} bytes, at most {} are allowed; set XDG_RUNTIME_DIR to a shorter directory, or shorten the machine's name",
        .path.display(), .path.as_os_str().len(), crate::SOCKET_PATH_MAX
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },
}

/// The last lines that a program printed, for error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    const LINES: usize = 12;
    const WIDTH: usize = 300;

    pub(crate) fn push(&mut self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        if self.lines.len() == Tail::LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(crate::command::shorten(line, Tail::WIDTH));
    }

    /// The end of a whole output. Only its last part is looked at, so that it may be large.
    pub(crate) fn of(bytes: &[u8]) -> Tail {
        let from = bytes.len().saturating_sub(Tail::LINES * Tail::WIDTH * 4);
        let mut tail = Tail::default();
        for line in String::from_utf8_lossy(&bytes[from..]).split(['\n', '\r']) {
            tail.push(line);
        }
        tail
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return f.write_str("; it printed nothing on stderr");
        }
        f.write_str("; the last lines of stderr:")?;
        for line in &self.lines {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let text: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
        let tail = Tail::of(text.as_bytes());
        assert_eq!(tail.lines().count(), Tail::LINES);
        assert_eq!(tail.lines().last(), Some("line 99999"));
    }

    #[test]
    fn a_progress_bar_is_lines() {
        assert_eq!(Tail::of(b" 10%\r 20%\rdone\n\n").lines().collect::<Vec<_>>(), [" 10%", " 20%", "done"]);
    }
}
