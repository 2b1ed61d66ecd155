//! Commands: described here, run in the guest beside each other, their output fetched and checked.

use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Refusal};
use crate::files::PUT;
use crate::frame::hex;
use crate::guest::quote;
use crate::line::{Reply, Shell, Waited};

/// How long nothing is heard of a command's end before it is asked for: the guest tells by itself, if the line lets it.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const SLOWEST_LOOK: Duration = Duration::from_secs(8);
/// How much longer than a command's limit its end is waited for: the guest's clock counts.
const GRACE: Duration = Duration::from_secs(30);
/// Lines of its output that a command shows when it was killed at its limit.
const EVIDENCE_LINES: usize = 10;
/// Where programs are looked up.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/wrappers/bin:/run/current-system/sw/bin";

/// A command to run in the guest. It leads a process group of its own; a child of it that outlives it goes on, and what
/// that writes is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a description: `Shell::run` runs it"]
pub struct Command {
    program: Program,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    user: Option<String>,
    stdin: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Script(String),
    Argv(Vec<String>),
}

impl Command {
    /// A script: `bash -euo pipefail -c` where the guest has bash, else `sh -eu -c`.
    pub fn script(script: impl Into<String>) -> Self {
        Self::of(Program::Script(script.into()))
    }

    /// A program, looked up in a plain PATH, and its arguments.
    pub fn argv<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self::of(Program::Argv(argv.into_iter().map(Into::into).collect()))
    }

    fn of(program: Program) -> Self {
        Self { program, env: Vec::new(), cwd: None, user: None, stdin: Vec::new() }
    }

    /// Sets an environment variable, on top of a plain environment: PATH, LANG, HOME, USER, LOGNAME, SHELL.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; without it, it is the user's home.
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Runs it as `name`, `uid`, or either with `:group`. The guest must have a full `setpriv` (util-linux).
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Gives it these bytes on stdin.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The file that a shell in the guest runs.
    fn file(&self, uid: u32) -> String {
        let mut text = String::new();
        let (user, group) = match &self.user {
            Some(user) => user.split_once(':').map_or((user.as_str(), None), |(u, g)| (u, Some(g))),
            None => ("", None),
        };
        let name = match user {
            "" if uid == 0 => "root".to_owned(),
            "" => "$(id -un)".to_owned(),
            _ => quote(user),
        };
        // A tilde is only read without quotes: it has a user's home from wherever the system has it.
        let _ =
            writeln!(text, "U={name}\ncase $U in *[!a-zA-Z0-9._-]*|[0-9]*) H=/ ;; *) eval H=~\"$U\" ;; esac");
        // A home that isn't there stays HOME, as login(1) has it.
        let _ = match &self.cwd {
            Some(directory) => writeln!(text, "cd {} || exit 126", quote(directory)),
            None => writeln!(text, "cd \"$H\" 2>/dev/null || cd /"),
        };
        let become_user = if user.is_empty() {
            String::new()
        } else {
            let group =
                group.map_or_else(|| "\"$(id -g \"$U\" 2>/dev/null || echo \"$U\")\"".to_owned(), quote);
            // A number may be nobody's, and has no groups then.
            format!(
                "setpriv --reuid \"$U\" --regid {group} \
                 $(id -u \"$U\" >/dev/null 2>&1 && echo --init-groups || echo --clear-groups) "
            )
        };
        let mut environment =
            format!("env -i PATH={PATH} LANG=C.UTF-8 HOME=\"$H\" USER=\"$U\" LOGNAME=\"$U\" SHELL=/bin/sh");
        for (name, value) in &self.env {
            let _ = write!(environment, " {}", quote(&format!("{name}={value}")));
        }
        let exec = format!("exec {become_user}{environment}");
        match &self.program {
            Program::Argv(argv) => {
                let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
                let _ = writeln!(text, "{exec} {}", words.join(" "));
            }
            Program::Script(script) => {
                let script = quote(script);
                let _ = writeln!(
                    text,
                    "S={script}\nif command -v bash >/dev/null 2>&1; then {exec} bash -euo pipefail -c \"$S\"; else \
                     {exec} sh -eu -c \"$S\"; fi"
                );
            }
        }
        text
    }

    /// Code that says what is missing, before anything is started: status 41.
    fn check(&self) -> String {
        let mut code = String::new();
        let mut missing = |test: String, what: String| {
            let _ = writeln!(code, "{test} || {{ echo {}; return 41; }}", quote(&what));
        };
        if let Some(directory) = &self.cwd {
            missing(format!("[ -d {} ]", quote(directory)), format!("no directory {directory}"));
        }
        if let Some(user) = &self.user {
            let name = user.split(':').next().unwrap_or_default();
            if name.parse::<u32>().is_err() {
                missing(format!("id -u {} >/dev/null 2>&1", quote(name)), format!("no user {name}"));
            }
            missing("setpriv --clear-groups true".to_owned(), "no setpriv that changes the user".to_owned());
        }
        if let Program::Argv(argv) = &self.program {
            let program = argv.first().map(String::as_str).unwrap_or_default();
            let test = format!("PATH={PATH} command -v {} >/dev/null 2>&1", quote(program));
            missing(test, format!("no program {program}"));
        }
        code
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.program {
            Program::Argv(argv) => argv.join(" "),
            Program::Script(script) => script.clone(),
        };
        let short: String = text.chars().take(200).collect();
        let more = if short.len() < text.len() { " …" } else { "" };
        write!(f, "`{short}{more}`")
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exited with this code.
    Code(i32),
    /// Killed by this signal, or exited with 128 and its number: a shell can't tell one from the other.
    Signal(i32),
    /// Killed at its limit.
    TimedOut,
}

