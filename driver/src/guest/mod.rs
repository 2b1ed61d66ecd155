//! The guest channel.
