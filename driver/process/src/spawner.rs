//! The one thread that forks.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;
use std::sync::{OnceLock, mpsc};
use std::thread;

use command_fds::{CommandFdExt, FdMapping};

use crate::child::Child;
use crate::command::{Command, CommandLine, Stdio};
use crate::error::Error;
use crate::identity::{OWNER_VARIABLE, owner_mark};

/// Starts a program: in a process group of its own, to be killed with this process, in the environment of this
/// process and with [`OWNER_VARIABLE`] set.
///
/// Blocks for the few milliseconds of fork and exec. Needs no async runtime.
///
/// # Errors
/// [`Error::NotFound`] if there is no such program, [`Error::Spawn`] for all else that the kernel refuses.
pub fn spawn(mut command: Command) -> Result<Child, Error> {
    let line = command.line();
    refuse_ignored_children()?;
    let stdin_bytes = command.stdin_bytes.take();
    let (program, cwd) = (command.program.clone(), command.cwd.clone());
    let foreground = command.foreground;
    let prepared = prepare(command, &line)?;
    let spawned =
        on_spawner_thread(prepared).map_err(|source| explain(&program, cwd.as_deref(), &line, source))?;
    let child = Child::adopt(spawned, line, !foreground)?;
    if let Some(bytes) = stdin_bytes
        && let Some(mut stdin) = child.take_stdin()
    {
        // A thread, since the child may read late or never; it ends at the latest when the child does.
        let feed = move || drop(stdin.write_all(&bytes));
        thread::Builder::new()
            .name("child-stdin".into())
            .spawn(feed)
            .map_err(|source| Error::Spawn { command: child.line().clone(), source })?;
    }
    Ok(child)
}

fn prepare(command: Command, line: &CommandLine) -> Result<process::Command, Error> {
    let mark = owner_mark().map_err(|source| Error::File {
        operation: "read the start time from",
        path: "/proc/self/stat".into(),
        source,
    })?;
    let mut prepared = process::Command::new(&command.program);
    prepared.args(&command.args);
    if command.env_clear {
        prepared.env_clear();
    }
    for (name, value) in &command.env {
        match value {
            Some(value) => prepared.env(name, value),
            None => prepared.env_remove(name),
        };
    }
    prepared.env(OWNER_VARIABLE, mark);
    if let Some(cwd) = &command.cwd {
        prepared.current_dir(cwd);
    }
    prepared
        .stdin(command.stdin.into_std())
        .stdout(command.stdout.unwrap_or(Stdio::Inherit).into_std())
        .stderr(command.stderr.unwrap_or(Stdio::Inherit).into_std());
    if !command.fds.is_empty() {
        let mappings =
            command.fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
        prepared.fd_mappings(mappings).map_err(|_| Error::DescriptorCollision { command: line.clone() })?;
    }
    if !command.foreground {
        prepared.process_group(0);
    }
    crate::death::die_with_parent(&mut prepared);
    Ok(prepared)
}

type Job = (process::Command, mpsc::SyncSender<io::Result<process::Child>>);

/// The thread is never joined and never ends: `PR_SET_PDEATHSIG` fires when the *thread* that forked ends.
fn on_spawner_thread(command: process::Command) -> io::Result<process::Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        // Without the thread the queue's receiver is dropped, and each job is answered with an error below.
        let _ = thread::Builder::new().name("spawner".into()).spawn(move || {
            for (mut command, answer) in queue {
                #[expect(clippy::disallowed_methods, reason = "this is the blessed wrapper")]
                let spawned = command.spawn();
                let _ = answer.send(spawned);
            }
        });
        jobs
    });
    let gone = || io::Error::other("the thread that spawns children could not be started");
    let (answer, answered) = mpsc::sync_channel(1);
    spawner.send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// `NotFound` from exec may mean the program, its interpreter or the working directory.
fn explain(program: &OsStr, cwd: Option<&Path>, line: &CommandLine, source: io::Error) -> Error {
    let spawn = |source| Error::Spawn { command: line.clone(), source };
    if source.kind() != ErrorKind::NotFound {
        return spawn(source);
    }
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        let text = format!("its working directory {} does not exist", cwd.display());
        return spawn(io::Error::new(ErrorKind::NotFound, text));
    }
    let path = Path::new(program);
    let by_path = path.components().count() > 1;
    if by_path && cwd.map_or_else(|| path.to_owned(), |cwd| cwd.join(path)).exists() {
        let text = "the file exists, but the interpreter or loader that it names does not";
        return spawn(io::Error::new(ErrorKind::NotFound, text));
    }
    let looked = match std::env::var_os("PATH") {
        _ if by_path => "at that path".to_owned(),
        Some(path) => format!("on the PATH ({})", path.to_string_lossy()),
        None => "on the default PATH, as PATH is not set".to_owned(),
    };
    Error::NotFound { program: program.to_string_lossy().into_owned(), looked }
}

/// With SIGCHLD ignored the kernel reaps by itself and no status is ever seen (`wait(2)`, notes).
fn refuse_ignored_children() -> Result<(), Error> {
    const SIGCHLD: u32 = 17;
    let path = "/proc/self/status";
    let status = fs_err::read_to_string(path).map_err(|source| Error::File {
        operation: "read the signal dispositions from",
        path: path.into(),
        source,
    })?;
    let ignored =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    match ignored {
        Some(mask) if mask & 1 << (SIGCHLD - 1) != 0 => Err(Error::ChildrenIgnored),
        _ => Ok(()),
    }
}
