//! The harness tested from outside: real processes of a suite made for it, which fail in every way there is.
//!
//! The suite is this binary again (`fixture.rs`), so that it is always built along.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

mod budget;
mod endings;
mod fixture;
mod listing;
mod live;
mod process;
mod signals;

fn main() -> ExitCode {
    if std::env::var_os(process::FIXTURE).is_some() {
        return fixture::suite().run();
    }
    let trials = [budget::TESTS, endings::TESTS, listing::TESTS, live::TESTS, signals::TESTS].concat();
    let trials = trials.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
