//! `junit.xml` of a suite, made from the results that lie beside it.
//!
//! Under nextest each process has one test; whichever ends later writes the whole file anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::result::write_whole;
use crate::{Class, Error, TestResult};

/// Writes the report of the suite whose tests' directories are in `dir`, with the tests that were left out.
pub(crate) fn write(dir: &Path, suite: &str, skipped: &[(String, String)], to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let lock = dir.join(".junit.lock");
    let guard = std::fs::File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _guard = guard.map_err(Error::io("lock", &lock))?;
    // Of a test that ran more than once the last attempt counts.
    let mut results: BTreeMap<String, TestResult> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        if let Ok(result) = TestResult::read(&entry.path().join("result.json")) {
            let name = result.started.test.clone();
            if results.get(&name).is_none_or(|known| known.started.started < result.started.started) {
                results.insert(name, result);
            }
        }
    }
    let mut report = Report::new(suite);
    let mut cases = TestSuite::new(suite);
    for result in results.values() {
        cases.add_test_case(case(result));
    }
    for (name, reason) in skipped.iter().filter(|(name, _)| !results.contains_key(name)) {
        let mut status = TestCaseStatus::skipped();
        status.set_message(reason.as_str());
        cases.add_test_case(named(suite, name, status));
    }
    report.add_test_suite(cases);
    let text = report.to_string().map_err(|error| Error::io("write", to)(std::io::Error::other(error)))?;
    write_whole(to, text.as_bytes())
}

fn named(suite: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(suite);
    case
}

fn case(result: &TestResult) -> TestCase {
    let status = match &result.failure {
        None => TestCaseStatus::success(),
        Some(failure) => {
            // JUnit knows two kinds: the product failed, or the test could not tell.
            let kind = match failure.class {
                Class::Product | Class::Timeout | Class::GuestCrash => NonSuccessKind::Failure,
                Class::Infra | Class::Cancelled => NonSuccessKind::Error,
            };
            let mut status = TestCaseStatus::non_success(kind);
            status.set_type(failure.class.to_string());
            status.set_message(failure.chain.first().map_or("", String::as_str));
            let step = failure.step.join(" > ");
            let step = if step.is_empty() { step } else { format!("step: {step}\n") };
            let lines = [&failure.chain[..], &failure.besides[..]].concat().join("\n");
            status.set_description(format!("{step}{lines}"));
            status
        }
    };
    let mut case = named(&result.started.suite, &result.started.test, status);
    case.set_time(Duration::from_millis(result.elapsed_ms));
    case
}
