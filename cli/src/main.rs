//! The `rackless` command.

fn main() {}
