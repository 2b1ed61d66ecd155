//! Any bytes as a stream, cut anywhere: no panic, and every byte is part of a frame, pending, or after a bad length.

#![no_main]

use libfuzzer_sys::fuzz_target;
use switch::{MAX_FRAME, MIN_FRAME, PREFIX, StreamDecoder};

fuzz_target!(|input: (u16, &[u8])| {
    let (piece, bytes) = input;
    let mut decoder = StreamDecoder::new();
    let mut used = 0;
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = decoder.space();
            let fits = rest.len().min(space.len());
            assert!(fits > 0, "there is always room after all frames were taken");
            space[..fits].copy_from_slice(&rest[..fits]);
            decoder.filled(fits);
            rest = &rest[fits..];
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        assert!((MIN_FRAME..=MAX_FRAME).contains(&frame.len()));
                        assert_eq!(&bytes[used + PREFIX..][..frame.len()], &*frame);
                        used += PREFIX + frame.len();
                    }
                    Ok(None) => break,
                    Err(bad) => {
                        assert!(!(MIN_FRAME..=MAX_FRAME).contains(&(bad.length as usize)));
                        return;
                    }
                }
            }
        }
    }
    assert_eq!(used + decoder.pending(), bytes.len());
});
