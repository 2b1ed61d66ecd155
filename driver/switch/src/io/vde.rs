//! A VDE switch's sockets: `ctl`, the connections of its clients, and a datagram socket for each.
//!
//! A client is there as long as its connection to `ctl`. What it sends on that after its request is read and thrown away.
//! All is bounded: clients that have not said what they want by number and time, the request by its length, clients by
//! their numbers.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{GetSockOpt, sockopt};

use super::MUTE;
use super::packet::VdeData;
use super::port::Listener;
use crate::forwarder::PortId;
use crate::uplink::{LONGEST_REQUEST, VdeClient, VdeRefusal, VdeRequest, answer};
use crate::vlan::PortMode;

/// How long a client may take to say what it wants. The ones that are known say it at once.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many clients may be about to say what they want. One more, and the one that has taken longest is turned away.
const WAITING: usize = 32;

/// What is polled of a VDE switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VdeSource {
    /// `ctl`.
    Listener,
    /// The connection of this number.
    Control(u64),
}

/// A client that has not yet said what it wants.
struct Waiting {
    serial: u64,
    control: UnixStream,
    request: Vec<u8>,
    until: Duration,
}

/// A client with a port.
struct Client {
    serial: u64,
    control: UnixStream,
    told: VdeClient,
    _data: DataFile,
}

/// A client that is to get a port.
pub(crate) struct Newcomer {
    serial: u64,
    control: UnixStream,
    description: String,
    pid: Option<i32>,
    file: DataFile,
    /// The place that it gets.
    pub(crate) number: u8,
    /// Its frames.
    pub(crate) data: VdeData,
}

/// What became of a connection.
pub(crate) enum Outcome {
    /// Nothing yet.
    Pending,
    /// Its client is to get a port.
    Joins(Box<Newcomer>),
    /// Its client is turned away.
    Refused(VdeRefusal),
    /// Its client, which had this port, has left.
    Left(PortId),
}

/// The file of a datagram socket, which goes with it.
struct DataFile(PathBuf);

impl Drop for DataFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A directory that was made for the sockets.
struct MadeDir(PathBuf);

impl Drop for MadeDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            tracing::debug!(dir = %self.0.display(), %error, "a VDE switch's directory stays");
        }
    }
}

/// The sockets of a VDE switch. Their files go with it.
pub(crate) struct VdeServer {
    waiting: Vec<Waiting>,
    clients: BTreeMap<u8, Client>,
    listener: Listener,
    muted_until: Option<Duration>,
    next_serial: u64,
    pub(crate) dir: PathBuf,
    pub(crate) numbered: BTreeMap<u8, PortMode>,
    /// The ports that places had before, and have again.
    pub(crate) ids: BTreeMap<u8, PortId>,
    pub(crate) refused: BTreeMap<VdeRefusal, u64>,
    /// The last, since its files are to go before it.
    _made: Option<MadeDir>,
}

impl VdeServer {
    /// The longest path of a socket in `dir`.
    pub(crate) fn longest_path(dir: &Path) -> PathBuf {
        data_path(dir, u8::MAX)
    }

    /// Makes the directory, for this user alone, if there is none, and listens on `ctl` in it.
    ///
    /// # Errors
    /// What was tried, and the system's answer: `AddrInUse` if another switch serves it.
    pub(crate) fn open(
        dir: &Path,
        numbered: BTreeMap<u8, PortMode>,
    ) -> Result<VdeServer, (String, io::Error)> {
        let made = match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => Some(MadeDir(dir.to_owned())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
            Err(error) => return Err((format!("make the directory {}", dir.display()), error)),
        };
        let ctl = dir.join("ctl");
        let listener = match Listener::bind(&ctl) {
            // Of a switch that was killed.
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(&ctl) => {
                let _ = std::fs::remove_file(&ctl);
                Listener::bind(&ctl)
            }
            listener => listener,
        };
        let listener = listener.map_err(|error| (format!("listen on {}", ctl.display()), error))?;
        Ok(VdeServer {
            waiting: Vec::new(),
            clients: BTreeMap::new(),
            listener,
            muted_until: None,
            next_serial: 0,
            dir: dir.to_owned(),
            numbered,
            ids: BTreeMap::new(),
            refused: BTreeMap::new(),
            _made: made,
        })
    }

    /// What to poll.
    pub(crate) fn sources(&self, now: Duration) -> impl Iterator<Item = (VdeSource, BorrowedFd<'_>)> {
        let muted = self.muted_until.is_some_and(|until| until > now);
        let listener = (!muted).then(|| (VdeSource::Listener, self.listener.socket.as_fd()));
        let waiting = self.waiting.iter().map(|client| (client.serial, &client.control));
        let clients = self.clients.values().map(|client| (client.serial, &client.control));
        let controls =
            waiting.chain(clients).map(|(serial, control)| (VdeSource::Control(serial), control.as_fd()));
        listener.into_iter().chain(controls)
    }

    /// Everything that could be polled.
    pub(crate) fn all_sources(&self) -> Vec<VdeSource> {
        self.sources(Duration::MAX).map(|(source, _)| source).chain([VdeSource::Listener]).collect()
    }

    /// When there is something to do without any of them being ready.
    pub(crate) fn due(&self, now: Duration) -> Option<Duration> {
        let handshakes = self.waiting.iter().map(|client| client.until);
        handshakes.chain(self.muted_until.filter(|until| *until > now)).min()
    }

