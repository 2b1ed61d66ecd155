//! Panics of tests: message, place and backtrace, caught by a hook and told to the test they belong to.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::sync::Once;
use std::thread::ThreadId;

use crate::context::current;

/// One panic.
#[derive(Debug, Clone)]
pub(crate) struct PanicRecord {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: String,
    pub(crate) thread: String,
    pub(crate) thread_id: ThreadId,
}

impl PanicRecord {
    /// One line: what and where.
    pub(crate) fn summary(&self) -> String {
        let place = self.location.as_deref().unwrap_or("an unknown place");
        format!("panicked at {place}: {}", self.message)
    }
}

thread_local! {
    /// A panic within the hook must not come here again.
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
}

/// Sends panics of test threads to their tests; others go to the hook that was there.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IN_HOOK.get() {
                return before(info);
            }
            IN_HOOK.set(true);
            match current() {
                Some(context) => context.record_panic(record(info)),
                None => before(info),
            }
            IN_HOOK.set(false);
        }));
    });
}

fn record(info: &PanicHookInfo<'_>) -> PanicRecord {
    let thread = std::thread::current();
    let payload = info.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    PanicRecord {
        message: text.unwrap_or("(no message)").to_owned(),
        location: info.location().map(ToString::to_string),
        backtrace: own_frames(&Backtrace::force_capture().to_string()),
        thread: thread.name().unwrap_or("unnamed").to_owned(),
        thread_id: thread.id(),
    }
}

/// The frames that a test's author wrote or called: from the panic machinery on to where the harness catches panics,
/// without those of the standard library and of registries.
fn own_frames(backtrace: &str) -> String {
    let mut frames: Vec<Vec<&str>> = Vec::new();
    for line in backtrace.lines() {
        let numbered =
            line.trim_start().split_once(':').is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        match frames.last_mut() {
            Some(frame) if !numbered => frame.push(line),
            _ => frames.push(vec![line]),
        }
    }
    let first = frames.iter().position(|frame| frame[0].contains("rust_begin_unwind"));
    let rest = &frames[first.map_or(0, |at| at + 1)..];
    let own: Vec<_> = rest
        .iter()
        .take_while(|frame| !frame[0].contains("catch_unwind"))
        .filter(|frame| {
            let place = frame.get(1).copied().unwrap_or("/rustc/");
            !["/rustc/", "/registry/src/"].iter().any(|foreign| place.contains(foreign))
        })
        .collect();
    // Without line tables nothing can be told apart.
    let shown = if own.is_empty() { rest.iter().collect() } else { own };
    shown.iter().map(|frame| frame.join("\n")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tests_own_frames_are_shown() {
        let text = "   0: harness::panics::record\n             at ./src/panics.rs:1:2\n   1: rust_begin_unwind\n   \
                    2: core::panicking::panic_fmt\n             at /rustc/1/core/src/panicking.rs:80:14\n   \
                    3: cluster::forms\n             at cluster.rs:7:5\n   4: <F as CatchUnwind>::catch_unwind\n   \
                    5: main\n             at main.rs:1:1";
        assert_eq!(own_frames(text), "   3: cluster::forms\n             at cluster.rs:7:5");
        assert_eq!(own_frames("garbage"), "garbage");
    }
}
