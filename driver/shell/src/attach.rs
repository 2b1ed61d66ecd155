//! From bytes on a line to a shell that answers.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Error;
use crate::frame::Marker;
use crate::guest::{Bootstrap, LEAVE};
use crate::line::{Hello, Shell, State, Waited, Wire};

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user: root, for most of what tests do.
    pub user: String,
    /// The password; empty where none is asked for.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A password has no place in a log.
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How it shows that there is a shell. Nothing is typed before, for firmware and boot loaders read keys as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It is there now.
    Now,
    /// When the line says this: `Spawning backdoor root shell` of a nixosTest backdoor.
    Text(String),
    /// When it asks for a login, which is given.
    Login(Login),
}

/// How to attach to a shell, and how long to wait for it later on.
#[derive(Debug, Clone)]
pub struct Options {
    /// What errors call the machine.
    pub machine: String,
    /// What errors call the line.
    pub line: String,
    /// How a shell shows.
    pub readiness: Readiness,
    /// What may pass until it answers.
    pub limit: Duration,
    /// How long the line may say nothing before a request is said again.
    pub silence: Duration,
    /// How often a request is made until it is an error.
    pub attempts: u32,
    /// Bytes in a piece of a file that is fetched, at first. With four thirds of it the line's buffers must not overflow:
    /// QEMU's virtconsole drops what does not fit into its socket's (208 KiB).
    pub piece: usize,
}

impl Options {
    /// For a quick line: a minute until it answers, 5 s of silence, 5 attempts, 32 KiB.
    #[must_use]
    pub fn new(machine: impl Into<String>, line: impl Into<String>, readiness: Readiness) -> Self {
        Self {
            machine: machine.into(),
            line: line.into(),
            readiness,
            limit: Duration::from_secs(60),
            silence: Duration::from_secs(5),
            attempts: 5,
            piece: 32 << 10,
        }
    }
}

/// Ends a single quote, a double one, a back quote, and none at all: after it a shell's text is outside of quotes, wherever
/// it was. What it leaves is a word, which is no command.
const UNQUOTED: &str = concat!("\\''\"\\'", "'`'", "\\''\"\\'", "\n");

/// What else may stand between a shell and the next line that it reads whole, after one of ours was damaged: an open
/// bracket, an open `case`, a command that runs. One of these is typed before each attempt but the first.
const CLOSERS: [&str; 4] = ["", ")\n", "esac\n", "\x03"];

impl Shell {
    /// Waits until there is a shell on the line, and starts the server in it.
    ///
    /// # Errors
    /// [`Error::NoShell`] at the limit, [`Error::LoginRefused`], [`Error::ToolsMissing`], [`Error::Closed`].
    pub async fn attach<S>(stream: S, options: Options) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let marker = Marker::random();
        let wire = Wire::new(stream, marker.clone());
        let mut attaching =
            Attaching { wire, options, marker, begun: Instant::now(), waiting_for: String::new() };
        let hello = attaching.run().await?;
        Ok(Self::new(attaching.options, attaching.marker, hello, attaching.wire))
    }
}

struct Attaching {
    wire: Wire,
    options: Options,
    marker: Marker,
    begun: Instant,
    waiting_for: String,
}

/// What a dialogue of login sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    User,
    Password,
    Shell,
    Refused,
    /// A prompt that something was printed behind: it has to be asked for again.
    Spoilt,
}

impl Attaching {
    async fn run(&mut self) -> Result<Hello, Error> {
        self.ready().await?;
        for attempt in 1.. {
            if let Some(hello) = self.start(attempt).await? {
                return Ok(hello);
            }
            if self.left().is_zero() {
                return Err(self.no_shell());
            }
            if let Readiness::Login(login) = self.options.readiness.clone() {
                // Whoever logged in may be out again.
                self.log_in(&login, true).await?;
            }
        }
        Err(self.no_shell())
    }

    fn left(&self) -> Duration {
        self.options.limit.saturating_sub(self.begun.elapsed())
    }

    fn no_shell(&self) -> Error {
        Error::NoShell {
            machine: self.options.machine.clone(),
            line: self.options.line.clone(),
            elapsed: self.begun.elapsed(),
            waiting_for: self.waiting_for.clone(),
            last: self.wire.state().last(),
        }
    }

