//! What the driver tells, and asks of, whoever runs the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

/// Something that happened in a lab, for a log, a live display or a timeline.
#[derive(Debug, Clone)]
pub struct Event {
    /// The kind, a stable lower-case word: `stage`, `command`, `fault`, `death`, `power`, `note`,
    /// `uplink`, `capture`.
    pub kind: &'static str,
    /// The machine that it happened to, if it was one.
    pub machine: Option<String>,
    /// One line for people.
    pub text: String,
    /// The same for programs; `Null` where the text says it all.
    pub data: Value,
}

/// A machine's turn to boot, until it is dropped.
pub type BootTurn = Box<dyn Send + Sync>;

/// The driver's view of the test that it works for. The harness's side implements it, so that neither
/// crate knows the other.
pub trait Supervisor: Send + Sync {
    /// Takes note of an event. Must not block.
    fn event(&self, event: Event);

    /// How long the whole test may still take. Every wait takes the smaller of its own limit and this.
    fn remaining(&self) -> Duration;

    /// Resolves when so many more virtual CPUs may boot on this host. The driver drops what it gets when the machine is
    /// ready, dead or off, or has used up the time of a boot. Unless the supervisor says otherwise, all may boot at once.
    fn boot_turn(&self, vcpus: u32) -> BoxFuture<'_, BootTurn> {
        let _ = vcpus;
        std::future::ready(Box::new(()) as BootTurn).boxed()
    }
}

/// A supervisor that drops events and ends everything at one instant: for tools and unit tests.
#[derive(Debug, Clone)]
pub struct Unsupervised {
    until: Instant,
}

impl Unsupervised {
    /// Allows `limit` from now on.
    #[must_use]
    pub fn until(limit: Duration) -> Arc<Self> {
        Arc::new(Self { until: Instant::now() + limit })
    }
}

impl Supervisor for Unsupervised {
    fn event(&self, event: Event) {
        tracing::debug!(kind = event.kind, machine = event.machine.as_deref(), "{}", event.text);
    }

    fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}
