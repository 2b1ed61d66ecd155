//! From what the system says to what the host is told.

use agent_proto::message::{Failure, FailureKind, Reply};
use std::fmt::Display;
use std::io;

/// How a request ends.
pub(crate) type Answer = Result<Reply, Failure>;

/// A failure of a kind of our own.
pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

/// Says what was done when the system said no.
pub(crate) trait Doing<T> {
    /// `what` is in the words of a sentence: "write /etc/motd".
    fn doing(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            let kind = match error.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FailureKind::Denied,
                io::ErrorKind::InvalidInput => FailureKind::Invalid,
                _ => FailureKind::Io,
            };
            Failure { kind, message: format!("cannot {what}: {error}") }
        })
    }
}
