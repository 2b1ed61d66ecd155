//! A value that is set once and waited for by many, from threads and from any async runtime.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Latch<T> {
    value: Mutex<Option<T>>,
    set: Condvar,
    // tokio's channels need no runtime; only its timers and sockets do.
    woken: watch::Sender<bool>,
}

impl<T: Clone> Latch<T> {
    pub(crate) fn new() -> Latch<T> {
        Latch { value: Mutex::new(None), set: Condvar::new(), woken: watch::Sender::new(false) }
    }

    /// The first value stays.
    pub(crate) fn set(&self, value: T) {
        self.lock().get_or_insert(value);
        self.set.notify_all();
        self.woken.send_replace(true);
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.lock().clone()
    }

    pub(crate) fn wait_until(&self, until: Option<Instant>) -> Option<T> {
        let mut value = self.lock();
        loop {
            if value.is_some() {
                return value.clone();
            }
            value = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.set.wait(value).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => self.set.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    pub(crate) async fn wait(&self) -> T {
        let mut woken = self.woken.subscribe();
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            // The sender is `self`, so the channel can't be closed while we wait.
            let _ = woken.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn many_waiters_see_the_first_value() {
        let latch = Arc::new(Latch::new());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let latch = latch.clone();
                std::thread::spawn(move || latch.wait_until(None))
            })
            .collect();
        latch.set(1);
        latch.set(2);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Some(1));
        }
    }

    #[test]
    fn a_wait_ends_at_its_time() {
        let latch: Latch<()> = Latch::new();
        assert_eq!(latch.wait_until(Some(Instant::now() + Duration::from_millis(5))), None);
    }
}
