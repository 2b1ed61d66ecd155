//! What the child does between fork and exec: ask to die with its parent.
#![allow(unsafe_code)] // `pre_exec` is unsafe to call; nothing else is in here.

use std::io;
use std::os::unix::process::CommandExt;
use std::process;

use rustix::io::Errno;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Lets the child die with this process, whichever way this process ends.
pub(crate) fn die_with_parent(command: &mut process::Command) {
    let parent = process::id();
    let ask = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the parent died before the line above, no signal will ever come.
        match getppid() {
            Some(now) if now.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
            _ => Err(Errno::SRCH.into()),
        }
    };
    // SAFETY: `ask` runs in the forked child, where only async-signal-safe calls are allowed. It makes two
    // plain system calls, allocates nothing, takes no lock, and its error is built from a number.
    unsafe { command.pre_exec(ask) };
}
