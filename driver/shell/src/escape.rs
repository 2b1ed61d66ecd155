//! Takes terminal escape sequences out of a byte stream (ECMA-48).
//!
//! Not a terminal library's parser: those keep an unended string sequence in memory without bound and swallow all
//! that follows, and a serial line does lose bytes. Here a string sequence ends at the next line at the latest.

/// The longest string sequence that is believed; after it the bytes count as text again.
const STRING_MAX: usize = 1024;

/// An incremental stripper. What moves the cursor to another line becomes a newline, so that menus of firmware and
/// boot loaders read as lines.
#[derive(Debug, Default, Clone)]
pub struct Stripper {
    state: State,
    /// A carriage return came; whether it was a line's end shows with the next byte.
    returned: bool,
    /// Whether the current line holds something.
    in_line: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte, such as in the choice of a character set.
    Intermediate,
    /// After ESC [.
    Control,
    /// In a string sequence (OSC, DCS, APC, PM, SOS), after so many bytes.
    String(usize),
    /// In a string sequence, after ESC.
    StringEscape(usize),
}

impl Stripper {
    /// Adds the text of `bytes` to `text`, lines ended by `\n`.
    pub fn push(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for &byte in bytes {
            self.byte(byte, text);
        }
    }

    fn byte(&mut self, byte: u8, text: &mut Vec<u8>) {
        const ESC: u8 = 0x1b;
        self.state = match (self.state, byte) {
            (State::Text, ESC) => State::Escape,
            (State::Text, _) => {
                self.text(byte, text);
                State::Text
            }
            // A newline is a line's end whatever it cuts.
            (_, b'\n') => {
                self.text(byte, text);
                State::Text
            }
            (State::String(_), 0x07) => State::Text,
            (State::String(length), ESC) => State::StringEscape(length),
            (State::StringEscape(_), b'\\') => State::Text,
            (State::String(length) | State::StringEscape(length), _) if length < STRING_MAX => {
                State::String(length + 1)
            }
            (State::String(_) | State::StringEscape(_), _) => State::Text,
            (_, ESC) => State::Escape,
            (State::Escape, b'[') => State::Control,
            (State::Escape, b']' | b'P' | b'_' | b'^' | b'X') => State::String(0),
            (State::Escape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            // ESC D, E, M: next line, previous line.
            (State::Escape, b'D' | b'E' | b'M') => {
                self.end_line(text);
                State::Text
            }
            (State::Escape | State::Intermediate, _) => State::Text,
            (State::Control, 0x20..=0x3f) => State::Control,
            // Cursor up, down, next line, previous line, position; erase display.
            (State::Control, b'A' | b'B' | b'E' | b'F' | b'H' | b'J' | b'd' | b'f') => {
                self.end_line(text);
                State::Text
            }
            (State::Control, _) => State::Text,
        };
    }

    fn text(&mut self, byte: u8, text: &mut Vec<u8>) {
        match byte {
            b'\n' => {
                self.returned = false;
                self.in_line = false;
                text.push(b'\n');
            }
            b'\r' => self.returned = true,
            b'\t' | 0x20..=0x7e | 0x80.. => {
                // systemd and progress bars write over a line: each version is a line here.
                if self.returned {
                    self.end_line(text);
                }
                self.in_line = true;
                text.push(byte);
            }
            _ => {}
        }
    }

    fn end_line(&mut self, text: &mut Vec<u8>) {
        self.returned = false;
        if self.in_line {
            self.in_line = false;
            text.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strip(bytes: &[u8]) -> String {
        let mut text = Vec::new();
        Stripper::default().push(bytes, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn colours_and_queries_go() {
        assert_eq!(
            strip(b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh\x1b[0m.\r\n"),
            "[  OK  ] Started ssh.\n"
        );
        assert_eq!(strip(b"\x1b[6n\x1b[!p\x1b[?7hlogin: "), "login: ");
        assert_eq!(strip(b"\x1b]0;title\x07a\x1bP+q544e\x1b\\b\x1b(Bc"), "abc");
    }

    #[test]
    fn a_menu_is_lines() {
        assert_eq!(
            strip(b"\x1b[2J\x1b[01;01H\x1b[=3hGNU GRUB\x1b[3;1H Debian\x1b[4;1H"),
            "GNU GRUB\n Debian\n"
        );
    }

    #[test]
    fn a_line_written_over_is_two_lines() {
        assert_eq!(
            strip(b"\r\x1b[K[ *** ] A job (1s)\r\x1b[K[*** ] A job (2s)\r\r\n"),
            "[ *** ] A job (1s)\n[*** ] A job (2s)\n"
        );
    }

    #[test]
    fn a_string_without_an_end_does_not_swallow_the_rest() {
        assert_eq!(strip(b"\x1b]0;cut off\nKernel panic\n"), "\nKernel panic\n");
        let long = [b"\x1bP".as_slice(), &[b'x'; 5000], b"\nKernel panic\n"].concat();
        assert!(strip(&long).ends_with("\nKernel panic\n"));
    }

    proptest! {
        /// How bytes are cut makes no difference, no escape is left, and nothing swallows a line that comes later.
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1..20_usize) {
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            Stripper::default().push(&bytes, &mut whole);
            let mut stripper = Stripper::default();
            for piece in bytes.chunks(piece) {
                stripper.push(piece, &mut pieces);
            }
            prop_assert_eq!(&whole, &pieces);
            prop_assert!(!whole.contains(&0x1b));
            stripper.push(b"\nKernel panic\n", &mut pieces);
            prop_assert!(pieces.ends_with(b"\nKernel panic\n"));
        }
    }
}
