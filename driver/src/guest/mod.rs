//! The guest channel: what the host asks the agent in a guest to do.
//!
//! [`Guest`] is the client of the agent, over any [`Transport`]: a virtserialport ([`Listener`] or [`UnixSocket`]), AF_VSOCK
//! ([`Vsock`]), vhost-user-vsock ([`VhostUserVsock`]). The protocol is in the crate `agent-proto`. Every call has a
//! limit, is cancelled in the guest when its future is dropped, and leaves the channel usable when it fails; only
//! [`GuestError::Lost`] asks for [`Guest::reconnect`]. Where there is no agent, [`Guest::over_shell`] has the same verbs over
//! a shell; what can't be done so is [`GuestError::Unsupported`].

mod error;
mod exec;
mod files;
mod link;
mod listener;
mod session;
mod shell_way;
pub mod suite;
mod system;
mod transport;
mod units;
mod vsock;
mod wait;

pub use self::error::{GuestError, Lost};
pub use self::exec::{Chunk, Exec, Exit, Output, OutputStream, Running, Stdin};
pub use self::files::{Copied, CopyOptions, Meta};
pub use self::listener::Listener;
pub(crate) use self::shell_way::ConsoleLine;
pub use self::shell_way::{Carried, HandOver, NoHandOver, Reach};
pub use self::system::{FailedUnit, SystemState};
pub use self::transport::{BoxStream, Stream, Transport, UnixSocket, VhostUserVsock};
pub use self::vsock::Vsock;
pub use agent_proto::hello::Identity;
pub use agent_proto::message::{FailureKind, Info, Power, SmallFile, Status, TtySize, Usage};

use self::link::Link;
use self::session::{Call, Session};
use self::shell_way::ShellWay;
use agent_proto::message::{Failure, Reply, Request};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// How much longer than a request's own limit the host waits for the agent's word.
const SILENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts to connect, which grows from 10 ms to this.
const SLOWEST_ATTEMPT: Duration = Duration::from_millis(500);

/// How to greet an agent.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// What errors call the machine.
    pub machine: String,
    /// How long the agent may take to answer.
    pub limit: Duration,
}

/// The client of the agent in one machine, or of a shell. Clones share the session.
#[derive(Clone)]
pub struct Guest {
    way: Way,
}

/// The way in.
#[derive(Clone)]
enum Way {
    Agent(Arc<Inner>),
    Shell(Arc<ShellWay>),
}

struct Inner {
    machine: String,
    transport: Arc<dyn Transport>,
    link: Mutex<Option<Link>>,
    session: watch::Sender<Arc<Session>>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = self.way();
        let transport = match &way {
            Way::Agent(agent) => agent.transport.name(),
            Way::Shell(shell) => shell.transport.name(),
        };
        f.debug_struct("Guest").field("machine", &self.machine()).field("transport", &transport).finish()
    }
}

impl Guest {
    /// Connects and greets the agent, trying again until it answers.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoAnswer`] at the limit, [`GuestError::Version`] if the agent is not of this driver.
    pub async fn connect(transport: Arc<dyn Transport>, options: GuestOptions) -> Result<Self, GuestError> {
        let agent = Inner::connect(transport, options).await?;
        Ok(Self { way: Way::Agent(Arc::new(agent)) })
    }

    /// Opens another session, after the last one was lost or to end all that runs in it: after a reboot of the
    /// guest, a restart of QEMU or of the agent. All clones use it. Tells who answers: compare the boot id.
    ///
    /// # Errors
    ///
    /// As [`Guest::connect`].
    pub async fn reconnect(&self, limit: Duration) -> Result<Identity, GuestError> {
        match self.way() {
            Way::Agent(agent) => agent.reconnect(limit).await?,
            Way::Shell(shell) => shell.attach(limit).await?,
        }
        Ok(self.agent())
    }

    /// The same in a boot of the guest that has begun since: where a shell handed over to the agent, the shell comes
    /// first once more.
    pub(crate) async fn begin_anew(&self, limit: Duration) -> Result<(), GuestError> {
        match &self.way {
            Way::Agent(agent) => agent.reconnect(limit).await,
            Way::Shell(shell) => shell.attach(limit).await,
        }
    }

    /// Has a shell carry the agent into the guest, starts it there, and from then on has the agent do what this client and
    /// its clones are asked for. The shell stays attached, and the way in if this fails.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoHandOver`] where the guest can't take it; those of the shell; [`GuestError::Version`].
    pub async fn hand_over(&self, to: &HandOver, limit: Duration) -> Result<Carried, GuestError> {
        match &self.way {
            Way::Agent(_) => Ok(Carried::default()),
            Way::Shell(shell) => shell.hand_over(to, limit).await,
        }
    }

