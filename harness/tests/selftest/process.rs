//! Starts the fixture and looks at what it leaves.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Event, TestResult};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The variable that turns this binary into the fixture.
pub(crate) const FIXTURE: &str = "RACKLESS_SELFTEST_FIXTURE";

/// A self-test: its name and itself.
pub(crate) type Test = (&'static str, fn());

/// Directories of one self-test: artefacts and runtime, apart from the user's.
#[derive(Clone)]
pub(crate) struct Place {
    dir: Arc<TempDir>,
}

/// A fixture that runs.
pub(crate) struct Running {
    child: Option<Child>,
    place: Place,
}

/// A fixture that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    place: Place,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["runtime", "artifacts"] {
            fs::create_dir(dir.path().join(name)).expect("creates");
        }
        Self { dir: Arc::new(dir) }
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.dir.path().join("artifacts")
    }

    /// The fixture's command, with nothing of the outer run's settings.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RACKLESS_") || name.starts_with("NEXTEST"))
            {
                command.env_remove(name);
            }
        }
        command.env(FIXTURE, "1");
        command.env("XDG_RUNTIME_DIR", self.dir.path().join("runtime"));
        command.env("RACKLESS_ARTIFACTS", self.artifacts());
        command.env("RACKLESS_RUN", "run").envs(environment.iter().copied());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        self.start_command(self.command(arguments, environment))
    }

    #[expect(clippy::disallowed_methods, reason = "the harness may not use the crate of the blessed wrapper")]
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        Running { child: Some(command.spawn().expect("the fixture starts")), place: self.clone() }
    }

    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        self.start(arguments, environment).wait()
    }

    /// Runs one test of the fixture.
    pub(crate) fn test(&self, name: &str) -> Ended {
        self.run(&["--exact", name], &[])
    }
}

/// Looks again until there is an answer. The limit is for a fixture that hangs, on a host with much else to do.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = look() {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// What a test's subjects were asked to do, in order.
pub(crate) fn calls(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("calls")).unwrap_or_default().lines().map(str::to_owned).collect()
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it still runs")
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child().id().try_into().expect("a pid"));
        kill(pid, signal).expect("the fixture can be signalled");
    }

    /// Waits until the test has written a line `text` to its file of calls.
    pub(crate) fn wait_call(&mut self, test: &str, text: &str) {
        let dir = self.place.artifacts().join("run/fixture").join(test);
        until(text, || {
            let ended = self.child().try_wait().expect("a child");
            assert!(ended.is_none(), "the fixture ended before `{text}`: {}", self.dying_words());
            calls(&dir).iter().any(|call| call == text).then_some(())
        });
    }

    fn dying_words(&mut self) -> String {
        let ended = Self { child: self.child.take(), place: self.place.clone() }.wait();
        format!("{}\n{}\n{}", ended.status, ended.stdout, ended.stderr)
    }

    /// Gives it a line of input.
    pub(crate) fn enter(&mut self) {
        self.child().stdin.as_mut().expect("a pipe").write_all(b"\n").expect("writes");
    }

    pub(crate) fn wait(mut self) -> Ended {
        let output = self.child.take().expect("it still runs").wait_with_output().expect("a child");
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ended { status: output.status, stdout, stderr, place: self.place.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("it was killed: {}\n{}", self.status, self.stderr))
    }

    pub(crate) fn dir(&self, test: &str) -> PathBuf {
        self.place.artifacts().join("run/fixture").join(test)
    }

    pub(crate) fn result(&self, test: &str) -> TestResult {
        let path = self.dir(test).join("result.json");
        TestResult::read(&path).unwrap_or_else(|error| panic!("{error:?}\n{}\n{}", self.stdout, self.stderr))
    }

    pub(crate) fn calls(&self, test: &str) -> Vec<String> {
        calls(&self.dir(test))
    }

    pub(crate) fn events(&self, test: &str) -> Vec<Event> {
        let text = fs::read_to_string(self.dir(test).join("events.jsonl")).expect("events are there");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }
}
