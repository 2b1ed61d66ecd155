//! Every way a test can end, its class, and what it leaves.

use std::fs;

use harness::{Cause, Class, StepOutcome};

use crate::process::{Ended, Place, Test};

pub(crate) const TESTS: &[Test] = &[
    ("passes", passes),
    ("cases_get_their_values", cases_get_their_values),
    ("error", error),
    ("classes", classes),
    ("panic", panic),
    ("background_panic", background_panic),
    ("deadline", deadline),
    ("stands_still", stands_still),
    ("death", death),
    ("death_noticed_first", death_noticed_first),
    ("lingering", lingering),
    ("hanging_teardown", hanging_teardown),
    ("hanging_diagnosis", hanging_diagnosis),
    ("wedged_test", wedged_test),
    ("wedged_teardown", wedged_teardown),
    ("unkillable", unkillable),
    ("logs_are_routed", logs_are_routed),
    ("no_place_for_artefacts", no_place_for_artefacts),
    ("a_full_disk_is_infra", a_full_disk_is_infra),
    ("no_result_no_pass", no_result_no_pass),
];

fn failed(name: &str, class: Class, cause: Cause) -> (Ended, harness::Failure) {
    let ended = Place::new().test(name);
    assert_eq!(ended.code(), 101, "{}", ended.stderr);
    let failure = ended.result(name).failure.expect("it failed");
    assert_eq!((failure.class, failure.cause), (class, cause), "{failure:?}");
    assert!(ended.stderr.contains(&format!("FAILED fixture::{name}: {class}")), "{}", ended.stderr);
    (ended, failure)
}

fn passes() {
    let place = Place::new();
    let ended = place.run(&["--exact", "passes", "--seed", "0x2a"], &[]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let result = ended.result("passes");
    assert!(result.passed && result.failure.is_none());
    assert_eq!((&*result.started.suite, &*result.started.run, result.started.seed), ("fixture", "run", 42));
    let steps: Vec<_> = result.steps.iter().map(|step| (&*step.name, step.parent, step.outcome)).collect();
    assert_eq!(steps, [("outer", None, StepOutcome::Ok), ("inner", Some(0), StepOutcome::Ok)]);
    assert_eq!(ended.calls("passes"), ["server-1 torn down"], "neither diagnosed nor killed");
    for file in ["started", "events.jsonl", "harness.log"] {
        assert!(result.artifacts.iter().any(|name| name == file), "{:?}", result.artifacts);
    }
    let kinds: Vec<_> = ended.events("passes").into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["attach", "step", "note", "step", "step", "step", "teardown", "verdict"]);
    for line in ["passes server-1: Kernel", "passes: outer …", "passes:   inner ok (", "passes: halfway"] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\x1b'), "a pipe gets plain lines");
    assert_eq!(fs::read_link(place.artifacts().join("latest")).expect("a link"), std::path::Path::new("run"));
}

fn cases_get_their_values() {
    let ended = Place::new().run(&["matrix"], &[]);
    assert!(ended.result("matrix.debian.firmware").passed);
    let failure = ended.result("matrix.debian.direct").failure.expect("it failed");
    assert_eq!(failure.chain, ["the case is 3"]);
}

fn error() {
    let (ended, failure) = failed("fails", Class::Product, Cause::Error);
    assert_eq!(failure.chain, ["etcd on server-1", "connection refused"]);
    assert_eq!(failure.step, ["members are healthy", "ask the leader"]);
    let calls = ended.calls("fails");
    assert!(calls[..2].iter().all(|call| call.ends_with("diagnosed")), "{calls:?}");
    assert_eq!(calls[2..], ["server-2 torn down", "server-1 torn down"], "the last one first");
    assert!(ended.result("fails").artifacts.contains(&"server-1/registers".to_owned()));
    for line in [
        "  step       members are healthy > ask the leader",
        "  error      etcd on server-1",
        "  because    connection refused",
        "  elapsed    ",
        "  artefacts  ",
    ] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
}

fn classes() {
    failed("infra", Class::Infra, Cause::Error);
    let (_, failure) = failed("waits_too_long", Class::Timeout, Cause::Error);
    assert!(failure.chain[0].ends_with("the last one said: refused"), "{failure:?}");
    failed("crashed", Class::GuestCrash, Cause::Error);
}

fn panic() {
    let (ended, failure) = failed("panics", Class::Product, Cause::Panic);
    assert!(failure.chain[0].contains("arithmetic") && failure.chain[0].contains("right: 3"), "{failure:?}");
    assert!(failure.location.as_deref().is_some_and(|place| place.contains("fixture.rs:")), "{failure:?}");
    let backtrace = failure.backtrace.expect("a backtrace");
    assert!(backtrace.contains("fixture::panics"), "{backtrace}");
    assert!(!backtrace.contains("begin_unwind") && !backtrace.contains("tokio"), "{backtrace}");
    assert_eq!(failure.step, ["compare"]);
    assert_eq!(ended.result("panics").steps[0].outcome, StepOutcome::Interrupted);
    assert_eq!(ended.calls("panics"), ["server-1 diagnosed", "server-1 torn down"]);
}

fn background_panic() {
    let (_, failure) = failed("panics_in_background", Class::Product, Cause::BackgroundPanic);
    assert!(failure.chain[0].contains("a task of its own"), "{failure:?}");
}