    /// Takes the connections that wait; how many clients were turned away for that.
    ///
    /// # Errors
    /// The system gave no more descriptors, mostly. It is tried again later.
    pub(crate) fn accept(&mut self, now: Duration) -> (usize, io::Result<()>) {
        let mut turned_away = 0;
        for _ in 0..WAITING {
            let taken = self.listener.accept().and_then(|control| {
                let Some(control) = control else { return Ok(None) };
                control.set_nonblocking(true)?;
                Ok(Some(control))
            });
            let control = match taken {
                Ok(Some(control)) => control,
                Ok(None) => break,
                Err(error) => {
                    self.muted_until = Some(now + MUTE);
                    return (turned_away, Err(error));
                }
            };
            if self.waiting.len() == WAITING {
                self.waiting.remove(0);
                turned_away += 1;
            }
            let serial = self.next_serial;
            self.next_serial += 1;
            let until = now + HANDSHAKE;
            self.waiting.push(Waiting { serial, control, request: Vec::new(), until });
        }
        (turned_away, Ok(()))
    }

    /// Turns those away that have taken too long; how many.
    pub(crate) fn end_slow(&mut self, now: Duration) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|client| client.until > now);
        before - self.waiting.len()
    }

    /// Reads what a client sent on its connection. `is_free` says whether a place's port may be added.
    pub(crate) fn read(&mut self, serial: u64, is_free: impl Fn(u8) -> bool) -> Outcome {
        if let Some(at) = self.waiting.iter().position(|client| client.serial == serial) {
            return self.read_request(at, is_free);
        }
        let mut clients = self.clients.values_mut();
        let Some(client) = clients.find(|client| client.serial == serial) else { return Outcome::Pending };
        match client.control.read(&mut [0; 4096]) {
            Ok(1..) => Outcome::Pending,
            Err(error) if is_passing(&error) => Outcome::Pending,
            Ok(0) | Err(_) => Outcome::Left(client.told.port),
        }
    }

    fn read_request(&mut self, at: usize, is_free: impl Fn(u8) -> bool) -> Outcome {
        let client = &mut self.waiting[at];
        let mut bytes = [0; LONGEST_REQUEST];
        let room = LONGEST_REQUEST - client.request.len();
        let outcome = match client.control.read(&mut bytes[..room]) {
            Ok(read @ 1..) => {
                client.request.extend_from_slice(&bytes[..read]);
                VdeRequest::parse(&client.request)
            }
            Err(error) if is_passing(&error) => return Outcome::Pending,
            Ok(0) | Err(_) => Err(VdeRefusal::Unfinished),
        };
        match outcome {
            Ok(None) => Outcome::Pending,
            Ok(Some(request)) => {
                let client = self.waiting.remove(at);
                self.admit(client, request, is_free)
                    .map_or_else(Outcome::Refused, |newcomer| Outcome::Joins(Box::new(newcomer)))
            }
            Err(refusal) => {
                self.waiting.remove(at);
                Outcome::Refused(refusal)
            }
        }
    }

    /// Finds a place for a client and connects to its socket.
    fn admit(
        &self,
        client: Waiting,
        request: VdeRequest,
        is_free: impl Fn(u8) -> bool,
    ) -> Result<Newcomer, VdeRefusal> {
        let is_free = |number: &u8| !self.clients.contains_key(number) && is_free(*number);
        let number = match request.number {
            Some(number) => Some(number).filter(is_free).ok_or(VdeRefusal::NumberTaken)?,
            None => (1..=u8::MAX)
                .filter(|number| !self.numbered.contains_key(number))
                .find(is_free)
                .ok_or(VdeRefusal::Full)?,
        };
        let path = data_path(&self.dir, number);
        // Of a switch that was killed.
        let _ = std::fs::remove_file(&path);
        let data = UnixDatagram::bind(&path).map_err(|_| VdeRefusal::NoSocket)?;
        let file = DataFile(path);
        data.set_nonblocking(true).map_err(|_| VdeRefusal::NoSocket)?;
        // From now on the kernel lets nobody else send to it.
        data.connect(&request.socket).map_err(|_| VdeRefusal::Unreachable)?;
        let answer = answer(&file.0).ok_or(VdeRefusal::NoSocket)?;
        let mut control = client.control;
        control.write_all(&answer).map_err(|_| VdeRefusal::Unfinished)?;
        let pid = sockopt::PeerCredentials.get(&control).ok().map(|peer| peer.pid());
        let (serial, description, data) = (client.serial, request.description, VdeData(data));
        Ok(Newcomer { serial, control, description, pid, file, number, data })
    }

    /// Notes that a newcomer has its port; gives its frames.
    pub(crate) fn join(&mut self, newcomer: Newcomer, port: PortId) -> (VdeData, VdeClient) {
        let Newcomer { serial, control, description, pid, file, number, data } = newcomer;
        let told = VdeClient { number, port, description, pid };
        self.ids.insert(number, port);
        self.clients.insert(number, Client { serial, control, told: told.clone(), _data: file });
        (data, told)
    }

    /// Forgets the client of a port.
    pub(crate) fn leave(&mut self, port: PortId) {
        self.clients.retain(|_, client| client.told.port != port);
    }

    /// The clients with a port.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &VdeClient> {
        self.clients.values().map(|client| &client.told)
    }
}

/// The file of a place's datagram socket.
fn data_path(dir: &Path, number: u8) -> PathBuf {
    dir.join(format!("{number:03}.data"))
}

/// Whether nobody listens on a socket any more.
fn is_stale(socket: &Path) -> bool {
    UnixStream::connect(socket).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
