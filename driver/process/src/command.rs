//! What to run, and how it is written down.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where a standard stream of the child comes from or goes to.
#[derive(Debug, Default)]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// That of this process. The child is in a process group of its own, so reading a terminal stops it:
    /// see [`Command::foreground`].
    Inherit,
    /// A pipe, to be taken from the [`Child`](crate::Child).
    Piped,
    /// A file, from its current position.
    File(File),
}

impl Stdio {
    pub(crate) fn into_std(self) -> std::process::Stdio {
        match self {
            Stdio::Null => std::process::Stdio::null(),
            Stdio::Inherit => std::process::Stdio::inherit(),
            Stdio::Piped => std::process::Stdio::piped(),
            Stdio::File(file) => file.into(),
        }
    }
}

/// A program to run. Standard input is `/dev/null` unless set; output goes where this process's goes, except
/// that [`run`](crate::run) and its kin capture it.
#[derive(Debug)]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) stdin: Stdio,
    pub(crate) stdin_bytes: Option<Vec<u8>>,
    pub(crate) stdout: Option<Stdio>,
    pub(crate) stderr: Option<Stdio>,
    pub(crate) fds: Vec<(OwnedFd, i32)>,
    pub(crate) foreground: bool,
}

impl Command {
    /// A program, by path or by a name that is looked up on the PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            cwd: None,
            stdin: Stdio::Null,
            stdin_bytes: None,
            stdout: None,
            stderr: None,
            fds: Vec::new(),
            foreground: false,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable of this process's environment away.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Command {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Starts from an empty environment. [`OWNER_VARIABLE`](crate::OWNER_VARIABLE) is set all the same.
    pub fn env_clear(mut self) -> Command {
        self.env_clear = true;
        self
    }

    /// The directory to run in.
    pub fn cwd(mut self, directory: impl AsRef<Path>) -> Command {
        self.cwd = Some(directory.as_ref().to_owned());
        self
    }

    /// Standard input.
    pub fn stdin(mut self, stdin: Stdio) -> Command {
        self.stdin = stdin;
        self.stdin_bytes = None;
        self
    }

    /// Standard input from memory, then its end. It is not an error if the child does not read all of it.
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Command {
        self.stdin = Stdio::Piped;
        self.stdin_bytes = Some(bytes.into());
        self
    }

    /// Standard output.
    pub fn stdout(mut self, stdout: Stdio) -> Command {
        self.stdout = Some(stdout);
        self
    }

    /// Standard error.
    pub fn stderr(mut self, stderr: Stdio) -> Command {
        self.stderr = Some(stderr);
        self
    }

    /// Hands an open file to the child under the number `child_fd` (3 or above).
    pub fn fd(mut self, file: impl Into<OwnedFd>, child_fd: i32) -> Command {
        self.fds.push((file.into(), child_fd));
        self
    }

    /// Stays in this process's group, so that the child may use the terminal (an editor, sudo asking for a
    /// password). Ctrl-C reaches it too, and killing it does not reach what it started.
    pub fn foreground(mut self) -> Command {
        self.foreground = true;
        self
    }

    /// The command as a shell would take it, for messages and for files that start it again by hand.
    pub fn line(&self) -> CommandLine {
        let mut words = vec![self.program.to_string_lossy().into_owned()];
        words.extend(self.args.iter().map(|arg| arg.to_string_lossy().into_owned()));
        CommandLine { words }
    }
}

/// A command line. `Display` shortens it for messages, [`CommandLine::shell`] is whole and quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    const WIDTH: usize = 240;

    /// The program.
    pub fn program(&self) -> &str {
        &self.words[0]
    }

    /// All of it, quoted for a POSIX shell, an option and its value on each line.
    pub fn shell(&self) -> String {
        let mut text = quote(&self.words[0]);
        let mut value_may_follow = false;
        for word in &self.words[1..] {
            let option = word.starts_with('-');
            text.push_str(if !option && value_may_follow { " " } else { " \\\n    " });
            text.push_str(&quote(word));
            value_may_follow = option;
        }
        text
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.words.iter().map(|word| quote(&shorten(word, 80))).collect();
        f.write_str(&shorten(&words.join(" "), CommandLine::WIDTH))
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(|c| plain(c) || c == '…') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The text with its middle left out where it is longer than `width` characters.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let head = width * 2 / 3;
    let tail = width - head - 1;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_for_the_shell() {
        let line = Command::new("qemu").args(["-name", "it's one", "-S", "-m", "512", ""]).line();
        assert_eq!(line.shell(), "qemu \\\n    -name 'it'\\''s one' \\\n    -S \\\n    -m 512 \\\n    ''");
        assert_eq!(line.to_string(), r"qemu -name 'it'\''s one' -S -m 512 ''");
    }

    #[test]
    fn a_long_command_line_is_shortened_in_messages() {
        let line = Command::new("qemu").args((0..200).map(|n| format!("argument-{n}"))).line();
        assert_eq!(line.to_string().chars().count(), CommandLine::WIDTH);
        assert!(line.to_string().ends_with("argument-199"));
        assert!(line.shell().contains("argument-100"));
    }
}
