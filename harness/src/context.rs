//! What the harness knows of one test while it runs, shared by its testbed, the runner, the watchdog and the log.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use fs_err::File;
use serde_json::json;
use tokio::sync::mpsc as channel;

use crate::artifacts::{Run, sanitise};
use crate::budget::Grant;
use crate::display::Display;
use crate::panics::PanicRecord;
use crate::result::{Started, TeardownRecord, write_json};
use crate::steps::Steps;
use crate::verdict::Verdict;
use crate::{Class, Deadline, Error, Events, Options, Settings, Subject, SubjectId};

/// Where a test is; each part has its own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Body,
    Diagnose,
    Hold,
    Teardown,
    Over,
}

struct Attached {
    id: SubjectId,
    name: String,
    subject: Arc<dyn Subject>,
    watch: tokio::task::AbortHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// A subject died: its name, and why.
pub(crate) type Death = (String, anyhow::Error);

pub(crate) struct Context {
    pub(crate) mark: Started,
    pub(crate) dir: PathBuf,
    pub(crate) begun: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) events: Events,
    pub(crate) log: File,
    pub(crate) steps: Steps,
    pub(crate) settings: Arc<Settings>,
    pub(crate) options: Options,
    pub(crate) display: Arc<Display>,
    pub(crate) teardown: Mutex<Vec<TeardownRecord>>,
    pub(crate) grants: Mutex<Vec<Grant>>,
    panics: Mutex<Vec<PanicRecord>>,
    phase: Mutex<(Phase, Instant, Duration)>,
    subjects: Mutex<Vec<Attached>>,
    next_subject: AtomicU64,
    deaths: channel::UnboundedSender<Death>,
    outcome: Mutex<Option<mpsc::Sender<Verdict>>>,
}

/// What a new test's context is made from.
pub(crate) struct Plan<'a> {
    pub(crate) run: &'a Run,
    pub(crate) suite: &'a str,
    pub(crate) test: &'a str,
    pub(crate) seed: u64,
    pub(crate) settings: Arc<Settings>,
    pub(crate) options: Options,
    pub(crate) display: Arc<Display>,
}

impl Context {
    /// Makes the test's directory and writes `started`.
    pub(crate) fn open(
        plan: Plan<'_>,
        outcome: mpsc::Sender<Verdict>,
    ) -> Result<(Arc<Self>, channel::UnboundedReceiver<Death>), Error> {
        let Plan { run, suite, test, seed, settings, options, display } = plan;
        let dir = run.test_dir(suite, test)?;
        let mark = Started {
            schema: crate::result::SCHEMA,
            run: run.name.clone(),
            suite: suite.to_owned(),
            test: test.to_owned(),
            started: jiff::Timestamp::now(),
            pid: std::process::id(),
            seed,
        };
        write_json(&dir.join("started"), &mark)?;
        let begun = Instant::now();
        let log = dir.join("harness.log");
        let log = File::create(&log).map_err(Error::io("create", log))?;
        let events = Events::create(&dir.join("events.jsonl"), begun)?;
        let deadline = Deadline::new(settings.deadline.unwrap_or(options.deadline));
        deadline.scale(settings.deadline_factor.unwrap_or(1.0));
        let (deaths, died) = channel::unbounded_channel();
        let context = Arc::new(Self {
            mark,
            dir,
            begun,
            deadline,
            events,
            log,
            steps: Steps::new(begun),
            settings,
            options,
            display,
            teardown: Mutex::default(),
            grants: Mutex::default(),
            panics: Mutex::default(),
            phase: Mutex::new((Phase::Body, begun, Duration::MAX)),
            subjects: Mutex::default(),
            next_subject: AtomicU64::new(0),
            deaths,
            outcome: Mutex::new(Some(outcome)),
        });
        RUNNING.register(&context);
        Ok((context, died))
    }

