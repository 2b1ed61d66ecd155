//! The framing's promises: no bytes make it panic, splits don't matter, damage is an error, a hello is found.

use agent_proto::frame::{Decoder, Encoder, Frame, FrameError, HEADER, MAX_BULK, RESYNC};
use agent_proto::hello::{Hello, Identity};
use agent_proto::message::{Stream, ToAgent, ToHost, from_bytes};
use agent_proto::window::{INITIAL, ReceiveWindow, SendWindow};
use proptest::prelude::*;
use std::task::{Context, Poll, Waker};

const NONCE: u64 = 0x1234_5678_9abc_def0;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Hello(Hello),
    Message(Vec<u8>),
    Bulk(u32, Stream, Vec<u8>),
}

fn piece() -> impl Strategy<Value = Piece> {
    let stream = prop_oneof![Just(Stream::In), Just(Stream::Out), Just(Stream::Err)];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Piece::Message),
        (any::<u8>(), 30_000_usize..100_000).prop_map(|(byte, len)| Piece::Message(vec![byte; len])),
        (any::<u32>(), stream, prop::collection::vec(any::<u8>(), 1..400))
            .prop_map(|(id, stream, data)| Piece::Bulk(id, stream, data)),
        any::<u64>().prop_map(|nonce| Piece::Hello(Hello::Open { version: 1, nonce })),
    ]
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(NONCE), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Hello(hello) => Encoder::hello(&mut out, hello),
            Piece::Message(bytes) => encoder.message(&mut out, bytes),
            Piece::Bulk(id, stream, data) => encoder.bulk(&mut out, *id, *stream, data),
        }
    }
    out
}

fn owned(frame: Frame<'_>) -> Piece {
    match frame {
        Frame::Hello(hello) => Piece::Hello(hello),
        Frame::Message(bytes) => Piece::Message(bytes),
        Frame::Bulk { request, stream, data } => Piece::Bulk(request, stream, data.to_vec()),
    }
}

/// All frames until the bytes or the session end.
fn drain(decoder: &mut Decoder) -> (Vec<Piece>, Option<FrameError>) {
    let mut pieces = Vec::new();
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => pieces.push(owned(frame)),
            Ok(None) => return (pieces, None),
            Err(error) => return (pieces, Some(error)),
        }
    }
}

