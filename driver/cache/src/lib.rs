//! What the caches of images and of checkpoints have in common: where they are, copies that keep holes, digests, and
//! a lock for each entry that processes share.

mod error;
mod lock;
mod root;
pub mod sparse;

pub use error::{At, Error};
pub use lock::EntryLock;
pub use root::root;
