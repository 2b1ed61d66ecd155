//! Any bytes: no panic, no escape left, no more text than there was input, and what comes after a long stretch without
//! an escape is seen whatever came before.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shell::escape::Stripper;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else { return };
    let mut whole = Vec::new();
    Stripper::default().push(input, &mut whole);
    assert!(!whole.contains(&0x1b));
    // A cursor's move becomes a newline, and so may a carriage return.
    assert!(whole.len() <= 2 * input.len());
    let (mut pieces, mut stripper) = (Vec::new(), Stripper::default());
    for piece in input.chunks(usize::from(cut) + 1) {
        stripper.push(piece, &mut pieces);
    }
    assert_eq!(whole, pieces);
    let end = b"\nKernel panic\n";
    stripper.push(end, &mut pieces);
    assert!(pieces.ends_with(end), "{:?}", String::from_utf8_lossy(&pieces));
});
