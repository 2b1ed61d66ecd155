//! The command line, the lists that runners read, and JUnit.

use std::fs;

use quick_junit::{Report, TestCaseStatus};

use crate::process::{Place, Test};

pub(crate) const TESTS: &[Test] = &[
    ("lists_for_runners", lists_for_runners),
    ("help_and_unknown_flags", help_and_unknown_flags),
    ("listing_leaves_nothing", listing_leaves_nothing),
    ("junit_is_merged", junit_is_merged),
    ("ignored_has_its_reason", ignored_has_its_reason),
    ("json_format", json_format),
];

fn lists_for_runners() {
    let place = Place::new();
    let list = |arguments: &[&str]| -> Vec<String> {
        let ended = place.run(arguments, &[]);
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
        ended.stdout.lines().map(str::to_owned).collect()
    };
    let all = list(&["--list", "--format", "terse"]);
    assert!(all.contains(&"matrix::debian::firmware: test".to_owned()), "{all:?}");
    assert!(
        all.contains(&"slow: test".to_owned()) && all.iter().all(|line| line.ends_with(": test")),
        "{all:?}"
    );
    assert_eq!(list(&["--list", "--format", "terse", "--ignored"]), ["slow: test"]);
    assert_eq!(list(&["--list", "--format", "terse", "--exact", "fails"]), ["fails: test"]);
}

fn help_and_unknown_flags() {
    let place = Place::new();
    let help = place.run(&["--help"], &[]);
    assert_eq!(help.code(), 0);
    for flag in ["--keep-vms", "RACKLESS_KEEP_VMS", "--exact", "--image", "--junit", "Exit codes"] {
        assert!(help.stdout.contains(flag), "{flag}: {}", help.stdout);
    }
    let unknown = place.run(&["--keep-vmx"], &[]);
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("--keep-vms"), "it suggests the right one: {}", unknown.stderr);
    let wrong = place.run(&["passes"], &[("RACKLESS_DEADLINE", "soon")]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.stderr.contains("expected a time such as"), "{}", wrong.stderr);
}

fn listing_leaves_nothing() {
    let place = Place::new();
    place.run(&["--list"], &[]);
    assert_eq!(fs::read_dir(place.artifacts()).expect("a directory").count(), 0);
}

fn junit_is_merged() {
    let place = Place::new();
    // One process per test, as under nextest.
    for test in ["passes", "fails", "infra", "slow"] {
        place.test(test);
    }
    let ended = place.test("passes");
    let text = fs::read_to_string(ended.dir("junit.xml")).expect("a report");
    let report = Report::deserialize_from_str(&text).expect("JUnit");
    assert_eq!((report.tests, report.failures, report.errors), (3, 1, 1), "{text}");
    let failed = report.test_suites[0].test_cases.iter().find(|case| case.name.as_str() == "fails");
    let TestCaseStatus::NonSuccess { message, ty, .. } = &failed.expect("it is there").status else {
        panic!("it failed: {text}");
    };
    assert_eq!(message.as_ref().map(|text| text.as_str()), Some("etcd on server-1"));
    assert_eq!(ty.as_ref().map(|text| text.as_str()), Some("product"));
    let elsewhere = place.artifacts().join("elsewhere.xml");
    place.run(&["--exact", "passes", "--junit", elsewhere.to_str().expect("plain")], &[]);
    assert!(elsewhere.is_file());
}

fn ignored_has_its_reason() {
    let place = Place::new();
    let ended = place.run(&["slow"], &[]);
    assert_eq!(ended.code(), 0);
    assert!(ended.stderr.contains("slow: ignored: takes an hour"), "{}", ended.stderr);
    let text = fs::read_to_string(ended.dir("junit.xml")).expect("a report");
    assert!(text.contains("takes an hour"), "{text}");
    assert_eq!(place.run(&["slow", "--ignored"], &[]).result("slow").started.test, "slow");
}

fn json_format() {
    let ended = Place::new().run(&["--exact", "passes", "--format", "json"], &[]);
    for line in ended.stdout.lines().filter(|line| !line.is_empty()) {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}
