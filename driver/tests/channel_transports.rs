//! The one suite of the channel's promises, over each transport that a host without machines can have. The tests with
//! machines run it over QEMU's.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod channel;

use channel::{Agent, LIMIT, Mischief, connect, pipe, vsock_daemon};
use driver::guest::{Listener, UnixSocket, VhostUserVsock, suite};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

#[tokio::test]
async fn over_a_unix_socket() {
    let agent = Agent::start();
    let guest = connect(UnixSocket::new(agent.socket())).await;
    suite::run(&guest, LIMIT).await.unwrap_or_else(|failures| panic!("{failures}"));
}

#[tokio::test]
async fn over_a_listener_to_which_qemu_connects() {
    let agent = Agent::start();
    let path = agent.directory.path().join("host");
    let listener = Listener::bind(&path).unwrap();
    tokio::spawn(pipe(path, agent.socket(), Mischief::default()));
    let guest = connect(listener).await;
    suite::run(&guest, LIMIT).await.unwrap_or_else(|failures| panic!("{failures}"));
}

#[tokio::test]
async fn over_vhost_user_vsock() {
    let agent = Agent::start();
    let path = agent.directory.path().join("vsock");
    let (asked, line) = oneshot::channel();
    tokio::spawn(vsock_daemon(UnixListener::bind(&path).unwrap(), agent.socket(), asked));
    let guest = connect(VhostUserVsock::new(path, agent_proto::VSOCK_PORT)).await;
    assert_eq!(line.await.unwrap(), "CONNECT 5252\n");
    suite::run(&guest, LIMIT).await.unwrap_or_else(|failures| panic!("{failures}"));
}

#[tokio::test]
#[ignore = "needs AF_VSOCK between processes of this host (kernel module vsock_loopback): run it where that is loaded"]
async fn over_af_vsock() {
    let port = 5300 + std::process::id() % 1000;
    let agent = Agent::start_on_vsock(port);
    let guest = connect(driver::guest::Vsock::new(vsock::VMADDR_CID_LOCAL, port)).await;
    suite::run(&guest, LIMIT).await.unwrap_or_else(|failures| panic!("{failures}"));
    drop(agent);
}
