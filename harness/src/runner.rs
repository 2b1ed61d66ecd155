//! One test from its start to its end: the race, the diagnosis, the hold, the teardown.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use serde_json::json;
use tokio::sync::mpsc as channel;

use crate::context::{self, Context, Death, Phase, lock};
use crate::error::human;
use crate::result::{Cause, Failure, TeardownRecord};
use crate::settings::Keep;
use crate::signals::{Interrupt, Signals};
use crate::verdict::{self, Verdict};
use crate::{Class, Options, Testbed, watchdog};

/// How long after a test's error the death of a subject still counts as its cause: the test may have noticed first.
const DEATH_GRACE: Duration = Duration::from_millis(500);

/// How long background threads may take to end after everything has been torn down.
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);

/// A test's body, whatever its type.
pub(crate) trait Body: Send + Sync {
    fn call<'a>(&'a self, testbed: &'a mut Testbed) -> LocalBoxFuture<'a, anyhow::Result<()>>;
}

impl<F> Body for F
where
    F: AsyncFn(&mut Testbed) -> anyhow::Result<()> + Send + Sync,
{
    fn call<'a>(&'a self, testbed: &'a mut Testbed) -> LocalBoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self(testbed))
    }
}

/// How a test's body ended.
enum End {
    Passed,
    Error(anyhow::Error),
    Panic,
    Deadline,
    Signal(Interrupt),
    Death(Death),
}

/// Runs a test on the calling thread, unless the watchdog says its verdict first.
pub(crate) fn run(
    context: &Arc<Context>,
    deaths: channel::UnboundedReceiver<Death>,
    body: &dyn Body,
    signals: &Signals,
) {
    let weak = Arc::downgrade(context);
    context::enter(&weak);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(context.options.workers.max(1))
        .thread_name("rackless-worker")
        .enable_all()
        .on_thread_start(move || context::enter(&weak))
        .build();
    let failure = match runtime {
        Ok(runtime) => {
            let failure = runtime.block_on(conduct(context, deaths, body, signals));
            runtime.shutdown_timeout(RUNTIME_LIMIT);
            failure
        }
        Err(error) => {
            let chain = vec!["cannot start the test's threads".to_owned(), error.to_string()];
            Some(Failure::bare(Class::Infra, Cause::Error, chain))
        }
    };
    // The machines are gone: others may have their share.
    lock(&context.grants).drain(..).for_each(crate::Grant::release);
    if let Some(outcome) = context.claim_outcome() {
        let verdict: Verdict = verdict::conclude(context, failure);
        context.enter_phase(Phase::Over, Duration::MAX);
        let _ = outcome.send(verdict);
    }
}

async fn conduct(
    context: &Arc<Context>,
    deaths: channel::UnboundedReceiver<Death>,
    body: &dyn Body,
    signals: &Signals,
) -> Option<Failure> {
    let end = race(context, deaths, body, signals).await;
    let mut failure = judge(context, end);
    if let Some(failure) = &failure {
        context.events.record("failed", None, failure.chain.join(": "), json!({ "class": failure.class }));
        context.enter_phase(Phase::Diagnose, context.options.diagnose_limit);
        diagnose(context, signals).await;
    }
    let interrupted = signals.now().cancelled.is_some();
    let keep = match context.settings.keep_vms {
        Keep::Never => false,
        Keep::Failure => failure.is_some(),
        Keep::Always => true,
    };
    if keep && !interrupted {
        context.enter_phase(Phase::Hold, Duration::MAX);
        hold(context, signals, failure.as_ref()).await;
    }
    context.enter_phase(Phase::Teardown, context.options.teardown_limit);
    let lingering = teardown(context, signals).await;
    if !lingering.is_empty() {
        match &mut failure {
            Some(failure) => failure.besides.extend(lingering),
            None => failure = Some(Failure::bare(Class::Infra, Cause::Lingering, lingering)),
        }
    }
    failure
}

