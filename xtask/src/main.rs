//! Set-up, the demo and the tests: the two commands of the README.

fn main() {}
