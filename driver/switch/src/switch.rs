//! The handle: starts the switch's thread and asks it for things.

use std::any::Any;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use crate::capture::{Capture, CaptureReport};
use crate::channel::Channel;
use crate::error::Error;
use crate::event::Event;
use crate::fdb::FdbEntry;
use crate::forwarder::PortId;
use crate::impair::{ImpairTarget, Impairment, ImpairmentId, Shaper};
use crate::io::{Clock, Command, Worker};
use crate::partition::{PartitionId, PartitionSpec};
use crate::state::{ImpairmentState, PortState, SwitchState};
use crate::vlan::PortMode;

mod bundles;
mod capture;
mod faults;
mod lldp;
mod services;
mod uplinks;

pub use faults::ServiceFaultChange;

/// How long a call waits for the switch's thread. It answers within milliseconds unless the machine is overloaded.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The longest path that fits into `sun_path` with its final NUL, in bytes.
const LONGEST_PATH: usize = 107;

/// How many events are kept for a subscriber that is slow.
const EVENTS: usize = 1024;

/// How a switch is to be.
#[derive(Clone, Debug)]
pub struct SwitchOptions {
    /// Its name, for messages and files.
    pub name: String,
    /// Where the ports' sockets are made. Must exist; keep it short, since a socket's path has at most 107 bytes.
    pub dir: PathBuf,
    /// How much memory the capture ring may take, in bytes. 64 MiB unless said otherwise.
    pub ring_bytes: usize,
    /// How much may wait for one port's peer, in bytes. 2 MiB unless said otherwise.
    pub queue_bytes: usize,
    /// How much impairments may delay at one port, in bytes. 32 MiB unless said otherwise.
    pub delay_bytes: usize,
    /// The seed of what impairments decide: the same seed, set-up and frames give the same decisions. 0 unless said
    /// otherwise.
    pub seed: u64,
    /// After what time without a frame from it an address is forgotten. 300 s unless said otherwise, the value that
    /// IEEE 802.1Q recommends.
    pub mac_ageing: Duration,
}

impl SwitchOptions {
    /// The usual values.
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> SwitchOptions {
        SwitchOptions {
            name: name.into(),
            dir: dir.into(),
            ring_bytes: 64 << 20,
            queue_bytes: 2 << 20,
            delay_bytes: 32 << 20,
            seed: 0,
            mac_ageing: Duration::from_secs(300),
        }
    }
}

/// How a port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name, unique in the switch: by custom the machine's and its NIC's, `server-1/eth1`.
    pub name: String,
    /// Its VLANs.
    pub mode: PortMode,
    /// Whether it is a vhost-user port: QEMU connects to it with `-netdev vhost-user`, and frames pass through memory
    /// shared with the guest, with checksums and TCP segments left undone as far as the guests agree on that. The price:
    /// it can't be captured, impaired or taken by a [`Channel`].
    pub fast: bool,
}

impl PortConfig {
    /// A port, up, for `-netdev stream`.
    pub fn new(name: impl Into<String>, mode: PortMode) -> PortConfig {
        PortConfig { name: name.into(), mode, fast: false }
    }

    /// The same, as a vhost-user port or not.
    #[must_use]
    pub fn fast(self, fast: bool) -> PortConfig {
        PortConfig { fast, ..self }
    }
}

/// A running switch. Clones are the same switch; it stops when [`Switch::stop`] is called or the last clone is dropped.
///
/// Calls block until the switch's thread has answered, which takes microseconds; they may be made from async code.
/// Every call sees, and acts after, all frames that peers had written to their sockets when it was made.
#[derive(Clone)]
pub struct Switch {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    dir: PathBuf,
    clock: Clock,
    commands: mpsc::Sender<Command>,
    wake: UnixStream,
    events: broadcast::Sender<Event>,
    /// What killed the thread, if something did.
    death: Arc<OnceLock<String>>,
    services: services::Services,
    faults: faults::ServiceFaults,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").field("name", &self.inner.name).field("dir", &self.inner.dir).finish()
    }
}

impl Switch {
    /// Starts a switch without ports.
    ///
    /// # Errors
    /// [`Error::Start`] if the system gives no thread or no socket pair.
    pub fn start(options: SwitchOptions) -> Result<Switch, Error> {
        let SwitchOptions { name, dir, ring_bytes, queue_bytes, delay_bytes, seed, mac_ageing } = options;
        let failed = |source| Error::Start { switch: name.clone(), source };
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        wake.set_nonblocking(true).and_then(|()| woken.set_nonblocking(true)).map_err(failed)?;
        let (commands, queue) = mpsc::channel::<Command>();
        let (events, _) = broadcast::channel(EVENTS);
        let clock = Clock::start();
        let shared: Arc<str> = name.as_str().into();
        let shaper = Shaper::new(seed, delay_bytes);
        let worker = Worker::new(
            Arc::clone(&shared),
            clock,
            mac_ageing,
            ring_bytes,
            queue_bytes,
            shaper,
            events.clone(),
        );
        let death = Arc::new(OnceLock::new());
        let run = {
            let death = Arc::clone(&death);
            move || {
                let end = catch_unwind(AssertUnwindSafe(|| worker.run(&queue, woken)));
                let evidence = match end {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => format!("poll: {error}"),
                    Err(panic) => panic_message(&*panic),
                };
                tracing::error!(%evidence, "the switch's thread died");
                // Before `queue` goes, which is what callers notice.
                let _ = death.set(evidence);
                drop(queue);
            }
        };
        let thread = thread::Builder::new().name(format!("switch {name}")).spawn(run).map_err(failed)?;
        let thread = Mutex::new(Some(thread));
        Ok(Switch {
            inner: Arc::new(Inner {
                name: shared,
                dir,
                clock,
                commands,
                wake,
                events,
                death,
                services: services::Services::default(),
                faults: faults::ServiceFaults::default(),
                thread,
            }),
        })
    }

