//! What can go wrong on the way: noise, damage, a cut, a restart, a goodbye. Each ends what is under way at once with
//! the right reason, and the next session works.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod channel;

use channel::{Agent, LIMIT, Mischief, connect, pipe};
use driver::guest::{Exec, Guest, GuestError, GuestOptions, Listener, Lost, UnixSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// An agent, and a listener to which a pipe with this mischief leads from it.
fn joined(mischief: Mischief) -> (Agent, Listener, PathBuf) {
    let agent = Agent::start();
    let path = agent.directory.path().join("host");
    let listener = Listener::bind(&path).unwrap();
    tokio::spawn(pipe(path.clone(), agent.socket(), mischief));
    (agent, listener, path)
}

async fn works(guest: &Guest) {
    let output = guest.run(Exec::shell("echo works"), LIMIT).await.unwrap();
    assert_eq!(output.stdout, b"works\n");
}

/// The end of a command that would never end by itself.
async fn end_of_endless(guest: &Guest) -> Lost {
    match tokio::time::timeout(LIMIT, guest.run(Exec::argv(["sleep", "1000"]), LIMIT)).await.unwrap() {
        Err(GuestError::Lost { reason, operation, .. }) => {
            assert_eq!(operation, "`sleep 1000`");
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn boot_noise_is_skipped() {
    let noise = b"\x1b[2JGRUB loading.\r\n\xD7RkH\xff\xff".repeat(50);
    let (_agent, listener, _) = joined(Mischief { noise, ..Mischief::default() });
    works(&connect(listener).await).await;
}

#[tokio::test]
async fn damage_to_the_host_is_an_error_and_not_an_answer() {
    let (_agent, listener, _) = joined(Mischief { damage_to_host: Some(300_000), ..Mischief::default() });
    let guest = connect(listener).await;
    let output = guest.run(Exec::argv(["seq", "1000000"]), LIMIT).await;
    assert!(matches!(&output, Err(GuestError::Lost { reason: Lost::Damaged(_), .. })), "{output:?}");
    guest.reconnect(LIMIT).await.unwrap();
    works(&guest).await;
}

#[tokio::test]
async fn damage_to_the_agent_is_an_error_and_not_an_input() {
    let (_agent, listener, _) = joined(Mischief { damage_to_agent: Some(300_000), ..Mischief::default() });
    let guest = connect(listener).await;
    let output = guest.run(Exec::argv(["wc", "-c"]).stdin(vec![7; 1_000_000]), LIMIT).await;
    assert!(matches!(&output, Err(GuestError::Lost { reason: Lost::Dropped(_), .. })), "{output:?}");
    guest.reconnect(LIMIT).await.unwrap();
    works(&guest).await;
}

#[tokio::test]
async fn a_frame_that_is_cut_off_does_not_swallow_the_next_hello() {
    // The agent's side of the pipe never ends: it waits for the rest of a frame when the next host says hello.
    let (_agent, listener, _) = joined(Mischief { cut: Some(300_000), ..Mischief::default() });
    let guest = connect(listener).await;
    let output = guest.run(Exec::argv(["wc", "-c"]).stdin(vec![7; 1_000_000]), LIMIT).await;
    assert!(matches!(&output, Err(GuestError::Lost { reason: Lost::Closed(_), .. })), "{output:?}");
    guest.reconnect(LIMIT).await.unwrap();
    works(&guest).await;
}

#[tokio::test]
async fn the_connection_of_a_qemu_is_used_again() {
    let (_agent, listener, _) = joined(Mischief::default());
    let transport = Arc::new(listener);
    let options = GuestOptions { machine: "here".into(), limit: LIMIT };
    let first = Guest::connect(transport.clone(), options.clone()).await.unwrap();
    let running = first.exec(Exec::argv(["sleep", "1000"])).await.unwrap();
    let second = Guest::connect(transport, options).await.unwrap();
    assert!(matches!(first.closed().await, Lost::Closed(_)));
    let gone = Exec::shell(format!("kill -0 {}", running.pid()));
    second.wait_until_fails(gone, LIMIT).await.unwrap();
    works(&second).await;
}

#[tokio::test]
async fn a_qemu_that_is_started_again_is_accepted_again() {
    let (mut agent, listener, path) = joined(Mischief::default());
    let guest = connect(listener).await;
    let before = guest.agent();
    let (lost, ()) = tokio::join!(end_of_endless(&guest), agent.restart());
    assert!(matches!(lost, Lost::Closed(_)), "{lost}");
    assert!(matches!(guest.closed().await, Lost::Closed(_)));
    tokio::spawn(pipe(path, agent.socket(), Mischief::default()));
    let now = guest.reconnect(LIMIT).await.unwrap();
    assert_eq!(now.boot_id, before.boot_id);
    assert_ne!(now.instance, before.instance);
    works(&guest).await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_says_goodbye() {
    let agent = Agent::start();
    let guest = connect(UnixSocket::new(agent.socket())).await;
    let running = guest.exec(Exec::argv(["sleep", "1000"])).await.unwrap();
    agent.terminate();
    assert!(matches!(guest.closed().await, Lost::Goodbye(_)));
    drop(running);
}

#[tokio::test]
async fn the_end_of_a_session_kills_its_commands() {
    let agent = Agent::start();
    let (one, other) = (UnixSocket::new(agent.socket()), UnixSocket::new(agent.socket()));
    let (one, other) = (connect(one).await, connect(other).await);
    let running = one.exec(Exec::shell("sleep 1000 & sleep 1000")).await.unwrap();
    let gone = Exec::shell(format!("kill -0 -- -{}", running.pid()));
    one.reconnect(LIMIT).await.unwrap();
    other.wait_until_fails(gone, LIMIT).await.unwrap();
    works(&one).await;
}

#[tokio::test]
async fn nobody_there_is_said_with_what_was_seen_last() {
    let directory = tempfile::tempdir().unwrap();
    let transport = Arc::new(UnixSocket::new(directory.path().join("nobody")));
    let limit = Duration::from_millis(300);
    let error =
        Guest::connect(transport, GuestOptions { machine: "server-1".into(), limit }).await.unwrap_err();
    assert!(error.is_timeout());
    let text = error.to_string();
    assert!(text.starts_with("server-1: no agent answered over unix socket"), "{text}");
    assert!(text.contains("No such file"), "{text}");
}
