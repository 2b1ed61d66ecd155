//! The guest's journal as it comes: entries in the
//! [export format](https://systemd.io/JOURNAL_EXPORT_FORMATS/), kept in a file whole and in memory in part.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex::Regex;
use tokio::sync::watch;

/// An entry longer than this (a core dump) is left out, and counted.
const LONGEST_ENTRY: usize = 4 * 1024 * 1024;
/// Messages are kept in memory up to so many bytes; the oldest go first.
const HELD: usize = 4 * 1024 * 1024;
/// How much of a message is kept in memory.
const LONGEST_MESSAGE: usize = 16 * 1024;
/// How many entries an error carries.
const TAIL: usize = 12;

/// An entry of a guest's journal, as far as a test asks for it; the file `journal.export` has all fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// What was said: `MESSAGE`, at most its first 16 KiB.
    pub message: String,
    /// The unit that said it: `_SYSTEMD_UNIT`; for what systemd says of a unit, that unit: `UNIT`.
    pub unit: Option<String>,
    /// The program: `SYSLOG_IDENTIFIER`.
    pub identifier: Option<String>,
    /// From 0 (emergency) to 7 (debug).
    pub priority: Option<u8>,
    /// Microseconds since 1970, on the guest's clock.
    pub realtime_us: u64,
}

impl std::fmt::Display for JournalEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who = self.identifier.as_deref().or(self.unit.as_deref()).unwrap_or("?");
        write!(f, "{who}: {}", self.message)
    }
}

impl JournalEntry {
    fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.message.len() + text(&self.unit) + text(&self.identifier)
    }
}

/// A machine's journal. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    /// How many entries there have been.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<std::fs::File>,
    held: VecDeque<JournalEntry>,
    held_bytes: usize,
    /// Entries that are in the file only.
    evicted: u64,
    left_out: u64,
    cursor: Option<String>,
}

impl Journal {
    /// A journal whose entries are appended to the file at `path`, once there are any.
    pub(crate) fn new(path: PathBuf) -> Self {
        let shared = Shared { path, state: Mutex::default(), count: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the next stream of the same boot goes on.
    pub(crate) fn cursor(&self) -> Option<String> {
        self.lock().cursor.clone()
    }

    /// Another boot, in which no cursor of this one means anything.
    pub(crate) fn forget_cursor(&self) {
        self.lock().cursor = None;
    }

    /// Entries so far, and those of them that were too long to keep.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (*self.shared.count.borrow(), self.lock().left_out)
    }

    /// What is held in memory, the oldest first.
    pub(crate) fn entries(&self) -> Vec<JournalEntry> {
        self.lock().held.iter().cloned().collect()
    }

    /// The last entries, a line each, for an error.
    pub(crate) fn tail(&self) -> Vec<String> {
        let state = self.lock();
        state.held.iter().skip(state.held.len().saturating_sub(TAIL)).map(ToString::to_string).collect()
    }

    /// Takes whole entries out of `stream`, to the file and to memory.
    pub(crate) fn take(&self, stream: &mut ExportStream) -> std::io::Result<()> {
        let mut state = self.lock();
        let mut count = 0;
        while let Some(raw) = stream.next_entry() {
            let (entry, cursor) = read(raw);
            let file = match &mut state.file {
                Some(file) => file,
                None => {
                    let file =
                        fs_err::OpenOptions::new().create(true).append(true).open(&self.shared.path)?;
                    state.file.insert(file.into_parts().0)
                }
            };
            file.write_all(raw)?;
            state.cursor = cursor.or(state.cursor.take());
            state.held_bytes += entry.bytes();
            state.held.push_back(entry);
            while state.held_bytes > HELD
                && let Some(oldest) = state.held.pop_front()
            {
                state.held_bytes -= oldest.bytes();
                state.evicted += 1;
            }
            count += 1;
        }
        state.left_out += std::mem::take(&mut stream.left_out);
        drop(state);
        self.shared.count.send_modify(|all| *all += count);
        Ok(())
    }

    /// The first entry held whose message matches, now or once it comes; no limit.
    pub(crate) async fn wait_for(&self, pattern: &Regex) -> JournalEntry {
        let mut count = self.shared.count.subscribe();
        // The number of the first entry that was not looked at.
        let mut next = 0;
        loop {
            {
                let all = *count.borrow_and_update();
                let state = self.lock();
                let skip = usize::try_from(next.max(state.evicted) - state.evicted).unwrap_or(usize::MAX);
                if let Some(entry) =
                    state.held.iter().skip(skip).find(|entry| pattern.is_match(&entry.message))
                {
                    return entry.clone();
                }
                next = all.max(state.evicted + state.held.len() as u64);
            }
            // The sender is ours: it lives as long as this call.
            let _ = count.changed().await;
        }
    }
}

/// Bytes in the export format, as they come.
#[derive(Debug, Default)]
pub(crate) struct ExportStream {
    pending: Vec<u8>,
    /// Bytes of `pending` that were given out.
    start: usize,
    /// Where in `pending` the next field of an unfinished entry begins.
    field: usize,
    /// What is still to come of an entry that is left out: bytes of a binary field, then fields.
    skipping: Option<usize>,
    left_out: u64,
}

impl ExportStream {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.start);
        self.field -= self.start;
        self.start = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole entry, with the empty line that ends it.
    fn next_entry(&mut self) -> Option<&[u8]> {
        loop {
            if self.field - self.start > LONGEST_ENTRY || self.skipping.is_some() {
                self.skip();
            }
            match field(&self.pending[self.field..]) {
                Field::Whole(length) => self.field += length,
                Field::End if self.skipping.take().is_some() => {
                    self.field += 1;
                    self.start = self.field;
                }
                Field::End => {
                    self.field += 1;
                    let entry = self.start..self.field;
                    self.start = self.field;
                    // Between two streams of entries there may be more than one empty line.
                    if entry.len() > 1 {
                        return Some(&self.pending[entry]);
                    }
                }
                Field::Unfinished(length) => {
                    let so_far = self.pending.len() - self.field;
                    if self.field - self.start + length.max(so_far) > LONGEST_ENTRY {
                        // Of a field that is too long nothing is kept.
                        self.skipping = Some(length.saturating_sub(so_far));
                        self.left_out += 1;
                        self.pending.clear();
                        (self.start, self.field) = (0, 0);
                    }
                    return None;
                }
            }
        }
    }

