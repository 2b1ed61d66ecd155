//! Credit per stream: a sender sends what it was granted, a receiver grants again what its reader took.

use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

/// Bytes that may be under way in a stream when it begins.
pub const INITIAL: u32 = 256 * 1024;

/// The sender's side. Shared between the task that sends and the one that receives grants.
#[derive(Debug)]
pub struct SendWindow {
    state: Mutex<SendState>,
}

#[derive(Debug)]
struct SendState {
    credit: u64,
    closed: bool,
    waiting: Option<Waker>,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { state: Mutex::new(SendState { credit: u64::from(INITIAL), closed: false, waiting: None }) }
    }
}

impl SendWindow {
    /// A window of [`INITIAL`] bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up to `want` bytes of credit (at least one if `want` is), waiting for a grant if there is none.
    ///
    /// `None` once the window is closed. One task may wait at a time: the last one to ask is woken.
    pub fn poll_take(&self, context: &Context<'_>, want: usize) -> Poll<Option<usize>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        if state.credit == 0 && want > 0 {
            state.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = state.credit.min(want as u64);
        state.credit -= taken;
        Poll::Ready(Some(usize::try_from(taken).expect("no more than was wanted")))
    }

    /// [`Self::poll_take`] as a future.
    pub async fn take(&self, want: usize) -> Option<usize> {
        std::future::poll_fn(|context| self.poll_take(context, want)).await
    }

    /// Gives back credit that was taken and not used.
    pub fn give_back(&self, bytes: usize) {
        self.add(bytes as u64);
    }

    /// The receiver's grant.
    pub fn grant(&self, bytes: u32) {
        self.add(u64::from(bytes));
    }

    /// Nobody receives any more: whoever waits is told.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn add(&self, bytes: u64) {
        let waiting = {
            let mut state = self.lock();
            state.credit = state.credit.saturating_add(bytes);
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SendState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A sender sent more than it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes came where {credit} were granted")]
pub struct Overrun {
    /// Bytes that came.
    pub bytes: usize,
    /// Bytes that were granted.
    pub credit: u32,
}

/// The receiver's side.
#[derive(Debug)]
pub struct ReceiveWindow {
    credit: u32,
    taken: u32,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self { credit: INITIAL, taken: 0 }
    }
}

impl ReceiveWindow {
    /// A window of [`INITIAL`] bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes came in.
    ///
    /// # Errors
    ///
    /// If the sender had no credit for them.
    pub fn received(&mut self, bytes: usize) -> Result<(), Overrun> {
        match u32::try_from(bytes).ok().and_then(|bytes| self.credit.checked_sub(bytes)) {
            Some(credit) => {
                self.credit = credit;
                Ok(())
            }
            None => Err(Overrun { bytes, credit: self.credit }),
        }
    }

    /// The reader took bytes that came in. `Some` is a grant to send: they are saved up to a quarter of the window.
    pub fn taken(&mut self, bytes: usize) -> Option<u32> {
        self.taken += u32::try_from(bytes).expect("no more than the window");
        if self.taken < INITIAL / 4 {
            return None;
        }
        let grant = std::mem::take(&mut self.taken);
        self.credit += grant;
        Some(grant)
    }
}
