//! Keys by name, as a terminal sends them (ECMA-48, VT100).

use std::fmt;

/// A key that has no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Carriage return.
    Enter,
    /// Escape.
    Esc,
    /// Tabulator.
    Tab,
    /// Space.
    Space,
    /// What most terminals send for it: DEL.
    Backspace,
    /// Cursor up.
    Up,
    /// Cursor down.
    Down,
    /// Cursor left.
    Left,
    /// Cursor right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// F1 to F12.
    Function(u8),
    /// Control and a letter, in lower case.
    Control(u8),
}

const NAMED: [(&str, Key); 11] = [
    ("enter", Key::Enter),
    ("esc", Key::Esc),
    ("tab", Key::Tab),
    ("space", Key::Space),
    ("backspace", Key::Backspace),
    ("up", Key::Up),
    ("down", Key::Down),
    ("left", Key::Left),
    ("right", Key::Right),
    ("home", Key::Home),
    ("end", Key::End),
];

impl Key {
    /// By name: `enter`, `ctrl-c`, `f2`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        if let Some((_, key)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Some(*key);
        }
        if let Some(letter) = name.strip_prefix("ctrl-") {
            return match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(Self::Control(*letter)),
                _ => None,
            };
        }
        let number: u8 = name.strip_prefix('f')?.parse().ok()?;
        (1..=12).contains(&number).then_some(Self::Function(number))
    }

    /// The names that there are, for suggestions.
    pub(crate) fn names() -> Vec<String> {
        let functions = (1..=12).map(|number| format!("f{number}"));
        let controls = ('a'..='z').map(|letter| format!("ctrl-{letter}"));
        NAMED.iter().map(|(name, _)| (*name).to_owned()).chain(functions).chain(controls).collect()
    }

    /// What is sent for it.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Enter => b"\r".to_vec(),
            Self::Esc => vec![0x1b],
            Self::Tab => b"\t".to_vec(),
            Self::Space => b" ".to_vec(),
            Self::Backspace => vec![0x7f],
            Self::Up => b"\x1b[A".to_vec(),
            Self::Down => b"\x1b[B".to_vec(),
            Self::Right => b"\x1b[C".to_vec(),
            Self::Left => b"\x1b[D".to_vec(),
            Self::Home => b"\x1b[H".to_vec(),
            Self::End => b"\x1b[F".to_vec(),
            Self::Control(letter) => vec![letter & 0x1f],
            // xterm's, which GRUB, U-Boot and EDK II know.
            Self::Function(number @ 1..=4) => vec![0x1b, b'O', b'P' + number - 1],
            Self::Function(number) => {
                let code = [15, 17, 18, 19, 20, 21, 23, 24][usize::from(number.clamp(5, 12) - 5)];
                format!("\x1b[{code}~").into_bytes()
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(number) => write!(f, "f{number}"),
            Self::Control(letter) => write!(f, "ctrl-{}", char::from(*letter)),
            _ => f.write_str(NAMED.iter().find(|(_, key)| key == self).map_or("", |(name, _)| name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_key_and_says_its_name() {
        for name in Key::names() {
            let key = Key::by_name(&name).expect("a key");
            assert_eq!(key.to_string(), name);
            assert!(!key.bytes().is_empty());
        }
        for no_key in ["Enter", "ctrl-", "ctrl-C", "ctrl-cc", "f0", "f13", "f", ""] {
            assert_eq!(Key::by_name(no_key), None, "{no_key}");
        }
    }

    #[test]
    fn keys_are_what_a_terminal_sends() {
        for (name, bytes) in [
            ("enter", &b"\r"[..]),
            ("ctrl-c", b"\x03"),
            ("up", b"\x1b[A"),
            ("f2", b"\x1bOQ"),
            ("f12", b"\x1b[24~"),
        ] {
            assert_eq!(Key::by_name(name).expect("a key").bytes(), bytes, "{name}");
        }
    }
}
