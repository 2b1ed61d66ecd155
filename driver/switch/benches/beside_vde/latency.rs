//! How long one frame takes across a switch that has nothing else to do: from the write to the read, wake-ups included.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::MsgFlags;

use crate::Result;
use crate::peers::{LIMIT, Packet, Peer, Running, mac};

/// The frames' sizes in bytes.
pub(crate) const SIZES: [usize; 2] = [64, 1514];

/// Frames that are measured, and before them some that are not.
const FRAMES: usize = 2000;
const WARM_UP: usize = 200;

/// Between two of them. Without a pause the switch would need more than its share of a busy machine, and the times would
/// be those of the scheduler.
const PAUSE: Duration = Duration::from_micros(200);

/// The median and the 99th percentile in microseconds.
pub(crate) fn measure(peer: Peer, size: usize) -> Result<[f64; 2]> {
    let running = Running::start(peer, 2)?;
    let (mut from, mut to) = (running.plug(0)?, running.plug(1)?);
    to.limit()?;
    let mut sender = from.sender()?;
    let packet = Packet::new(mac(1), mac(0), size);
    // Where the receiver is, so that nothing is flooded.
    to.sender()?.send(&Packet::new(mac(0), mac(1), size))?;
    let mut times = Vec::with_capacity(FRAMES);
    for frame in 0..WARM_UP + FRAMES {
        // Nothing comes meanwhile.
        let mut idle = [PollFd::new(to.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut idle, Some(PAUSE.into()), None)?;
        let start = Instant::now();
        sender.send(&packet)?;
        let mut came = false;
        while !came {
            to.read(MsgFlags::empty(), |got| came |= got.len() == size)?;
            if start.elapsed() > LIMIT {
                return Err(format!("{peer:?} lost a frame while it was idle").into());
            }
        }
        if frame >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok([times[FRAMES / 2], times[FRAMES * 99 / 100]])
}
