//! The guest's side of the channel: one static binary.

fn main() {}
