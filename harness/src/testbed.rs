//! What a test gets: everything it owns and everything it may ask of the harness.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::budget::{self, BootTurns, Grant};
use crate::context::{self, Context, lock};
use crate::error::human;
use crate::{Deadline, Error, Events, Lane, Settings, Subject, SubjectId, steps};

/// All that one test owns. A test is an `async fn(&mut Testbed) -> anyhow::Result<()>`.
///
/// Its runtime has worker threads of its own, so that tasks started with [`tokio::spawn`] go on while the test
/// waits; the test's own future stays on one thread and need not be [`Send`].
pub struct Testbed {
    context: Arc<Context>,
}

impl std::fmt::Debug for Testbed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Testbed").field("test", &self.name()).finish_non_exhaustive()
    }
}

impl Testbed {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Full name of the test: `forms::debian::firmware`.
    pub fn name(&self) -> &str {
        &self.context.mark.test
    }

    /// Name of the suite.
    pub fn suite(&self) -> &str {
        &self.context.mark.suite
    }

    /// Seed for everything random in this test. `--seed` repeats it.
    pub fn seed(&self) -> u64 {
        self.context.mark.seed
    }

    /// The test's deadline, for every wait to be bounded by.
    pub fn deadline(&self) -> &Deadline {
        &self.context.deadline
    }

    /// The test's directory; what is put there stays with the result.
    pub fn artifacts(&self) -> &Path {
        &self.context.dir
    }

    /// The test's record of events.
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// What the user asked for on the command line and in the environment.
    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// The live line of that name, for a machine usually; made at the first call.
    pub fn lane(&self, name: &str) -> Lane {
        self.context.display.lane(&self.context.mark.test, name, self.context.begun)
    }

    /// A line for whoever watches, and an event.
    pub fn note(&self, text: &str) {
        self.context.events.record("note", None, text, json!(null));
        self.context.display.progress(&format!("{}: {text}", self.name()));
    }

    /// A handle that tells a thread of your own for which test it works, so that its log and its panics come to it.
    pub fn scope(&self) -> Scope {
        Scope { context: Arc::downgrade(&self.context) }
    }

    /// A named part of the test. Steps nest; their times and outcomes are in the result, and a failure names its
    /// step.
    ///
    /// # Errors
    /// Whatever `body` returns.
    pub async fn step<T>(
        &self,
        name: impl AsRef<str>,
        body: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let name = name.as_ref();
        let Context { mark, steps, events, display, .. } = &*self.context;
        let (index, depth) = steps.begin(name);
        let indent = "  ".repeat(depth);
        events.record("step", None, format!("{name} …"), json!({ "step": index, "state": "begin" }));
        display.progress(&format!("{}: {indent}{name} …", mark.test));
        let result = steps::CURRENT.scope(index, body()).await;
        let elapsed = steps.end(index, result.is_ok());
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        let line = format!("{name} {outcome} ({})", human(elapsed));
        let mut data = json!({ "step": index, "state": outcome });
        if let Err(error) = &result {
            data["error"] = json!(format!("{error:#}"));
        }
        display.progress(&format!("{}: {indent}{line}", mark.test));
        events.record("step", None, line, data);
        result
    }

    /// Hands something over to the harness: it is watched from now on, and torn down after the test, in reverse
    /// order of attaching.
    ///
    /// # Panics
    /// Outside of the test's runtime.
    pub fn attach(&self, subject: Arc<dyn Subject>) -> SubjectId {
        self.context.attach(subject)
    }

    /// Takes something back before the test ends: it is no longer watched, and ending it is the caller's task.
    pub fn detach(&self, id: SubjectId) -> Option<Arc<dyn Subject>> {
        self.context.detach(id)
    }

    /// Waits until this much memory and this many virtual CPUs are free for the test, over all processes of this
    /// user, while the deadline stands still. The whole sum is taken at once; ask once for all machines. The harness
    /// keeps it until the machines are gone, whatever becomes of the returned handle.
    ///
    /// More virtual CPUs than the host's share are cut to it with a warning.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] at once when the memory can never be had, [`Error::BudgetHeld`] when the test holds a
    /// grant already, and [`Error::RuntimeDir`] or [`Error::Io`] when the locks cannot be used.
    pub async fn budget(&self, memory_mib: u64, vcpus: u32) -> Result<Grant, Error> {
        let context = &self.context;
        let who = context.full_name();
        if let Some(held) = lock(&context.grants).iter().find(|grant| grant.is_held()) {
            return Err(Error::BudgetHeld { who, held_mib: held.memory_mib(), asked_mib: memory_mib });
        }
        let request = budget::Request { who, memory_mib, vcpus };
        let pool = budget::Pool::of_user(&context.settings)?;
        let lane = self.lane("budget");
        let still = context.deadline.stand_still();
        let grant = pool
            .take(&request, |text| {
                lane.set(text);
                context.events.record("budget", None, text, json!(null));
            })
            .await;
        drop(still);
        lane.close();
        let grant = grant?;
        context.events.record(
            "budget",
            None,
            format!("granted {} MiB, {} vCPUs", grant.memory_mib(), grant.vcpus()),
            json!({ "memory_mib": grant.memory_mib(), "vcpus": grant.vcpus() }),
        );
        lock(&context.grants).push(grant.clone());
        Ok(grant)
    }

    /// Where the test's machines queue up to boot, with those of all other tests of this user.
    ///
    /// # Errors
    /// [`Error::RuntimeDir`] or [`Error::Io`] when the locks cannot be used.
    pub fn boot_turns(&self) -> Result<BootTurns, Error> {
        BootTurns::of_user(&self.context.settings)
    }
}

/// Tells a thread for which test it works; from [`Testbed::scope`].
#[derive(Clone)]
pub struct Scope {
    context: std::sync::Weak<Context>,
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scope")
    }
}

impl Scope {
    /// From now on the calling thread works for the test.
    pub fn enter(&self) {
        context::enter(&self.context);
    }
}
