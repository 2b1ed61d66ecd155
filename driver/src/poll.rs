//! The one place that sleeps: polling with backoff until a deadline.

use std::ops::AsyncFnMut;
use std::time::{Duration, Instant};

/// The first pause between two attempts; each later one is half as long again, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Calls `attempt` until it gives `Some`, or until `limit` has passed, which gives `None`.
///
/// At least one attempt is made. The pauses start at 10 ms and grow to half a second.
pub async fn poll_until<T>(limit: Duration, mut attempt: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let mut backoff = Backoff::new(limit);
    loop {
        if let Some(found) = attempt().await {
            return Some(found);
        }
        if !backoff.pause().await {
            return None;
        }
    }
}

/// The pauses of [`poll_until`], for loops whose future must be `Send`.
pub(crate) struct Backoff {
    end: Instant,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, next: FIRST_PAUSE }
    }

    /// What is left of the limit.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits before the next attempt; `false` once the limit has passed.
    pub(crate) async fn pause(&mut self) -> bool {
        let left = self.left();
        if left.is_zero() {
            return false;
        }
        #[expect(clippy::disallowed_methods, reason = "the one blessed sleep: between two attempts")]
        tokio::time::sleep(self.next.min(left)).await;
        self.next = self.next.mul_f32(1.5).min(LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_what_the_attempt_gives() {
        let mut calls = 0;
        let got = poll_until(Duration::from_secs(5), async || {
            calls += 1;
            (calls == 3).then_some(calls)
        })
        .await;
        assert_eq!(got, Some(3));
    }

    #[tokio::test]
    async fn tries_once_even_without_time() {
        assert_eq!(poll_until(Duration::ZERO, async || Some(1)).await, Some(1));
        assert_eq!(poll_until(Duration::ZERO, async || None::<u8>).await, None);
    }
}
