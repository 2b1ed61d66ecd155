//! A machine between power-on and power-off: QEMU or a board, and what hangs on it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use process::{Child, Command, Stdio};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Machine;
use super::board::PoweredBoard;
use super::saved::Incoming;
use crate::Error;
use crate::console::{Console, ConsoleOptions};
use crate::guest::{ConsoleLine, Guest, HandOver, Listener, Reach, Transport};
use crate::qemu::{Memory, Plugs, Wiring, command_line};
use crate::spec::{AgentSource, AgentSpec, Channel, ShellSpec};

/// How long QEMU may take to connect to its console and monitor.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What runs.
pub(super) struct Instance {
    pub(super) body: Body,
    pub(super) console: Console,
    /// The agent's channel, once it has greeted; `None` again while the guest reboots.
    pub(super) guest: watch::Sender<Option<Guest>>,
    /// Counts the resets that were asked for.
    pub(super) resets: watch::Sender<u64>,
    /// How the agent, or the shell, is reached.
    pub(super) transport: Option<Arc<dyn Transport>>,
    /// The agent that the shell hands over to.
    pub(super) hand_over: Option<HandOver>,
    /// How the journal is followed: another session with the same agent.
    pub(super) journal: Option<Arc<dyn Transport>>,
    pub(super) started: Instant,
    /// Ends the tasks that watch this instance.
    pub(super) over: CancellationToken,
    /// The channel of an earlier boot of this instance.
    known: OnceLock<Guest>,
    /// Whether its processors stand still because a test wants them to.
    pub(super) paused: AtomicBool,
    /// Whether it was restored, and its agent knows nothing of that yet.
    pub(super) to_be_greeted: AtomicBool,
    expected_to_end: AtomicBool,
    expected_to_reset: AtomicBool,
}

/// What the guest runs on.
pub(super) enum Body {
    Qemu(Qemu),
    Board(PoweredBoard),
}

/// A QEMU that runs.
pub(super) struct Qemu {
    pub(super) child: Child,
    pub(super) qmp: qmp::Client,
    /// Where the guest's memory lies.
    pub(super) memory: Memory,
    /// The vhost-user-vsock daemon, which must live as long as QEMU.
    _vsock_daemon: Option<Child>,
}

impl Instance {
    /// One that has just been powered on.
    pub(super) fn new(
        body: Body,
        console: Console,
        transport: Option<Arc<dyn Transport>>,
        journal: Option<Arc<dyn Transport>>,
        started: Instant,
    ) -> Self {
        Self {
            body,
            console,
            guest: watch::Sender::new(None),
            resets: watch::Sender::new(0),
            transport,
            hand_over: None,
            journal,
            started,
            over: CancellationToken::new(),
            known: OnceLock::new(),
            paused: AtomicBool::new(false),
            to_be_greeted: AtomicBool::new(false),
            expected_to_end: AtomicBool::new(false),
            expected_to_reset: AtomicBool::new(false),
        }
    }

    /// Its QEMU, if it has one.
    pub(super) fn qemu(&self) -> Option<&Qemu> {
        match &self.body {
            Body::Qemu(qemu) => Some(qemu),
            Body::Board(_) => None,
        }
    }

    /// Whether QEMU runs, or the board has power as far as is known.
    pub(super) fn is_running(&self) -> bool {
        match &self.body {
            Body::Qemu(qemu) => qemu.child.try_status().is_none(),
            Body::Board(board) => board.is_on(),
        }
    }

    /// The channel of an earlier boot, to be opened again.
    pub(super) fn known_guest(&self) -> Option<Guest> {
        self.known.get().cloned()
    }

    /// Keeps the channel for the next boot.
    pub(super) fn know_guest(&self, guest: &Guest) {
        let _ = self.known.set(guest.clone());
    }

    /// From now on the end of QEMU is no death.
    pub(super) fn expect_end(&self) {
        self.expected_to_end.store(true, Ordering::SeqCst);
    }