    /// Whether an agent answers, and not a shell.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        matches!(self.way(), Way::Agent(_))
    }

    /// The way in of this moment: a shell may have handed over.
    fn way(&self) -> Way {
        let handed_over = match &self.way {
            Way::Shell(shell) => shell.agent().map(Way::Agent),
            Way::Agent(_) => None,
        };
        handed_over.unwrap_or_else(|| self.way.clone())
    }

    /// Resolves when the session that is open now is over, with the reason.
    pub async fn closed(&self) -> Lost {
        match self.way() {
            Way::Agent(agent) => agent.session().closed().await,
            Way::Shell(shell) => shell.closed().await,
        }
    }

    /// Whether the session is over: `None` while it is open.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        match self.way() {
            Way::Agent(agent) => agent.session().lost(),
            Way::Shell(shell) => shell.lost(),
        }
    }

    /// Who answered the last greeting: its boot id and instance.
    #[must_use]
    pub fn agent(&self) -> Identity {
        match self.way() {
            Way::Agent(agent) => agent.session().agent.clone(),
            Way::Shell(shell) => shell.identity(),
        }
    }

    /// The machine's name.
    #[must_use]
    pub fn machine(&self) -> &str {
        match &self.way {
            Way::Agent(agent) => &agent.machine,
            Way::Shell(shell) => &shell.machine,
        }
    }

    /// The shell, if that is the way in.
    fn shell(&self) -> Option<Arc<ShellWay>> {
        match self.way() {
            Way::Agent(_) => None,
            Way::Shell(shell) => Some(shell),
        }
    }

    /// Begins a request to the agent: over a shell there is none.
    fn begin(&self, operation: impl Into<String>, request: Request) -> Result<Operation, GuestError> {
        let operation = operation.into();
        let agent = match self.way() {
            Way::Agent(agent) => agent,
            Way::Shell(shell) => return Err(shell.unsupported(operation)),
        };
        let call = agent.session().request(request);
        Ok(Operation { machine: agent.machine.clone(), operation, started: Instant::now(), call })
    }

    /// A request that is done and has nothing to tell.
    async fn tell(
        &self,
        operation: impl Into<String>,
        request: Request,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let mut operation = self.begin(operation, request)?;
        match operation.reply(limit).await? {
            Reply::Done => Ok(()),
            reply => Err(operation.nonsense(&reply)),
        }
    }

    /// Asks the agent for a sign of life.
    ///
    /// # Errors
    ///
    /// [`GuestError::Silent`] or [`GuestError::Lost`].
    pub async fn ping(&self, limit: Duration) -> Result<(), GuestError> {
        match self.shell() {
            Some(shell) => shell.ping(limit).await,
            None => self.tell("ping", Request::Ping, limit).await,
        }
    }
}

impl Inner {
    async fn connect(transport: Arc<dyn Transport>, options: GuestOptions) -> Result<Self, GuestError> {
        let mut link = None;
        let session = greet(&*transport, &mut link, &options.machine, options.limit).await?;
        let session = watch::Sender::new(session);
        Ok(Self { machine: options.machine, transport, link: Mutex::new(link), session })
    }

    async fn reconnect(&self, limit: Duration) -> Result<(), GuestError> {
        let mut link = self.link.lock().await;
        self.session.borrow().lose(Lost::Replaced);
        *link = None;
        let session = greet(&*self.transport, &mut link, &self.machine, limit).await?;
        self.session.send_replace(session);
        Ok(())
    }

    fn session(&self) -> Arc<Session> {
        self.session.borrow().clone()
    }
}

/// A call and what errors about it say.
struct Operation {
    machine: String,
    operation: String,
    started: Instant,
    call: Call,
}

impl Operation {
    /// The reply. For requests that the agent limits itself, `limit` includes [`SILENCE`].
    async fn reply(&mut self, limit: Duration) -> Result<Reply, GuestError> {
        match tokio::time::timeout(limit, self.call.reply()).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(failure))) => Err(self.refused(failure)),
            Ok(Err(lost)) => Err(self.lost(lost)),
            Err(_) => Err(self.silent()),
        }
    }

    fn refused(&self, failure: Failure) -> GuestError {
        GuestError::Refused {
            machine: self.machine.clone(),
            operation: self.operation.clone(),
            kind: failure.kind,
            message: failure.message,
            elapsed: self.started.elapsed(),
        }
    }

    fn lost(&self, reason: Lost) -> GuestError {
        GuestError::Lost {
            machine: self.machine.clone(),
            operation: self.operation.clone(),
            elapsed: self.started.elapsed(),
            reason,
        }
    }

    fn silent(&self) -> GuestError {
        GuestError::Silent {
            machine: self.machine.clone(),
            operation: self.operation.clone(),
            elapsed: self.started.elapsed(),
        }
    }

    fn nonsense(&self, answer: &dyn std::fmt::Debug) -> GuestError {
        GuestError::Nonsense {
            machine: self.machine.clone(),
            operation: self.operation.clone(),
            answer: format!("{answer:.200?}"),
        }
    }
}

/// Gets a session over the link there is or over a new one.
async fn greet(
    transport: &dyn Transport,
    link: &mut Option<Link>,
    machine: &str,
    limit: Duration,
) -> Result<Arc<Session>, GuestError> {
    let started = Instant::now();
    let mut last = String::from("no connection was made");
    let attempts = async {
        let mut pause = Duration::from_millis(10);
        loop {
            *link = link.take().filter(|link| link.ended().is_none());
            let open = match link {
                Some(open) => open,
                None => match transport.connect().await {
                    Ok(stream) => {
                        last = "connected, but the hello was not answered".into();
                        link.insert(Link::new(stream))
                    }
                    Err(error) => {
                        last = error.to_string();
                        between_attempts(&mut pause).await;
                        continue;
                    }
                },
            };
            match open.open().await {
                Ok(session) => return session,
                Err(end) => last = format!("connected, but closed before the hello was answered ({end})"),
            }
            between_attempts(&mut pause).await;
        }
    };
    let session = tokio::time::timeout(limit, attempts).await;
    let Ok(session) = session else {
        let (machine, transport) = (machine.to_owned(), transport.name().to_owned());
        return Err(GuestError::NoAnswer { machine, transport, elapsed: started.elapsed(), last });
    };
    let (ours, theirs) = (agent_proto::VERSION, session.agent.version);
    if ours != theirs {
        return Err(GuestError::Version { machine: machine.to_owned(), ours, theirs });
    }
    Ok(session)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two attempts to connect; the caller has the limit"
)]
async fn between_attempts(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(SLOWEST_ATTEMPT);
}
