//! What is said in a session.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The streams of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Stream {
    /// Host to agent: a command's stdin, a file's content.
    In = 0,
    /// Agent to host: stdout (on a tty: everything), a file's content.
    Out = 1,
    /// Agent to host: stderr.
    Err = 2,
}

impl Stream {
    /// The stream with this number on the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::In, Self::Out, Self::Err].into_iter().find(|stream| *stream as u8 == byte)
    }
}

/// Host to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Do something; exactly one [`ToHost::Reply`] with this id follows unless it is cancelled.
    Request {
        /// Chosen by the host, never used twice in a session.
        id: u32,
        /// What to do.
        request: Request,
    },
    /// More bytes may be sent in a stream.
    Credit {
        /// The request.
        id: u32,
        /// Its stream.
        stream: Stream,
        /// How many more.
        bytes: u32,
    },
    /// Nothing more comes in [`Stream::In`].
    End {
        /// The request.
        id: u32,
        /// BLAKE3 of all that was sent, where the receiver must check it.
        digest: Option<[u8; 32]>,
    },
    /// Send a signal to a command's process group.
    Signal {
        /// The request.
        id: u32,
        /// The signal's number.
        signal: i32,
    },
    /// The terminal of a command has a new size.
    Resize {
        /// The request.
        id: u32,
        /// The size.
        size: TtySize,
    },
    /// Nobody waits for this request: its process group is killed, its half-written file removed; no reply follows.
    Cancel {
        /// The request.
        id: u32,
    },
}

/// Agent to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// A command runs.
    Started {
        /// The request.
        id: u32,
        /// Its process, which leads a process group of its own.
        pid: u32,
    },
    /// What is about to be sent in [`Stream::Out`] of a [`Request::ReadFile`].
    Meta {
        /// The request.
        id: u32,
        /// The file.
        meta: FileMeta,
    },
    /// More bytes may be sent in [`Stream::In`].
    Credit {
        /// The request.
        id: u32,
        /// How many more.
        bytes: u32,
    },
    /// Nothing more comes in a stream.
    End {
        /// The request.
        id: u32,
        /// Which stream.
        stream: Stream,
    },
    /// The end of a request.
    Reply {
        /// The request.
        id: u32,
        /// How it ended.
        result: Result<Reply, Failure>,
    },
    /// The agent was asked to stop by its system and ends the session.
    Goodbye {
        /// Why.
        reason: String,
    },
}

/// What the agent can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Answer.
    Ping,
    /// Tell about the system: [`Reply::Info`].
    Info,
    /// Run a command: [`Reply::Exited`].
    Exec(ExecSpec),
    /// Write a file from [`Stream::In`]: [`Reply::Done`].
    WriteFile(FileSpec),
    /// Send a file in [`Stream::Out`]: [`ToHost::Meta`] first, [`Reply::Sent`] last.
    ReadFile {
        /// The file.
        path: String,
    },
    /// Unpack a tar stream from [`Stream::In`]: [`Reply::Done`].
    WriteTree(TreeSpec),
    /// Send a directory as a tar stream in [`Stream::Out`]: [`Reply::Sent`].
    ReadTree {
        /// The directory.
        path: String,
    },
    /// Write small files, in order, making directories: [`Reply::Done`].
    WriteFiles(Vec<SmallFile>),
    /// Wait for a condition: [`Reply::Waited`].
    Wait {
        /// For what.
        condition: Condition,
        /// How long, in milliseconds of the guest's monotonic clock.
        limit_ms: u64,
    },
    /// Set the host name: [`Reply::Done`].
    SetHostname {
        /// The name.
        name: String,
        /// Write /etc/hostname as well.
        persist: bool,
    },
    /// Set the realtime clock: [`Reply::Done`].
    SetTime {
        /// Seconds since 1970-01-01 UTC.
        seconds: i64,
        /// And nanoseconds.
        nanoseconds: u32,
    },
    /// Reply, then write a character to /proc/sysrq-trigger.
    Sysrq {
        /// The key.
        key: char,
    },
    /// Reply, then go down.
    Power(Power),
}

/// Ways to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// `systemctl reboot`.
    Reboot,
    /// `systemctl poweroff`.
    Poweroff,
    /// sync, then reboot(2): no unit is stopped.
    ForcedReboot,
    /// sync, then power off by reboot(2): no unit is stopped.
    ForcedPoweroff,
}

/// How a request ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// There is nothing to tell.
    Done,
    /// To [`Request::Info`].
    Info(Info),
    /// To [`Request::Exec`].
    Exited(Exited),
    /// To [`Request::ReadFile`] and [`Request::ReadTree`].
    Sent {
        /// Bytes that were sent.
        bytes: u64,
        /// Their BLAKE3.
        digest: [u8; 32],
    },
    /// To [`Request::Wait`].
    Waited(Waited),
}

/// A request that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort.
    pub kind: FailureKind,
    /// In words, with the path or name that it is about.
    pub message: String,
}