impl Status {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "t" => Some(Self::TimedOut),
            _ => match word.parse().ok()? {
                code @ 0..=128 => Some(Self::Code(code)),
                code @ 129..=192 => Some(Self::Signal(code - 128)),
                code => Some(Self::Code(code)),
            },
        }
    }
}

/// A command's end and all of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Code or signal.
    pub status: Status,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// From start to end on the guest's clock, in steps of 10 ms.
    pub elapsed: Duration,
}

/// What the guest says at a command's end.
struct End {
    status: Status,
    elapsed: Duration,
    lengths: [usize; 2],
    digests: [String; 2],
    /// Both outputs, if they are short.
    inline: Vec<u8>,
}

impl End {
    fn parse(body: &[u8]) -> Option<Self> {
        let end = body.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [status, from, to, out, err, out_digest, err_digest] = words[..] else { return None };
        let elapsed = to.parse::<f64>().ok()? - from.parse::<f64>().ok()?;
        Some(Self {
            status: Status::parse(status)?,
            elapsed: Duration::try_from_secs_f64(elapsed).unwrap_or_default(),
            lengths: [out.parse().ok()?, err.parse().ok()?],
            digests: [out_digest.to_owned(), err_digest.to_owned()],
            inline: body[end + 1..].to_owned(),
        })
    }
}

impl Shell {
    /// Runs a command to its end, whatever that is, and collects its output. Dropping the future kills it.
    ///
    /// # Errors
    /// [`Error::CommandTimeout`] at the limit, when its process group has been killed; [`Error::Refused`] if it can't be
    /// started; [`Error::Damaged`], [`Error::Digest`], [`Error::Silent`] and [`Error::Closed`] of the line.
    pub async fn run(&self, command: Command, limit: Duration) -> Result<Output, Error> {
        let operation = command.to_string();
        let job = Job { shell: self, number: self.new_job(), over: false };
        let end = job.start(&operation, &command, limit).await?;
        let mut job = job;
        let end = match end {
            Some(end) => end,
            None => job.end(&operation, limit).await?,
        };
        job.over = true;
        let output = job.output(&operation, end).await?;
        drop(job);
        if output.status == Status::TimedOut {
            let shown = [last_lines(&output.stdout), last_lines(&output.stderr)].concat();
            let machine = self.machine().to_owned();
            return Err(Error::CommandTimeout { machine, command: operation, limit, output: shown });
        }
        Ok(output)
    }
}

fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(EVIDENCE_LINES)..].iter().map(|&line| line.to_owned()).collect()
}

/// A command in the guest. Dropped, it is killed if it still runs, and its files go.
struct Job<'s> {
    shell: &'s Shell,
    number: u32,
    over: bool,
}

