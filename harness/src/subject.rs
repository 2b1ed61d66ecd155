//! What a test owns and the harness ends.

use std::path::Path;

use futures::future::BoxFuture;

/// Something a test owns: a machine, a lab, a switch. The harness races the test against its death, has it
/// diagnosed when the test failed, and tears it down.
///
/// The test's own future has been dropped before [`Subject::diagnose`] is called, as after a `?` or a panic: a
/// subject must not die with the handles that the test held, and a fault must not be healed by them.
pub trait Subject: Send + Sync {
    /// Its name, as in messages and as its directory among the artefacts.
    fn name(&self) -> String;

    /// Resolves when it dies without having been asked to; pending for as long as all is well, and after an ending
    /// that the test asked for.
    fn died(&self) -> BoxFuture<'static, anyhow::Error>;

    /// Saves what helps to understand a failure into `dir`, which exists. Best effort; all subjects at once.
    fn diagnose<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, ()>;

    /// Ends it and everything that belongs to it. What could not be ended is an error, and fails the test.
    fn teardown(&self) -> BoxFuture<'_, anyhow::Result<()>>;

    /// How to get in, a line each; for `--keep-vms`.
    fn hold(&self) -> BoxFuture<'_, Vec<String>>;

    /// Ends it at once and without waiting: the backstop when teardown cannot run or did not succeed. May be called
    /// from any thread, more than once, and after a teardown.
    fn kill(&self);
}

/// Which [`Subject`] of a test; from [`Testbed::attach`](crate::Testbed::attach).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectId(pub(crate) u64);
