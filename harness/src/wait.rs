//! The one place that waits between attempts.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Repeats `attempt` until it succeeds, with pauses that grow from 10 ms to 1 s. The answer of the last attempt is
/// kept for the error.
///
/// # Errors
/// [`Error::Timeout`] when `limit` has passed; an attempt that is still under way then is dropped.
pub async fn poll_until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, Error> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut attempts = 0;
    let mut last = String::from("nothing: the first attempt did not come back");
    loop {
        let left = limit.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(answer)) => {
                attempts += 1;
                last = format!("{answer:#}");
            }
            Err(_) => return Err(Error::Timeout { what: what.into(), limit, attempts, last }),
        }
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(Error::Timeout { what: what.into(), limit, attempts, last });
        }
        rest(pause.min(left)).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// A pause between two looks at a condition.
#[expect(
    clippy::disallowed_methods,
    reason = "the blessed wrapper: every caller polls a condition with a limit"
)]
pub(crate) async fn rest(pause: Duration) {
    tokio::time::sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_last_answer() {
        let mut calls = 0;
        let failed = poll_until("door", Duration::from_millis(40), async || {
            calls += 1;
            Err::<(), _>(format!("closed, look {calls}"))
        });
        let text = failed.await.expect_err("the door stays closed").to_string();
        assert!(text.starts_with("door: not within 40 ms"), "{text}");
        assert!(text.contains("closed, look "), "{text}");
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_bounded() {
        let hung = poll_until("port", Duration::from_millis(20), async || {
            std::future::pending::<Result<(), String>>().await
        });
        let text = hung.await.expect_err("never comes back").to_string();
        assert!(text.contains("did not come back"), "{text}");
    }

    #[tokio::test]
    async fn success_ends_it() {
        let mut calls = 0;
        let third = poll_until("count", Duration::from_secs(30), async || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err("not yet") }
        });
        assert_eq!(third.await.expect("comes true"), 3);
    }
}
