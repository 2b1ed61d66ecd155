//! Memory and virtual CPUs between processes.

use std::fs;

use harness::Class;
use nix::sys::signal::Signal;

use crate::process::{Place, Test, until};

pub(crate) const TESTS: &[Test] = &[
    ("budget_waits_for_another_process", budget_waits_for_another_process),
    ("budget_too_big", budget_too_big),
    ("budget_twice", budget_twice),
    ("budget_within_one_process", budget_within_one_process),
];

fn budget_waits_for_another_process() {
    let place = Place::new();
    let memory = [("RACKLESS_MEMORY", "1G")];
    let mut holder = place.start(&["--exact", "holds_budget"], &memory);
    holder.wait_call("holds_budget", "granted");
    let taker = place.start(&["--exact", "takes_budget"], &memory);
    let events = place.artifacts().join("run/fixture/takes_budget/events.jsonl");
    let told = until("the waiting", || {
        let text = fs::read_to_string(&events).ok()?;
        text.lines().find(|line| line.contains("waits for")).map(str::to_owned)
    });
    assert!(told.contains("behind fixture::holds_budget (pid "), "{told}");
    // Longer than the taker's deadline of a second, which stands still.
    let waited = std::time::Instant::now();
    until("longer than the deadline", || (waited.elapsed().as_millis() > 1500).then_some(()));
    holder.signal(Signal::SIGKILL);
    holder.wait();
    let ended = taker.wait();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.result("takes_budget").stood_still_ms >= 1500);
}

fn budget_too_big() {
    let ended = Place::new().run(&["--exact", "takes_budget"], &[("RACKLESS_MEMORY", "512M")]);
    assert_eq!(ended.code(), 101);
    let failure = ended.result("takes_budget").failure.expect("it failed");
    assert_eq!(failure.class, Class::Infra);
    assert!(failure.chain[0].contains("needs 700 MiB of memory, but this host has 512 MiB"), "{failure:?}");
}

fn budget_twice() {
    let ended = Place::new().run(&["--exact", "asks_twice"], &[("RACKLESS_MEMORY", "1G")]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
}

fn budget_within_one_process() {
    let place = Place::new();
    // Two tests, threads of one process, and memory for one of them; neither gives it up by itself.
    let mut running = place.start(&["holds_budget", "--test-threads=2"], &[("RACKLESS_MEMORY", "1G")]);
    let both = ["holds_budget", "holds_budget_too"];
    until("one of them waits", || {
        both.iter().find_map(|test| {
            let events = place.artifacts().join("run/fixture").join(test).join("events.jsonl");
            fs::read_to_string(events).ok()?.contains("waits for").then_some(())
        })
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), 143);
}
