//! A suite: the tests of one binary, and its `main`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, ColorSetting, Completion, Conclusion, Failed, Trial};

use crate::artifacts::Run;
use crate::context::{Context, Plan};
use crate::display::{Display, Mode};
use crate::runner::{self, Body};
use crate::settings::CommandLine;
use crate::signals::Signals;
use crate::{Ability, Error, Options, Settings, Testbed, junit, logging, panics, watchdog};

/// What the main thread waits for.
pub(crate) enum MainEvent {
    /// All tests have ended.
    Finished(Conclusion),
    /// The process has to end with this exit code, whatever its threads do.
    Abort(u8),
}

/// The tests of one binary.
#[must_use = "a suite does nothing until it is run"]
pub struct Suite {
    name: String,
    options: Options,
    entries: Vec<Entry>,
    /// Where the entries begin that `ignored` and `deadline` are about.
    last: usize,
}

struct Entry {
    name: String,
    ignored: Option<String>,
    requires: Vec<Ability>,
    deadline: Option<Duration>,
    body: Arc<dyn Body>,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
        f.debug_struct("Suite").field("name", &self.name).field("tests", &names).finish_non_exhaustive()
    }
}

/// A new suite; name it like its binary.
pub fn suite(name: impl Into<String>) -> Suite {
    Suite { name: name.into(), options: Options::default(), entries: Vec::new(), last: 0 }
}

impl Suite {
    /// Sets what the suite decides for all of its tests.
    pub fn with(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Adds a test.
    pub fn test<F>(mut self, name: impl Into<String>, body: F) -> Self
    where
        F: AsyncFn(&mut Testbed) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        self.last = self.entries.len();
        self.push(name.into(), body);
        self
    }

    /// Adds a test for each case: `forms` over `debian::firmware` is `forms::debian::firmware`. The test gets the
    /// case's value.
    pub fn cases<N, V, F>(
        mut self,
        name: impl AsRef<str>,
        cases: impl IntoIterator<Item = (N, V)>,
        body: F,
    ) -> Self
    where
        N: AsRef<str>,
        V: Send + Sync + 'static,
        F: AsyncFn(&mut Testbed, &V) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        self.last = self.entries.len();
        let body = Arc::new(body);
        for (case, value) in cases {
            let body = Arc::clone(&body);
            let name = format!("{}::{}", name.as_ref(), case.as_ref());
            self.push(name, async move |testbed: &mut Testbed| body(testbed, &value).await);
        }
        self
    }

    /// The test or the cases added last run only when asked for, with `--ignored`.
    ///
    /// # Panics
    /// When the reason is empty.
    pub fn ignored(mut self, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        assert!(!reason.trim().is_empty(), "a test is ignored for a reason; say which");
        for entry in &mut self.entries[self.last..] {
            entry.ignored = Some(reason.clone());
        }
        self
    }

    /// The test or the cases added last need this of every machine. Where one can't do it ([`Options::lacking`]), they are
    /// listed as ignored with the reason. Several calls add up.
    pub fn requires(mut self, ability: Ability) -> Self {
        for entry in &mut self.entries[self.last..] {
            entry.requires.push(ability);
        }
        self
    }

    /// Sets the deadline of the test or the cases added last.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        for entry in &mut self.entries[self.last..] {
            entry.deadline = Some(deadline);
        }
        self
    }

    /// Does what the command line says: runs the tests, or lists them. Return its exit code from `main`.
    pub fn run(self) -> ExitCode {
        self.run_with(std::env::args_os())
    }

    fn push<F>(&mut self, name: String, body: F)
    where
        F: AsyncFn(&mut Testbed) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        let body = Arc::new(body);
        self.entries.push(Entry { name, ignored: None, requires: Vec::new(), deadline: None, body });
    }

    /// The same for a program that has arguments of its own: `arguments` are those of the suite, the program's name
    /// first.
    pub fn run_with(mut self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let line = match CommandLine::read(arguments) {
            Ok(line) => line,
            Err(error) => {
                // Help goes this way too, with the exit code 0.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
        };
        self.ignore_what_lacks(&line.settings);
        let done = self.check().and_then(|()| {
            if line.libtest.list {
                let trials = self.entries.iter().map(|entry| trial(entry, || Ok(Completion::Completed)));
                return Ok(libtest_mimic::run(&line.libtest, trials.collect()).exit_code());
            }
            self.execute(line)
        });
        done.unwrap_or_else(|error| {
            eprintln!("rackless: {:#}", anyhow::Error::new(error));
            ExitCode::from(2)
        })
    }

    /// Marks the tests that need what the machines of this run can't do.
    fn ignore_what_lacks(&mut self, settings: &Settings) {
        let lacking = self.options.lacking;
        for entry in self.entries.iter_mut().filter(|entry| entry.ignored.is_none()) {
            entry.ignored = entry
                .requires
                .iter()
                .find_map(|&ability| Some(format!("it needs {ability}: {}", lacking(settings, ability)?)));
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |reason| Err(Error::Suite { suite: self.name.clone(), reason });
        let mut names = BTreeSet::new();
        for Entry { name, .. } in &self.entries {
            if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return wrong(format!("a test is named `{name}`; runners need a name without spaces"));
            }
            if !names.insert(name) {
                return wrong(format!("two tests are named `{name}`"));
            }
        }
        Ok(())
    }

    fn execute(self, line: CommandLine) -> Result<ExitCode, Error> {
        let CommandLine { libtest: mut arguments, settings } = line;
        let settings = Arc::new(settings);
        logging::install(&settings)?;
        panics::install();
        let run = Arc::new(Run::open(&settings)?);
        let display = Display::new(Mode::detect(settings.quiet), Box::new(std::io::stderr()));
        let signals = Signals::new();
        let (main, events) = mpsc::channel();
        signals.listen(Arc::clone(&display), main.clone())?;
        let cannot = |error| Error::io("start", "the harness's threads")(error);
        let watching = watchdog::start(signals.clone(), main.clone()).map_err(cannot)?;

        let shared = Shared { suite: self.name, options: self.options, settings, run, display, signals };
        let shared = Arc::new(shared);
        let trials = shared.trials(&self.entries);
        let skipped = shared.say_ignored(&arguments, &self.entries, &trials);
        let forwarded = Forwarded::start(&mut arguments, &shared.display);
        let body = move || {
            let run = std::panic::AssertUnwindSafe(|| libtest_mimic::run(&arguments, trials));
            let ended = std::panic::catch_unwind(run).map_or(MainEvent::Abort(101), MainEvent::Finished);
            let _ = main.send(ended);
        };
        thread::Builder::new().name("rackless-tests".into()).spawn(body).map_err(cannot)?;
        let event = events.recv().unwrap_or(MainEvent::Abort(101));
        drop(watching);
        let junit = settings_junit(&shared);
        if let Err(error) =
            junit::write(&shared.run.suite_dir(&shared.suite), &shared.suite, &skipped, &junit)
        {
            shared.display.line(&format!("rackless: {:#}", anyhow::Error::new(error)));
        }
        Ok(match event {
            MainEvent::Abort(code) => ExitCode::from(code),
            MainEvent::Finished(conclusion) => {
                forwarded.finish();
                match shared.signals.now().cancelled {
                    Some((interrupt, _)) => ExitCode::from(interrupt.exit_code()),
                    None => conclusion.exit_code(),
                }
            }
        })
    }
}

