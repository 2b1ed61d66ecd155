//! When a router advertises (RFC 4861, 6.2): frames and a time in, frames out. No clock, no thread, no socket.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use switch::Mac;

use super::scope::{RaScope, in_prefix, link_local};
use super::wire::{self, Solicitation};
use crate::error::Error;

/// Of the first advertisements, how many come after no more than how long.
const INITIAL: (u64, Duration) = (3, Duration::from_secs(16));

/// The shortest time between two advertisements to all.
const BETWEEN: Duration = Duration::from_secs(3);

/// What a router got and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaCounters {
    /// Router solicitations that came.
    pub solicitations: u64,
    /// Those of them that RFC 4861, 6.1.1, has dropped: from another link, damaged, with an option of no length.
    pub malformed: u64,
    /// Advertisements to the one who asked.
    pub unicast: u64,
    /// Advertisements to all, asked for or not.
    pub multicast: u64,
}

/// A router that advertises, without its socket.
///
/// It is the only one of its link, so that it answers at once, not after a chance delay as RFC 4861, 6.2.6, has it for
/// several. Who asks without an address is answered to all, every 3 s at most.
#[derive(Debug)]
pub struct RaEngine {
    mac: Mac,
    scope: RaScope,
    random: fastrand::Rng,
    due: Instant,
    last: Option<Instant>,
    counters: RaCounters,
}

impl RaEngine {
    /// A router with this MAC address, which first advertises at a time.
    ///
    /// # Errors
    /// [`Error::Prefix`], [`Error::Advertised`].
    pub fn new(mac: Mac, scope: RaScope, now: Instant) -> Result<RaEngine, Error> {
        scope.check()?;
        let [a, b, c, d, e, f] = mac.0;
        let random = fastrand::Rng::with_seed(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        Ok(RaEngine { mac, scope, random, due: now, last: None, counters: RaCounters::default() })
    }

    /// The addresses of the router: that of the link, then one in each prefix.
    pub fn addresses(&self) -> Vec<Ipv6Addr> {
        let global = self.scope.prefixes.iter().map(|prefix| in_prefix(prefix.addr(), self.mac));
        [link_local(self.mac)].into_iter().chain(global).collect()
    }

    /// What a frame from the link is answered with at a time.
    pub fn handle(&mut self, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
        let solicitation = wire::solicitation(frame, self.mac)?;
        self.counters.solicitations += 1;
        match solicitation {
            Solicitation::Malformed => {
                self.counters.malformed += 1;
                None
            }
            Solicitation::From(mac, address) => {
                self.counters.unicast += 1;
                Some(wire::advertisement(self.mac, &self.scope, Some((mac, address))))
            }
            Solicitation::Anonymous => {
                let earliest = self.last.map_or(now, |last| last + BETWEEN);
                self.due = self.due.min(earliest);
                self.tick(now)
            }
        }
    }

    /// When [`RaEngine::tick`] has something to send.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// What is to be sent at a time without being asked for.
    pub fn tick(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        self.counters.multicast += 1;
        self.last = Some(now);
        let longest = self.scope.interval;
        let shortest = (longest / 3).max(BETWEEN);
        let mut wait = shortest + (longest.saturating_sub(shortest)).mul_f64(self.random.f64());
        let (count, within) = INITIAL;
        if self.counters.multicast < count {
            wait = wait.min(within);
        }
        self.due = now + wait;
        Some(wire::advertisement(self.mac, &self.scope, None))
    }

    /// What the router got and gave.
    pub fn counters(&self) -> RaCounters {
        self.counters
    }
}