/// Runs the body until it ends or something else ends the test.
async fn race(
    context: &Arc<Context>,
    mut deaths: channel::UnboundedReceiver<Death>,
    body: &dyn Body,
    signals: &Signals,
) -> End {
    let mut testbed = Testbed::new(Arc::clone(context));
    let mut running = Box::pin(AssertUnwindSafe(body.call(&mut testbed)).catch_unwind());
    let end = tokio::select! {
        biased;
        Some(death) = deaths.recv() => End::Death(death),
        interrupt = signals.cancelled() => End::Signal(interrupt),
        ended = &mut running => match ended {
            Ok(Ok(())) => End::Passed,
            Ok(Err(error)) => End::Error(error),
            Err(_) => End::Panic,
        },
        () = context.deadline.expired() => End::Deadline,
    };
    // The test's locals go now, as they do after an error; a panic among them is recorded by the hook.
    let _ = std::panic::catch_unwind(AssertUnwindSafe(move || drop(running)));
    let noticed_first = matches!(end, End::Error(_) | End::Panic) && !context.subjects().is_empty();
    let patience = if noticed_first { DEATH_GRACE } else { Duration::ZERO };
    match end {
        End::Signal(_) | End::Death(_) => end,
        _ => match tokio::time::timeout(patience, deaths.recv()).await {
            Ok(Some((name, error))) => {
                if let End::Error(own) = end {
                    context.events.record("error", None, format!("{own:#}"), json!(null));
                    return End::Death((name, error.context(format!("the test saw: {own:#}"))));
                }
                End::Death((name, error))
            }
            _ => end,
        },
    }
}

/// Makes a failure of an end, with its class.
fn judge(context: &Context, end: End) -> Option<Failure> {
    let own_thread = std::thread::current().id();
    let (own, background): (Vec<_>, Vec<_>) =
        context.take_panics().into_iter().partition(|panic| panic.thread_id == own_thread);
    let chain = |error: &anyhow::Error| -> Vec<String> { error.chain().map(ToString::to_string).collect() };
    let mut failure = match end {
        End::Passed => None,
        End::Error(error) => {
            let class = context.classify(&error, Class::Product);
            Some(Failure::bare(class, Cause::Error, chain(&error)))
        }
        End::Panic => {
            let mut failure =
                Failure::bare(Class::Product, Cause::Panic, vec!["the test panicked".to_owned()]);
            if let Some(panic) = own.last() {
                failure.chain = vec![panic.message.clone()];
                failure.location = panic.location.clone();
                failure.backtrace = Some(panic.backtrace.clone());
            }
            Some(failure)
        }
        End::Deadline => {
            let text = format!("the test's deadline of {} passed", human(context.deadline.limit()));
            Some(Failure::bare(Class::Timeout, Cause::Deadline, vec![text]))
        }
        End::Signal(interrupt) => Some(Failure::cancelled(interrupt)),
        End::Death((name, error)) => {
            let class = context.classify(&error, Class::GuestCrash);
            context.events.record("death", Some(&name), format!("{error:#}"), json!(null));
            let mut chain = chain(&error);
            chain.insert(0, format!("{name} died"));
            Some(Failure::bare(class, Cause::Death, chain))
        }
    };
    for panic in background {
        let text = format!("thread {} {}", panic.thread, panic.summary());
        match &mut failure {
            Some(failure) => failure.besides.push(text),
            None => {
                let mut first = Failure::bare(Class::Product, Cause::BackgroundPanic, vec![text]);
                first.location = panic.location;
                first.backtrace = Some(panic.backtrace);
                failure = Some(first);
            }
        }
    }
    if let Some(failure) = &mut failure {
        failure.step = context.steps.at_fault();
    }
    failure
}

/// Bounds a phase by its limit, and by half of the grace that a signal leaves.
async fn bounded<T>(
    limit: Duration,
    signals: &Signals,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let cut = async {
        signals.cancelled().await;
        tokio::time::timeout(grace / 2, std::future::pending::<()>()).await
    };
    tokio::select! {
        biased;
        done = tokio::time::timeout(limit, work) => done.ok(),
        _ = cut => None,
    }
}

