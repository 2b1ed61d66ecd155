//! Lines out of a byte stream.

/// The longest line that is kept, in bytes. QEMU's longest answer, `query-qmp-schema`, has a fifth of a megabyte.
pub const LINE_MAX: usize = 16 << 20;

/// Cuts a stream into lines, in bounded memory.
#[derive(Debug)]
pub struct LineReader {
    buffer: Vec<u8>,
    limit: usize,
    /// Bytes of the current line that were thrown away as it was too long.
    skipped: usize,
}

/// A line that was longer than the limit and was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Its length in bytes.
    pub length: usize,
}

impl Default for LineReader {
    fn default() -> LineReader {
        LineReader::with_limit(LINE_MAX)
    }
}

impl LineReader {
    /// A reader that passes over lines of more than `limit` bytes.
    pub fn with_limit(limit: usize) -> LineReader {
        LineReader { buffer: Vec::new(), limit, skipped: 0 }
    }

    /// Adds what was read and hands out each line that is complete now, without its newline. Empty lines are left out.
    pub fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(Result<&[u8], TooLong>)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.skipped > 0 {
                on_line(Err(TooLong { length: self.skipped }));
            } else {
                let line = self.buffer.trim_ascii();
                if !line.is_empty() {
                    on_line(Ok(line));
                }
            }
            self.buffer.clear();
            self.skipped = 0;
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipped > 0 || self.buffer.len() + bytes.len() > self.limit {
            self.skipped += self.buffer.len() + bytes.len();
            self.buffer = Vec::new();
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Result<Vec<u8>, TooLong>> {
        let mut reader = LineReader::with_limit(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            reader.push(chunk, |line| lines.push(line.map(<[u8]>::to_vec)));
        }
        lines
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_the_next_is_read() {
        let found = lines(&[b"abc", b"defg\r\nhi\r\n\n"], 4);
        assert_eq!(found, [Err(TooLong { length: 8 }), Ok(b"hi".to_vec())]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(&chunks, 16), lines(&[&bytes], 16));
        }
    }
}
