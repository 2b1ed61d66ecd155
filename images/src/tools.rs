//! The host's programs: found, run, their failures made ours.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::{Command, Stream};

use crate::error::{At, Error};

/// A program of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
}

pub(crate) const MMDEBSTRAP: Tool =
    Tool { name: "mmdebstrap", package: "mmdebstrap", purpose: "building an image from packages" };
pub(crate) const NEWUIDMAP: Tool =
    Tool { name: "newuidmap", package: "uidmap", purpose: "building an image without root" };
pub(crate) const UNSHARE: Tool =
    Tool { name: "unshare", package: "util-linux", purpose: "building an image without root" };
pub(crate) const TAR: Tool = Tool { name: "tar", package: "tar", purpose: "building an image" };
pub(crate) const MKE2FS: Tool =
    Tool { name: "mke2fs", package: "e2fsprogs", purpose: "making an ext4 file system" };
pub(crate) const DEBUGFS: Tool =
    Tool { name: "debugfs", package: "e2fsprogs", purpose: "writing into an ext4 file system" };

impl Tool {
    /// Its path. `/usr/sbin` and `/sbin` are looked at too: users' PATH on Debian lacks them.
    pub(crate) fn find(self) -> Result<PathBuf, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.find_in(path)
    }

    fn find_in(self, path: OsString) -> Result<PathBuf, Error> {
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
            .map(|directory| directory.join(self.name))
            .find(|candidate| is_executable(candidate))
            .ok_or_else(|| Error::MissingTool {
                program: self.name.to_owned(),
                package: self.package,
                purpose: self.purpose,
            })
    }

    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    pub(crate) fn command(self) -> Result<Command, Error> {
        Ok(Command::new(self.find()?).env("LC_ALL", "C.UTF-8"))
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A run of a program as part of making an image.
pub(crate) struct Job<'a> {
    /// The image, for messages.
    pub(crate) image: &'a str,
    /// What is being done, for messages.
    pub(crate) operation: &'static str,
    /// Where all output is kept.
    pub(crate) log: Option<&'a Path>,
    /// After which it is killed.
    pub(crate) limit: Duration,
}

impl Job<'_> {
    /// Runs it; every line goes to the log and to `on_line`.
    pub(crate) fn run(&self, command: Command, mut on_line: impl FnMut(&str)) -> Result<(), Error> {
        let mut log = match self.log {
            Some(path) => {
                Some((File::options().append(true).create(true).open(path).at("open", path)?, path))
            }
            None => None,
        };
        let mut full = None;
        let mut last = Last::default();
        let result = process::run_streaming(command, self.limit, |stream, line| {
            if let Some((file, path)) = &mut log
                && let Err(error) = writeln!(file, "{line}").at("write", path)
            {
                full.get_or_insert(error);
            }
            if stream == Stream::Stderr {
                last.push(line);
            }
            on_line(line);
        });
        match result.and_then(process::Output::checked) {
            Ok(_) => full.map_or(Ok(()), Err),
            Err(error) => Err(self.failure(error, &last)),
        }
    }

    fn failure(&self, error: process::Error, last: &Last) -> Error {
        if last.full {
            return Error::DiskFull {
                path: self.log.and_then(Path::parent).unwrap_or(Path::new(".")).to_owned(),
                operation: self.operation.to_owned(),
                knob: "RACKLESS_CACHE, or TMPDIR,",
            };
        }
        let (elapsed, cause) = match &error {
            process::Error::Failed { elapsed, status, .. } => (*elapsed, Some(status.to_string())),
            process::Error::Limit { elapsed, limit, .. } => {
                (*elapsed, Some(format!("killed at its limit of {} s", limit.as_secs())))
            }
            _ => (Duration::ZERO, None),
        };
        let mut problem = cause.unwrap_or_else(|| error.to_string());
        for line in &last.lines {
            let _ = write!(problem, "\n    {line}");
        }
        Error::Tool {
            image: self.image.to_owned(),
            operation: self.operation,
            elapsed,
            problem,
            log: self.log.map(Path::to_owned),
        }
    }
}

/// The last lines that were printed, and whether one told of a full disk.
#[derive(Default)]
struct Last {
    lines: std::collections::VecDeque<String>,
    full: bool,
}

impl Last {
    fn push(&mut self, line: &str) {
        self.full |= line.contains("No space left on device") || line.contains("Disk quota exceeded");
        if self.lines.len() == 8 {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job<'a>(log: Option<&'a Path>) -> Job<'a> {
        Job { image: "server", operation: "packing the root", log, limit: Duration::from_secs(20) }
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let tool = Tool { name: "mmdebstrap-not", package: "mmdebstrap", purpose: "a test" };
        let text = tool.find().unwrap_err().to_string();
        assert!(text.contains("apt-get install mmdebstrap"), "{text}");
    }

    #[test]
    fn a_failure_has_the_last_lines_and_points_to_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("build.log");
        let command =
            Command::new("/bin/sh").args(["-c", "echo first; echo 'E: no such package' >&2; exit 3"]);
        let text = job(Some(&log)).run(command, |_| {}).unwrap_err().to_string();
        assert!(text.contains("E: no such package") && text.contains("build.log"), "{text}");
        assert!(std::fs::read_to_string(&log).unwrap().contains("first"));
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let command = Command::new("/bin/sh")
            .args(["-c", "echo 'tar: ./usr: Cannot write: No space left on device' >&2; exit 2"]);
        let error = job(None).run(command, |_| {}).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_limit() {
        let mut job = job(None);
        job.limit = Duration::from_millis(100);
        let text = job.run(Command::new("/bin/sleep").arg("60"), |_| {}).unwrap_err().to_string();
        assert!(text.contains("limit"), "{text}");
    }
}
