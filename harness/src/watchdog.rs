//! A plain thread that ends tests which no longer end themselves, because they block their thread.

use std::fmt::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::{Context, Phase, RUNNING, lock};
use crate::error::human;
use crate::result::{Cause, Failure, write_whole};
use crate::signals::Signals;
use crate::{Class, MainEvent, verdict};

const TICK: Duration = Duration::from_millis(100);

/// How long the subjects' synchronous kill may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Watches all tests of this process until the returned sender is dropped.
pub(crate) fn start(signals: Signals, main: mpsc::Sender<MainEvent>) -> std::io::Result<mpsc::Sender<()>> {
    let (stop, stopped) = mpsc::channel();
    let body = move || {
        let mut overdue = Vec::new();
        while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            look(&signals, &main, &mut overdue);
        }
    };
    thread::Builder::new().name("rackless-watchdog".into()).spawn(body)?;
    Ok(stop)
}

/// A test whose deadline has passed, and since when. A deadline can be scaled after it passed, so the time of passing
/// cannot be computed, only seen.
type Overdue = (Arc<Context>, Instant);

fn look(signals: &Signals, main: &mpsc::Sender<MainEvent>, overdue: &mut Vec<Overdue>) {
    let running = RUNNING.all();
    overdue.retain(|(context, _)| {
        running.iter().any(|test| Arc::ptr_eq(test, context))
            && context.phase().0 == Phase::Body
            && context.deadline.remaining().is_zero()
    });
    for context in &running {
        let (phase, lasted, limit) = context.phase();
        let grace = context.options.watchdog_grace;
        let wedged = match phase {
            Phase::Body if context.deadline.remaining().is_zero() => {
                match overdue.iter().find(|(known, _)| Arc::ptr_eq(known, context)) {
                    Some((_, since)) => since.elapsed() > grace,
                    None => {
                        overdue.push((Arc::clone(context), Instant::now()));
                        false
                    }
                }
            }
            Phase::Diagnose | Phase::Teardown => lasted > limit.saturating_add(grace),
            Phase::Body | Phase::Hold | Phase::Over => false,
        };
        if wedged {
            let why = match phase {
                Phase::Body => format!("its deadline of {} passed", human(context.deadline.limit())),
                Phase::Diagnose => format!("its diagnosis has taken {}", human(lasted)),
                _ => format!("its teardown has taken {}", human(lasted)),
            };
            end(context, Class::Timeout, &format!("{why} and the test's thread does not answer"));
        }
    }
    if let Some((interrupt, at)) = signals.now().cancelled {
        let grace = |context: &Arc<Context>| context.options.signal_grace + context.options.watchdog_grace;
        let late: Vec<_> = running.iter().filter(|context| at.elapsed() > grace(context)).collect();
        for context in &late {
            let text =
                format!("{} came {} ago and the test has not ended", interrupt.name(), human(at.elapsed()));
            end(context, Class::Cancelled, &text);
        }
        if !late.is_empty() && late.len() == running.len() {
            let _ = main.send(MainEvent::Abort(interrupt.exit_code()));
        }
    }
}

/// Ends a test from outside: saves what can be seen of it, kills its subjects, says its verdict.
fn end(context: &Arc<Context>, class: Class, why: &str) {
    let Some(outcome) = context.claim_outcome() else { return };
    let dump = state(context, why);
    if let Err(error) = write_whole(&context.dir.join("watchdog.txt"), dump.as_bytes()) {
        context.display.line(&format!("rackless: {error}"));
    }
    let besides = match kill_all(std::slice::from_ref(context), KILL_LIMIT) {
        true => Vec::new(),
        false => vec![format!("its subjects could not be killed within {}", human(KILL_LIMIT))],
    };
    let failure = Failure {
        class,
        cause: Cause::Wedged,
        step: context.steps.at_fault(),
        chain: vec![format!("{why} (see watchdog.txt): its subjects were killed without a teardown")],
        location: None,
        backtrace: None,
        besides,
    };
    lock(&context.grants).drain(..).for_each(crate::Grant::release);
    let verdict = verdict::conclude(context, Some(failure));
    context.enter_phase(Phase::Over, Duration::MAX);
    let _ = outcome.send(verdict);
}

/// Kills all subjects of these tests, each on a thread of its own; answers whether that ended in time.
pub(crate) fn kill_all(tests: &[Arc<Context>], limit: Duration) -> bool {
    let subjects: Vec<_> = tests.iter().flat_map(|context| context.subjects()).collect();
    let (done, ended) = mpsc::channel();
    // One of them may hang or panic; the others are killed all the same.
    let count = subjects.len();
    for (name, subject) in subjects {
        let done = done.clone();
        let kill = move || {
            subject.kill();
            let _ = done.send(());
        };
        if let Err(error) = thread::Builder::new().name("rackless-kill".into()).spawn(kill) {
            tracing::error!(%error, name, "no thread to kill a subject on");
        }
    }
    drop(done);
    let until = Instant::now() + limit;
    (0..count).all(|_| ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok())
}

/// What can be seen of a test from outside: phase, steps, and where its process's threads are.
fn state(context: &Context, why: &str) -> String {
    let mut text = String::new();
    let (phase, lasted, _) = context.phase();
    let _ = writeln!(text, "{}: {why}", context.full_name());
    let _ = writeln!(text, "phase: {phase:?} for {}", human(lasted));
    let _ = writeln!(text, "deadline: {:?}", context.deadline);
    let _ = writeln!(text, "step: {}", context.steps.at_fault().join(" > "));
    let names: Vec<String> = context.subjects().into_iter().map(|(name, _)| name).collect();
    let _ = writeln!(text, "subjects: {}", names.join(", "));
    let _ = writeln!(text, "\nthreads (id, name, state, kernel function, system call):");
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let status = read("status");
        let state =
            status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?").trim().to_owned();
        let [name, wchan, syscall] = ["comm", "wchan", "syscall"].map(|file| read(file).trim().to_owned());
        let _ =
            writeln!(text, "{:>8} {name:<16} {state:<14} {wchan:<24} {syscall}", entry.file_name().display());
    }
    text
}

/// Enter on standard input lets held tests go. One thread per process, started at the first hold; it stays in its
/// read until the process ends. The end of the input, as under a runner, means nothing.
pub(crate) fn listen_for_enter(signals: &Signals) {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = lock(&STARTED);
    if *started {
        return;
    }
    let signals = signals.clone();
    let body = move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            signals.release();
            line.clear();
        }
    };
    *started = thread::Builder::new().name("rackless-enter".into()).spawn(body).is_ok();
}
