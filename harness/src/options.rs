//! What a suite decides for its tests.

use std::time::Duration;

use crate::{Class, Lacking};

/// What a suite decides for its tests. `Options { deadline, ..Options::default() }`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Deadline of each test, before scaling; `--deadline` overrides it. 10 minutes by default.
    pub deadline: Duration,
    /// How long all subjects together may take to be diagnosed. 60 seconds by default.
    pub diagnose_limit: Duration,
    /// How long all subjects together may take to be torn down. 60 seconds by default.
    pub teardown_limit: Duration,
    /// How long a signalled test may take to diagnose and tear down; half for each. 20 seconds by default.
    pub signal_grace: Duration,
    /// How long after a limit the watchdog steps in, because the test's thread does not answer. 15 seconds by
    /// default.
    pub watchdog_grace: Duration,
    /// Worker threads of each test's runtime, besides the one of the test itself. 2 by default.
    pub workers: usize,
    /// The suite's opinion of an error's class; `None` leaves it to [`Class::of`], and then to
    /// [`Class::Product`] (an error of the test) or [`Class::GuestCrash`] (the death of a subject).
    pub classify: fn(&anyhow::Error) -> Option<Class>,
    /// What the machines of this run lack: tests that require it ([`Suite::requires`](crate::Suite::requires)) are listed
    /// as ignored, with the reason. By default nothing.
    pub lacking: Lacking,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(600),
            diagnose_limit: Duration::from_secs(60),
            teardown_limit: Duration::from_secs(60),
            signal_grace: Duration::from_secs(20),
            watchdog_grace: Duration::from_secs(15),
            workers: 2,
            classify: |_| None,
            lacking: |_, _| None,
        }
    }
}
