//! SIGINT and SIGTERM: the first cancels all tests, the second ends the process.
//!
//! The signals are received on a thread with a runtime of its own, so that a wedged test cannot hold them up.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::context::RUNNING;
use crate::display::Display;
use crate::watchdog::kill_all;
use crate::{Error, MainEvent};

/// A signal that ends tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// SIGINT: Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
}

impl Interrupt {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
        }
    }

    /// As a shell reports it: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Int => 130,
            Self::Term => 143,
        }
    }
}

/// What signals, and Enter, have done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    /// The first signal that was not for a held test, and when it came.
    pub(crate) cancelled: Option<(Interrupt, Instant)>,
    /// How many tests are held now.
    pub(crate) holds: u32,
    /// How often the held tests were let go.
    pub(crate) releases: u32,
}

/// The signals of this process. Clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    state: watch::Sender<State>,
}

impl Signals {
    /// A state that no signal reaches, for listing.
    pub(crate) fn new() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }

    /// Starts the thread that receives signals.
    pub(crate) fn listen(
        &self,
        display: std::sync::Arc<Display>,
        main: mpsc::Sender<MainEvent>,
    ) -> Result<(), Error> {
        let signals = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let cannot = |error| Error::io("listen for", "signals")(error);
        let runtime = runtime.map_err(cannot)?;
        let guard = runtime.enter();
        let mut int = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut term = signal(SignalKind::terminate()).map_err(cannot)?;
        drop(guard);
        let body = move || {
            runtime.block_on(async {
                loop {
                    let interrupt = tokio::select! {
                        Some(()) = int.recv() => Interrupt::Int,
                        Some(()) = term.recv() => Interrupt::Term,
                        else => return,
                    };
                    if signals.receive(interrupt, &display) {
                        kill_all(&RUNNING.all(), Duration::from_secs(2));
                        let _ = main.send(MainEvent::Abort(130));
                        return;
                    }
                }
            });
        };
        std::thread::Builder::new().name("rackless-signals".into()).spawn(body).map(drop).map_err(cannot)
    }

    /// Takes a signal in; answers whether the process has to end at once.
    fn receive(&self, interrupt: Interrupt, display: &Display) -> bool {
        let mut line = None;
        let mut abort = false;
        let name = interrupt.name();
        self.state.send_modify(|state| {
            if state.holds > 0 {
                state.holds = 0;
                state.releases += 1;
                line = Some(format!("{name}: no longer held; again to cancel what still runs"));
            } else if state.cancelled.is_none() {
                state.cancelled = Some((interrupt, Instant::now()));
                line = Some(format!(
                    "{name}: cancelling; tests are diagnosed and torn down, again to kill them"
                ));
            } else {
                abort = true;
                line = Some(format!("{name} again: killing everything"));
            }
        });
        if let Some(line) = line {
            display.line(&format!("rackless: {line}"));
        }
        abort
    }

    pub(crate) fn now(&self) -> State {
        *self.state.borrow()
    }

    /// Resolves with the first signal.
    pub(crate) async fn cancelled(&self) -> Interrupt {
        let mut state = self.state.subscribe();
        let first =
            state.wait_for(|state| state.cancelled.is_some()).await.ok().and_then(|state| state.cancelled);
        match first {
            Some((interrupt, _)) => interrupt,
            // The sender lives in `self`.
            None => std::future::pending().await,
        }
    }

    /// A test is held until a signal or [`Signals::release`]. `announce` is called once both have that effect.
    pub(crate) async fn hold(&self, announce: impl FnOnce()) {
        let mut seen = self.state.subscribe();
        let mut before = 0;
        self.state.send_modify(|state| {
            state.holds += 1;
            before = state.releases;
        });
        announce();
        let _ = seen.wait_for(|state| state.releases > before).await;
    }

    /// Lets all held tests go.
    pub(crate) fn release(&self) {
        self.state.send_if_modified(|state| {
            let held = state.holds > 0;
            if held {
                state.holds = 0;
                state.releases += 1;
            }
            held
        });
    }
}
