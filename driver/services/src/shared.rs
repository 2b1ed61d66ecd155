//! What a host's thread and the test share.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::dhcp::DhcpEngine;
use crate::dns::{DNS, Zone};
use crate::error::Error;
use crate::host::HostOptions;
use crate::ra::RaEngine;
use crate::stack::Stack;

/// What a host's thread and the test share. Whoever holds the stack's lock may take the state's, never the other way.
#[derive(Clone)]
pub(crate) struct Shared {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
    stack: Arc<Mutex<Stack>>,
    wake: Arc<EventFd>,
}

#[derive(Default)]
struct State {
    dhcp: Option<DhcpEngine>,
    zone: Option<Zone>,
    ra: Option<RaEngine>,
    /// Runs what serves TCP connections; made for the first such service.
    runtime: Option<Runtime>,
    /// How the thread ended.
    end: Option<String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Host").field(&self.name).finish()
    }
}

impl Shared {
    pub(crate) fn new(options: &HostOptions) -> io::Result<Shared> {
        Ok(Shared {
            name: options.name.as_str().into(),
            state: Arc::default(),
            stack: Arc::new(Mutex::new(Stack::new(options))),
            wake: Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn set_dhcp(&self, engine: DhcpEngine) -> Result<(), Error> {
        self.running("serve DHCP")?.dhcp = Some(engine);
        Ok(())
    }

    pub(crate) fn set_zone(&self, zone: Zone) -> Result<(), Error> {
        if self.stack().listens(DNS) {
            return Err(Error::PortTaken { host: self.name.to_string(), port: DNS, by: "a TCP listener" });
        }
        self.running("serve DNS")?.zone = Some(zone);
        self.wake();
        Ok(())
    }

    pub(crate) fn set_ra(&self, engine: Option<RaEngine>) -> Result<(), Error> {
        self.running("advertise")?.ra = engine;
        self.wake();
        Ok(())
    }

    pub(crate) fn has_zone(&self) -> bool {
        self.state().zone.is_some()
    }

    pub(crate) fn with_dhcp<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut DhcpEngine) -> T,
    ) -> Result<T, Error> {
        let mut state = self.running(operation)?;
        let evidence = || "it serves no DHCP".to_owned();
        state.dhcp.as_mut().map(call).ok_or_else(|| self.not_running(operation, evidence()))
    }

    pub(crate) fn with_zone<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut Zone) -> T,
    ) -> Result<T, Error> {
        let mut state = self.running(operation)?;
        let evidence = || "it serves no DNS".to_owned();
        state.zone.as_mut().map(call).ok_or_else(|| self.not_running(operation, evidence()))
    }

    pub(crate) fn with_ra<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut RaEngine) -> T,
    ) -> Result<T, Error> {
        let mut state = self.running(operation)?;
        let evidence = || "it advertises nothing".to_owned();
        state.ra.as_mut().map(call).ok_or_else(|| self.not_running(operation, evidence()))
    }

    /// What the router makes of something, if there is one.
    pub(crate) fn if_ra<T>(&self, call: impl FnOnce(&mut RaEngine) -> Option<T>) -> Option<T> {
        self.state().ra.as_mut().and_then(call)
    }

    /// What DHCP makes of something, if it is served.
    pub(crate) fn if_dhcp<T>(&self, call: impl FnOnce(&mut DhcpEngine) -> Option<T>) -> Option<T> {
        self.state().dhcp.as_mut().and_then(call)
    }

    /// What DNS makes of something, if it is served.
    pub(crate) fn if_zone<T>(&self, call: impl FnOnce(&Zone) -> T) -> Option<T> {
        self.state().zone.as_ref().map(call)
    }

    /// The stack; whoever gives it something to do wakes its thread ([`Shared::wake`]).
    pub(crate) fn stack(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        // A counter that is full wakes the thread as well.
        let _ = self.wake.write(1);
    }

    pub(crate) fn woken(&self) {
        // Another call may have been first.
        let _ = self.wake.read();
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Starts a task that ends with what is returned, and with the host.
    pub(crate) fn spawn<F>(
        &self,
        operation: &'static str,
        make: impl FnOnce() -> io::Result<F>,
    ) -> Result<Task, Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let refused = |source| Error::System { host: self.name.to_string(), operation, source };
        let mut state = self.running(operation)?;
        let runtime = match &mut state.runtime {
            Some(runtime) => runtime,
            none => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(1).thread_name(format!("host {}", self.name)).enable_all();
                none.insert(builder.build().map_err(refused)?)
            }
        };
        let _entered = runtime.enter();
        let task = make().map_err(refused)?;
        Ok(Task(runtime.spawn(task).abort_handle()))
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        self.running(operation).map(drop)
    }

    /// Says how the host ended, unless it is known already, and ends what it serves.
    pub(crate) fn ended(&self, evidence: String) {
        let (evidence, runtime) = {
            let mut state = self.state();
            let evidence = state.end.get_or_insert(evidence).clone();
            (evidence, state.runtime.take())
        };
        self.stack().end(self.not_running("exchange data over TCP", evidence));
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }

    fn running(&self, operation: &'static str) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        match &state.end {
            None => Ok(state),
            Some(evidence) => Err(self.not_running(operation, evidence.clone())),
        }
    }

    fn not_running(&self, operation: &'static str, evidence: String) -> Error {
        Error::NotRunning { host: self.name.to_string(), operation, evidence }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends when this is dropped, with all that it has begun.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
