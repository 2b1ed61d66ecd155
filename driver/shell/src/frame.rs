//! What crosses the line: requests one way, answers the other, a line of text each. Pure.
//!
//! ```text
//! host to guest   MARKER number digest code data
//! guest to host   MARKER tag answer digest
//! ```
//!
//! `code`, `data` and `answer` are base64 (`-` for nothing), a digest is the first 16 hexadecimal digits of the SHA-256
//! of what stands beside it, joined by spaces. The guest prints a newline before each of its lines, so that a message
//! of the kernel's without one spoils nothing. Whatever is no such line is text, and kept as evidence.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::escape::Stripper;

/// Hexadecimal digits of a digest on the line.
const DIGEST: usize = 16;
/// The longest line that may be an answer. A longer one is text, and its middle is let go.
pub const LINE_MAX: usize = 256 << 10;
/// How much of a line of text is kept.
const TEXT_MAX: usize = 400;

/// The session's marker: no text that others print has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(String);

impl Marker {
    /// A new one, by chance.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("rk{:012x}", fastrand::u64(..) >> 16))
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an answer is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// The request of this number.
    Reply(u32),
    /// No request: the end of this command.
    Ended(u32),
    /// A request that arrived damaged and was not carried out.
    Refused,
}

impl Tag {
    fn parse(text: &str) -> Option<Self> {
        let number = || text.get(1..)?.parse().ok();
        match text.as_bytes().first()? {
            b'r' => number().map(Self::Reply),
            b'e' => number().map(Self::Ended),
            b'n' if text.len() == 1 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// What a line from the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An answer that is whole.
    Answer {
        /// To what.
        tag: Tag,
        /// Its bytes.
        body: Vec<u8>,
    },
    /// What may have been an answer: bytes of it are lost, changed or mixed with others.
    Damaged {
        /// Beginning and end of it, and what is wrong.
        evidence: String,
    },
    /// Others' text.
    Text(String),
}

/// A request as a line. `number` is in its answer's tag; `code` is a program for the guest's shell, in which `$X` is
/// `data` in base64.
#[must_use]
pub fn request(marker: &Marker, number: u32, code: &str, data: &[u8]) -> Vec<u8> {
    let word = |bytes: &[u8]| if bytes.is_empty() { "-".to_owned() } else { STANDARD.encode(bytes) };
    let checked = format!("{number} {} {}", word(code.as_bytes()), word(data));
    let (number, rest) = checked.split_once(' ').unwrap_or_default();
    format!("\n{} {number} {} {rest}\n", marker.0, digest(checked.as_bytes())).into_bytes()
}

/// An answer as a line, as the guest's server writes it: for tests of the decoder.
#[must_use]
pub fn answer(marker: &Marker, tag: &str, body: &[u8]) -> Vec<u8> {
    let checked = format!("{tag} {}", STANDARD.encode(body));
    format!("\n{} {checked} {}\n", marker.0, digest(checked.as_bytes())).into_bytes()
}

/// The digest of what stands on a line.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = hex(&Sha256::digest(bytes));
    text.truncate(DIGEST);
    text
}

/// The SHA-256 of bytes, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Finds answers in the bytes of a line.
#[derive(Debug)]
pub struct Decoder {
    marker: Marker,
    stripper: Stripper,
    /// What came without its newline yet, escape codes taken out.
    rest: Vec<u8>,
    /// How many bytes of `rest` are known to have no newline.
    seen: usize,
}

impl Decoder {
    /// A decoder for the answers of one session.
    #[must_use]
    pub fn new(marker: Marker) -> Self {
        Self { marker, stripper: Stripper::default(), rest: Vec::new(), seen: 0 }
    }

    /// Takes bytes of the line; gives what is complete, in order.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Item> {
        self.stripper.push(bytes, &mut self.rest);
        let mut items = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[self.seen.max(begin)..].iter().position(|&byte| byte == b'\n') {
            let end = self.seen.max(begin) + length;
            line(&self.marker, &self.rest[begin..end], &mut items);
            begin = end + 1;
            self.seen = begin;
        }
        self.rest.drain(..begin);
        if self.rest.len() > LINE_MAX {
            line(&self.marker, &self.rest, &mut items);
            self.rest.clear();
        }
        self.seen = self.rest.len();
        items
    }

    /// The line that has no end yet: a prompt, as a rule.
    #[must_use]
    pub fn unfinished(&self) -> String {
        String::from_utf8_lossy(&self.rest[self.rest.len().saturating_sub(TEXT_MAX)..]).into_owned()
    }
}

/// Reads one line. A marker in the middle of an answer begins another one: the first was cut off.
fn line(marker: &Marker, bytes: &[u8], items: &mut Vec<Item>) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split(marker.as_str());
    let before = parts.next().unwrap_or_default();
    if !before.trim().is_empty() {
        items.push(Item::Text(before.chars().take(TEXT_MAX).collect()));
    }
    items.extend(parts.map(|part| {
        parse(part)
            .unwrap_or_else(|problem| Item::Damaged { evidence: format!("{problem}: {}", shown(part)) })
    }));
}

fn parse(part: &str) -> Result<Item, &'static str> {
    let mut words = part.split_ascii_whitespace();
    let (Some(tag), Some(body), Some(said)) = (words.next(), words.next(), words.next()) else {
        return Err("an answer was cut off");
    };
    if words.next().is_some() {
        return Err("other bytes stand in an answer");
    }
    if digest(format!("{tag} {body}").as_bytes()) != said {
        return Err("an answer does not fit its digest");
    }
    let tag = Tag::parse(tag).ok_or("an answer is to nothing that was asked")?;
    let body = STANDARD.decode(body).map_err(|_| "an answer is no base64")?;
    Ok(Item::Answer { tag, body })
}

