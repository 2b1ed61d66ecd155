//! What the guest channel promises, over a shell on a pty instead of an agent: kept, or unsupported by type.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use driver::guest::{BoxStream, Exec, Guest, GuestError, GuestOptions, Status, Transport, suite};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use process::{Child, Command, Stdio};
use shell::Readiness;
use shell::tty::Tty;

const LIMIT: Duration = Duration::from_secs(60);

/// Checks of what only the agent can do, and the word by which each says so.
const BEYOND_A_SHELL: [(&str, &str); 9] = [
    ("stdout_stderr_and_status_are_apart", "no resource use is told"),
    ("a_stalled_reader_blocks_nobody", "unsupported"),
    ("two_hundred_in_flight", "unsupported"),
    ("stdin_is_streamed", "unsupported"),
    ("a_limit_kills_the_group", "unsupported"),
    ("dropping_kills_the_group", "unsupported"),
    ("signals_reach_the_command", "unsupported"),
    ("a_terminal_has_a_size", "unsupported"),
    ("a_background_child_does_not_block", "lingering"),
];
/// What takes minutes over a shell: its own crate moves as much, over lines that are worse.
const LONG: [&str; 1] = ["ten_megabytes_both_ways"];

/// The near end of a pty, for one session after the other.
struct Near(OwnedFd);

impl Transport for Near {
    fn name(&self) -> &str {
        "a pty"
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        async { Ok(Box::new(Tty::from_fd(self.0.try_clone()?)?) as BoxStream) }.boxed()
    }
}

/// A shell that is killed when it is dropped.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        self.0.kill_group();
    }
}

async fn guest() -> (Far, Guest) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let far = || Stdio::File(File::from(pty.slave.try_clone().unwrap()));
    let child = process::spawn(Command::new("sh").stdin(far()).stdout(far()).stderr(far())).unwrap();
    let options = GuestOptions { machine: "here".into(), limit: LIMIT };
    let near = Arc::new(Near(pty.master));
    let guest = Guest::over_shell(near, Readiness::Now, options, Duration::from_secs(5)).await;
    (Far(child), guest.expect("the shell answers"))
}

async fn run(long: bool) {
    let (_far, guest) = guest().await;
    for check in suite::checks().into_iter().filter(|check| LONG.contains(&check.name) == long) {
        let beyond = BEYOND_A_SHELL.iter().find(|(name, _)| *name == check.name);
        match (check.run(&guest, LIMIT).await, beyond) {
            (Ok(()), None) => {}
            (Err(reason), Some((_, word))) if reason.contains(word) => {}
            (Ok(()), Some(_)) => {
                panic!("{}: works over a shell: docs/ways-in.md and this list say it doesn't", check.name)
            }
            (Err(reason), _) => panic!("{}: {reason}", check.name),
        }
    }
}

#[tokio::test]
async fn promises_are_kept_or_unsupported() {
    run(false).await;
}

#[tokio::test]
#[ignore = "minutes: 10 MB both ways"]
async fn long_promises_are_kept() {
    run(true).await;
}

#[tokio::test]
async fn a_handle_goes_on_after_another_session() {
    let (_far, guest) = guest().await;
    let before = guest.agent();
    let other = guest.clone();
    let now = guest.reconnect(LIMIT).await.unwrap();
    assert_eq!(now.boot_id, before.boot_id);
    assert_ne!(now.instance, before.instance);
    let output = other.run(Exec::argv(["echo", "on"]), LIMIT).await.unwrap();
    assert_eq!((output.status, output.stdout), (Status::Code(0), b"on\n".to_vec()));
    assert!(!guest.info(LIMIT).await.unwrap().kernel.is_empty());
}

#[tokio::test]
async fn a_line_that_ends_is_lost() {
    let (far, guest) = guest().await;
    drop(far);
    let closed = tokio::time::timeout(LIMIT, guest.closed()).await;
    assert!(closed.is_ok(), "it does not show that the line ended");
    let error = guest.ping(LIMIT).await.unwrap_err();
    assert!(matches!(&error, GuestError::Shell { .. }) && error.is_lost(), "{error}");
}
