//! TCP forwards: from the test's process to a machine of the lab, and the other way.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::shared::{Shared, Task};
use crate::tcp::{self, CONNECT_LIMIT, TcpListener, TcpStream};

/// What fails if a forward cannot begin.
const OPERATION: &str = "forward a TCP port";

/// How many connections one forward passes on at once; more wait.
const CONNECTIONS: usize = 256;

/// A TCP forward, until this is dropped; then its port closes and its connections are reset or closed.
///
/// The end of one direction is passed on as such, and a reset as a reset. A connection whose target cannot be reached is
/// reset, and [`Forward::last_failure`] says why.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    target: SocketAddr,
    log: Log,
    _task: Task,
}

/// What a forward has passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardCounters {
    /// Connections that came.
    pub accepted: u64,
    /// Those of them that are open.
    pub open: u64,
    /// Those of them that found no target, or ended with a reset.
    pub failed: u64,
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<(ForwardCounters, Option<String>)>>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, (ForwardCounters, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, why: String) {
        tracing::debug!(why, "a forward failed");
        self.lock().1 = Some(why);
    }
}

impl Forward {
    /// From a port of this machine's loopback address to a port of the lab.
    pub(crate) fn inward(shared: &Shared, target: SocketAddr) -> Result<Forward, Error> {
        shared.stack().reachable(target)?;
        let refused = |source| Error::System { host: shared.name().to_owned(), operation: OPERATION, source };
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let log = Log::default();
        let passing = Passing::new(&log);
        let task = shared.spawn(OPERATION, || {
            let listener = net::TcpListener::from_std(listener)?;
            Ok(pass_inward(listener, shared.clone(), target, passing))
        })?;
        Ok(Forward { address, target, log, _task: task })
    }

    /// From a port of the host to an address that this process reaches.
    pub(crate) fn outward(
        shared: &Shared,
        listener: TcpListener,
        target: SocketAddr,
    ) -> Result<Forward, Error> {
        let address = listener.local_addr();
        let log = Log::default();
        let passing = Passing::new(&log);
        let task = shared.spawn(OPERATION, || Ok(pass_outward(listener, target, passing)))?;
        Ok(Forward { address, target, log, _task: task })
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that connections are passed on to.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// What it has passed on.
    pub fn counters(&self) -> ForwardCounters {
        self.log.lock().0
    }

    /// Why the latest connection that failed did so.
    pub fn last_failure(&self) -> Option<String> {
        self.log.lock().1.clone()
    }
}

/// The connections of one forward.
struct Passing {
    room: Arc<Semaphore>,
    connections: JoinSet<()>,
    log: Log,
}

impl Passing {
    fn new(log: &Log) -> Passing {
        Passing { room: Arc::new(Semaphore::new(CONNECTIONS)), connections: JoinSet::new(), log: log.clone() }
    }

    async fn room(&mut self) -> Option<OwnedSemaphorePermit> {
        while self.connections.try_join_next().is_some() {}
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    fn begin(
        &mut self,
        place: OwnedSemaphorePermit,
        connection: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let log = self.log.clone();
        {
            let (counters, _) = &mut *log.lock();
            counters.accepted += 1;
            counters.open += 1;
        }
        self.connections.spawn(async move {
            let result = connection.await;
            let failed = result.is_err();
            if let Err(why) = result {
                log.failed(why);
            }
            let (counters, _) = &mut *log.lock();
            counters.open -= 1;
            counters.failed += u64::from(failed);
            drop(place);
        });
    }
}

async fn pass_inward(listener: net::TcpListener, shared: Shared, target: SocketAddr, mut passing: Passing) {
    while let Some(place) = passing.room().await {
        let local = match listener.accept().await {
            Ok((local, _)) => local,
            // It went before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                return passing.log.failed(format!("no more connections to {target} are taken: {error}"));
            }
        };
        let shared = shared.clone();
        passing.begin(place, async move {
            match tcp::connect(shared, target, CONNECT_LIMIT).await {
                Ok(guest) => pass(guest, local, target).await,
                Err(error) => {
                    reset(&local);
                    Err(error.to_string())
                }
            }
        });
    }
}

async fn pass_outward(listener: TcpListener, target: SocketAddr, mut passing: Passing) {
    while let Some(place) = passing.room().await {
        let Ok((guest, client)) = listener.accept().await else { return };
        passing.begin(place, async move {
            match net::TcpStream::connect(target).await {
                Ok(local) => pass(guest, local, target).await,
                Err(error) => {
                    guest.abort();
                    Err(format!("{client} cannot be passed on to {target}: {error}"))
                }
            }
        });
    }
}

async fn pass(mut guest: TcpStream, mut local: net::TcpStream, target: SocketAddr) -> Result<(), String> {
    // What is relayed must not wait. A socket that is closed already says so below.
    let _ = local.set_nodelay(true);
    match copy_bidirectional(&mut guest, &mut local).await {
        Ok(_) => Ok(()),
        Err(error) => {
            guest.abort();
            reset(&local);
            Err(format!("the connection to {target} was cut: {error}"))
        }
    }
}

/// Has a connection reset when it is dropped.
fn reset(local: &net::TcpStream) {
    // One that is closed already needs none.
    let _ = local.set_zero_linger();
}
