//! Much traffic: what it costs the switch, and how much goes through.

use std::fmt;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use crate::Result;
use crate::peers::{Packet, Peer, Running, Sender, Wire, mac};

/// Before anything is counted, and while it is. Our switch takes fresh memory while its ring of the latest frames fills.
const WARM_UP: Duration = Duration::from_millis(1000);
const COUNTED: Duration = Duration::from_millis(800);

/// The most frames under way, from all ports together. So many are sent, then half of them must have arrived, as with a
/// guest's driver and its ring; so neither switch has to drop any.
const WINDOW: u64 = 64;
/// The same for pieces of 64 KiB: what a ring of 256 buffers of 2 KiB can take.
const WINDOW_OF_BULK: u64 = 6;

/// Frames under way that have not arrived after this time are lost.
const LOST: Duration = Duration::from_millis(200);

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One port to one other.
    Pair,
    /// Four ports to four others at once.
    Pairs,
    /// One port to seven others.
    Broadcast,
    /// One port to one other, TCP in pieces of 64 KiB.
    Bulk,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pattern::Pair => "2 ports, unicast",
            Pattern::Pairs => "8 ports, unicast",
            Pattern::Broadcast => "8 ports, broadcast",
            Pattern::Bulk => "2 ports, bulk",
        })
    }
}

impl Pattern {
    fn ports(self) -> usize {
        match self {
            Pattern::Pair | Pattern::Bulk => 2,
            Pattern::Pairs | Pattern::Broadcast => 8,
        }
    }

    /// The ports that send; each of the others is one that receives.
    fn senders(self) -> usize {
        match self {
            Pattern::Pair | Pattern::Broadcast | Pattern::Bulk => 1,
            Pattern::Pairs => 4,
        }
    }

    /// How often each frame arrives.
    fn copies(self) -> u64 {
        if self == Pattern::Broadcast { 7 } else { 1 }
    }

    fn packet(self, from: usize, size: usize) -> Result<Packet> {
        let next = mac(from + self.senders());
        match self {
            Pattern::Broadcast => Ok(Packet::new([0xff; 6], mac(from), size)),
            Pattern::Pair | Pattern::Pairs => Ok(Packet::new(next, mac(from), size)),
            Pattern::Bulk => Packet::bulk(next, mac(from)),
        }
    }

    /// The most frames under way, from all ports together.
    fn window(self) -> u64 {
        if self == Pattern::Bulk { WINDOW_OF_BULK } else { WINDOW }
    }
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// CPU time of the switch's process for each frame that was sent, in nanoseconds.
    pub(crate) cpu_ns_per_frame: f64,
    /// Frames that were sent and arrived, in a second.
    pub(crate) frames_per_second: f64,
    /// Frames that did not arrive. Not those of the warm-up: a switch may see a sender's first frames before it has
    /// taken the connection of who receives them.
    pub(crate) lost: u64,
}

/// Runs one switch under one load.
pub(crate) fn measure(peer: Peer, pattern: Pattern, size: usize) -> Result<Measured> {
    let running = Running::start(peer, pattern.ports())?;
    let mut wires = (0..pattern.ports()).map(|port| running.plug(port)).collect::<Result<Vec<_>>>()?;
    let mut senders = Vec::new();
    for (port, wire) in wires.iter_mut().enumerate().take(pattern.senders()) {
        senders.push((wire.sender()?, pattern.packet(port, size)?));
    }
    // Each receiver says where it is, so that a switch that learns has nothing to flood.
    for (port, wire) in wires.iter_mut().enumerate().skip(pattern.senders()) {
        wire.sender()?.send(&Packet::new(mac(0), mac(port), size))?;
    }
    let arrived = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let sending = thread::current();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let received = receive(&mut wires, pattern, &arrived, &done, &sending);
            done.store(true, Ordering::Relaxed);
            received.map_err(|error| error.to_string())
        });
        let sent = send(&mut senders, pattern, &running, &arrived, &done);
        done.store(true, Ordering::Relaxed);
        receiving.join().map_err(|_| "the receiver panicked")??;
        sent
    })
}

/// Sends from this thread, and reads the clocks.
fn send(
    senders: &mut [(Sender, Packet)],
    pattern: Pattern,
    running: &Running,
    arrived: &AtomicU64,
    done: &AtomicBool,
) -> Result<Measured> {
    let window = pattern.window() * pattern.copies();
    // Copies of frames that were sent and have arrived or are lost.
    let (mut sent, mut lost) = (0_u64, 0_u64);
    let begin = Instant::now();
    let mut counted_from = None;
    loop {
        if done.load(Ordering::Relaxed) {
            return Err("the receiver gave up".into());
        }
        // What was given up as lost may come late.
        let under_way = |sent: u64, lost: u64| (sent - lost).saturating_sub(arrived.load(Ordering::Acquire));
        while under_way(sent, lost) + pattern.copies() * senders.len() as u64 <= window {
            for (sender, packet) in &mut *senders {
                sender.send(packet)?;
                sent += pattern.copies();
            }
        }
        let waiting = Instant::now();
        while under_way(sent, lost) > window / 2 {
            thread::park_timeout(LOST);
            if waiting.elapsed() > LOST {
                lost += under_way(sent, lost);
            }
        }
        let now = Instant::now();
        let sample = || {
            Ok::<_, Box<dyn std::error::Error>>((now, arrived.load(Ordering::Acquire), running.cpu()?, lost))
        };
        match counted_from {
            None if now - begin >= WARM_UP => counted_from = Some(sample()?),
            Some((from, before, cpu, lost_before)) if now - from >= COUNTED => {
                let (_, after, cpu_after, _) = sample()?;
                let frames = (after - before) as f64 / pattern.copies() as f64;
                return Ok(Measured {
                    cpu_ns_per_frame: (cpu_after - cpu) as f64 / frames,
                    frames_per_second: frames / (now - from).as_secs_f64(),
                    lost: (lost - lost_before) / pattern.copies(),
                });
            }
            _ => {}
        }
    }
}

/// Reads all ports, since a hub sends every frame to all of them; counts what is for the reader.
fn receive(
    wires: &mut [Wire],
    pattern: Pattern,
    arrived: &AtomicU64,
    done: &AtomicBool,
    sending: &thread::Thread,
) -> Result<()> {
    let wanted: Vec<Option<[u8; 6]>> = (0..wires.len())
        .map(|port| match pattern {
            _ if port < pattern.senders() => None,
            Pattern::Broadcast => Some([0xff; 6]),
            Pattern::Pair | Pattern::Pairs | Pattern::Bulk => Some(mac(port)),
        })
        .collect();
    while !done.load(Ordering::Relaxed) {
        let mut fds: Vec<PollFd<'_>> =
            wires.iter().map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::from(100_u8))?;
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        let mut came = 0;
        for ((wire, ready), wanted) in wires.iter_mut().zip(ready).zip(&wanted) {
            if ready {
                wire.read(MsgFlags::MSG_DONTWAIT, |frame| {
                    came += u64::from(wanted.is_some_and(|to| frame.starts_with(&to)))
                })?;
            }
        }
        if came > 0 {
            arrived.fetch_add(came, Ordering::Release);
            sending.unpark();
        }
    }
    Ok(())
}
