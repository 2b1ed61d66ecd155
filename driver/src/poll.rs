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
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(found) = attempt().await {
            return Some(found);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        #[expect(clippy::disallowed_methods, reason = "the one blessed sleep: between two attempts")]
        tokio::time::sleep(pause.min(left)).await;
        pause = pause.mul_f32(1.5).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
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
