//! What a console said so far, in bounded memory: text without escape sequences, stage and findings.
//!
//! Pure: bytes and times in, lines and findings out, and it does not matter how the bytes are cut into chunks.

use std::time::Duration;

use super::scanner::{Finding, Scanner};
use super::stage::{Stage, StageDetector};
use shell::escape::Stripper;

/// How much text is kept for waits; older text is on disk only.
const TEXT_MAX: usize = 4 << 20;
/// A longer line is cut for the log and the scanner.
const LINE_MAX: usize = 4096;
/// The most findings that are kept, of all kinds and of each.
const FINDINGS_MAX: usize = 256;
const FINDINGS_OF_A_KIND_MAX: usize = 32;

/// A place in a console's text (escape sequences left out), to wait for what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub(super) u64);

impl Position {
    /// The first byte after power-on.
    pub const START: Position = Position(0);
}

#[derive(Debug, Default)]
pub(super) struct Transcript {
    stripper: Stripper,
    /// The bytes of a character that was cut by a chunk's end.
    cut: Vec<u8>,
    text: String,
    /// How much was dropped before `text`.
    dropped: u64,
    line: String,
    line_began: Duration,
    scanner: Scanner,
    stage: Option<Stage>,
    findings: Vec<Finding>,
}

/// A line and when its first character came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at: Duration,
    pub(super) text: String,
}

impl Transcript {
    /// Takes what came; gives the lines that ended with it.
    pub(super) fn feed(&mut self, bytes: &[u8], at: Duration) -> Vec<Line> {
        // Escape sequences alone count: OVMF clears the screen before it has something to say.
        if !bytes.is_empty() {
            self.reach(Stage::Firmware);
        }
        let mut stripped = std::mem::take(&mut self.cut);
        self.stripper.push(bytes, &mut stripped);
        let text = self.decode(&stripped);
        let mut lines = Vec::new();
        for c in text.chars() {
            if self.line.is_empty() {
                self.line_began = at;
            }
            if c == '\n' {
                lines.push(self.end_line());
            } else {
                self.line.push(c);
                if self.line.len() >= LINE_MAX {
                    lines.push(self.end_line());
                }
            }
        }
        self.text.push_str(&text);
        self.trim();
        if let Some(stage) = StageDetector::of_line(&self.line) {
            self.reach(stage);
        }
        if let Some(finding) = self.scanner.beginning(&self.line, self.line_began) {
            self.add(finding);
        }
        lines
    }

    /// The line that has not ended yet, at the end of a capture.
    pub(super) fn last_line(&mut self) -> Option<Line> {
        (!self.line.is_empty()).then(|| self.end_line())
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.unwrap_or(Stage::Spawned)
    }

    /// After a reset the stages begin again.
    pub(super) fn begin_again(&mut self) {
        self.stage = None;
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The position after all text so far.
    pub(super) fn position(&self) -> Position {
        Position(self.dropped + self.text.len() as u64)
    }

    /// The kept text and where in it a position is.
    pub(super) fn text_from(&self, from: Position) -> (&str, usize) {
        let index =
            usize::try_from(from.0.saturating_sub(self.dropped)).unwrap_or(usize::MAX).min(self.text.len());
        // A position is always between characters, unless the caller made it of another console.
        (
            &self.text,
            (index..=self.text.len()).find(|&i| self.text.is_char_boundary(i)).unwrap_or(self.text.len()),
        )
    }

    pub(super) fn position_of(&self, index: usize) -> Position {
        Position(self.dropped + index as u64)
    }

    /// The last lines that are not blank, oldest first.
    pub(super) fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.text.lines().rev().map(str::trim_end).filter(|line| !line.is_empty());
        let mut tail: Vec<String> = lines.take(count).map(str::to_owned).collect();
        tail.reverse();
        tail
    }

    fn reach(&mut self, stage: Stage) {
        self.stage = self.stage.max(Some(stage));
    }

    fn end_line(&mut self) -> Line {
        let text = std::mem::take(&mut self.line);
        if let Some(stage) = StageDetector::of_line(&text) {
            self.reach(stage);
        }
        let found: Vec<Finding> = self.scanner.line(&text, self.line_began).collect();
        found.into_iter().for_each(|finding| self.add(finding));
        Line { at: self.line_began, text }
    }

    fn add(&mut self, finding: Finding) {
        let alike = self.findings.iter().filter(|other| other.kind == finding.kind).count();
        if self.findings.len() < FINDINGS_MAX && alike < FINDINGS_OF_A_KIND_MAX {
            self.findings.push(finding);
        }
    }

