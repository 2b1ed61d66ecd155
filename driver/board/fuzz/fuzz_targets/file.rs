//! Any text as a board's file: no panic, and every problem names a line of it.

#![no_main]

use std::path::Path;

use board::{Board, Error};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Board::parse(text, Path::new("board.toml")) {
        let Error::Invalid { problems, .. } = error else { panic!("{error}") };
        assert!(!problems.is_empty());
        for problem in problems {
            assert!((1..=text.lines().count().max(1)).contains(&problem.line), "line {}", problem.line);
        }
    }
});
