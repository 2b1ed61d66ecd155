//! Any bytes from a server: no panic, replies are bounded by what came, and how the bytes are cut makes no difference.

#![no_main]

use board::rfc2217::{Received, Session};
use libfuzzer_sys::fuzz_target;
use shell::tty::Mode;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let mut whole = Session::new(&Mode::new(115_200));
    let at_once = whole.receive(bytes);
    // Six settings each time that the option comes on, three bytes for any other wish.
    assert!(at_once.reply.len() <= bytes.len() * 20, "{} bytes for {}", at_once.reply.len(), bytes.len());
    assert!(at_once.data.len() <= bytes.len());
    let mut session = Session::new(&Mode::new(115_200));
    let mut pieces = Received::default();
    for piece in bytes.chunks(usize::from(cut % 16) + 1) {
        let received = session.receive(piece);
        pieces.data.extend(received.data);
        pieces.reply.extend(received.reply);
    }
    assert_eq!(at_once, pieces);
    assert_eq!(whole.is_ready(), session.is_ready());
    assert_eq!(whole.refusal(), session.refusal());
});
