//! What a run shows: on a terminal one live line per lane, redrawn in place; on a pipe plain lines.
//!
//! Between two drawings the cursor rests at the first live line, so that whatever someone else prints lands there
//! and is cleared around, not torn. A line longer than the terminal is cut by the terminal itself: wrapping is off
//! while drawing.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::context::lock;
use crate::error::human;

/// More live lines than this would fill a small terminal.
const MOST_LINES: usize = 16;

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Verdicts only.
    Quiet,
    /// A line for every change.
    Plain,
    /// Live lines, redrawn in place.
    Live,
}

impl Mode {
    /// The mode that suits standard error.
    pub(crate) fn detect(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (quiet, std::io::stderr().is_terminal() && !dumb) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Live,
            (false, false) => Self::Plain,
        }
    }
}

pub(crate) struct Display {
    mode: Mode,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    lanes: Vec<LaneState>,
    next: u64,
    drawn: usize,
}

struct LaneState {
    id: u64,
    test: String,
    name: String,
    text: String,
    begun: Instant,
    since: Instant,
}

/// One line of the display: a machine of a test, usually. Clones are the same lane.
#[derive(Clone)]
pub struct Lane {
    display: Arc<Display>,
    id: u64,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Lane {
    /// Says what the lane is at now. The same text again changes nothing, not even its seconds.
    pub fn set(&self, text: impl Into<String>) {
        self.display.set(self.id, text.into());
    }

    /// Takes the line away; [`Lane::set`] does nothing then. The end of a test does this as well.
    pub fn close(&self) {
        let mut state = lock(&self.display.state);
        state.lanes.retain(|lane| lane.id != self.id);
        self.display.redraw(&mut state);
    }
}

impl Display {
    pub(crate) fn new(mode: Mode, out: Box<dyn Write + Send>) -> Arc<Self> {
        let state = State { out, lanes: Vec::new(), next: 0, drawn: 0 };
        let display = Arc::new(Self { mode, state: Mutex::new(state) });
        if mode == Mode::Live {
            let weak = Arc::downgrade(&display);
            // Without this thread only the seconds stand still.
            let _ = std::thread::Builder::new().name("rackless-display".into()).spawn(move || tick(&weak));
        }
        display
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The lane `name` of a test, made when it is not there yet.
    pub(crate) fn lane(self: &Arc<Self>, test: &str, name: &str, begun: Instant) -> Lane {
        let mut state = lock(&self.state);
        let known =
            state.lanes.iter().find(|lane| lane.test == test && lane.name == name).map(|lane| lane.id);
        let id = known.unwrap_or_else(|| {
            state.next += 1;
            let id = state.next;
            let (test, name) = (test.to_owned(), name.to_owned());
            state.lanes.push(LaneState { id, test, name, text: String::new(), begun, since: Instant::now() });
            id
        });
        Lane { display: Arc::clone(self), id }
    }

    /// Takes away all lanes of a test.
    pub(crate) fn close_test(&self, test: &str) {
        let mut state = lock(&self.state);
        state.lanes.retain(|lane| lane.test != test);
        self.redraw(&mut state);
    }

    /// A line of progress, not shown when quiet.
    pub(crate) fn progress(&self, line: &str) {
        if self.mode != Mode::Quiet {
            self.line(line);
        }
    }

    /// A line that is always shown, or several.
    pub(crate) fn line(&self, line: &str) {
        self.above(|out| {
            let _ = writeln!(out, "{line}");
        });
    }

    /// Lets someone else print whole lines: the live lines make room meanwhile.
    pub(crate) fn above(&self, print: impl FnOnce(&mut dyn Write)) {
        let mut state = lock(&self.state);
        self.erase(&mut state);
        // A terminal that is gone is no reason to fail a test.
        print(&mut state.out);
        let _ = state.out.flush();
        self.redraw(&mut state);
    }

    fn set(&self, id: u64, text: String) {
        let mut state = lock(&self.state);
        let Some(lane) = state.lanes.iter_mut().find(|lane| lane.id == id) else { return };
        if lane.text == text {
            return;
        }
        let line = format!("{} {}: {text} ({})", lane.test, lane.name, human(lane.begun.elapsed()));
        lane.text = text;
        lane.since = Instant::now();
        match self.mode {
            Mode::Quiet => {}
            Mode::Plain => {
                let _ = writeln!(state.out, "{line}");
                let _ = state.out.flush();
            }
            Mode::Live => self.redraw(&mut state),
        }
    }

    fn erase(&self, state: &mut State) {
        if state.drawn > 0 {
            let _ = write!(state.out, "\r\x1b[J");
            let _ = state.out.flush();
            state.drawn = 0;
        }
    }

    fn redraw(&self, state: &mut State) {
        if self.mode != Mode::Live || (state.drawn == 0 && state.lanes.is_empty()) {
            return;
        }
        let mut text = String::from("\r\x1b[J\x1b[?7l");
        let shown: Vec<&LaneState> = state.lanes.iter().filter(|lane| !lane.text.is_empty()).collect();
        let width = shown.iter().map(|lane| lane.name.len() + lane.test.len()).max().unwrap_or(0);
        let mut lines = 0;
        for lane in shown.iter().take(MOST_LINES) {
            let pad = width - lane.name.len() - lane.test.len();
            let _ = writeln!(
                text,
                "{} {}{:pad$}  {:>4} s  {}",
                lane.test,
                lane.name,
                "",
                lane.since.elapsed().as_secs(),
                lane.text.replace(['\n', '\r', '\x1b'], " "),
            );
            lines += 1;
        }
        if shown.len() > MOST_LINES {
            let _ = writeln!(text, "… and {} more", shown.len() - MOST_LINES);
            lines += 1;
        }
        text.push_str("\x1b[?7h");
        if lines > 0 {
            let _ = write!(text, "\x1b[{lines}A\r");
        }
        state.drawn = lines;
        let _ = state.out.write_all(text.as_bytes());
        let _ = state.out.flush();
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let mut state = std::mem::replace(
            self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner),
            State { out: Box::new(std::io::sink()), lanes: Vec::new(), next: 0, drawn: 0 },
        );
        self.erase(&mut state);
    }
}

/// Redraws once a second, for the seconds, until the display is gone.
fn tick(display: &Weak<Display>) {
    while let Some(display) = display.upgrade() {
        display.redraw(&mut lock(&display.state));
        drop(display);
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8_lossy(&lock(&self.0)).into_owned()
        }

        /// What a terminal would show: the few sequences that the display uses, replayed.
        fn shown(&self) -> Vec<String> {
            let (mut rows, mut row, mut column) = (vec![String::new()], 0, 0);
            let text = self.text();
            let mut rest = text.as_str();
            while let Some(c) = rest.chars().next() {
                if let Some(sequence) = rest.strip_prefix("\x1b[") {
                    let end = sequence.find(|c: char| c.is_ascii_alphabetic()).expect("a whole sequence");
                    match (&sequence[..end], &sequence[end..=end]) {
                        ("", "J") => {
                            rows.truncate(row + 1);
                            rows[row].truncate(column);
                        }
                        (count, "A") => row -= count.parse::<usize>().expect("a count"),
                        ("?7", "l" | "h") => {}
                        other => panic!("unknown sequence {other:?}"),
                    }
                    rest = &sequence[end + 1..];
                    continue;
                }
                match c {
                    '\r' => column = 0,
                    '\n' => {
                        (row, column) = (row + 1, 0);
                        if row == rows.len() {
                            rows.push(String::new());
                        }
                    }
                    c => {
                        if column < rows[row].len() {
                            rows[row].replace_range(column..=column, &c.to_string());
                        } else {
                            rows[row].push(c);
                        }
                        column += 1;
                    }
                }
                rest = &rest[c.len_utf8()..];
            }
            rows.retain(|row| !row.is_empty());
            rows
        }
    }

