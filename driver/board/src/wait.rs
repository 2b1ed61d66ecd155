//! Pauses: between two looks, and those that a board's file asks for.

use std::time::Duration;

/// The time that a board's file gives to relays, capacitors and fingers.
pub(crate) async fn pause(time: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "hardware tells nobody when it is discharged: its file says how long"
    )]
    tokio::time::sleep(time).await;
}