    /// As UTF-8, what is not replaced, and a character that is cut kept for the next chunk.
    fn decode(&mut self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        loop {
            match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        self.cut = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    bytes = &rest[length..];
                }
            }
        }
    }

    fn trim(&mut self) {
        if self.text.len() <= TEXT_MAX {
            return;
        }
        // A quarter at once, so that this is rare; at a line's end where there is one.
        let at_least = self.text.len() - TEXT_MAX * 3 / 4;
        let at_least =
            (at_least..self.text.len()).find(|&i| self.text.is_char_boundary(i)).unwrap_or(self.text.len());
        let end = self.text[at_least..].find('\n').map_or(at_least, |newline| at_least + newline + 1);
        self.text.drain(..end);
        self.dropped += end as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::scanner::FindingKind;
    use super::*;
    use proptest::prelude::*;

    const AT: Duration = Duration::from_secs(3);

    /// A boot by OVMF and systemd-boot that ends in emergency mode, as it comes over the wire.
    const BOOT: &str = "\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01HBdsDxe: loading Boot0002 \"UEFI Misc Device\"\r\n\
        EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path\r\n\
        [    0.000000] Linux version 6.12.43+deb13-cloud-amd64 (gcc-14) #1 SMP\r\n\
        [    2.100000] Run /init as init process\r\n\
        Loading, please wait...\r\n\
        [    4.000000] systemd[1]: systemd 257.8-1~deb13u2 running in system mode\r\n\
        \r\nWelcome to \x1b[1mDebian GNU/Linux 13 (trixie)\x1b[0m!\r\n\r\n\
        [\x1b[0;32m  OK  \x1b[0m] Created slice \x1b[0;1;39msystem-getty.slice\x1b[0m - Slice /system/getty.\r\n\
        \r\x1b[K[\x1b[0;31m*     \x1b[0m] (1 of 2) Job dev-sda1.device/start running (5s / 1min 30s)\r\
        \x1b[K[\x1b[0;1;31m TIME \x1b[0m] Timed out waiting for device \x1b[0;1;39mdev-sda1.device\x1b[0m - /dev/sda1.\r\n\
        [\x1b[0;1;38:5:185mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mdata.mount\x1b[0m - /data.\r\n\
        You are in emergency mode. After logging in, type \"journalctl -xb\" to view\r\n\
        system logs, \"systemctl reboot\" to reboot, or \"exit\"\r\n\
        to continue bootup.\r\n\r\n\
        Give root password for maintenance\r\n(or press Control-D to continue): ";

    type Outcome = (String, Stage, Vec<Finding>, Vec<Line>);

    fn digest<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut transcript = Transcript::default();
        let mut lines: Vec<Line> = chunks.into_iter().flat_map(|chunk| transcript.feed(chunk, AT)).collect();
        lines.extend(transcript.last_line());
        (transcript.text.clone(), transcript.stage(), transcript.findings().to_vec(), lines)
    }

    #[test]
    fn a_boot_into_emergency_mode() {
        let (text, stage, findings, lines) = digest([BOOT.as_bytes()]);
        assert_eq!(stage, Stage::Init);
        assert!(!text.contains('\x1b'));
        assert!(
            lines
                .iter()
                .any(|line| line.text == "[  OK  ] Created slice system-getty.slice - Slice /system/getty.")
        );
        let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
        use FindingKind::{DeviceTimeout, EmergencyMode, FailedUnit};
        assert_eq!(kinds, [DeviceTimeout, FailedUnit, EmergencyMode, EmergencyMode]);
        let advice = findings[2].advice.as_deref().unwrap();
        assert!(advice.contains("names /dev/sda1") && advice.contains("virtio-scsi"), "{advice}");
    }

    #[test]
    fn the_stage_goes_up_as_lines_come() {
        let mut transcript = Transcript::default();
        let mut seen = vec![transcript.stage()];
        for chunk in BOOT.as_bytes().chunks(7) {
            transcript.feed(chunk, AT);
            seen.push(transcript.stage());
        }
        assert!(seen.is_sorted());
        seen.dedup();
        assert_eq!(seen, [Stage::Spawned, Stage::Firmware, Stage::Bootloader, Stage::Kernel, Stage::Init]);
        transcript.begin_again();
        assert_eq!(transcript.stage(), Stage::Spawned);
    }

    #[test]
    fn memory_is_bounded_and_positions_stay_right() {
        let mut transcript = Transcript::default();
        let chunk = format!("{}\n", "0123456789abcdef".repeat(64)).repeat(64);
        for _ in 0..100 {
            transcript.feed(chunk.as_bytes(), AT);
            assert!(transcript.text.len() <= TEXT_MAX);
        }
        let before = transcript.position();
        transcript.feed(b"here\n", AT);
        let (text, index) = transcript.text_from(before);
        assert_eq!(&text[index..], "here\n");
        assert_eq!(transcript.text_from(Position::START).1, 0, "what was dropped is skipped");
        let endless = transcript.feed(&vec![b'x'; 3 * LINE_MAX], AT);
        assert_eq!(endless.len(), 3);
        transcript.feed("[    1.0] I/O error, dev vda\n".repeat(1000).as_bytes(), AT);
        assert_eq!(transcript.findings().len(), FINDINGS_OF_A_KIND_MAX);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(cuts in proptest::collection::vec(0usize..BOOT.len(), 0..40)) {
            let mut cuts = cuts;
            cuts.extend([0, BOOT.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &BOOT.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(digest(chunks), digest([BOOT.as_bytes()]));
        }

        #[test]
        fn arbitrary_bytes_are_read_alike_in_any_chunks(
            bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
            size in 1usize..20,
        ) {
            prop_assert_eq!(digest(bytes.chunks(size)), digest([bytes.as_slice()]));
        }
    }
}