    #[test]
    fn live_lines_are_redrawn_below_what_is_printed() {
        let screen = Screen::default();
        let display = Display::new(Mode::Live, Box::new(screen.clone()));
        let begun = Instant::now();
        let one = display.lane("forms", "server-1", begun);
        let two = display.lane("forms", "server-2", begun);
        one.set("Firmware");
        two.set("Firmware");
        display.line("step one");
        one.set("Kernel, which has a longer text");
        display.line("step two");
        one.set("Init");
        assert_eq!(
            screen.shown(),
            ["step one", "step two", "forms server-1     0 s  Init", "forms server-2     0 s  Firmware"]
        );
        two.close();
        assert_eq!(screen.shown(), ["step one", "step two", "forms server-1     0 s  Init"]);
        display.close_test("forms");
        one.set("ignored");
        assert_eq!(screen.shown(), ["step one", "step two"]);
    }

    #[test]
    fn a_pipe_gets_plain_lines_and_each_change_once() {
        let screen = Screen::default();
        let display = Display::new(Mode::Plain, Box::new(screen.clone()));
        let lane = display.lane("forms", "server-1", Instant::now());
        for text in ["Kernel", "Kernel", "Init"] {
            lane.set(text);
        }
        assert!(!screen.text().contains('\x1b'));
        let lines: Vec<_> =
            screen.text().lines().map(|line| line.split(" (").next().map(str::to_owned)).collect();
        assert_eq!(
            lines,
            [Some("forms server-1: Kernel".to_owned()), Some("forms server-1: Init".to_owned())]
        );
    }

    #[test]
    fn quiet_shows_verdicts_only() {
        let screen = Screen::default();
        let display = Display::new(Mode::Quiet, Box::new(screen.clone()));
        display.lane("forms", "server-1", Instant::now()).set("Kernel");
        display.progress("a step");
        display.line("the verdict");
        assert_eq!(screen.text(), "the verdict\n");
    }
}