    /// The switch's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The time since the switch started: what frames and events are stamped with, and what
    /// [`crate::FrameFilter::since`] takes.
    pub fn now(&self) -> Duration {
        self.inner.clock.now()
    }

    /// Adds a port, up, that listens on a socket of its own.
    ///
    /// # Errors
    /// [`Error::DuplicatePort`], [`Error::SocketPathTooLong`], [`Error::Listen`].
    pub fn add_port(&self, config: PortConfig) -> Result<PortId, Error> {
        let (switch, dir) = (self.inner.name.to_string(), self.inner.dir.clone());
        self.call("add a port", move |worker| {
            worker.add_port(&config.name, config.mode, config.fast, |id| {
                let path = dir.join(format!("{}.{id}", file_name(&switch)));
                let length = path.as_os_str().as_bytes().len();
                if length > LONGEST_PATH {
                    return Err(Error::SocketPathTooLong { switch, port: config.name.clone(), path, length });
                }
                Ok(path)
            })
        })?
    }

    /// Removes a port: its connection is closed, its socket is gone.
    ///
    /// # Errors
    /// [`Error::UnknownPort`].
    pub fn remove_port(&self, port: PortId) -> Result<(), Error> {
        self.inner.services.forget(port);
        self.inner.faults.end_all_of(port);
        self.call("remove a port", move |worker| worker.remove_port(port))?
    }

    /// The socket that QEMU's `-netdev stream`, or the `-chardev` of its `-netdev vhost-user`, connects to. It may connect and reconnect at any time; when
    /// a second one connects, it takes the place of the first, which is closed.
    ///
    /// # Errors
    /// [`Error::UnknownPort`].
    pub fn socket_path(&self, port: PortId) -> Result<PathBuf, Error> {
        self.call("find a port's socket", move |worker| worker.socket_path(port))?
    }

    /// Connects this process to a port, in place of what was connected.
    ///
    /// # Errors
    /// [`Error::UnknownPort`]; [`Error::FastPort`]; [`Error::Start`] if the system gives no socket pair.
    pub fn attach_channel(&self, port: PortId) -> Result<Channel, Error> {
        let start = |source| Error::Start { switch: self.inner.name.to_string(), source };
        let (ours, theirs) = UnixStream::pair().map_err(start)?;
        let name = self.call("attach a channel", move |worker| worker.attach(port, theirs))??;
        Ok(Channel::new(name, ours))
    }

    /// Gives a port or a bundle other VLANs. What was learnt on it is forgotten.
    ///
    /// # Errors
    /// [`Error::UnknownPort`]; [`Error::InBundle`] for a member, since its bundle has the say.
    pub fn set_mode(&self, port: PortId, mode: PortMode) -> Result<(), Error> {
        self.call("set a port's mode", move |worker| worker.set_mode(port, mode))?
    }

    /// Sets a port up or down. A port that is down is read from, and all of it is dropped. The guest does not notice:
    /// its carrier is QMP's `set_link`, and whoever means a cable that was pulled does both. A member leaves its bundle
    /// at once, and comes back as a new link does.
    ///
    /// # Errors
    /// [`Error::UnknownPort`].
    pub fn set_admin(&self, port: PortId, up: bool) -> Result<(), Error> {
        self.call("set a port up or down", move |worker| worker.set_admin(port, up))?
    }

    /// Stops frames between ports until [`Switch::heal`].
    ///
    /// # Errors
    /// [`Error::UnknownPort`]; [`Error::EmptyPartition`] if it would stop nothing.
    pub fn partition(&self, spec: PartitionSpec) -> Result<PartitionId, Error> {
        self.call("partition", move |worker| worker.partition(spec))?
    }

