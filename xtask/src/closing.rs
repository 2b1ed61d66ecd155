//! The closing lines of test runners: kept to be shown again at the very end, and summed.

use std::fmt::Write as _;

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// The binary whose result comes next: cargo names it before it starts it.
    running: String,
    lines: Vec<String>,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Closing {
    /// Looks at one line of a runner's output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = without_escapes(line);
        let line = line.trim();
        if let Some(binary) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests ")) {
            binary.split(" (").next().unwrap_or(binary).clone_into(&mut self.running);
        } else if line.starts_with("test result: ") {
            let counts = line.split(['.', ';']);
            self.count(counts);
            self.lines.push(format!("{}: {line}", self.running));
        } else if line.starts_with("Summary [") {
            // nextest: `Summary [   1.2s] 12 tests run: 11 passed (1 slow), 1 failed, 3 skipped`
            let (_, counts) = line.split_once("run: ").unwrap_or_default();
            self.count(counts.split(','));
            self.lines.push(format!("nextest: {line}"));
        }
    }

    fn count<'a>(&mut self, parts: impl Iterator<Item = &'a str>) {
        for part in parts {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" | "timed" => self.failed += number,
                "ignored" | "skipped" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Takes another stage's lines in.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lines.extend(other.lines.iter().cloned());
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// `12 passed, 0 failed, 1 ignored`.
    pub(crate) fn counts(&self) -> String {
        format!("{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }

    /// The lines of binaries that had tests, each behind its binary's name.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for line in self.lines.iter().filter(|line| !line.contains(" 0 passed; 0 failed; 0 ignored")) {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// Drops colours (ECMA-48 CSI sequences).
fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().skip_while(|c| *c == '[').find(|c| ('@'..='~').contains(c));
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_tests_lines_are_kept_with_their_binary_and_summed() {
        let mut closing = Closing::default();
        for line in [
            "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m tests/boot.rs (target/debug/deps/boot-0123)",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 61.02s",
            "     Running unittests src/lib.rs (target/debug/deps/empty-0123)",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "     Running tests/cluster_vlans.rs (target/debug/deps/cluster_vlans-0123)",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            closing.line(line);
        }
        assert_eq!(closing.counts(), "4 passed, 1 failed, 1 ignored");
        let lines = closing.lines();
        assert!(lines.starts_with("tests/boot.rs: test result: ok. 2 passed"), "{lines}");
        assert_eq!(lines.lines().count(), 2, "a binary without tests is not worth a line: {lines}");
    }

    #[test]
    fn nextests_summary_is_summed() {
        let mut closing = Closing::default();
        closing.line(
            "     Summary [   1.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 3 skipped",
        );
        assert_eq!(closing.counts(), "10 passed, 2 failed, 3 ignored");
    }

    #[test]
    fn other_output_counts_for_nothing() {
        let mut closing = Closing::default();
        closing.line("my test printed: 3 passed");
        assert!(closing.is_empty());
    }
}
