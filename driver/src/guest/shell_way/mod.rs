//! The second way in: a shell on a line, for guests without an agent. The same verbs, or [`GuestError::Unsupported`].
//!
//! The channel itself is the crate `shell`. Here are its words for the driver's verbs; what the agent does in the guest
//! by itself is done by commands, and what it waits for is asked for again and again.

mod files;
mod hand_over;
mod line;
mod system;
mod wait;

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use agent_proto::hello::Identity;
use agent_proto::message::{ExecSpec, FailureKind, Program, Status, Usage};
use shell::{Options, Readiness, Shell};
use tokio::sync::{Mutex, watch};

use super::transport::Transport;
use super::{Exec, Guest, GuestError, Inner, Lost, Output, Way};

pub use hand_over::{Carried, HandOver, NoHandOver, Reach};
pub(crate) use line::ConsoleLine;

/// A shell, and how to get it again.
pub(super) struct ShellWay {
    pub(super) machine: String,
    pub(super) transport: Arc<dyn Transport>,
    readiness: Readiness,
    silence: Duration,
    /// Held while another shell is attached, so that two don't type at once.
    attaching: Mutex<()>,
    /// The shell, and which one it is.
    current: watch::Sender<(u64, Option<Shell>)>,
    /// The agent that it handed over to.
    agent: StdMutex<Option<Arc<Inner>>>,
}

impl Guest {
    /// Waits for a shell on a line, and attaches to it. `silence` is how long the line may say nothing before a request
    /// is said again.
    ///
    /// # Errors
    ///
    /// [`GuestError::Shell`] at the limit, or if the guest refuses a login or lacks a program.
    pub async fn over_shell(
        transport: Arc<dyn Transport>,
        readiness: Readiness,
        options: super::GuestOptions,
        silence: Duration,
    ) -> Result<Self, GuestError> {
        let way = ShellWay {
            machine: options.machine,
            transport,
            readiness,
            silence,
            attaching: Mutex::default(),
            current: watch::Sender::new((0, None)),
            agent: StdMutex::default(),
        };
        way.attach(options.limit).await?;
        Ok(Self { way: Way::Shell(Arc::new(way)) })
    }
}

