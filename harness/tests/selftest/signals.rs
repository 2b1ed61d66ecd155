//! Ctrl-C once and twice, SIGTERM, SIGKILL, and holding machines.

use std::fs;
use std::process::Stdio;

use harness::{Cause, Class};
use nix::sys::signal::Signal;

use crate::process::{Place, Test, until};

pub(crate) const TESTS: &[Test] = &[
    ("sigint_cancels", sigint_cancels),
    ("sigterm_cancels", sigterm_cancels),
    ("a_second_signal_kills", a_second_signal_kills),
    ("a_wedged_test_does_not_survive_a_signal", a_wedged_test_does_not_survive_a_signal),
    ("sigkill_leaves_nothing_in_the_way", sigkill_leaves_nothing_in_the_way),
    ("keep_vms_holds_until_enter", keep_vms_holds_until_enter),
    ("keep_vms_holds_until_ctrl_c", keep_vms_holds_until_ctrl_c),
    ("keep_vms_only_when_asked", keep_vms_only_when_asked),
];

fn sigint_cancels() {
    let place = Place::new();
    let mut running =
        place.start(&["waits", "--test-threads=2", "--skip", "too_long", "--skip", "stubborn"], &[]);
    running.wait_call("waits", "waiting");
    running.wait_call("waits_too", "waiting");
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.code(), 130, "{}", ended.stderr);
    for test in ["waits", "waits_too"] {
        let failure = ended.result(test).failure.expect("it failed");
        assert_eq!((failure.class, failure.cause), (Class::Cancelled, Cause::Signal));
        assert_eq!(failure.step, ["wait for a signal"]);
        assert_eq!(ended.calls(test), ["waiting", "server-1 diagnosed", "server-1 torn down"]);
    }
    let junit = fs::read_to_string(ended.dir("junit.xml")).expect("a report");
    assert!(junit.contains("cancelled by SIGINT"), "{junit}");
}

fn sigterm_cancels() {
    let place = Place::new();
    let mut running = place.start(&["waits", "--test-threads=1"], &[]);
    running.wait_call("waits", "waiting");
    running.signal(Signal::SIGTERM);
    let ended = running.wait();
    assert_eq!(ended.code(), 143, "{}", ended.stderr);
    assert_eq!(ended.calls("waits"), ["waiting", "server-1 diagnosed", "server-1 torn down"]);
    assert!(!ended.dir("waits_too").exists(), "what had not begun never does");
}

fn a_second_signal_kills() {
    let place = Place::new();
    let mut running = place.start(&["--exact", "waits_stubbornly"], &[]);
    running.wait_call("waits_stubbornly", "waiting");
    running.signal(Signal::SIGTERM);
    running.wait_call("waits_stubbornly", "server-1 torn down");
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.code(), 130, "{}", ended.stderr);
    assert!(ended.calls("waits_stubbornly").contains(&"server-1 killed".to_owned()));
}

fn a_wedged_test_does_not_survive_a_signal() {
    let place = Place::new();
    let mut running = place.start(&["--exact", "blocks", "--deadline-factor", "1000"], &[]);
    running.wait_call("blocks", "blocking");
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.code(), 130, "{}", ended.stderr);
    let failure = ended.result("blocks").failure.expect("it failed");
    assert_eq!((failure.class, failure.cause), (Class::Cancelled, Cause::Wedged));
    assert_eq!(ended.calls("blocks"), ["blocking", "server-1 killed"]);
}

fn sigkill_leaves_nothing_in_the_way() {
    let place = Place::new();
    let memory = [("RACKLESS_MEMORY", "1G"), ("RACKLESS_RUN", "killed"), ("RACKLESS_KEEP_RUNS", "1")];
    let mut running = place.start(&["--exact", "holds_budget"], &memory);
    let killed = place.artifacts().join("killed");
    until("the grant", || fs::read_to_string(killed.join("fixture/holds_budget/calls")).ok());
    running.signal(Signal::SIGKILL);
    running.wait();
    assert!(killed.join("fixture/holds_budget/started").is_file());
    assert!(!killed.join("fixture/holds_budget/result.json").exists());

    let next = [("RACKLESS_MEMORY", "1G"), ("RACKLESS_KEEP_RUNS", "1")];
    let ended = place.run(&["--exact", "takes_budget"], &next);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("waits for"), "the tokens came back: {}", ended.stderr);
    assert!(!killed.exists(), "the killed run counts as over");
}

fn keep_vms_holds_until_enter() {
    let place = Place::new();
    let mut command = place.command(&["--exact", "fails", "--keep-vms"], &[]);
    command.stdin(Stdio::piped());
    let mut running = place.start_command(command);
    let events = place.artifacts().join("run/fixture/fails/events.jsonl");
    until("the hold", || fs::read_to_string(&events).ok()?.contains("\"held\"").then_some(()));
    running.wait_call("fails", "server-1 diagnosed");
    running.enter();
    let ended = running.wait();
    assert_eq!(ended.code(), 101, "{}", ended.stderr);
    assert!(ended.stderr.contains("    rackless shell server-2"), "{}", ended.stderr);
    assert!(ended.calls("fails").contains(&"server-1 torn down".to_owned()));
}

fn keep_vms_holds_until_ctrl_c() {
    let place = Place::new();
    let mut running = place.start(&["--exact", "passes"], &[("RACKLESS_KEEP_VMS", "always")]);
    let events = place.artifacts().join("run/fixture/passes/events.jsonl");
    // Standard input is at its end, as under a runner: that must not end the hold.
    until("the hold", || fs::read_to_string(&events).ok()?.contains("\"held\"").then_some(()));
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.code(), 0, "Ctrl-C ended the hold only: {}", ended.stderr);
    assert_eq!(ended.calls("passes"), ["server-1 torn down"]);
}

fn keep_vms_only_when_asked() {
    let ended = Place::new().run(&["--exact", "passes", "--keep-vms"], &[]);
    assert_eq!(ended.code(), 0);
    assert!(!ended.stderr.contains("Press Enter"), "{}", ended.stderr);
}
