//! An agent on this host, and a pipe to it that behaves like QEMU's virtserialport.

mod binary;

use binary::agent;
use driver::guest::{Guest, GuestOptions, Transport};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// An agent that listens on a unix socket. Dropped, it is killed.
pub(crate) struct Agent {
    pub(crate) directory: tempfile::TempDir,
    child: process::Child,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = spawn("--unix", &directory.path().join("agent"));
        Self { directory, child }
    }

    pub(crate) fn start_on_vsock(port: u32) -> Self {
        let child = spawn("--vsock", Path::new(&port.to_string()));
        Self { directory: tempfile::tempdir().unwrap(), child }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// Kills it and starts another one in its place.
    pub(crate) async fn restart(&mut self) {
        self.child.kill_group();
        self.child.wait().await;
        std::fs::remove_file(self.socket()).unwrap();
        self.child = spawn("--unix", &self.socket());
    }

    /// Asks it to stop, as systemd does at shutdown.
    pub(crate) fn terminate(&self) {
        self.child.signal_group(process::Signal::TERM).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill_group();
    }
}

fn spawn(way: &str, address: &Path) -> process::Child {
    process::spawn(process::Command::new(agent()).arg(way).arg(address)).expect("the agent starts")
}

pub(crate) async fn connect(transport: impl Transport + 'static) -> Guest {
    let options = GuestOptions { machine: "here".into(), limit: LIMIT };
    Guest::connect(Arc::new(transport), options).await.expect("the agent answers")
}

/// What a [`pipe`] does to the bytes.
#[derive(Default)]
pub(crate) struct Mischief {
    /// Bytes that the host gets before any other.
    pub(crate) noise: Vec<u8>,
    /// Flip a bit of this byte on the way to the host.
    pub(crate) damage_to_host: Option<usize>,
    /// Flip a bit of this byte on the way to the agent.
    pub(crate) damage_to_agent: Option<usize>,
    /// Give up the host's side after so many bytes to the agent, and connect to the host again, while the agent's
    /// side stays as it is: a frame is cut off.
    pub(crate) cut: Option<usize>,
}

/// Joins the host's listener and the agent's socket, as QEMU does: it connects to both.
pub(crate) async fn pipe(host: PathBuf, agent: PathBuf, mischief: Mischief) {
    let mut agent = connect_when_there(&agent).await;
    let mut near = UnixStream::connect(&host).await.unwrap();
    near.write_all(&mischief.noise).await.unwrap();
    let (mut to_host, mut to_agent) = (0, 0);
    let (mut one, mut other) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = near.read(&mut one) => {
                let mut count = read.unwrap_or(0);
                if count == 0 {
                    return;
                }
                flip(&mut one[..count], to_agent, mischief.damage_to_agent);
                if let Some(cut) = mischief.cut && to_agent < cut && to_agent + count >= cut {
                    count = cut - to_agent;
                    near = UnixStream::connect(&host).await.unwrap();
                }
                to_agent += count;
                agent.write_all(&one[..count]).await.unwrap();
            }
            read = agent.read(&mut other) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    return;
                }
                flip(&mut other[..count], to_host, mischief.damage_to_host);
                to_host += count;
                if near.write_all(&other[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn flip(bytes: &mut [u8], passed: usize, at: Option<usize>) {
    if let Some(byte) = at.and_then(|at| at.checked_sub(passed)).and_then(|at| bytes.get_mut(at)) {
        *byte ^= 0x10;
    }
}

async fn connect_when_there(path: &Path) -> UnixStream {
    let connect = async {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(LIMIT, connect).await.expect("the agent listens")
}

/// Stands for `vhost-device-vsock`: reads `CONNECT port`, answers, and joins the agent.
pub(crate) async fn vsock_daemon(listener: UnixListener, agent: PathBuf, asked: oneshot::Sender<String>) {
    let mut asked = Some(asked);
    while let Ok((mut near, _)) = listener.accept().await {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(near.read_u8().await.unwrap());
        }
        if let Some(asked) = asked.take() {
            let _ = asked.send(String::from_utf8(line).unwrap());
        }
        let mut far = connect_when_there(&agent).await;
        near.write_all(b"OK 1073741824\n").await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    }
}