    /// `suite::test`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}::{}", self.mark.suite, self.mark.test)
    }

    pub(crate) fn attach(self: &Arc<Self>, subject: Arc<dyn Subject>) -> SubjectId {
        let id = SubjectId(self.next_subject.fetch_add(1, Ordering::Relaxed));
        let name = subject.name();
        let (died, deaths, who) = (subject.died(), self.deaths.clone(), name.clone());
        let watch = tokio::spawn(async move {
            let error = died.await;
            // The receiver lives as long as the race; after it, a death is no news.
            let _ = deaths.send((who, error));
        });
        self.events.record("attach", Some(&name), "attached", json!(null));
        lock(&self.subjects).push(Attached { id, name, subject, watch: watch.abort_handle() });
        id
    }

    pub(crate) fn detach(&self, id: SubjectId) -> Option<Arc<dyn Subject>> {
        let mut subjects = lock(&self.subjects);
        let at = subjects.iter().position(|attached| attached.id == id)?;
        Some(Arc::clone(&subjects.remove(at).subject))
    }

    /// The subjects as they are now, first attached first.
    pub(crate) fn subjects(&self) -> Vec<(String, Arc<dyn Subject>)> {
        lock(&self.subjects).iter().map(|a| (a.name.clone(), Arc::clone(&a.subject))).collect()
    }

    /// The subject that was attached last. It stays in the list, where the watchdog finds it, until it is detached.
    pub(crate) fn last_subject(&self) -> Option<(SubjectId, String, Arc<dyn Subject>)> {
        lock(&self.subjects).last().map(|a| (a.id, a.name.clone(), Arc::clone(&a.subject)))
    }

    /// The directory of a subject among the artefacts; made on the way.
    pub(crate) fn subject_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(sanitise(name));
        if let Err(error) = fs_err::create_dir_all(&dir) {
            tracing::warn!(%error, "no directory for a subject's artefacts");
        }
        dir
    }

    pub(crate) fn enter_phase(&self, phase: Phase, limit: Duration) {
        *lock(&self.phase) = (phase, Instant::now(), limit);
        tracing::debug!(?phase, "phase");
    }

    /// The phase, for how long it has lasted, and its limit.
    pub(crate) fn phase(&self) -> (Phase, Duration, Duration) {
        let (phase, since, limit) = *lock(&self.phase);
        (phase, since.elapsed(), limit)
    }

    pub(crate) fn record_panic(&self, panic: PanicRecord) {
        self.events.record("panic", None, panic.summary(), json!({ "thread": panic.thread }));
        lock(&self.panics).push(panic);
    }

    /// The panics so far, which the caller now accounts for.
    pub(crate) fn take_panics(&self) -> Vec<PanicRecord> {
        std::mem::take(&mut *lock(&self.panics))
    }

    /// The right to say how the test ended; only the first caller gets it.
    pub(crate) fn claim_outcome(&self) -> Option<mpsc::Sender<Verdict>> {
        lock(&self.outcome).take()
    }

    /// The class of an error: the suite's opinion, then the harness's, then `otherwise`.
    pub(crate) fn classify(&self, error: &anyhow::Error, otherwise: Class) -> Class {
        (self.options.classify)(error).or_else(|| Class::of(error)).unwrap_or(otherwise)
    }
}

/// A poisoned lock is no reason to lose a teardown: what it guards is whole after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tests that run in this process.
pub(crate) struct Running(Mutex<Vec<Weak<Context>>>);

pub(crate) static RUNNING: Running = Running(Mutex::new(Vec::new()));

impl Running {
    fn register(&self, context: &Arc<Context>) {
        lock(&self.0).push(Arc::downgrade(context));
    }

    /// All tests that are not over, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Context>> {
        let mut list = lock(&self.0);
        list.retain(|entry| entry.strong_count() > 0);
        let alive: Vec<_> = list.iter().filter_map(Weak::upgrade).collect();
        drop(list);
        alive.into_iter().filter(|context| context.phase().0 != Phase::Over).collect()
    }
}

thread_local! {
    static CURRENT: RefCell<Weak<Context>> = const { RefCell::new(Weak::new()) };
}

/// From here on this thread works for the test.
pub(crate) fn enter(context: &Weak<Context>) {
    CURRENT.with(|current| current.replace(context.clone()));
}

/// The test that this thread works for; for a thread of unknown allegiance, the only test that runs.
pub(crate) fn current() -> Option<Arc<Context>> {
    let known =
        CURRENT.try_with(|current| current.try_borrow().ok().and_then(|weak| weak.upgrade())).ok().flatten();
    known.or_else(|| {
        let mut all = RUNNING.all();
        if all.len() == 1 { all.pop() } else { None }
    })
}
