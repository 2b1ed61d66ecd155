//! Descriptors that tokio watches.
#![allow(unsafe_code, reason = "tokio can't know that a descriptor stays open as long as its owner")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has tokio watch a descriptor that `owner` keeps open.
pub(crate) fn watched<T: AsFd + AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `AsFd` type keeps its descriptor open while it lives, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}