    /// From now on it is one again.
    pub(super) fn expect_no_end(&self) {
        self.expected_to_end.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_expected_to_end(&self) -> bool {
        self.expected_to_end.load(Ordering::SeqCst)
    }

    /// The next reset of the guest is asked for.
    pub(super) fn expect_reset(&self, expected: bool) {
        self.expected_to_reset.store(expected, Ordering::SeqCst);
    }

    pub(super) fn is_expected_to_reset(&self) -> bool {
        self.expected_to_reset.load(Ordering::SeqCst)
    }

    /// Whether this reset was asked for; the next one needs to be asked for again.
    pub(super) fn take_expected_reset(&self) -> bool {
        self.expected_to_reset.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.over.cancel();
        if let Body::Qemu(qemu) = &self.body {
            qemu.child.kill_group();
        }
    }
}

/// Starts QEMU and takes its connections; with `incoming`, a QEMU that waits for that state.
pub(super) async fn power_on(machine: &Machine, incoming: Option<&Incoming<'_>>) -> Result<Instance, Error> {
    let spec = machine.spec();
    let lab = &machine.inner.lab;
    let started = Instant::now();
    let socket = |kind: &str| machine.lab_socket(kind);
    let (qmp_path, serial_path) = (socket("qmp")?, socket("serial")?);
    let qmp_listener = listen(&qmp_path)?;
    let serial_listener = listen(&serial_path)?;
    let mut way = way_in(machine).await?;
    let plugs = Plugs::Driver {
        qmp: qmp_path.clone(),
        qmp_people: socket("monitor")?,
        serial: serial_path.clone(),
        agent: way.socket,
        journal: way.journal_socket,
        shell: way.console,
        cid: way.cid,
        nics: machine.nic_sockets()?,
    };
    let memory = match incoming {
        Some(incoming) => incoming.memory(),
        None if lab.checkpoints && machine.inner.scripted.is_none() => Memory::Memfd,
        None => Memory::Own,
    };
    let command = match &machine.inner.scripted {
        Some(scripted) => scripted.command(machine, &plugs)?,
        None => {
            let wiring = Wiring {
                accel: lab.accel,
                firmware: lab.firmware.clone().zip(machine.inner.vars.clone()),
                overlay: machine.inner.disk.as_ref().map(|disk| disk.path().to_owned()),
                data: machine.inner.data.iter().map(|disk| disk.path().to_owned()).collect(),
                nics: machine.slots(),
                memory: memory.clone(),
                incoming: incoming.is_some(),
                plugs,
            };
            write_scripts(machine, &wiring)?;
            let line = command_line(&lab.qemu, spec, &wiring);
            Command::new(&line.program).args(&line.args).stdin(Stdio::Null)
        }
    };

    let log = machine.inner.artifacts.join("qemu.log");
    let child = spawn(machine, command, &log)?;
    lab.record(&spec.name, &child)?;
    let accept = |listener: UnixListener, what: &'static str| {
        let (child, log) = (child.clone(), log.clone());
        async move { accept(machine, &child, listener, what, started, log).await }
    };
    let serial = accept(serial_listener, "its serial port was not connected").await?;
    let console = Console::capture(
        serial,
        ConsoleOptions {
            machine: spec.name.clone(),
            log: machine.inner.artifacts.join("console.log"),
            started,
        },
    )
    .map_err(Error::file("writing", &machine.inner.artifacts.join("console.log")))?;
    if matches!(spec.first_shell(), Some(ShellSpec::Serial(_))) {
        way.transport = Some(Arc::new(ConsoleLine::new(console.clone())));
    }
    let monitor = accept(qmp_listener, "its monitor was not connected").await?;
    let log_file = machine.inner.artifacts.join("qmp.jsonl");
    let options = qmp::Options { log: Some(log_file), ..qmp::Options::new(machine.name()) };
    let qmp = qmp::Client::connect(monitor, options)
        .await
        .map_err(|source| machine.qmp_error("greeting QEMU", source))?;
    if let Some(scripted) = &machine.inner.scripted {
        machine.plug_in(scripted.plugged(machine, started.elapsed())?)?;
    }
    for path in [qmp_path, serial_path] {
        // Both ends are connected: the name has done its work.
        let _ = fs_err::remove_file(path);
    }
    let body = Body::Qemu(Qemu { child, qmp, memory, _vsock_daemon: way.daemon });
    let mut instance = Instance::new(body, console, way.transport, way.journal, started);
    instance.hand_over = way.hand_over;
    Ok(instance)
}