impl Job<'_> {
    fn directory(&self) -> String {
        format!("{}/{}", self.shell.inner.hello.directory, self.number)
    }

    /// Starts it. Its end, if it had come by the time that the guest answered.
    async fn start(&self, operation: &str, command: &Command, limit: Duration) -> Result<Option<End>, Error> {
        let (shell, number) = (self.shell, self.number);
        let file = command.file(shell.inner.hello.uid).into_bytes();
        let directory = self.directory();
        for (name, content) in [("i", &command.stdin), ("c", &file)] {
            if !content.is_empty() && (name == "i" || content.len() > PUT) {
                shell.put(operation, &format!("{directory}/{name}"), content).await?;
            }
        }
        // A request that is said again must not touch the file of a shell that reads it already.
        let data: &[u8] = if file.len() > PUT { &[] } else { &file };
        let write = if data.is_empty() { ":" } else { "printf %s \"$X\" | base64 -d >\"$d/c\"" };
        let seconds = limit.as_secs_f64().max(0.01);
        let code = format!(
            "z() {{\nd=$D/{number}; mkdir -p \"$d\"; [ -e \"$d/r\" ] || {{\n{}[ -e \"$d/i\" ] || : >\"$d/i\"; {write}; }}\n\
             f {number} {seconds:.2}\n}}\nz",
            command.check()
        );
        let reply = shell.ask(operation, &code, data).await?;
        match reply.status {
            0 => Ok(None),
            41 => Err(shell.refused(operation, Refusal::NotFound, &reply.text())),
            _ => Err(shell.refused(operation, Refusal::Failed, &reply.text())),
        }
    }

    /// Waits for the end, and asks for it now and then: the guest's word may have been lost.
    async fn end(&mut self, operation: &str, limit: Duration) -> Result<End, Error> {
        let begun = Instant::now();
        let mut look = FIRST_LOOK;
        loop {
            let body = match self.shell.job_end(self.number, look).await {
                Waited::Came(body) => Some(body),
                Waited::Closed(reason) => return Err(self.shell.closed_error(operation, reason)),
                Waited::Silent => {
                    let reply = self.shell.ask(operation, &format!("g {}", self.number), &[]).await?;
                    look = (look * 2).min(SLOWEST_LOOK);
                    (reply.status == 0).then_some(reply.output)
                }
            };
            if let Some(body) = body {
                return End::parse(&body).ok_or_else(|| {
                    self.shell.refused(operation, Refusal::Failed, "the guest tells no end that can be read")
                });
            }
            if begun.elapsed() > limit + GRACE {
                // The guest's clock stands still, or its watchdog was killed.
                self.kill().await?;
            }
        }
    }

    async fn kill(&self) -> Result<Reply, Error> {
        let code = kill_code(self.number);
        self.shell.ask("killing a command", &code, &[]).await
    }

    async fn output(&self, operation: &str, end: End) -> Result<Output, Error> {
        let [out, err] = end.lengths;
        let [stdout, stderr] = if end.inline.len() == out + err && !end.inline.is_empty() {
            let mut stdout = end.inline;
            let stderr = stdout.split_off(out);
            [stdout, stderr]
        } else {
            let mut both = [Vec::new(), Vec::new()];
            for ((name, length), content) in ["o", "e"].iter().zip(end.lengths).zip(&mut both) {
                let path = format!("{}/{name}", self.directory());
                self.shell.get(operation, &path, length, content).await?;
            }
            both
        };
        for (content, digest) in [&stdout, &stderr].into_iter().zip(&end.digests) {
            let got = hex(&Sha256::digest(content));
            if got != *digest {
                let problem =
                    format!("{} bytes of SHA-256 {got} came, the guest has {digest}", content.len());
                let (machine, operation) = (self.shell.machine().to_owned(), operation.to_owned());
                return Err(Error::Digest { machine, operation, problem });
            }
        }
        Ok(Output { status: end.status, stdout, stderr, elapsed: end.elapsed })
    }
}

fn kill_code(number: u32) -> String {
    format!("p=$(cat \"$D/{number}/p\") && {{ kill -9 -\"$p\" || kill -9 \"$p\"; }} 2>/dev/null; :")
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let number = self.number;
        if self.over || self.shell.inner.wire.state().is_closed() {
            self.shell.forget_job(number);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shell = self.shell.clone();
        runtime.spawn(async move {
            // A line that is gone takes no kill; the guest's own watchdog ends the command at its limit.
            let _ = shell.ask("killing a command", &kill_code(number), &[]).await;
            shell.forget_job(number);
        });
    }
}

impl Shell {
    /// The size of a piece that is fetched now.
    pub(crate) fn piece(&self) -> usize {
        self.inner.piece.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shells() {
        for (word, status) in [
            ("0", Status::Code(0)),
            ("3", Status::Code(3)),
            ("137", Status::Signal(9)),
            ("255", Status::Code(255)),
            ("t", Status::TimedOut),
        ] {
            assert_eq!(Status::parse(word), Some(status));
        }
        assert_eq!(Status::parse("x"), None);
    }

    #[test]
    fn an_end_is_read_with_its_output() {
        let end = End::parse(b"3 10.50 12.75 4 1 aa bb\nout\ne").unwrap();
        assert_eq!((end.status, end.elapsed), (Status::Code(3), Duration::from_millis(2250)));
        assert_eq!((end.lengths, end.inline.as_slice()), ([4, 1], &b"out\ne"[..]));
        assert!(End::parse(b"3 10.50 12.75 4 1 aa\n").is_none());
    }
}