/// Sorts of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such file, program, user, group or unit.
    NotFound,
    /// The guest's kernel denies it.
    Denied,
    /// The request makes no sense.
    Invalid,
    /// What arrived is not what was sent.
    Digest,
    /// The system said no for another reason.
    Io,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// What to run.
    pub program: Program,
    /// Environment on top of the agent's plain one.
    pub env: Vec<(String, String)>,
    /// Working directory: the user's home if `None`, and / where that is missing.
    pub cwd: Option<String>,
    /// `name`, `uid`, or either with `:group`; the agent's own user if `None`.
    pub user: Option<String>,
    /// On a terminal of this size.
    pub tty: Option<TtySize>,
    /// Whether [`Stream::In`] is used; else stdin is /dev/null.
    pub stdin: bool,
    /// After so many milliseconds the process group is killed.
    pub limit_ms: Option<u64>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A program, looked up in PATH, and its arguments.
    Argv(Vec<String>),
    /// A script: `bash -euo pipefail -c` where the guest has bash, else `sh -eu -c`.
    Shell(String),
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Its status.
    pub status: Status,
    /// Microseconds from spawn to exit on the guest's monotonic clock.
    pub elapsed_us: u64,
    /// What it used.
    pub usage: Usage,
    /// A child of it still holds stdout or stderr: what that writes from now on is lost.
    pub lingering: bool,
}

/// A command's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Exited with this code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
    /// Killed by the agent at its limit.
    TimedOut,
}

impl Status {
    /// As a shell's `$?` has it: the exit code, or 128 and the signal's number; 124 for a limit, as timeout(1) has it.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    /// Exited with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("killed at its limit"),
        }
    }
}

/// getrusage(2) of a command and of its children that it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// User CPU time in microseconds.
    pub user_us: u64,
    /// System CPU time in microseconds.
    pub system_us: u64,
    /// Largest resident set in KiB.
    pub max_rss_kib: u64,
}

/// A file to be written. The content comes in [`Stream::In`]; it appears under its name when it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Where.
    pub path: String,
    /// Permission bits; `None` keeps those of a file that is replaced, else 0644.
    pub mode: Option<u32>,
    /// `user`, `user:group` or `:group`; `None` keeps the owner of a file that is replaced.
    pub owner: Option<String>,
    /// Make missing directories, mode 0755.
    pub parents: bool,
}

/// A small file with its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallFile {
    /// Where, how.
    pub file: FileSpec,
    /// What.
    pub content: Vec<u8>,
}

/// A tree to be written: a tar stream that is unpacked into a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSpec {
    /// The directory; made if it is missing.
    pub path: String,
    /// Give everything to `user`, `user:group` or `:group`; `None` gives everything to the agent's user.
    pub owner: Option<String>,
}

/// A file that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size as stat tells it; 0 for files of /proc.
    pub size: u64,
    /// It is a directory, and nothing will be sent: ask for the tree.
    pub directory: bool,
}

/// What can be waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// A unit's ActiveState is this. A unit that can't get there any more (failed; inactive without a job when it
    /// should be active) ends the wait.
    Unit {
        /// The unit.
        unit: String,
        /// `active`, `inactive`, `failed`, …
        state: String,
    },
    /// A path exists, or doesn't.
    Path {
        /// The path.
        path: String,
        /// Whether it should.
        exists: bool,
    },
    /// A TCP port accepts connections, or refuses them.
    Port {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
        /// Whether it should.
        open: bool,
    },
    /// A unix socket accepts connections.
    UnixSocket {
        /// Its path.
        path: String,
    },
    /// A command succeeds, or fails. Each attempt is killed at the end of the wait.
    Command {
        /// The command.
        spec: ExecSpec,
        /// Whether it should succeed.
        succeeds: bool,
    },
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Met or not.
    pub outcome: Outcome,
    /// How often it was looked at.
    pub attempts: u32,
    /// Microseconds of the guest's monotonic clock.
    pub elapsed_us: u64,
    /// What was seen last: a unit's state, an error, a command's status and output (its last 64 KiB).
    pub evidence: String,
}

/// Ends of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It came to be.
    Met,
    /// The limit came first.
    TimedOut,
    /// It can't come to be any more.
    Impossible,
}

/// A guest's system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The key-value pairs of os-release.
    pub os_release: Vec<(String, String)>,
    /// systemd's version, `None` where there is no systemd.
    pub systemd_version: Option<u32>,
    /// The boot's id.
    pub boot_id: String,
    /// The machine's id, empty where it has none.
    pub machine_id: String,
    /// Host name.
    pub hostname: String,
    /// `uname -r`.
    pub kernel: String,
    /// Milliseconds since boot.
    pub uptime_ms: u64,
    /// The agent's package version.
    pub agent_version: String,
}

/// The postcard bytes of a message.
#[must_use]
pub fn to_bytes<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message).expect("a plain structure always serialises")
}

/// Reads a message.
///
/// # Errors
///
/// If the bytes are no such message or hold more than one.
pub fn from_bytes<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, postcard::Error> {
    let (message, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() { Ok(message) } else { Err(postcard::Error::DeserializeBadEncoding) }
}
