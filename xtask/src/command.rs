//! The one place where xtask starts other programs.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result};

/// What cargo sets for the program that `cargo run` starts. Left in the environment of a nested cargo, these make
/// build scripts that watch them run again.
const OF_THE_OUTER_CARGO: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_NAME", "CARGO_BIN_NAME"];

/// A command line that can be shown before it is run.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
}

/// What a captured command left behind.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Captured {
    /// Both streams, for a message or for a parser that doesn't care.
    pub(crate) fn both(&self) -> String {
        format!("{}\n{}", self.stdout.trim_end(), self.stderr.trim_end()).trim().to_owned()
    }
}

impl Command {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new(), cwd: None }
    }

    /// The cargo that runs us, in the workspace's root.
    pub(crate) fn cargo(root: &Path) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self { cwd: Some(root.to_owned()), ..Self::new(cargo) }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Puts this command, a `sudo` or an `env`, in front of another.
    pub(crate) fn before(self, other: &Self) -> Self {
        let Self { program, args, env, cwd } = other.clone();
        let all = self.args.into_iter().chain([program]).chain(args).collect();
        Self { program: self.program, args: all, env, cwd }
    }

    fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if OF_THE_OUTER_CARGO.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }

    /// Runs it on our own terminal.
    #[expect(clippy::disallowed_methods, reason = "xtask must build in seconds: no dependency on `process`")]
    pub(crate) fn run(&self) -> Result<ExitStatus> {
        self.to_std().status().with_context(|| format!("starting `{self}`"))
    }

    /// Runs it with both outputs captured and no input.
    #[expect(clippy::disallowed_methods, reason = "xtask must build in seconds: no dependency on `process`")]
    pub(crate) fn capture(&self) -> Result<Captured> {
        let output =
            self.to_std().stdin(Stdio::null()).output().with_context(|| format!("starting `{self}`"))?;
        Ok(Captured {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it, passes its output on as it comes and shows each line of stdout and stderr to `on_line`.
    #[expect(clippy::disallowed_methods, reason = "xtask must build in seconds: no dependency on `process`")]
    pub(crate) fn tee(&self, on_line: &mut (dyn FnMut(&str) + Send)) -> Result<ExitStatus> {
        let mut child = self
            .to_std()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{self}`"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let on_line = std::sync::Mutex::new(on_line);
        let pass = |from: &mut dyn std::io::Read, to: &mut dyn std::io::Write| -> std::io::Result<()> {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                to.write_all(&line)?;
                to.flush()?;
                if let Ok(mut on_line) = on_line.lock() {
                    on_line(String::from_utf8_lossy(&line).trim_end());
                }
                line.clear();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let err = scope.spawn(|| pass(&mut { stderr }, &mut std::io::stderr()));
            let out = pass(&mut { stdout }, &mut std::io::stdout());
            err.join().unwrap_or(Ok(())).and(out)
        })
        .with_context(|| format!("reading the output of `{self}`"))?;
        child.wait().with_context(|| format!("waiting for `{self}`"))
    }
}

/// As one would type it: environment first, quoted where a shell needs it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{}={} ", name.to_string_lossy(), quoted(value))?;
        }
        let program = Path::new(&self.program);
        let is_cargo = program.file_name() == Some(OsStr::new("cargo"));
        f.write_str(&quoted(if is_cargo { OsStr::new("cargo") } else { &self.program }))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+.,:/@%~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Whether this is a continuous integration run: `CI` is set, as all of them do.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Whether someone can answer a question.
pub(crate) fn interactive() -> bool {
    use std::io::IsTerminal as _;
    !in_ci() && std::io::stdin().is_terminal()
}

/// Asks on stderr; an empty answer is yes.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    eprint!("{question} [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer)?;
    Ok(read > 0 && matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_as_typed() {
        let command = Command::new("apt-get").arg("install").arg("a b").arg("it's").env("LC_ALL", "C");
        assert_eq!(command.to_string(), r"LC_ALL=C apt-get install 'a b' 'it'\''s'");
    }

    #[test]
    fn tee_sees_every_line_of_both_streams_and_the_status() {
        let mut seen = Vec::new();
        let status = Command::new("sh")
            .args(["-c", "echo out; echo err >&2; exit 3"])
            .tee(&mut |line| seen.push(line.to_owned()))
            .unwrap();
        seen.sort();
        assert_eq!((seen, status.code()), (vec!["err".to_owned(), "out".to_owned()], Some(3)));
    }
}
