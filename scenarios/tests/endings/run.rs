//! Starting the fixture, and looking at what it left.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use harness::{Class, TestResult};
use process::{Command, Output};
use scenarios::prelude::*;

/// Set in the fixture's environment.
pub(crate) const FIXTURE: &str = "RACKLESS_FIXTURE";

/// A run of the fixture that is about to be started.
pub(crate) struct Fixture {
    pub(crate) command: Command,
    pub(crate) artifacts: PathBuf,
    run: &'static str,
    test: &'static str,
}

impl Fixture {
    /// One test of the fixture, with artefacts of its own inside of the test's.
    pub(crate) fn of(t: &Testbed, test: &'static str) -> anyhow::Result<Self> {
        let (artifacts, run) = (t.artifacts().join("fixture"), "inner");
        let command = Command::new(std::env::current_exe()?)
            .env(FIXTURE, "1")
            // The outer test holds a part of the host's budget in no other name than its own.
            .env("RACKLESS_RUN", run)
            .args(["--exact", test, "--nocapture", "--artifacts"])
            .arg(&artifacts);
        Ok(Self { command, artifacts, run, test })
    }

    /// In a run of another name: in each, a test has one folder.
    pub(crate) fn in_run(mut self, run: &'static str) -> Self {
        self.run = run;
        self.env("RACKLESS_RUN", run)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command = self.command.env(name, value);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command = self.command.args(args);
        self
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) -> anyhow::Result<Ended> {
        let (folder, test) = (self.folder(), self.test);
        let output = process::run(self.command, secs(300)).await?;
        Ok(Ended { output, folder, test })
    }

    /// The test's own folder of artefacts.
    pub(crate) fn folder(&self) -> PathBuf {
        self.artifacts.join(self.run).join("fixture").join(self.test)
    }
}

/// A run of the fixture that is over.
pub(crate) struct Ended {
    pub(crate) output: Output,
    pub(crate) folder: PathBuf,
    test: &'static str,
}

impl Ended {
    /// It failed, in this class, and its error says each of `parts`.
    pub(crate) fn failed(&self, class: Class, parts: &[&str]) -> Result {
        let said = self.said();
        ensure!(self.output.status.code() == Some(101), "exit status {}: {said}", self.output.status);
        let result = self.result()?;
        let failure = result.failure.context("a failed test has a failure")?;
        ensure!(failure.class == class, "{}: class {}, and not {class}: {said}", self.test, failure.class);
        let chain = failure.chain.join(": ");
        for part in parts {
            ensure!(chain.contains(part), "the error does not say {part:?}: {chain}");
            ensure!(said.contains(part), "what was printed does not say {part:?}: {said}");
        }
        Ok(())
    }

    pub(crate) fn result(&self) -> anyhow::Result<TestResult> {
        let path = self.folder.join("result.json");
        let text = fs_err::read(&path).with_context(|| self.said())?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.output.stdout_text(), self.output.stderr_text())
    }
}

/// Whether a process is there.
pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie has ended, whoever is to reap it.
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// No disk overlay and no copy of UEFI variables is left below `folder`.
pub(crate) fn no_overlay(folder: &Path) -> Result {
    let scratch = folder.join("scratch");
    ensure!(!scratch.exists(), "{} is still there", scratch.display());
    Ok(())
}