fn deadline() {
    let (ended, failure) = failed("deadline", Class::Timeout, Cause::Deadline);
    assert_eq!(failure.chain, ["the test's deadline of 200 ms passed"]);
    assert_eq!(failure.step, ["wait for ever"]);
    assert_eq!(ended.calls("deadline"), ["server-1 diagnosed", "server-1 torn down"]);
    let scaled = Place::new().run(&["--exact", "deadline", "--deadline-factor", "2"], &[]);
    assert_eq!(scaled.result("deadline").deadline_ms, 400);
}

fn stands_still() {
    let ended = Place::new().test("stands_still");
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.result("stands_still").stood_still_ms >= 800);
}

fn death() {
    let (ended, failure) = failed("dies", Class::GuestCrash, Cause::Death);
    assert_eq!(failure.chain, ["server-2 died", "Kernel panic - not syncing"]);
    assert_eq!(failure.step, ["boot"]);
    assert_eq!(ended.calls("dies").len(), 4, "both diagnosed, both torn down");
}

fn death_noticed_first() {
    let (_, failure) = failed("notices_death_first", Class::GuestCrash, Cause::Death);
    assert_eq!(failure.chain[0], "server-1 died");
    assert!(failure.chain[1].contains("connection reset by peer"), "{failure:?}");
}

fn lingering() {
    let (ended, failure) = failed("lingers", Class::Infra, Cause::Lingering);
    assert_eq!(failure.chain, ["server-2 lingers: process 4711 is still there"]);
    assert_eq!(ended.calls("lingers"), ["server-2 torn down", "server-2 killed", "server-1 torn down"]);
    let teardown = ended.result("lingers").teardown;
    assert!(teardown[0].error.is_some() && teardown[1].error.is_none(), "{teardown:?}");

    let (_, failure) = failed("fails_and_lingers", Class::Product, Cause::Error);
    assert_eq!(
        failure.besides,
        ["server-1 lingers: process 4711 is still there"],
        "the first failure stays first"
    );
}

fn hanging_teardown() {
    let (ended, failure) = failed("teardown_hangs", Class::Infra, Cause::Lingering);
    assert!(failure.chain[0].starts_with("server-2 lingers: its teardown took more than"), "{failure:?}");
    assert!(ended.calls("teardown_hangs").contains(&"server-2 killed".to_owned()));
}

fn hanging_diagnosis() {
    let (ended, _) = failed("diagnosis_hangs", Class::Product, Cause::Error);
    assert_eq!(ended.calls("diagnosis_hangs"), ["server-1 diagnosed", "server-1 torn down"]);
}

fn wedged_test() {
    let (ended, failure) = failed("blocks", Class::Timeout, Cause::Wedged);
    assert!(failure.chain[0].contains("deadline of 200 ms passed"), "{failure:?}");
    assert_eq!(failure.step, ["a call that never returns"]);
    assert_eq!(ended.calls("blocks"), ["blocking", "server-1 killed"]);
    let dump = fs::read_to_string(ended.dir("blocks").join("watchdog.txt")).expect("a dump");
    for part in
        ["phase: Body", "step: a call that never returns", "subjects: server-1", "test blocks", "futex"]
    {
        assert!(dump.contains(part), "{part}: {dump}");
    }
}

fn wedged_teardown() {
    let (ended, failure) = failed("teardown_blocks", Class::Timeout, Cause::Wedged);
    assert!(failure.chain[0].contains("teardown has taken"), "{failure:?}");
    assert_eq!(ended.calls("teardown_blocks"), ["server-1 torn down", "server-1 killed"]);
}

fn unkillable() {
    let (_, failure) = failed("blocks_and_cannot_be_killed", Class::Timeout, Cause::Wedged);
    assert!(failure.besides[0].contains("could not be killed"), "{failure:?}");
}

fn logs_are_routed() {
    let ended = Place::new().run(&["logs", "--test-threads=1"], &[]);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let log = fs::read_to_string(ended.dir("logs").join("harness.log")).expect("a log");
    for part in ["from the test answer=42", "from a task", "from a thread"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(log.lines().all(|line| line.starts_with("[  ")), "{log}");
}

fn no_place_for_artefacts() {
    let ended = Place::new().run(&["--exact", "passes", "--artifacts", "/proc/rackless"], &[]);
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr.contains("cannot create /proc/rackless/run"), "{}", ended.stderr);
}

fn a_full_disk_is_infra() {
    let place = Place::new();
    // A file where the suite's directory should be is as good as a full disk: the test cannot even begin.
    fs::create_dir_all(place.artifacts().join("run")).expect("creates");
    fs::write(place.artifacts().join("run/fixture"), "").expect("writes");
    let ended = place.test("passes");
    assert_eq!(ended.code(), 101, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("FAILED fixture::passes: infrastructure: cannot create"),
        "{}",
        ended.stderr
    );
}

fn no_result_no_pass() {
    let ended = Place::new().test("loses_its_directory");
    assert_eq!(ended.code(), 101, "{}", ended.stderr);
    let said = ["FAILED fixture::loses_its_directory: infrastructure", "cannot write", "result.json"];
    assert!(said.iter().all(|part| ended.stderr.contains(part)), "{}", ended.stderr);
}
