//! What the guest channel promises, over a shell on a pty instead of an agent: kept, or unsupported by type; and how the
//! shell hands over to an agent.

#[path = "channel/binary.rs"]
mod binary;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use driver::guest::{
    BoxStream, Exec, Guest, GuestError, GuestOptions, HandOver, NoHandOver, Reach, Status, Transport,
    UnixSocket, suite,
};
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

/// A directory of the "guest", and what its shell is to hand over to there. Dropped, the agent in it is killed.
struct Inside(tempfile::TempDir);

impl Inside {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The agent behind a script of this length that looks like nothing twice, so that it fills some pieces packed.
    fn script(&self, length: usize) -> Vec<u8> {
        // The socket of an agent that was before it is gone with a real one's port.
        let words = "#!/bin/sh\n[ \"$1\" != --unix ] || rm -f \"$2\"\nexec";
        let mut script = format!("{words} '{}' \"$@\"\n", binary::agent().display()).into_bytes();
        let mut random = fastrand::Rng::with_seed(5);
        script.extend(std::iter::repeat_with(|| random.alphanumeric() as u8).take(length));
        script
    }

    fn hand_over(&self, binary: &[u8]) -> HandOver {
        let (file, socket) = (self.0.path().join("agent-on-the-host"), self.0.path().join("agent"));
        std::fs::write(&file, binary).unwrap();
        let transport = Arc::new(UnixSocket::new(&socket));
        let places = vec!["/proc".to_owned(), self.0.path().display().to_string()];
        HandOver { places, ..HandOver::new(file, Reach::Unix(socket), transport) }
    }

    async fn refused(&self, guest: &Guest, to: &HandOver) -> NoHandOver {
        let error = guest.hand_over(to, LIMIT).await.expect_err("it handed over");
        // The shell goes on as if nothing had been.
        assert!(!guest.is_agent());
        let output = guest.run(Exec::argv(["echo", "on"]), LIMIT).await.unwrap();
        assert_eq!(output.stdout, b"on\n");
        match error {
            GuestError::NoHandOver { reason, .. } => reason,
            other => panic!("another error: {other}"),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let files = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "pid")) {
            let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn a_shell_hands_over_to_an_agent() {
    let ((_far, guest), inside) = (guest().await, Inside::new());
    let (to, held) = (inside.hand_over(&inside.script(100_000)), guest.clone());
    let before = guest.exec(Exec::argv(["true"])).await.err().expect("a shell streams nothing");
    assert!(matches!(before, GuestError::Unsupported { .. }), "{before}");
    let carried = guest.hand_over(&to, LIMIT).await.expect("it hands over");
    assert!(carried.bytes > 50_000 && carried.over_line && guest.is_agent(), "{carried:?}");

    // What a test held of it before is the agent's as well.
    let agent = held.agent();
    assert_ne!(agent.pid, 0, "a shell tells no process of an agent");
    held.exec(Exec::argv(["true"])).await.expect("an agent streams").wait().await.unwrap();
    for check in suite::checks().into_iter().filter(|check| check.name == "a_limit_kills_the_group") {
        check.run(&held, LIMIT).await.unwrap();
    }

    // Once more in the same boot: nothing is carried again, and it is another agent.
    let again = guest.hand_over(&to, LIMIT).await.expect("it hands over again");
    assert_eq!(again.bytes, 0);
    assert_ne!(guest.agent().instance, agent.instance);
}

#[tokio::test]
async fn a_guest_that_can_not_take_the_agent_says_why() {
    let ((_far, guest), inside) = (guest().await, Inside::new());
    let script = inside.script(10);

    let mut to = inside.hand_over(&script);
    to.places = vec!["/proc".to_owned(), "/nonexistent".to_owned()];
    let reason = inside.refused(&guest, &to).await;
    assert!(matches!(&reason, NoHandOver::NoPlace { refused } if refused.len() == 2), "{reason}");

    let mut to = inside.hand_over(&script);
    to.reach = Reach::Ports;
    let reason = inside.refused(&guest, &to).await;
    assert!(matches!(reason, NoHandOver::NoDevice { device: "rackless.agent", .. }), "{reason}");

    // An ELF file for 64-bit ARM or RISC-V, whichever this host is not (elf(5): e_machine).
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(64, 0);
    foreign[18] = if cfg!(target_arch = "aarch64") { 243 } else { 183 };
    let reason = inside.refused(&guest, &inside.hand_over(&foreign)).await;
    assert!(matches!(reason, NoHandOver::Architecture { .. }), "{reason}");

    let reason = inside.refused(&guest, &inside.hand_over(b"#!/bin/sh\necho stray; exit 3\n")).await;
    assert!(matches!(&reason, NoHandOver::DoesNotRun { said, .. } if said == "stray"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_is_started_and_silent_tells_its_last_words() {
    let ((_far, guest), inside) = (guest().await, Inside::new());
    let version = agent_proto::version_line();
    let dies = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || {{ echo {version:?}; exit; }}\necho no luck; exit 1\n"
    );
    let to = inside.hand_over(dies.as_bytes());
    let error = guest.hand_over(&to, Duration::from_secs(10)).await.expect_err("it handed over").to_string();
    assert!(error.contains("does not answer") && error.contains("no luck"), "{error}");
    assert!(!guest.is_agent());
}
