//! A CSV table as people keep it: spaces around its cells, letters large and small, columns that are not for us.

use crate::error::Kind;
use crate::report::Report;

/// A table whose needed columns have been found, as far as they are there.
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    /// The place of each needed column, in the order in which they were asked for.
    places: Vec<Option<usize>>,
    needed: &'static [&'static str],
    /// How many columns there are.
    width: usize,
}

/// One line of it.
pub(crate) struct Row {
    /// Its line in the file, counted from 1.
    pub(crate) line: usize,
    cells: Vec<String>,
}

/// Reads a table. What is wrong with it is reported, and what can be read is given all the same.
pub(crate) fn read(bytes: &[u8], needed: &'static [&'static str], report: &mut Report) -> Table {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let mut rows = Vec::new();
    let mut record = csv::ByteRecord::new();
    // Reading from memory has no errors, and neither has a table whose lines may have any length.
    while let Ok(true) = reader.read_byte_record(&mut record) {
        let line = line_of(bytes, record.position().map_or(0, csv::Position::byte));
        let mut cells = Vec::with_capacity(record.len());
        for cell in &record {
            match str::from_utf8(cell) {
                Ok(text) => cells.push(text.trim().to_lowercase()),
                Err(_) => {
                    report.add(line, "", Kind::NotUtf8);
                    cells.push(char::REPLACEMENT_CHARACTER.to_string());
                }
            }
        }
        if cells.iter().any(|cell| !cell.is_empty()) {
            rows.push(Row { line, cells });
        }
    }
    let mut rows = rows.into_iter();
    let Some(head) = rows.next() else {
        report.add(1, "", Kind::EmptyTable { expected: needed });
        return Table { rows: Vec::new(), places: vec![None; needed.len()], needed, width: 0 };
    };
    let mut places = Vec::new();
    for &column in needed {
        let mut found = head.cells.iter().enumerate().filter(|(_, cell)| *cell == column);
        places.push(found.next().map(|(place, _)| place));
        if found.next().is_some() {
            report.add(head.line, column, Kind::DuplicateColumn);
        } else if places.last() == Some(&None) {
            report.add(head.line, column, Kind::MissingColumn { column, known: head.cells.clone() });
        }
    }
    Table { rows: rows.collect(), places, needed, width: head.cells.len() }
}

impl Table {
    /// The needed cells of a row, in the order of the columns that were asked for; `None` for each that is not there,
    /// which has been reported then. `expected` says what should be in each.
    pub(crate) fn cells<'r, const N: usize>(
        &self,
        row: &'r Row,
        expected: [&'static str; N],
        report: &mut Report,
    ) -> [Option<&'r str>; N] {
        let found = row.cells.len();
        if found != self.width {
            report.add(row.line, "", Kind::WrongWidth { found, expected: self.width });
        }
        std::array::from_fn(|index| {
            let cell = row.cells.get((*self.places.get(index)?)?)?;
            if cell.is_empty() {
                report.add(row.line, self.needed[index], Kind::Empty { expected: expected[index] });
                return None;
            }
            Some(cell.as_str())
        })
    }
}

/// The line of the first byte that is no line's end from `offset` on: a reader of CSV counts those with what follows.
fn line_of(bytes: &[u8], offset: u64) -> usize {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let ends = bytes[offset..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    1 + bytes[..offset + ends].iter().filter(|byte| **byte == b'\n').count()
}