fn open() -> Decoder {
    let mut decoder = Decoder::new();
    decoder.open(NONCE);
    decoder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), strict in any::<bool>()) {
        let mut decoder = if strict { open() } else { Decoder::new() };
        for chunk in bytes.chunks(7) {
            decoder.push(chunk);
            let _ = drain(&mut decoder);
        }
        let _ = from_bytes::<ToAgent>(&bytes);
        let _ = from_bytes::<ToHost>(&bytes);
    }

    #[test]
    fn splits_do_not_matter(pieces in prop::collection::vec(piece(), 0..8), size in 1_usize..5000) {
        let bytes = encode(&pieces);
        let mut decoder = open();
        let mut got = Vec::new();
        for chunk in bytes.chunks(size) {
            decoder.push(chunk);
            let (more, error) = drain(&mut decoder);
            prop_assert_eq!(error, None);
            got.extend(more);
        }
        prop_assert_eq!(got, pieces);
    }

    #[test]
    fn a_corrupted_byte_is_an_error(
        pieces in prop::collection::vec(piece(), 1..5),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut bytes = encode(&pieces);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut decoder = open();
        decoder.push(&bytes);
        // A length that grew makes the frame wait for bytes that the next frames, or the resync, then bring.
        decoder.push(&vec![0; RESYNC]);
        let (got, error) = drain(&mut decoder);
        prop_assert!(error.is_some(), "no error, {} of {} pieces", got.len(), pieces.len());
        prop_assert_eq!(&got[..], &pieces[..got.len()]);
    }

    #[test]
    fn a_lost_or_repeated_frame_is_an_error(count in 2_usize..6, at in any::<prop::sample::Index>(), repeat: bool) {
        let at = at.index(count - 1);
        let (mut encoder, mut frames) = (Encoder::new(NONCE), Vec::new());
        for n in 0..count {
            let mut frame = Vec::new();
            encoder.bulk(&mut frame, 1, Stream::Out, &[u8::try_from(n).unwrap()]);
            frames.push(frame);
        }
        if repeat {
            frames.insert(at, frames[at].clone());
        } else {
            frames.remove(at);
        }
        let mut decoder = open();
        decoder.push(&frames.concat());
        let (_, error) = drain(&mut decoder);
        let is_sequence = matches!(error, Some(FrameError::Sequence { .. }));
        prop_assert!(is_sequence, "{:?}", error);
    }

    #[test]
    fn boot_noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..5000), size in 1_usize..999) {
        let hello = Hello::Open { version: 1, nonce: NONCE };
        let mut bytes = noise;
        bytes.resize(bytes.len() + RESYNC, 0);
        Encoder::hello(&mut bytes, &hello);
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        for chunk in bytes.chunks(size) {
            decoder.push(chunk);
            got.extend(drain(&mut decoder).0);
        }
        prop_assert_eq!(got, vec![Piece::Hello(hello)]);
    }

    #[test]
    fn a_hello_is_found_after_a_cut_frame(len in 1_usize..MAX_BULK, cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        Encoder::new(NONCE).bulk(&mut bytes, 9, Stream::Out, &vec![0xD7; len]);
        bytes.truncate(cut.index(bytes.len()));
        let hello = Hello::Open { version: 1, nonce: 5 };
        Encoder::hello(&mut bytes, &hello);
        bytes.resize(bytes.len() + RESYNC, 0);
        Encoder::hello(&mut bytes, &hello);
        let mut decoder = open();
        decoder.push(&bytes);
        let mut hellos = 0;
        loop {
            let (got, error) = drain(&mut decoder);
            hellos += got.iter().filter(|piece| **piece == Piece::Hello(hello.clone())).count();
            if error.is_none() {
                break;
            }
        }
        prop_assert!(hellos >= 1);
    }

    #[test]
    fn credit_is_never_exceeded(steps in prop::collection::vec((any::<bool>(), 1_usize..100_000), 1..200)) {
        let (sender, mut receiver) = (SendWindow::new(), ReceiveWindow::new());
        let context = Context::from_waker(Waker::noop());
        let mut queued = 0;
        for (send, bytes) in steps {
            if send {
                if let Poll::Ready(taken) = sender.poll_take(&context, bytes) {
                    let taken = taken.unwrap();
                    prop_assert!(taken >= 1);
                    prop_assert_eq!(receiver.received(taken), Ok(()));
                    queued += taken;
                }
            } else {
                let read = bytes.min(queued);
                queued -= read;
                if let Some(grant) = receiver.taken(read) {
                    sender.grant(grant);
                }
            }
            prop_assert!(queued <= INITIAL as usize);
        }
        // A reader that takes everything always frees a sender.
        if let Some(grant) = receiver.taken(queued) {
            sender.grant(grant);
        }
        prop_assert!(sender.poll_take(&context, 1).is_ready());
    }
}

#[test]
fn too_much_is_an_overrun() {
    let mut receiver = ReceiveWindow::new();
    receiver.received(INITIAL as usize).unwrap();
    assert!(receiver.received(1).is_err());
}

#[test]
fn an_agent_that_restarts_mid_frame_is_heard() {
    let mut bytes = Vec::new();
    Encoder::new(NONCE).bulk(&mut bytes, 9, Stream::Out, &[1; 30_000]);
    bytes.truncate(HEADER + 3);
    bytes.resize(bytes.len() + RESYNC, 0);
    let agent = Identity { version: 1, instance: 7, boot_id: "b".into(), pid: 1 };
    let hello = Hello::Announce { agent, dropped: None };
    Encoder::hello(&mut bytes, &hello);
    let mut decoder = open();
    decoder.push(&bytes);
    assert!(matches!(drain(&mut decoder), (got, Some(FrameError::Crc { .. })) if got.is_empty()));
    assert_eq!(drain(&mut decoder), (vec![Piece::Hello(hello)], None));
}

#[test]
fn a_frame_of_another_session_is_refused() {
    let mut bytes = Vec::new();
    Encoder::new(NONCE + 1).message(&mut bytes, b"late");
    let mut decoder = open();
    decoder.push(&bytes);
    assert!(matches!(drain(&mut decoder).1, Some(FrameError::Session { .. })));
}
