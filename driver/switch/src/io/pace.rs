//! How often the switch's thread looks at its ports when much comes: what network cards call interrupt moderation.
//!
//! To be woken, to read and to write cost far more than a frame does, and a sender that finds the switch waiting pays for
//! the wake-up too. So under load the thread rests between two rounds, and a round takes all that has come meanwhile. A
//! few frames in a row never wait: only who has done [`BURST`] rounds faster than one each [`INTERVAL`] rests, and no
//! longer than until the next one's time.

use std::time::Duration;

/// How far apart rounds are under load. Short beside the time in which a guest answers a frame, and senders have room for
/// what comes meanwhile: a socket takes at least 75 frames of 1514 bytes, a guest's ring 256.
const INTERVAL: Duration = Duration::from_micros(30);

/// How many rounds may be done in a row without a rest.
const BURST: u32 = 16;

/// When the thread may look at its ports again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When as many rounds would be over as were done, one each interval.
    even: Duration,
}

impl Pace {
    /// A round that began at `now` had something to do.
    pub(super) fn worked(&mut self, now: Duration) {
        self.even = self.even.max(now) + INTERVAL;
    }

    /// Until when the ports are left alone; in the past if they need not be.
    pub(super) fn rest(&self) -> Duration {
        self.even.saturating_sub(BURST * INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does rounds that find something `apart` from each other at least: how long each of them had to wait.
    fn waits(apart: Duration, rounds: usize) -> Vec<Duration> {
        let (mut pace, mut now) = (Pace::default(), Duration::from_secs(1));
        let round = |_| {
            let start = now.max(pace.rest());
            let wait = start - now;
            pace.worked(start);
            now = start + apart;
            wait
        };
        (0..rounds).map(round).collect()
    }

    #[test]
    fn nothing_waits_that_comes_slower_than_rounds_may_be() {
        for apart in [INTERVAL, INTERVAL * 10, Duration::from_secs(1)] {
            assert!(waits(apart, 1000).iter().all(Duration::is_zero), "{apart:?}");
        }
    }

    #[test]
    fn a_burst_goes_through_and_then_rounds_are_an_interval_apart() {
        let apart = Duration::from_micros(5);
        let waits = waits(apart, 100);
        let first = waits.iter().position(|wait| !wait.is_zero()).unwrap();
        assert!(
            (BURST as usize..=BURST as usize * 2).contains(&first),
            "the first wait is that of round {first}"
        );
        assert!(waits[first + 1..].iter().all(|wait| *wait == INTERVAL - apart), "{waits:?}");
    }
}