    /// Ends a partition.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub fn heal(&self, id: PartitionId) -> Result<(), Error> {
        self.call("heal a partition", move |worker| worker.heal(id))?
    }

    /// Makes the way of some frames a bad one, in place of what was set on the same target before. What waited because of
    /// that goes on at once.
    ///
    /// # Errors
    /// [`Error::UnknownPort`]; [`Error::FastPort`] if one of the ports is a vhost-user port; [`Error::Impairment`] with
    /// all that is wrong with it.
    pub fn impair(&self, target: ImpairTarget, impairment: Impairment) -> Result<ImpairmentId, Error> {
        self.call("impair", move |worker| worker.impair(target, impairment))?
    }

    /// Ends an impairment. What waited because of it goes on at once, in order, as far as there is room in the port's queue.
    ///
    /// # Errors
    /// [`Error::UnknownImpairment`], also if another one took its place.
    pub fn clear_impairment(&self, id: ImpairmentId) -> Result<(), Error> {
        self.call("clear an impairment", move |worker| worker.clear_impairment(id))?
    }

    /// Ends all impairments; how many there were.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn clear_all_impairments(&self) -> Result<usize, Error> {
        self.call("clear all impairments", Worker::clear_all_impairments)
    }

    /// The impairments in force, and what they did so far.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn impairments(&self) -> Result<Vec<ImpairmentState>, Error> {
        self.call("list the impairments", Worker::impairments)
    }

    /// The ports with their counters, in the order in which they were added.
    ///
    /// # Errors
    /// Only those of every call: [`Error::Stopped`], [`Error::Died`], [`Error::Unresponsive`].
    pub fn ports(&self) -> Result<Vec<PortState>, Error> {
        self.call("list the ports", Worker::ports)
    }

    /// The whole state, for `ports.json`.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn state(&self) -> Result<SwitchState, Error> {
        let state = self.call("read the state", Worker::state)?;
        let (services, service_faults) = (self.inner.services.states(), self.inner.faults.states());
        Ok(SwitchState { services, service_faults, ..state })
    }

    /// Writes the whole state to a file, as JSON.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_state(&self, path: &Path) -> Result<(), Error> {
        let state = self.state()?;
        let json = serde_json::to_vec_pretty(&state).map_err(io::Error::from);
        json.and_then(|json| std::fs::write(path, json)).map_err(|source| self.write_failed(path, source))
    }

    /// The addresses it has learnt, by VLAN and address.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn fdb(&self) -> Result<Vec<FdbEntry>, Error> {
        self.call("list learnt addresses", Worker::fdb)
    }

    /// Knows these addresses from now on, as if a frame from each had just come in. Those of ports that it has not are
    /// passed over.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn learn(&self, entries: Vec<FdbEntry>) -> Result<(), Error> {
        self.call("learn addresses", move |worker| worker.learn(entries))
    }

    /// Forgets all learnt addresses.
    ///
    /// # Errors
    /// Only those of every call: see [`Switch::ports`].
    pub fn flush(&self) -> Result<(), Error> {
        self.call("forget learnt addresses", Worker::flush_fdb)
    }

    /// What happens from now on. A subscriber that falls more than 1024 events behind loses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Stops the switch: connections are closed, sockets are gone, captures are on their files, the thread has ended.
    /// Stopping twice is fine.
    ///
    /// # Errors
    /// [`Error::Died`] if the thread had died before; [`Error::Unresponsive`] if it or a capture's disk takes too long.
    pub fn stop(&self) -> Result<Vec<CaptureReport>, Error> {
        let operation = "stop";
        let Some(thread) = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(Vec::new());
        };
        let captures = self.call(operation, Worker::stop)?;
        // It ends right after that answer; what it does until then takes no waiting.
        let _ = thread.join();
        let end = Instant::now() + ANSWER_WITHIN;
        let finish = |capture: Capture| {
            let left = end.saturating_duration_since(Instant::now());
            capture.finish(left).ok_or_else(|| self.unresponsive(operation, ANSWER_WITHIN))
        };
        captures.into_iter().map(finish).collect()
    }

    /// Runs a command on the switch's thread and waits for its answer.
    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        command: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let (answer, answered) = mpsc::sync_channel(1);
        let command: Command = Box::new(move |worker| {
            // Whoever asked may have given up.
            let _ = answer.send(command(worker));
        });
        self.inner.commands.send(command).map_err(|_| self.gone(operation))?;
        self.inner.wake_up();
        match answered.recv_timeout(ANSWER_WITHIN) {
            Ok(answer) => Ok(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.gone(operation)),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(self.unresponsive(operation, started.elapsed())),
        }
    }

    fn gone(&self, operation: &'static str) -> Error {
        let switch = self.inner.name.to_string();
        match self.inner.death.get() {
            Some(evidence) => Error::Died { switch, operation, evidence: evidence.clone() },
            None => Error::Stopped { switch, operation },
        }
    }

    fn unresponsive(&self, operation: &'static str, elapsed: Duration) -> Error {
        Error::Unresponsive { switch: self.inner.name.to_string(), operation, elapsed }
    }

    fn write_failed(&self, path: &Path, source: io::Error) -> Error {
        Error::Write { switch: self.inner.name.to_string(), path: path.to_owned(), source }
    }
}

impl Inner {
    fn wake_up(&self) {
        // Full means that the thread will wake up anyway; closed means that it has ended, which the caller finds out.
        let _ = (&self.wake).write(&[1]);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let stop = |worker: &mut Worker| {
                for capture in worker.stop() {
                    let _ = capture.finish(ANSWER_WITHIN);
                }
            };
            let _ = self.commands.send(Box::new(stop));
            self.wake_up();
            let _ = thread.join();
        }
    }
}

/// A name that is one component of a path.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
