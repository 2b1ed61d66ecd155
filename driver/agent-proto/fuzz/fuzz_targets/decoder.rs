//! Arbitrary bytes, in arbitrary pieces, to a decoder in and out of a session: it never panics, and what it takes for
//! a message is decoded without a panic, too. `cargo +nightly fuzz run decoder`.

#![no_main]

use agent_proto::frame::{Decoder, Frame};
use agent_proto::hello::Hello;
use agent_proto::message::{ToAgent, ToHost, from_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (strict, size, bytes) = input;
    let mut decoder = Decoder::new();
    if strict {
        decoder.open(0);
    }
    for chunk in bytes.chunks(usize::from(size).max(1)) {
        decoder.push(chunk);
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::Hello(Hello::Open { nonce, .. }))) => decoder.open(nonce),
                Ok(Some(Frame::Message(message))) => {
                    let _ = from_bytes::<ToAgent>(&message);
                    let _ = from_bytes::<ToHost>(&message);
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
    let _ = from_bytes::<ToAgent>(bytes);
    let _ = from_bytes::<ToHost>(bytes);
});
