//! The end of a test: `result.json`, the event, and what the console says.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::context::{Context, lock};
use crate::error::human;
use crate::result::{Cause, Failure, SCHEMA, TestResult, files_below, write_json};
use crate::{Class, signals::Interrupt};

/// What the runner has to know of a test's end.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// One line why it failed; `None` when it passed.
    pub(crate) failed: Option<String>,
}

/// Writes the result and says it.
pub(crate) fn conclude(context: &Context, failure: Option<Failure>) -> Verdict {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let word = failure.as_ref().map_or("passed".to_owned(), |failure| format!("failed: {}", failure.class));
    context.events.record("verdict", None, word, json!({ "passed": failure.is_none() }));
    let mut result = TestResult {
        started: crate::result::Started { schema: SCHEMA, ..context.mark.clone() },
        passed: failure.is_none(),
        failure,
        elapsed_ms: millis(context.begun.elapsed()),
        deadline_ms: millis(context.deadline.limit()),
        stood_still_ms: millis(context.deadline.stood_still()),
        steps: context.steps.records(true),
        teardown: lock(&context.teardown).clone(),
        artifacts: files_below(&context.dir),
    };
    if let Err(error) = write_json(&context.dir.join("result.json"), &result) {
        // A test without its result has not passed.
        let text = format!("{:#}", anyhow::Error::new(error));
        match &mut result.failure {
            Some(failure) => failure.besides.push(text),
            None => result.failure = Some(Failure::bare(Class::Infra, Cause::Unwritten, vec![text])),
        }
    }
    context.display.close_test(&context.mark.test);
    let Some(failure) = &result.failure else {
        let line = format!("{}: passed ({})", context.mark.test, human(context.begun.elapsed()));
        context.display.progress(&line);
        return Verdict { failed: None };
    };
    context.display.line(&text(context, failure));
    // Why a machine died says more than that it did.
    let told = if failure.cause == Cause::Death { 2 } else { 1 };
    let first = failure.chain[..told.min(failure.chain.len())].join(": ");
    Verdict { failed: Some(format!("{}: {first}\nartefacts: {}", failure.class, context.dir.display())) }
}

/// The verdict of a failed test, as the console shows it.
fn text(context: &Context, failure: &Failure) -> String {
    let mut text = format!("\nFAILED {}: {}", context.full_name(), failure.class);
    let mut line = |label: &str, value: &str| {
        let mut lines = value.lines();
        let _ = write!(text, "\n  {label:<10} {}", lines.next().unwrap_or_default());
        for more in lines {
            let _ = write!(text, "\n  {:<10} {more}", "");
        }
    };
    if !failure.step.is_empty() {
        line("step", &failure.step.join(" > "));
    }
    for (at, cause) in failure.chain.iter().enumerate() {
        line(if at == 0 { "error" } else { "because" }, cause);
    }
    if let Some(location) = &failure.location {
        line("at", location);
    }
    if let Some(backtrace) = failure.backtrace.as_deref().filter(|_| failure.cause == Cause::Panic) {
        line("backtrace", backtrace);
    }
    for besides in &failure.besides {
        line("besides", besides);
    }
    let stood = context.deadline.stood_still();
    let stood = if stood.is_zero() { String::new() } else { format!(", stood still for {}", human(stood)) };
    let elapsed = human(context.begun.elapsed());
    line("elapsed", &format!("{elapsed} (deadline {}{stood})", human(context.deadline.limit())));
    line("artefacts", &context.dir.display().to_string());
    line("repeat", &format!("RACKLESS_SEED={:#x}", context.mark.seed));
    text
}

impl Failure {
    /// A failure with nothing but its causes.
    pub(crate) fn bare(class: Class, cause: Cause, chain: Vec<String>) -> Self {
        Self { class, cause, step: Vec::new(), chain, location: None, backtrace: None, besides: Vec::new() }
    }

    /// The failure that a signal makes.
    pub(crate) fn cancelled(interrupt: Interrupt) -> Self {
        Self::bare(Class::Cancelled, Cause::Signal, vec![format!("cancelled by {}", interrupt.name())])
    }
}
