//! Shells on ptys of this host, and lines that treat bytes badly.

use std::collections::VecDeque;
use std::fs::File;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use process::{Child, Command, Stdio};
use shell::tty::Tty;
use shell::{Options, Readiness, Shell};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

/// What one step may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The shells that stand for guests: what a backdoor has, what `/bin/sh` may be, what a login gives.
pub(crate) const GUESTS: [(&str, &[&str]); 4] = [
    ("bash", &["bash", "--norc"]),
    ("dash", &["dash"]),
    ("busybox", &["busybox", "sh"]),
    ("interactive bash", &["bash", "--norc", "--noprofile", "-i"]),
];

/// The guests that this host has.
pub(crate) fn guests() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    let there = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|d| d.join(program).is_file())
    };
    GUESTS.into_iter().filter(move |(_, argv)| there(argv[0]))
}

/// A program on a pty. Dropped, it is killed.
pub(crate) struct Guest {
    child: Child,
}

impl Guest {
    /// Starts it; gives the near end.
    pub(crate) fn start(argv: &[&str]) -> (Self, Tty) {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let far = |fd: &OwnedFd| Stdio::File(File::from(fd.try_clone().expect("a descriptor")));
        let command = Command::new(argv[0])
            .args(&argv[1..])
            .env("TERM", "vt220")
            .stdin(far(&pty.slave))
            .stdout(far(&pty.slave))
            .stderr(far(&pty.slave));
        let child = process::spawn(command).expect("the guest starts");
        (Self { child }, Tty::from_fd(pty.master).expect("the near end"))
    }
}

impl Guest {
    /// To the shell and all that it started.
    pub(crate) fn signal(&self, signal: process::Signal) {
        self.child.signal_group(signal).expect("it runs");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill_group();
    }
}

pub(crate) fn options(readiness: Readiness) -> Options {
    Options { limit: LIMIT, ..Options::new("here", "a pty", readiness) }
}

/// A shell on a good line.
pub(crate) async fn attached(argv: &[&str]) -> (Guest, Shell) {
    let (guest, near) = Guest::start(argv);
    let shell = Shell::attach(near, options(Readiness::Now)).await.expect("a shell");
    (guest, shell)
}

/// What a line does to bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mischief {
    /// Of a million bytes to the host, so many are lost, changed, or have something printed between them.
    pub(crate) lost: u32,
    pub(crate) changed: u32,
    pub(crate) noise: u32,
    /// The same to the guest: lost and changed.
    pub(crate) lost_to_guest: u32,
    pub(crate) changed_to_guest: u32,
    /// What does not fit into so many bytes is dropped, as QEMU's virtconsole does; else the guest waits.
    pub(crate) dropping: Option<usize>,
    /// After so many bytes to the host, nothing is read for three seconds.
    pub(crate) stall_after: Option<usize>,
    pub(crate) seed: u64,
}

/// What firmware, boot loader and kernel print.
const NOISE: [&str; 4] = [
    "\r\n[   12.345678] virtio_net virtio1 eth1: renamed from eth0\r\n",
    "\x1b[2J\x1b[01;01H\x1b[0m\x1b[37m\x1b[40mGNU GRUB  version 2.12\x1b[04;10H",
    "[  OK  ] Reached target \x1b[0;1;39mMulti-User System\x1b[0m.\r\n",
    "x",
];

/// Joins a guest's near end to the stream that it gives.
pub(crate) fn bad_line(near: Tty, mischief: Mischief) -> DuplexStream {
    // Small, so that the stalled reader is felt at once.
    let (ours, theirs) = tokio::io::duplex(8 << 10);
    tokio::spawn(relay(near, theirs, mischief));
    ours
}

struct Waiting {
    bytes: VecDeque<u8>,
    over: bool,
}

async fn relay(near: Tty, host: DuplexStream, mischief: Mischief) {
    let waiting = Arc::new(Mutex::new(Waiting { bytes: VecDeque::new(), over: false }));
    let (came, went) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (mut from_guest, mut to_guest) = tokio::io::split(near);
    let (mut from_host, mut to_host) = tokio::io::split(host);
    let room = mischief.dropping.unwrap_or(64 << 10);
    let up = async {
        let mut chance = fastrand::Rng::with_seed(mischief.seed);
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = from_guest.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                waiting.lock().unwrap().over = true;
                came.notify_one();
                return;
            }
            let mut bytes = Vec::new();
            for &byte in &buffer[..count] {
                let roll = chance.u32(..1_000_000);
                let (lost, changed) = (mischief.lost, mischief.lost + mischief.changed);
                if roll < lost {
                } else if roll < changed {
                    bytes.push(byte ^ (1 << chance.u32(..8)));
                } else {
                    bytes.push(byte);
                    if roll < changed + mischief.noise {
                        bytes.extend(NOISE[chance.usize(..NOISE.len())].bytes());
                    }
                }
            }
            loop {
                let left = room.saturating_sub(waiting.lock().unwrap().bytes.len());
                if mischief.dropping.is_some() || left >= bytes.len() || left == room {
                    bytes.truncate(if mischief.dropping.is_some() { left } else { bytes.len() });
                    break;
                }
                went.notified().await;
            }
            waiting.lock().unwrap().bytes.extend(bytes);
            came.notify_one();
        }
    };
    let deliver = async {
        let (mut sent, mut stalled) = (0, false);
        loop {
            let piece: Vec<u8> = {
                let mut waiting = waiting.lock().unwrap();
                let count = waiting.bytes.len().min(4 << 10);
                waiting.bytes.drain(..count).collect()
            };
            went.notify_one();
            if piece.is_empty() {
                if waiting.lock().unwrap().over {
                    return;
                }
                came.notified().await;
                continue;
            }
            sent += piece.len();
            if to_host.write_all(&piece).await.is_err() {
                return;
            }
            if !stalled && mischief.stall_after.is_some_and(|after| sent >= after) {
                stalled = true;
                let _ = tokio::time::timeout(Duration::from_secs(3), pending::<()>()).await;
            }
        }
    };
    let down = async {
        let mut chance = fastrand::Rng::with_seed(mischief.seed ^ 1);
        let mut buffer = vec![0; 4 << 10];
        loop {
            let count = from_host.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            let mut bytes = Vec::new();
            for &byte in &buffer[..count] {
                let roll = chance.u32(..1_000_000);
                if roll < mischief.lost_to_guest {
                } else if roll < mischief.lost_to_guest + mischief.changed_to_guest {
                    bytes.push(byte ^ (1 << chance.u32(..7)));
                } else {
                    bytes.push(byte);
                }
            }
            if to_guest.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        ((), ()) = async { tokio::join!(up, deliver) } => {}
    }
}