/// Has all subjects diagnosed, at once and as far as they come.
async fn diagnose(context: &Arc<Context>, signals: &Signals) {
    let each = context.subjects().into_iter().map(|(name, subject)| async move {
        let dir = context.subject_dir(&name);
        let lane = context.display.lane(&context.mark.test, &name, context.begun);
        lane.set("diagnosis");
        let done = AssertUnwindSafe(subject.diagnose(&dir)).catch_unwind().await;
        lane.set("diagnosed");
        // A subject may have nothing to add, or a place of its own: then this fails, or takes an empty folder away.
        let _ = fs_err::remove_dir(&dir);
        let text = if done.is_ok() { "diagnosed" } else { "the diagnosis panicked" };
        context.events.record("diagnosis", Some(&name), text, json!(null));
    });
    let Options { diagnose_limit, signal_grace, .. } = context.options.clone();
    if bounded(diagnose_limit, signals, signal_grace, join_all(each)).await.is_none() {
        context.events.record("diagnosis", None, "cut short: its time was over", json!(null));
    }
}

/// Keeps everything as it is until someone has seen enough.
async fn hold(context: &Arc<Context>, signals: &Signals, failure: Option<&Failure>) {
    let mut text = match failure {
        Some(failure) => {
            format!("\n{} FAILED ({}): {}", context.full_name(), failure.class, failure.chain.join(": "))
        }
        None => format!("\n{} passed", context.full_name()),
    };
    text.push_str("\n  Its machines are kept. How to get in:");
    for (name, subject) in context.subjects() {
        text.push_str(&format!("\n  {name}"));
        let lines = bounded(context.options.diagnose_limit, signals, Duration::ZERO, subject.hold()).await;
        for line in lines.unwrap_or_default() {
            text.push_str(&format!("\n    {line}"));
        }
    }
    text.push_str(&format!("\n  Artefacts: {}", context.dir.display()));
    text.push_str("\n  Press Enter or Ctrl-C to tear them down.");
    context.events.record("hold", None, "held", json!(null));
    watchdog::listen_for_enter(signals);
    let released = signals.hold(|| context.display.line(&text));
    released.await;
    context.events.record("hold", None, "let go", json!(null));
}

/// Tears all subjects down, last attached first; answers what lingers.
async fn teardown(context: &Arc<Context>, signals: &Signals) -> Vec<String> {
    let until = Instant::now() + context.options.teardown_limit;
    let mut lingering = Vec::new();
    while let Some((id, name, subject)) = context.last_subject() {
        let begun = Instant::now();
        let lane = context.display.lane(&context.mark.test, &name, context.begun);
        lane.set("teardown");
        let left = until.saturating_duration_since(begun);
        let work = AssertUnwindSafe(subject.teardown()).catch_unwind();
        let error = match bounded(left, signals, context.options.signal_grace, work).await {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(error))) => Some(format!("{name} lingers: {error:#}")),
            Some(Err(_)) => Some(format!("{name} lingers: its teardown panicked")),
            None => Some(format!("{name} lingers: its teardown took more than {}", human(begun.elapsed()))),
        };
        if error.is_some() {
            // The backstop may block; the watchdog would only see a wedged test.
            let lingerer = Arc::clone(&subject);
            let kill = tokio::task::spawn_blocking(move || lingerer.kill());
            let _ = tokio::time::timeout(Duration::from_secs(5), kill).await;
        }
        context.detach(id);
        lane.close();
        let text = error.as_deref().unwrap_or("torn down");
        context.events.record("teardown", Some(&name), text, json!(null));
        lock(&context.teardown).push(TeardownRecord {
            subject: name,
            elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            error: error.clone(),
        });
        lingering.extend(error);
    }
    for panic in context.take_panics() {
        lingering.push(format!("thread {} {}", panic.thread, panic.summary()));
    }
    lingering
}