fn settings_junit(shared: &Shared) -> std::path::PathBuf {
    let beside = || shared.run.suite_dir(&shared.suite).join("junit.xml");
    shared.settings.junit.clone().unwrap_or_else(beside)
}

fn trial(entry: &Entry, run: impl FnOnce() -> Result<Completion, Failed> + Send + 'static) -> Trial {
    Trial::ignorable_test(&entry.name, run).with_ignored_flag(entry.ignored.is_some())
}

/// What all tests of a process share.
struct Shared {
    suite: String,
    options: Options,
    settings: Arc<Settings>,
    run: Arc<Run>,
    display: Arc<Display>,
    signals: Signals,
}

impl Shared {
    fn trials(self: &Arc<Self>, entries: &[Entry]) -> Vec<Trial> {
        let one = |entry: &Entry| {
            let (shared, name, body) = (Arc::clone(self), entry.name.clone(), Arc::clone(&entry.body));
            let deadline = entry.deadline.unwrap_or(self.options.deadline);
            trial(entry, move || shared.conduct(&name, deadline, body))
        };
        entries.iter().map(one).collect()
    }

    /// Says why tests are left out, which libtest's output has no place for; answers their names and reasons.
    fn say_ignored(
        &self,
        arguments: &Arguments,
        entries: &[Entry],
        trials: &[Trial],
    ) -> Vec<(String, String)> {
        let mut skipped = Vec::new();
        for (entry, trial) in entries.iter().zip(trials) {
            if let Some(reason) = &entry.ignored
                && arguments.is_ignored(trial)
                && !arguments.is_filtered_out(trial)
            {
                self.display.progress(&format!("{}: ignored: {reason}", entry.name));
                skipped.push((entry.name.clone(), reason.clone()));
            }
        }
        skipped
    }

