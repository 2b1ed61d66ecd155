//! Suites, deadlines, signals, artefacts, reports, budget. Knows nothing of virtual machines.
//!
//! A test binary (`harness = false`) names its tests and runs them:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use harness::{Testbed, suite};
//!
//! fn main() -> ExitCode {
//!     suite("arithmetic").test("adds", adds).run()
//! }
//!
//! async fn adds(t: &mut Testbed) -> anyhow::Result<()> {
//!     t.step("one and one", async || {
//!         anyhow::ensure!(1 + 1 == 2);
//!         Ok(())
//!     })
//!     .await
//! }
//! ```
//!
//! The binary understands libtest's flags, works under `cargo test` (tests are threads of one process) and under
//! nextest (a process for each test), and has flags of its own ([`Settings`]).
//!
//! # How a test ends
//!
//! The test's future runs on a thread of its own until the first of these: it returns, it panics, its [`Deadline`]
//! passes, a signal comes, one of its [`Subject`]s dies. It is dropped then, and with it everything that the test
//! held. If the test failed, all subjects are diagnosed at once; with `--keep-vms` everything is held until Enter
//! or Ctrl-C; then the subjects are torn down, last attached first. What lingers fails the test. A thread apart, the
//! watchdog, does all this from outside when the test blocks its thread.
//!
//! The first SIGINT or SIGTERM cancels all tests in this order, within a grace; the process then exits with 130 or
//! 143. The second signal kills all subjects, and the process exits with 130 at once.
//!
//! # What a test leaves
//!
//! `target/rackless/<run>/<suite>/<test>/` (see [`Settings::artifacts`]) with `started`, written before the body;
//! `events.jsonl` ([`Event`]) and `harness.log` ([`tracing`], since the test began); and `result.json`
//! ([`TestResult`]), written after the teardown. A subject's diagnosis is in a directory of its name. The suite's
//! `junit.xml` lies beside. `target/rackless/latest` points to the newest run; the newest ten are kept.

mod ability;
mod artifacts;
mod budget;
mod class;
mod context;
mod deadline;
mod display;
mod error;
mod events;
mod junit;
mod logging;
mod options;
mod panics;
mod result;
mod runner;
mod settings;
mod signals;
mod steps;
mod subject;
mod suite;
mod testbed;
mod verdict;
mod wait;
mod watchdog;

pub use ability::{Ability, Lacking};
pub use budget::{BootTurn, BootTurns, Grant, TOKEN_MIB};
pub use class::Class;
pub use deadline::{Deadline, StandStill};
pub use display::Lane;
pub use error::Error;
pub use events::{Event, Events};
pub use options::Options;
pub use result::{Cause, Failure, SCHEMA, Started, StepOutcome, StepRecord, TeardownRecord, TestResult};
pub use settings::{Capture, Keep, Settings};
pub use subject::{Subject, SubjectId};
pub use suite::{Suite, suite};
pub use testbed::{Scope, Testbed};
pub use wait::poll_until;

use suite::MainEvent;