    fn closed(&self, reason: String) -> Error {
        Error::Closed {
            machine: self.options.machine.clone(),
            operation: format!("waiting for a shell: {}", self.waiting_for),
            reason,
            last: self.wire.state().last(),
        }
    }

    async fn ready(&mut self) -> Result<(), Error> {
        match self.options.readiness.clone() {
            Readiness::Now => Ok(()),
            Readiness::Text(wanted) => {
                self.waiting_for = format!("it was waited for the text {wanted:?}");
                let look = |state: &mut State| state.says(&wanted).then_some(());
                match self.wire.wait(self.left(), self.left(), look).await {
                    Waited::Came(()) => Ok(()),
                    Waited::Silent => Err(self.no_shell()),
                    Waited::Closed(reason) => Err(self.closed(reason)),
                }
            }
            Readiness::Login(login) => self.log_in(&login, false).await,
        }
    }

    /// Answers prompts until there is a shell's. With `again`, a line that says nothing is taken as one.
    async fn log_in(&mut self, login: &Login, again: bool) -> Result<(), Error> {
        self.waiting_for = "it was waited for a login prompt".to_owned();
        let mut answered = None;
        let mut seen = if again { self.wire.state().lines } else { 0 };
        loop {
            let look = |state: &mut State| {
                let at = (state.lines, state.unfinished());
                if answered.as_ref() == Some(&at) {
                    return None;
                }
                let fresh = usize::try_from(state.lines - seen).unwrap_or(usize::MAX);
                let lines: Vec<&str> = state.text.iter().rev().take(fresh).map(String::as_str).collect();
                Some((prompt(&lines, &at.1)?, at))
            };
            // A prompt that was spoilt, or that came before us, is asked for when the line has been quiet.
            let silence = if seen > 0 || again { self.options.silence } else { self.left() };
            let (found, at) = match self.wire.wait(silence.min(self.left()), self.left(), look).await {
                Waited::Came(found) => found,
                Waited::Closed(reason) => return Err(self.closed(reason)),
                Waited::Silent if self.left().is_zero() => return Err(self.no_shell()),
                Waited::Silent if again => return Ok(()),
                Waited::Silent => {
                    self.wire.send(b"\n".to_vec());
                    continue;
                }
            };
            seen = at.0;
            answered = Some(at);
            match found {
                Prompt::User => {
                    self.waiting_for = format!("{:?} was typed at a login prompt", login.user);
                    self.wire.send_anyway(format!("{}\n", login.user).into_bytes());
                }
                Prompt::Password => {
                    self.waiting_for = format!("the password of {:?} was typed", login.user);
                    self.wire.send_anyway(format!("{}\n", login.password).into_bytes());
                }
                Prompt::Spoilt => self.wire.send_anyway(b"\n".to_vec()),
                Prompt::Shell => return Ok(()),
                Prompt::Refused => {
                    return Err(Error::LoginRefused {
                        machine: self.options.machine.clone(),
                        line: self.options.line.clone(),
                        user: login.user.clone(),
                        last: self.wire.state().last(),
                    });
                }
            }
        }
    }

    /// One attempt to start the server; `None` if it has to be tried again.
    async fn start(&mut self, attempt: u32) -> Result<Option<Hello>, Error> {
        let bootstrap = Bootstrap::new(&self.marker, attempt);
        self.waiting_for = format!("a shell was asked to start the channel's server ({attempt} times)");
        let mut typed = format!("\n{LEAVE}");
        if attempt > 1 {
            typed.push_str(UNQUOTED);
            typed.push_str(CLOSERS[(attempt as usize - 2) % CLOSERS.len()]);
            // What was open may have held all the lines before: they are run now, and each waits for pieces.
            typed.push_str(&LEAVE.repeat(attempt as usize - 1));
        }
        typed.push_str(&bootstrap.line);
        self.wire.state().await_reply(0);
        self.wire.send(typed.into_bytes());
        let silence = self.options.silence * attempt.min(4);
        if !self.said(&bootstrap.feed, silence).await? {
            return Ok(None);
        }
        for piece in &bootstrap.pieces {
            self.wire.send_anyway(piece.clone().into_bytes());
        }
        let bad = bootstrap.bad.as_str();
        let before = self.wire.state().damages;
        // The server of an earlier attempt may greet late: it leaves, and its directory goes with it.
        let greeting = format!("{attempt}\n");
        let look = |state: &mut State| match state.take_reply() {
            Some(body) if body.starts_with(greeting.as_bytes()) => Some(Some(body)),
            _ => (state.says(bad) || state.damages != before).then_some(None),
        };
        match self.wire.wait(silence, self.left(), look).await {
            Waited::Came(Some(body)) => self.greeted(&body),
            Waited::Came(None) | Waited::Silent => Ok(None),
            Waited::Closed(reason) => Err(self.closed(reason)),
        }
    }