/// Beginning and end of something long.
fn shown(text: &str) -> String {
    const SIDE: usize = 60;
    let count = text.chars().count();
    if count <= 2 * SIDE {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(SIDE).collect();
    let tail: String = text.chars().skip(count - SIDE).collect();
    format!("{head:?} … {tail:?} ({count} characters)")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marker() -> Marker {
        Marker("rk0123456789ab".into())
    }

    fn decode(bytes: &[u8]) -> Vec<Item> {
        Decoder::new(marker()).push(bytes)
    }

    fn answers(items: Vec<Item>) -> Vec<(Tag, Vec<u8>)> {
        let answer = |item| match item {
            Item::Answer { tag, body } => Some((tag, body)),
            _ => None,
        };
        items.into_iter().filter_map(answer).collect()
    }

    #[test]
    fn an_answer_is_found_among_the_bytes_of_others() {
        let mut bytes = b"\x1b[2J\x1b[01;01H\x1b[=3hGNU GRUB\x1b[3;1H Debian\x1b[4;1H[ 0.0] Linux".to_vec();
        bytes.extend(answer(&marker(), "r7", b"hello\n0"));
        bytes.extend(b"\x1b[0;1;31msystemd[1]: x\x1b[0m\r\n");
        let items = decode(&bytes);
        assert_eq!(answers(items.clone()), [(Tag::Reply(7), b"hello\n0".to_vec())]);
        assert!(items.contains(&Item::Text("GNU GRUB".into())), "{items:?}");
        assert!(items.contains(&Item::Text("systemd[1]: x".into())), "{items:?}");
    }

    #[test]
    fn an_answer_behind_one_that_was_cut_off_counts() {
        let mut bytes = answer(&marker(), "r1", &[b'x'; 300]);
        bytes.truncate(100);
        bytes.extend(&answer(&marker(), "e2", b"")[1..]);
        let items = decode(&bytes);
        assert!(matches!(&items[0], Item::Damaged { evidence } if evidence.contains("cut off")), "{items:?}");
        // An empty answer has no base64: three words are what a line has.
        assert!(matches!(&items[1], Item::Damaged { .. }), "{items:?}");
        let mut bytes = answer(&marker(), "r1", &[b'x'; 300]);
        bytes.truncate(100);
        bytes.extend(&answer(&marker(), "e2", b"y")[1..]);
        assert_eq!(answers(decode(&bytes)), [(Tag::Ended(2), b"y".to_vec())]);
    }

    #[test]
    fn a_request_says_what_the_guest_checks() {
        let text = String::from_utf8(request(&marker(), 3, "true", b"")).unwrap();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        assert_eq!(words.len(), 5);
        assert_eq!((words[0], words[1], words[4]), ("rk0123456789ab", "3", "-"));
        assert_eq!(words[2], digest(b"3 dHJ1ZQ== -"));
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let mut decoder = Decoder::new(marker());
        for _ in 0..100 {
            decoder.push(&[b'x'; 10_000]);
            assert!(decoder.rest.len() <= LINE_MAX + 10_000);
        }
    }

    /// What a line does to bytes.
    #[derive(Debug, Clone)]
    enum Mishap {
        Lose(usize, usize),
        Change(usize, u8),
        Add(usize, Vec<u8>),
    }

    fn mishap() -> impl Strategy<Value = Mishap> {
        prop_oneof![
            (any::<usize>(), 1..40_usize).prop_map(|(at, count)| Mishap::Lose(at, count)),
            (any::<usize>(), 1..=255_u8).prop_map(|(at, mask)| Mishap::Change(at, mask)),
            (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..40))
                .prop_map(|(at, b)| Mishap::Add(at, b)),
        ]
    }

    fn happen(bytes: &mut Vec<u8>, mishap: &Mishap) {
        match mishap {
            _ if bytes.is_empty() => {}
            Mishap::Lose(at, count) => {
                let at = at % bytes.len();
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Mishap::Change(at, mask) => {
                let at = at % bytes.len();
                bytes[at] ^= mask;
            }
            Mishap::Add(at, added) => {
                let at = at % bytes.len();
                bytes.splice(at..at, added.iter().copied());
            }
        }
    }

    proptest! {
        /// Whatever happens on the way, an answer that comes out is one that went in.
        #[test]
        fn nothing_is_believed_that_was_not_sent(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..6),
            mishaps in proptest::collection::vec(mishap(), 0..6),
            pieces in 1..64_usize,
        ) {
            let mut bytes = Vec::new();
            for (number, body) in bodies.iter().enumerate() {
                bytes.extend(answer(&marker(), &format!("r{number}"), body));
            }
            for mishap in &mishaps {
                happen(&mut bytes, mishap);
            }
            let mut decoder = Decoder::new(marker());
            let items: Vec<Item> = bytes.chunks(pieces).flat_map(|piece| decoder.push(piece)).collect();
            let got = answers(items);
            if mishaps.is_empty() {
                prop_assert_eq!(got.len(), bodies.len());
            }
            for (tag, body) in got {
                let Tag::Reply(number) = tag else { panic!("{tag:?}") };
                prop_assert_eq!(Some(&body), bodies.get(number as usize));
            }
        }

        /// How the bytes are cut into pieces makes no difference.
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece in 1..50_usize) {
            let mut decoder = Decoder::new(marker());
            let items: Vec<Item> = bytes.chunks(piece).flat_map(|piece| decoder.push(piece)).collect();
            prop_assert_eq!(items, decode(&bytes));
        }
    }
}