    /// Runs one test on a thread of its own, so that a wedged one can be left behind.
    fn conduct(&self, name: &str, deadline: Duration, body: Arc<dyn Body>) -> Result<Completion, Failed> {
        if let Some((interrupt, _)) = self.signals.now().cancelled {
            return Ok(Completion::ignored_with(format!("not started: {}", interrupt.name())));
        }
        let (outcome, verdict) = mpsc::channel();
        let plan = Plan {
            run: &self.run,
            suite: &self.suite,
            test: name,
            seed: self.settings.seed.unwrap_or_else(random_seed),
            settings: Arc::clone(&self.settings),
            options: Options { deadline, ..self.options.clone() },
            display: Arc::clone(&self.display),
        };
        let infra = |error: Error| {
            let text = format!("infrastructure: {:#}", anyhow::Error::new(error));
            self.display.line(&format!("\nFAILED {}::{name}: {text}", self.suite));
            Failed::from(text)
        };
        let (context, deaths) = Context::open(plan, outcome).map_err(infra)?;
        let signals = self.signals.clone();
        // The name that a thread can have is 15 bytes long; it helps in the watchdog's list.
        let thread = thread::Builder::new().name(format!("test {name}").replace('\0', ""));
        let spawned = thread.spawn(move || runner::run(&context, deaths, &*body, &signals));
        spawned.map_err(|error| infra(Error::io("start", "the test's thread")(error)))?;
        match verdict.recv() {
            Ok(verdict) => verdict.failed.map_or(Ok(Completion::Completed), |text| Err(Failed::from(text))),
            Err(_) => {
                Err(Failed::from("the harness itself failed: the test's thread ended without a verdict"))
            }
        }
    }
}

/// A fresh seed; 32 bits, which every reader of JSON understands exactly.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() & 0xffff_ffff
}

/// On a terminal, libtest's own output goes through the display, or it would be torn by the live lines.
struct Forwarded(Option<(std::io::PipeWriter, thread::JoinHandle<()>)>);

impl Forwarded {
    /// Does nothing unless live lines are on and standard output is a terminal too. Without a pipe the output is
    /// only less beautiful.
    fn start(arguments: &mut Arguments, display: &Arc<Display>) -> Self {
        let wanted =
            display.mode() == Mode::Live && std::io::stdout().is_terminal() && arguments.logfile.is_none();
        let Some((reader, writer)) = wanted.then(std::io::pipe).and_then(Result::ok) else {
            return Self(None);
        };
        let display = Arc::clone(display);
        let copy = move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                display.above(|_| {
                    let mut out = std::io::stdout().lock();
                    let _ =
                        out.write_all(&line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
                });
            }
        };
        let Ok(copier) = thread::Builder::new().name("rackless-output".into()).spawn(copy) else {
            return Self(None);
        };
        arguments.logfile = Some(format!("/proc/self/fd/{}", writer.as_raw_fd()));
        if arguments.color.is_none() && std::env::var_os("NO_COLOR").is_none() {
            arguments.color = Some(ColorSetting::Always);
        }
        Self(Some((writer, copier)))
    }

    /// Waits until all of the output has been shown.
    fn finish(self) {
        if let Some((writer, copier)) = self.0 {
            drop(writer);
            let _ = copier.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passes(_: &mut Testbed) -> anyhow::Result<()> {
        Ok(())
    }

    async fn takes(_: &mut Testbed, _: &u32) -> anyhow::Result<()> {
        Ok(())
    }

    #[test]
    fn cases_are_named_and_share_their_marks() {
        let suite =
            suite("s").test("plain", passes).cases("t", [("a::b", 1), ("c", 2)], takes).ignored("slow");
        let names: Vec<_> =
            suite.entries.iter().map(|entry| (&*entry.name, entry.ignored.is_some())).collect();
        assert_eq!(names, [("plain", false), ("t::a::b", true), ("t::c", true)]);
        suite.check().expect("all names differ");
    }

    #[test]
    fn what_needs_too_much_is_ignored_with_the_reason() {
        let lacking = |_: &Settings, ability| {
            (ability == Ability::Checkpoint).then(|| "server-1 is a board".to_owned())
        };
        let mut suite = suite("s")
            .with(Options { lacking, ..Options::default() })
            .test("plain", passes)
            .test("modest", passes)
            .requires(Ability::Network)
            .cases("greedy", [("a", 1), ("b", 2)], takes)
            .requires(Ability::Network)
            .requires(Ability::Checkpoint)
            .test("off", passes)
            .requires(Ability::Checkpoint)
            .ignored("slow");
        suite.ignore_what_lacks(&Settings::default());
        let reasons: Vec<_> = suite.entries.iter().map(|entry| entry.ignored.as_deref()).collect();
        let reason = Some("it needs checkpoints: server-1 is a board");
        assert_eq!(reasons, [None, None, reason, reason, Some("slow")]);
    }

    #[test]
    fn names_are_checked() {
        let twice = suite("s").test("t", passes).test("t", passes).check();
        assert!(twice.expect_err("a double name").to_string().contains("two tests are named `t`"));
        assert!(suite("s").test("a b", passes).check().is_err());
    }

    #[test]
    #[should_panic(expected = "for a reason")]
    fn ignoring_needs_a_reason() {
        let _ = suite("s").test("t", passes).ignored(" ");
    }
}