    /// Drops what there is of an entry that is left out.
    fn skip(&mut self) {
        match &mut self.skipping {
            Some(rest) => {
                let now = (*rest).min(self.pending.len() - self.field);
                *rest -= now;
                self.field += now;
            }
            None => {
                self.skipping = Some(0);
                self.left_out += 1;
            }
        }
        self.start = self.field;
    }
}

/// What begins at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    /// A field of this length, its last newline included.
    Whole(usize),
    /// The empty line that ends an entry.
    End,
    /// Not all of it is there; it is at least so long.
    Unfinished(usize),
}

fn field(bytes: &[u8]) -> Field {
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Field::Unfinished(bytes.len() + 1);
    };
    if line == 0 {
        return Field::End;
    }
    if bytes[..line].contains(&b'=') {
        return Field::Whole(line + 1);
    }
    // A binary one: its name, a newline, its length, its bytes, a newline.
    let data = line + 1 + 8;
    let Some(length) = bytes.get(line + 1..data) else { return Field::Unfinished(data + 1) };
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    let whole = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(data + 1);
    if bytes.len() < whole { Field::Unfinished(whole) } else { Field::Whole(whole) }
}

/// What is asked for of a whole entry, and its cursor.
fn read(mut raw: &[u8]) -> (JournalEntry, Option<String>) {
    let mut entry =
        JournalEntry { message: String::new(), unit: None, identifier: None, priority: None, realtime_us: 0 };
    let (mut cursor, mut about) = (None, None);
    while let Field::Whole(length) = field(raw) {
        let (this, rest) = raw.split_at(length);
        raw = rest;
        let end = this.iter().position(|byte| matches!(byte, b'=' | b'\n')).unwrap_or(0);
        let value = if this[end] == b'=' { &this[end + 1..length - 1] } else { &this[end + 9..length - 1] };
        let text = || String::from_utf8_lossy(&value[..value.len().min(LONGEST_MESSAGE)]).into_owned();
        match &this[..end] {
            b"MESSAGE" => entry.message = text(),
            b"_SYSTEMD_UNIT" => entry.unit = Some(text()),
            b"UNIT" => about = Some(text()),
            b"SYSLOG_IDENTIFIER" => entry.identifier = Some(text()),
            b"PRIORITY" => entry.priority = text().parse().ok(),
            b"__REALTIME_TIMESTAMP" => entry.realtime_us = text().parse().unwrap_or(0),
            b"__CURSOR" => cursor = Some(text()),
            _ => {}
        }
    }
    entry.unit = about.or(entry.unit);
    (entry, cursor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(cursor: &str, message: &str) -> Vec<u8> {
        format!(
            "__CURSOR={cursor}\n__REALTIME_TIMESTAMP=1700000000000001\nPRIORITY=6\n_SYSTEMD_UNIT=a.service\n\
             SYSLOG_IDENTIFIER=a\nMESSAGE={message}\n\n"
        )
        .into_bytes()
    }

    fn binary(cursor: &str, message: &[u8]) -> Vec<u8> {
        let mut raw = format!("__CURSOR={cursor}\nMESSAGE\n").into_bytes();
        raw.extend((message.len() as u64).to_le_bytes());
        raw.extend(message);
        raw.extend(b"\nUNIT=b.service\n_SYSTEMD_UNIT=init.scope\n\n");
        raw
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().join("journal.export"));
        (directory, journal)
    }

    fn messages(journal: &Journal) -> Vec<String> {
        journal.entries().into_iter().map(|entry| entry.message).collect()
    }

    #[test]
    fn entries_have_their_fields_and_the_file_has_every_byte() {
        let (_directory, journal) = journal();
        let all = [entry("c=1;i=1", "one"), binary("c=2", b"two\n\nlines, x=y"), entry("c=3", "")].concat();
        let mut stream = ExportStream::default();
        stream.push(&all);
        journal.take(&mut stream).unwrap();
        assert_eq!(messages(&journal), ["one", "two\n\nlines, x=y", ""]);
        let entries = journal.entries();
        assert_eq!(entries[0].unit.as_deref(), Some("a.service"));
        assert_eq!((entries[0].priority, entries[0].realtime_us), (Some(6), 1_700_000_000_000_001));
        assert_eq!(entries[1].unit.as_deref(), Some("b.service"), "whom PID 1 speaks of");
        assert_eq!(journal.cursor().as_deref(), Some("c=3"));
        assert_eq!(std::fs::read(journal.path()).unwrap(), all);
    }

    #[test]
    fn an_entry_that_was_cut_off_is_not_in_the_file() {
        let (_directory, journal) = journal();
        let mut stream = ExportStream::default();
        stream.push(&[entry("1", "one"), entry("2", "two")[..20].to_vec()].concat());
        journal.take(&mut stream).unwrap();
        // The next stream begins after the last whole one.
        assert_eq!(journal.cursor().as_deref(), Some("1"));
        let mut stream = ExportStream::default();
        stream.push(&entry("2", "two"));
        journal.take(&mut stream).unwrap();
        assert_eq!(std::fs::read(journal.path()).unwrap(), [entry("1", "one"), entry("2", "two")].concat());
    }

    #[test]
    fn what_is_too_long_is_left_out_and_counted_and_memory_stays_bounded() {
        let (_directory, journal) = journal();
        let mut stream = ExportStream::default();
        let long = [binary("1", &vec![b'\n'; LONGEST_ENTRY + 1]), entry("2", "after")].concat();
        for chunk in long.chunks(100_000) {
            stream.push(chunk);
            journal.take(&mut stream).unwrap();
            assert!(stream.pending.len() <= LONGEST_ENTRY, "{}", stream.pending.len());
        }
        // Too long in sum, with no field that is.
        let many = [b"A=".to_vec(), vec![b'x'; LONGEST_ENTRY / 3], b"\n".to_vec()].concat().repeat(4);
        for chunk in [&many[..], b"MESSAGE=never\n\n", &entry("3", "last")].concat().chunks(1_000_000) {
            stream.push(chunk);
            journal.take(&mut stream).unwrap();
        }
        assert_eq!(messages(&journal), ["after", "last"]);
        assert_eq!(journal.counts(), (2, 2));
        let message = "y".repeat(LONGEST_MESSAGE * 2);
        for number in 0..400 {
            stream.push(&entry(&number.to_string(), &message));
            journal.take(&mut stream).unwrap();
        }
        assert!(journal.lock().held_bytes <= HELD);
        assert_eq!(journal.entries().last().unwrap().message.len(), LONGEST_MESSAGE);
    }

    #[tokio::test]
    async fn a_text_is_found_before_and_after_it_comes() {
        let (_directory, journal) = journal();
        let mut stream = ExportStream::default();
        stream.push(&entry("1", "the first"));
        journal.take(&mut stream).unwrap();
        let first = journal.wait_for(&Regex::new("fir").unwrap()).await;
        assert_eq!(first.to_string(), "a: the first");
        let later = async {
            tokio::task::yield_now().await;
            stream.push(&[entry("2", "other"), entry("3", "the second")].concat());
            journal.take(&mut stream).unwrap();
        };
        let pattern = Regex::new("^the s").unwrap();
        let (found, ()) = tokio::join!(journal.wait_for(&pattern), later);
        assert_eq!(found.message, "the second");
    }

    proptest! {
        /// However the bytes are cut.
        #[test]
        fn cuts_change_nothing(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            cuts in prop::collection::vec(1_usize..30, 1..40),
        ) {
            let all: Vec<u8> = messages.iter().flat_map(|message| binary("c", message)).collect();
            let (_directory, journal) = journal();
            let mut stream = ExportStream::default();
            let mut rest = &all[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                stream.push(now);
                journal.take(&mut stream).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(std::fs::read(journal.path()).unwrap(), all);
            prop_assert_eq!(journal.counts(), (messages.len() as u64, 0));
        }

        #[test]
        fn nothing_that_a_guest_writes_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (_directory, journal) = journal();
            let mut stream = ExportStream::default();
            for chunk in bytes.chunks(7) {
                stream.push(chunk);
                journal.take(&mut stream).unwrap();
            }
        }
    }
}