    /// Whether the line says this word of ours within the silence.
    async fn said(&mut self, word: &str, silence: Duration) -> Result<bool, Error> {
        let look = |state: &mut State| state.says(word).then_some(());
        match self.wire.wait(silence.min(self.left()), self.left(), look).await {
            Waited::Came(()) => Ok(true),
            Waited::Silent => Ok(false),
            Waited::Closed(reason) => Err(self.closed(reason)),
        }
    }

    fn greeted(&self, body: &[u8]) -> Result<Option<Hello>, Error> {
        let text = String::from_utf8_lossy(body);
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default().to_owned();
        let (_attempt, directory, boot_id, uid, missing) = (next(), next(), next(), next(), next());
        let tools: Vec<String> = missing.split_whitespace().map(str::to_owned).collect();
        let machine = self.options.machine.clone();
        if !tools.is_empty() {
            return Err(Error::ToolsMissing { machine, tools });
        }
        if directory.is_empty() {
            return Err(Error::Refused {
                machine,
                operation: "starting the channel's server".to_owned(),
                refusal: crate::Refusal::Failed,
                message: "neither /run nor /tmp can be written to".to_owned(),
            });
        }
        Ok(uid.parse().ok().map(|uid| Hello { boot_id, uid, directory }))
    }
}

/// What the newest text asks for: `lines` newest first, and the line that has no end.
pub(crate) fn prompt(lines: &[&str], unfinished: &str) -> Option<Prompt> {
    let end = unfinished.trim_end();
    if lines.iter().any(|line| line.contains("Login incorrect") || line.contains("Authentication failure")) {
        return Some(Prompt::Refused);
    }
    if end.ends_with("login:") && !end.contains("Last login:") {
        return Some(Prompt::User);
    }
    if end.to_ascii_lowercase().ends_with("password:") {
        return Some(Prompt::Password);
    }
    if end.ends_with(['#', '$']) && unfinished.ends_with(' ') {
        return Some(Prompt::Shell);
    }
    let spoilt =
        |line: &&str| line.contains(" login: ") && line.contains("[ ") && !line.contains("Last login:");
    lines.iter().any(spoilt).then_some(Prompt::Spoilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_told_apart() {
        for (lines, unfinished, wanted) in [
            (&["Debian GNU/Linux 13 server-1 ttyS0"][..], "server-1 login: ", Some(Prompt::User)),
            (&[], "Password: ", Some(Prompt::Password)),
            (&["Last login: Tue Nov 24 12:00:00 UTC on ttyS0"], "root@server-1:~# ", Some(Prompt::Shell)),
            (&["Last login: Tue Nov 24"], "Last login:", None),
            (&["Login incorrect"], "server-1 login: ", Some(Prompt::Refused)),
            (&["server-1 login: [   12.345678] e1000: link is up"], "", Some(Prompt::Spoilt)),
            (&["Hit any key to stop autoboot:  2"], "=> ", None),
            (&["GNU GRUB  version 2.12"], "grub> ", None),
            (&[], "", None),
        ] {
            assert_eq!(prompt(lines, unfinished), wanted, "{lines:?} {unfinished:?}");
        }
    }

    #[test]
    fn a_password_is_in_no_log() {
        let login = Login { user: "root".into(), password: "secret".into() };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
