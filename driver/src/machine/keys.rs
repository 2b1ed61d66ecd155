//! The keyboard and the virtual terminals that it types on.

use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use super::{Machine, Timer};
use crate::Error;
use crate::error::last_lines;
use crate::poll::Backoff;

/// How long a key is held, in milliseconds; QEMU lets as long pass until the next event.
const HOLD_MS: u64 = 40;
/// From one key of a text to the next: QEMU has played one before it gets another, so that its queue stays empty and the
/// 16 bytes of a PS/2 keyboard are not overrun by a guest that is slow.
const PACE: Duration = Duration::from_millis(3 * HOLD_MS);
/// How many lines of a terminal an error carries.
const EVIDENCE_LINES: usize = 10;

/// QEMU's names (`QKeyCode`) of the keys of a US keyboard, with what they give alone and with shift.
const KEYS: &[(&str, char, char)] = &[
    ("minus", '-', '_'),
    ("equal", '=', '+'),
    ("bracket_left", '[', '{'),
    ("bracket_right", ']', '}'),
    ("semicolon", ';', ':'),
    ("apostrophe", '\'', '"'),
    ("grave_accent", '`', '~'),
    ("backslash", '\\', '|'),
    ("comma", ',', '<'),
    ("dot", '.', '>'),
    ("slash", '/', '?'),
    ("1", '1', '!'),
    ("2", '2', '@'),
    ("3", '3', '#'),
    ("4", '4', '$'),
    ("5", '5', '%'),
    ("6", '6', '^'),
    ("7", '7', '&'),
    ("8", '8', '*'),
    ("9", '9', '('),
    ("0", '0', ')'),
    ("spc", ' ', ' '),
    ("ret", '\n', '\n'),
    ("tab", '\t', '\t'),
];

/// The keys that give a character on a US keyboard.
fn keys_of(character: char) -> Option<Vec<String>> {
    let shifted = |name: &str| vec!["shift".to_owned(), name.to_owned()];
    match character {
        'a'..='z' => Some(vec![character.to_string()]),
        'A'..='Z' => Some(shifted(&character.to_ascii_lowercase().to_string())),
        _ => KEYS.iter().find_map(|&(name, alone, with_shift)| match character {
            _ if character == alone => Some(vec![name.to_owned()]),
            _ if character == with_shift => Some(shifted(name)),
            _ => None,
        }),
    }
}

/// The keys of a chord such as `ctrl-alt-f1`; a single character stands for the keys that give it.
fn chord(key: &str) -> Option<Vec<String>> {
    let mut characters = key.chars();
    match (characters.next(), characters.next()) {
        (Some(only), None) => keys_of(only),
        _ => Some(key.split('-').map(str::to_owned).collect()),
    }
}

fn arguments(keys: &[String]) -> Value {
    let value = |key: &String| match key.strip_prefix("0x").map(|hex| u32::from_str_radix(hex, 16)) {
        // A scan code.
        Some(Ok(number)) => json!({ "type": "number", "data": number }),
        _ => json!({ "type": "qcode", "data": key }),
    };
    json!({ "keys": keys.iter().map(value).collect::<Vec<_>>(), "hold-time": HOLD_MS })
}

impl Machine {
    /// Presses a key, or several at once, on the machine's keyboard: `ret`, `f1`, `ctrl-alt-delete` in QEMU's names, `0x1c` as a
    /// scan code, or a single character, which stands for the keys that give it on a US keyboard.
    ///
    /// # Errors
    /// [`Error::Off`]; [`Error::Qmp`] if there is no such key; [`Error::Spec`] for a character that no US keyboard has;
    /// [`Error::Unsupported`] of a board.
    pub async fn send_key(&self, key: &str) -> Result<(), Error> {
        let keys = chord(key).ok_or_else(|| self.no_key(key))?;
        let instance = self.running("pressing a key")?;
        let qemu = self.qemu(&instance, "pressing a key")?;
        let sent = qemu.qmp.execute_raw("send-key", arguments(&keys)).await;
        sent.map(drop).map_err(|source| self.qmp_error(format!("pressing {key:?}"), source))
    }

    /// Types a text on the machine's keyboard, eight characters a second.
    ///
    /// # Errors
    /// As [`Machine::send_key`].
    pub async fn send_chars(&self, text: &str) -> Result<(), Error> {
        // All or nothing: half a command is worse than none.
        if let Some(unknown) = text.chars().find(|character| keys_of(*character).is_none()) {
            return Err(self.no_key(&unknown.to_string()));
        }
        for character in text.chars() {
            self.send_key(character.encode_utf8(&mut [0; 4])).await?;
            #[expect(clippy::disallowed_methods, reason = "QEMU says nothing when it has played a key")]
            self.until_death(tokio::time::sleep(PACE)).await?;
        }
        Ok(())
    }

    fn no_key(&self, key: &str) -> Error {
        let problem = format!("no key of a US keyboard gives {key:?}; type it on the serial console instead");
        Error::Spec { machine: self.name().to_owned(), problem }
    }

    /// What a virtual terminal (`/dev/tty1` is 1) shows, a line for each of the screen's.
    ///
    /// # Errors
    /// [`Error::CommandFailed`] if the guest has no such terminal, or no `fold` and `stty`.
    pub async fn tty_text(&self, tty: u32) -> Result<String, Error> {
        let columns = format!("$(stty -F /dev/tty{tty} size | cut -d' ' -f2)");
        self.succeed(format!("fold -w \"{columns}\" /dev/vcs{tty}")).await
    }

    /// Waits until a virtual terminal shows `pattern`, at most for `limit` before scaling.
    ///
    /// # Errors
    /// [`Error::Condition`] with what it showed last; as [`Machine::tty_text`].
    pub async fn wait_until_tty_matches(
        &self,
        tty: u32,
        pattern: &Regex,
        limit: Duration,
    ) -> Result<(), Error> {
        let timer = Timer::start();
        let mut backoff = Backoff::new(self.limit(limit));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let text = self.tty_text(tty).await?;
            if pattern.is_match(&text) {
                return Ok(());
            }
            if !backoff.pause().await {
                let filled = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
                let filled = filled.collect::<Vec<_>>().join("\n");
                let last = last_lines(filled.as_bytes(), EVIDENCE_LINES);
                let what = format!("tty{tty} shows {:?}", pattern.as_str());
                return Err(self.condition_error(what, &timer, attempts, last));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chord_is_keys_and_a_character_is_the_keys_that_give_it() {
        let keys = |key: &str| chord(key).map(|keys| keys.join(" "));
        assert_eq!(keys("ctrl-alt-f1").unwrap(), "ctrl alt f1");
        assert_eq!(keys("ret").unwrap(), "ret");
        for (character, wanted) in
            [("a", "a"), ("Z", "shift z"), ("-", "minus"), ("_", "shift minus"), ("\n", "ret"), (" ", "spc")]
        {
            assert_eq!(keys(character).unwrap(), wanted);
        }
        assert_eq!(keys("€"), None);
    }

    #[test]
    fn every_printable_character_has_keys_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for character in ' '..='~' {
            let keys = keys_of(character).unwrap_or_else(|| panic!("{character:?} has no key"));
            assert!(seen.insert(keys), "{character:?} has the keys of another");
        }
    }

    #[test]
    fn qemu_is_told_names_and_scan_codes() {
        let told = arguments(&["ctrl".into(), "0x1c".into()]);
        assert_eq!(
            told["keys"],
            json!([{ "type": "qcode", "data": "ctrl" }, { "type": "number", "data": 28 }])
        );
    }
}