impl ShellWay {
    /// Attaches anew; whatever ran over the shell of before is without one.
    pub(super) async fn attach(&self, limit: Duration) -> Result<(), GuestError> {
        let _attaching = self.attaching.lock().await;
        self.set_agent(None);
        // The old one's tasks let go of the line.
        self.current.send_modify(|(number, shell)| {
            *number += 1;
            *shell = None;
        });
        let name = self.transport.name().to_owned();
        let stream = tokio::time::timeout(limit, self.transport.connect()).await;
        let no_line = |last: String| GuestError::NoAnswer {
            machine: self.machine.clone(),
            transport: name.clone(),
            elapsed: limit,
            last,
        };
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(no_line(error.to_string())),
            Err(_) => return Err(no_line("nobody is at the line's other end".to_owned())),
        };
        let options = Options {
            limit,
            silence: self.silence,
            ..Options::new(&self.machine, &name, self.readiness.clone())
        };
        let shell = Shell::attach(stream, options).await.map_err(from_shell)?;
        self.current.send_modify(|(_, current)| *current = Some(shell));
        Ok(())
    }

    /// The agent, once it has taken over.
    pub(super) fn agent(&self) -> Option<Arc<Inner>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_agent(&self, agent: Option<Arc<Inner>>) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = agent;
    }

    pub(super) fn shell(&self, operation: &str) -> Result<Shell, GuestError> {
        let shell = self.current.borrow().1.clone();
        shell.ok_or_else(|| GuestError::Lost {
            machine: self.machine.clone(),
            operation: operation.to_owned(),
            elapsed: Duration::ZERO,
            reason: Lost::Replaced,
        })
    }

    /// Which shell answers: its boot, and its number among those of this guest.
    pub(super) fn identity(&self) -> Identity {
        let (instance, shell) = self.current.borrow().clone();
        let boot_id = shell.map(|shell| shell.hello().boot_id.clone()).unwrap_or_default();
        Identity { version: agent_proto::VERSION, instance, boot_id, pid: 0 }
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        match &self.current.borrow().1 {
            Some(shell) => shell.closed().map(Lost::Closed),
            None => Some(Lost::Replaced),
        }
    }

    /// Resolves when the line of the shell that is there now ends, or another one takes its place.
    pub(super) async fn closed(&self) -> Lost {
        let mut current = self.current.subscribe();
        let Some(shell) = current.borrow_and_update().1.clone() else { return Lost::Replaced };
        tokio::select! {
            reason = shell.wait_closed() => Lost::Closed(reason),
            _ = current.changed() => Lost::Replaced,
        }
    }

    pub(super) async fn ping(&self, limit: Duration) -> Result<(), GuestError> {
        let shell = self.shell("ping")?;
        self.within("ping", limit, shell.ping()).await
    }

    /// What the channel gives within a limit of the caller's.
    async fn within<T>(
        &self,
        operation: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, shell::Error>>,
    ) -> Result<T, GuestError> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(from_shell),
            Err(_) => Err(GuestError::Silent {
                machine: self.machine.clone(),
                operation: operation.to_owned(),
                elapsed: limit,
            }),
        }
    }

    pub(super) fn unsupported(&self, operation: impl Into<String>) -> GuestError {
        GuestError::Unsupported {
            machine: self.machine.clone(),
            operation: operation.into(),
            way: self.transport.name().to_owned(),
        }
    }

    pub(super) async fn run(&self, exec: Exec, limit: Duration) -> Result<Output, GuestError> {
        let operation = exec.to_string();
        let (spec, input) = exec.into_parts();
        let command = self.command(&operation, spec, input)?;
        let output = self.shell(&operation)?.run(command, limit).await.map_err(from_shell)?;
        Ok(Output {
            status: match output.status {
                shell::Status::Code(code) => Status::Code(code),
                shell::Status::Signal(signal) => Status::Signal(signal),
                shell::Status::TimedOut => Status::TimedOut,
            },
            stdout: output.stdout,
            stderr: output.stderr,
            elapsed: output.elapsed,
            usage: Usage::default(),
            lingering: false,
        })
    }

    /// A script of the driver's own, whose output is text.
    async fn script(&self, operation: &str, script: String, limit: Duration) -> Result<String, GuestError> {
        let output = self.run(Exec::shell(script), limit).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(GuestError::Refused {
            machine: self.machine.clone(),
            operation: operation.to_owned(),
            kind: FailureKind::Io,
            message: format!("{}: {}", output.status, text(&output.stderr).trim()),
            elapsed: output.elapsed,
        })
    }

    fn command(&self, operation: &str, spec: ExecSpec, input: Vec<u8>) -> Result<shell::Command, GuestError> {
        if spec.tty.is_some() {
            return Err(self.unsupported(format!("{operation} on a terminal")));
        }
        let mut command = match spec.program {
            Program::Argv(argv) => shell::Command::argv(argv),
            Program::Shell(script) => shell::Command::script(script),
        };
        for (name, value) in spec.env {
            command = command.env(name, value);
        }
        if let Some(directory) = spec.cwd {
            command = command.cwd(directory);
        }
        if let Some(user) = spec.user {
            command = command.user(user);
        }
        Ok(command.stdin(input))
    }
}

/// The channel's errors in the words that the verbs have for them.
pub(super) fn from_shell(error: shell::Error) -> GuestError {
    match error {
        shell::Error::CommandTimeout { machine, command, limit, output } => {
            GuestError::CommandTimeout { machine, command, limit, output: output.join("\n") }
        }
        shell::Error::Refused { machine, operation, refusal, message } => GuestError::Refused {
            machine,
            operation,
            kind: match refusal {
                shell::Refusal::NotFound => FailureKind::NotFound,
                shell::Refusal::Failed => FailureKind::Io,
            },
            message,
            elapsed: Duration::ZERO,
        },
        error => GuestError::Shell { source: error },
    }
}