fn spawn(machine: &Machine, command: Command, log: &std::path::Path) -> Result<Child, Error> {
    let out = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(Error::file("opening", log))?;
    let out = out.into_parts().0;
    let err = out.try_clone().map_err(Error::file("opening", log))?;
    let command = command.stdout(Stdio::File(out)).stderr(Stdio::File(err));
    process::spawn(command).map_err(|source| match source {
        process::Error::NotFound { .. } if machine.inner.scripted.is_none() => {
            Error::QemuMissing { program: machine.inner.lab.qemu.program.clone() }
        }
        source => Error::Start {
            machine: machine.name().to_owned(),
            waiting_for: "it could not be run",
            elapsed: Duration::ZERO,
            said: source.to_string(),
            log: log.to_owned(),
        },
    })
}

fn listen(path: &std::path::Path) -> Result<UnixListener, Error> {
    // A leftover of an earlier power-on of the same machine.
    let _ = fs_err::remove_file(path);
    UnixListener::bind(path).map_err(Error::file("listening on", path))
}

/// Waits for QEMU to connect, or to end.
async fn accept(
    machine: &Machine,
    child: &Child,
    listener: UnixListener,
    waiting_for: &'static str,
    started: Instant,
    log: PathBuf,
) -> Result<UnixStream, Error> {
    let failed = |said: String, log: PathBuf| Error::Start {
        machine: machine.name().to_owned(),
        waiting_for,
        elapsed: started.elapsed(),
        said,
        log,
    };
    tokio::select! {
        accepted = tokio::time::timeout(machine.limit(START_LIMIT), listener.accept()) => match accepted {
            Ok(Ok((stream, _))) => Ok(stream),
            Ok(Err(error)) => Err(failed(error.to_string(), log)),
            Err(_) => Err(failed(last_words(&log, "it runs, and says nothing"), log)),
        },
        status = child.wait() => Err(failed(format!("{status}: {}", last_words(&log, "no message")), log)),
    }
}

/// The last line of QEMU's own output.
pub(super) fn last_words(log: &std::path::Path, otherwise: &str) -> String {
    let text = fs_err::read(log).unwrap_or_default();
    let lines = crate::error::last_lines(&text, 3).join(" / ");
    if lines.is_empty() { otherwise.to_owned() } else { lines }
}

/// The way to the agent or the shell: QEMU's plug and our transport.
#[derive(Default)]
struct Way {
    socket: Option<PathBuf>,
    console: Option<PathBuf>,
    cid: Option<u32>,
    transport: Option<Arc<dyn Transport>>,
    hand_over: Option<HandOver>,
    journal_socket: Option<PathBuf>,
    journal: Option<Arc<dyn Transport>>,
    daemon: Option<Child>,
}

async fn way_in(machine: &Machine) -> Result<Way, Error> {
    let spec = machine.spec();
    let mut way = match &spec.agent {
        Some(agent) => way_to_agent(machine, agent.channel).await?,
        None => Way::default(),
    };
    if let Some(AgentSpec { source: AgentSource::OverShell(binary), channel }) = &spec.agent {
        let reach = match channel {
            Channel::Virtserial => Reach::Ports,
            Channel::Vsock | Channel::VhostUserVsock => Reach::Vsock,
        };
        // The shell is the first way in; that of a serial console is there once the console is.
        way.hand_over = way.transport.take().map(|transport| HandOver::new(binary, reach, transport));
    }
    if spec.first_shell() == Some(&ShellSpec::Backdoor) {
        let path = machine.lab_socket("shell")?;
        let transport = Listener::bind_anew(&path).map_err(Error::file("listening on", &path))?;
        let transport = transport.called(format!("the backdoor's virtio console at {}", path.display()));
        way.console = Some(path);
        way.transport = Some(Arc::new(transport));
    }
    Ok(way)
}

