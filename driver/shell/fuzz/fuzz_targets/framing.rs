//! Any bytes before and behind an answer: no panic, an answer that comes out is the one that went in, and how the bytes
//! are cut makes no difference. `M` in the input stands for the session's marker, which chance would not find.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shell::frame::{Decoder, Item, Marker, answer};

static MARKER: LazyLock<Marker> = LazyLock::new(Marker::random);

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else { return };
    let noise: Vec<u8> = input
        .iter()
        .flat_map(|&byte| if byte == b'M' { MARKER.as_str().as_bytes().to_vec() } else { vec![byte] })
        .collect();
    let (before, behind) = noise.split_at(usize::from(cut).min(noise.len()));
    let bytes = [before, &answer(&MARKER, "r1", b"whole"), behind].concat();
    let whole = Decoder::new(MARKER.clone()).push(&bytes);
    for item in &whole {
        if let Item::Answer { body, .. } = item {
            assert_eq!(body, b"whole");
        }
    }
    let mut decoder = Decoder::new(MARKER.clone());
    let pieces: Vec<Item> =
        bytes.chunks(usize::from(cut % 32) + 1).flat_map(|piece| decoder.push(piece)).collect();
    assert_eq!(whole, pieces);
});
