//! Failure classes: who has to look at a failed test.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Who has to look at a failure.
///
/// A class can be put on an error where it is known better than anywhere else: `error.context(Class::Infra)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The system under test did something wrong: an assertion failed, a command was refused.
    Product,
    /// The test's surroundings failed: a tool is missing, the disk is full, an image is broken, something lingered.
    Infra,
    /// The test's deadline, or a wait within it, ran out.
    Timeout,
    /// A machine died under the test: kernel panic, unexpected reset, its QEMU gone.
    GuestCrash,
    /// Someone interrupted the test with a signal.
    Cancelled,
}

impl Class {
    /// The class of an error by what the harness knows: a [`Class`] put on it, else the harness's own errors, else
    /// nothing.
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        if let Some(class) = error.downcast_ref::<Self>() {
            return Some(*class);
        }
        error.chain().find_map(|cause| {
            cause.downcast_ref::<Error>().map(|ours| match ours {
                Error::Timeout { .. } => Self::Timeout,
                Error::BudgetHeld { .. } | Error::Suite { .. } => Self::Product,
                Error::DoesNotFit { .. }
                | Error::Setting { .. }
                | Error::RuntimeDir { .. }
                | Error::Io { .. } => Self::Infra,
            })
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Product => "product",
            Self::Infra => "infrastructure",
            Self::Timeout => "timeout",
            Self::GuestCrash => "guest crash",
            Self::Cancelled => "cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_put_on_an_error_wins() {
        let error = anyhow::anyhow!("no space left").context(Class::Infra).context("writing the overlay");
        assert_eq!(Class::of(&error), Some(Class::Infra));
        assert_eq!(Class::of(&anyhow::anyhow!("no space left")), None);
    }

    #[test]
    fn own_errors_have_a_class_below_context_too() {
        let timeout = Error::Timeout {
            what: "port 22".into(),
            limit: Default::default(),
            attempts: 3,
            last: "refused".into(),
        };
        assert_eq!(Class::of(&anyhow::Error::new(timeout).context("ssh")), Some(Class::Timeout));
    }
}