async fn way_to_agent(machine: &Machine, channel: Channel) -> Result<Way, Error> {
    match channel {
        Channel::Virtserial => {
            let port = |name: &str| {
                let path = machine.lab_socket(name)?;
                let transport = Listener::bind_anew(&path).map_err(Error::file("listening on", &path))?;
                Ok::<_, Error>((path, Arc::new(transport)))
            };
            let (socket, transport) = port("agent")?;
            let (journal_socket, journal) = port("journal")?;
            Ok(Way {
                socket: Some(socket),
                transport: Some(transport),
                journal_socket: Some(journal_socket),
                journal: Some(journal),
                ..Way::default()
            })
        }
        Channel::Vsock | Channel::VhostUserVsock => {
            let way = crate::vsock_way::open(machine, channel).await?;
            // Each connection is a session of its own.
            let transport = Some(way.transport);
            let (socket, cid, daemon) = (way.socket, way.cid, way.daemon);
            Ok(Way { socket, cid, journal: transport.clone(), transport, daemon, ..Way::default() })
        }
    }
}

/// `cmdline.sh` starts the same VM by hand, on a fresh overlay.
fn write_scripts(machine: &Machine, wiring: &Wiring) -> Result<(), Error> {
    let lab = &machine.inner.lab;
    let by_hand = |path: &str| PathBuf::from(path);
    let wiring = Wiring {
        plugs: Plugs::ByHand,
        overlay: wiring.overlay.as_ref().map(|_| by_hand("disk.qcow2")),
        data: machine.spec().data_disks.iter().map(|disk| by_hand(&format!("{}.qcow2", disk.name))).collect(),
        // It boots, whatever state this machine came from.
        memory: Memory::Own,
        incoming: false,
        firmware: wiring.firmware.clone().map(|(firmware, _)| (firmware, by_hand("vars.fd"))),
        ..wiring.clone()
    };
    let line = command_line(&lab.qemu, machine.spec(), &wiring);
    let mut text = format!(
        "#!/bin/sh\n# Starts {} again by hand: the console on this terminal, no network behind its NICs, and a\n\
         # fresh overlay (the test's own is gone). Ctrl-A X ends it.\nset -eu\ncd \"$(mktemp -d)\"\n",
        machine.name()
    );
    if let Some(disk) = &machine.spec().disk {
        let image = disk.image.display();
        text.push_str(&format!("qemu-img create -q -f qcow2 -F raw -b '{image}' disk.qcow2\n"));
    }
    for (disk, file) in machine.spec().data_disks.iter().zip(&wiring.data) {
        let base = disk.image.as_ref().map(|image| format!(" -F raw -b '{}'", image.display()));
        let (base, file, bytes) = (base.unwrap_or_default(), file.display(), disk.bytes);
        text.push_str(&format!("qemu-img create -q -f qcow2{base} {file} {bytes}\n"));
    }
    if let Some((firmware, _)) = &wiring.firmware {
        text.push_str(&format!("cp '{}' vars.fd\nchmod u+w vars.fd\n", firmware.vars.display()));
    }
    text.push_str(&line.to_shell());
    write_script(machine, &text)
}

/// Writes `cmdline.sh`.
pub(super) fn write_script(machine: &Machine, text: &str) -> Result<(), Error> {
    let path = machine.inner.artifacts.join("cmdline.sh");
    fs_err::write(&path, text).map_err(Error::file("writing", &path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(&path, mode).map_err(Error::file("writing", &path))
}
