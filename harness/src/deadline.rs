//! One deadline per test, passed down to every wait.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The deadline of one test: a budget of time that can be scaled and can stand still. Clones share it.
#[derive(Debug, Clone)]
pub struct Deadline {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Mutex<Clock>,
    changed: Notify,
}

#[derive(Debug)]
struct Clock {
    started: Instant,
    limit: Duration,
    factor: f64,
    stood: Duration,
    holders: u32,
    still_since: Option<Instant>,
}

impl Clock {
    fn stood(&self, now: Instant) -> Duration {
        self.stood + self.still_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn remaining(&self, now: Instant) -> Duration {
        let used = now.saturating_duration_since(self.started).saturating_sub(self.stood(now));
        self.limit.mul_f64(self.factor).saturating_sub(used)
    }
}

impl Deadline {
    /// A deadline that starts now.
    pub fn new(limit: Duration) -> Self {
        let clock = Clock {
            started: Instant::now(),
            limit,
            factor: 1.0,
            stood: Duration::ZERO,
            holders: 0,
            still_since: None,
        };
        Self { shared: Arc::new(Shared { clock: Mutex::new(clock), changed: Notify::new() }) }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.shared.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.clock().remaining(Instant::now())
    }

    /// The whole budget of time, scaled.
    pub fn limit(&self) -> Duration {
        let clock = self.clock();
        clock.limit.mul_f64(clock.factor)
    }

    /// Real time since the test began, standstills included.
    pub fn elapsed(&self) -> Duration {
        self.clock().started.elapsed()
    }

    /// For how long the deadline has stood still so far.
    pub fn stood_still(&self) -> Duration {
        self.clock().stood(Instant::now())
    }

    /// The smaller of a wait's own limit (scaled like the deadline) and what is left.
    pub fn clamp(&self, own: Duration) -> Duration {
        let clock = self.clock();
        own.mul_f64(clock.factor).min(clock.remaining(Instant::now()))
    }

    /// The factor in force; 1 unless [`Deadline::scale`] was called.
    pub fn factor(&self) -> f64 {
        self.clock().factor
    }

    /// Scales the whole budget, for instance because machines run without hardware acceleration. Of several calls
    /// the largest factor counts, so that two labs in one test do not multiply; factors below 1 do nothing.
    pub fn scale(&self, factor: f64) {
        if factor.is_finite() {
            let mut clock = self.clock();
            clock.factor = clock.factor.max(factor);
            drop(clock);
            self.shared.changed.notify_waiters();
        }
    }

    /// The deadline stands still until the guard is dropped: while a machine is paused, while the test waits for
    /// memory. Guards may overlap.
    #[must_use = "the deadline runs on when the guard is dropped"]
    pub fn stand_still(&self) -> StandStill {
        let mut clock = self.clock();
        clock.holders += 1;
        clock.still_since.get_or_insert_with(Instant::now);
        drop(clock);
        self.shared.changed.notify_waiters();
        StandStill { deadline: self.clone() }
    }

    /// Resolves when the deadline has passed, whatever happens to it in between.
    pub fn expired(&self) -> impl Future<Output = ()> + Send + 'static {
        let deadline = self.clone();
        async move {
            loop {
                let changed = deadline.shared.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                let (remaining, still) = {
                    let clock = deadline.clock();
                    (clock.remaining(Instant::now()), clock.still_since.is_some())
                };
                if still {
                    changed.await;
                } else if remaining.is_zero() {
                    return;
                } else {
                    // An elapsed timeout and a change both lead to another look.
                    let _ = tokio::time::timeout(remaining, changed).await;
                }
            }
        }
    }
}

/// While this guard lives, its [`Deadline`] stands still.
#[derive(Debug)]
pub struct StandStill {
    deadline: Deadline,
}

impl Drop for StandStill {
    fn drop(&mut self) {
        let mut clock = self.deadline.clock();
        clock.holders -= 1;
        if clock.holders == 0
            && let Some(since) = clock.still_since.take()
        {
            clock.stood += since.elapsed();
        }
        drop(clock);
        self.deadline.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn scaling_takes_the_largest_factor_and_never_shrinks() {
        let deadline = Deadline::new(HOUR);
        for factor in [4.0, 2.0, 0.1, f64::NAN, f64::INFINITY] {
            deadline.scale(factor);
        }
        assert_eq!(deadline.limit(), HOUR * 4);
        assert!(deadline.remaining() > HOUR * 3);
        assert_eq!(deadline.clamp(Duration::from_secs(1)), Duration::from_secs(4));
        assert!(deadline.clamp(HOUR * 9) <= HOUR * 4);
    }

    #[test]
    fn a_standing_clock_uses_no_time() {
        let deadline = Deadline::new(HOUR);
        let outer = deadline.stand_still();
        let inner = deadline.stand_still();
        let before = deadline.remaining();
        drop(outer);
        let now = Instant::now();
        while now.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert_eq!(deadline.remaining(), before, "the inner guard still holds it");
        drop(inner);
        assert!(deadline.stood_still() >= Duration::from_millis(5));
    }

    #[tokio::test]
    async fn expiry_waits_for_the_standstill_to_end() {
        let deadline = Deadline::new(Duration::from_millis(1));
        let guard = deadline.stand_still();
        let expired = tokio::spawn(deadline.expired());
        let early = tokio::time::timeout(Duration::from_millis(20), deadline.expired()).await;
        assert!(early.is_err(), "expired while standing still");
        drop(guard);
        expired.await.expect("the deadline expires once the clock runs");
    }
}
