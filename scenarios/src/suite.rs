//! The suite of a scenario binary: the harness's, taught which class the driver's errors belong to.

use driver::{Error, Kind};
use harness::{Class, Options, Suite};

/// Starts a suite. `name` is the test binary's.
pub fn suite(name: &str) -> Suite {
    harness::suite(name).with(Options { classify, lacking: crate::board::lacking, ..Options::default() })
}

/// The class of the first error in the chain that knows.
fn classify(error: &anyhow::Error) -> Option<Class> {
    error.chain().find_map(|cause| {
        if let Some(driver) = cause.downcast_ref::<Error>() {
            return Some(of_driver(driver));
        }
        if cause.downcast_ref::<switch::Error>().is_some_and(switch::Error::is_assertion) {
            return Some(Class::Product);
        }
        if cause.is::<images::Error>() || cause.is::<process::Error>() || cause.is::<switch::Error>() {
            return Some(Class::Infra);
        }
        None
    })
}

fn of_driver(error: &Error) -> Class {
    match error.kind() {
        Kind::Product => Class::Product,
        Kind::Infra => Class::Infra,
        Kind::Timeout => Class::Timeout,
        Kind::GuestCrash => Class::GuestCrash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_error_under_context_keeps_its_class() {
        let error = anyhow::Error::from(Error::AccelUnknown { asked: "x".into() }).context("starting");
        assert_eq!(classify(&error), Some(Class::Infra));
        assert_eq!(classify(&anyhow::anyhow!("the leader is gone")), None);
    }
}
