//! A walk over a TOML document that gathers every problem, each with its line and key, and never stops at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::error::{Kind, Problem};

/// A value with the place it was read from.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) key: String,
    pub(super) line: usize,
}

impl<T> At<T> {
    /// The same place with another value.
    pub(super) fn with<U>(&self, value: U) -> At<U> {
        At { value, key: self.key.clone(), line: self.line }
    }
}

/// The problems found so far.
pub(super) struct Report {
    line_ends: Vec<usize>,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(text: &str) -> Self {
        let line_ends =
            text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at).collect();
        Self { line_ends, problems: Vec::new() }
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.line_ends.partition_point(|&end| end < span.start) + 1
    }

    /// Notes a problem with the value at a place.
    pub(super) fn add<T>(&mut self, at: &At<T>, kind: Kind) {
        self.add_at(at.line, at.key.clone(), kind);
    }

    pub(super) fn add_at(&mut self, line: usize, key: String, kind: Kind) {
        self.problems.push(Problem { line, key, kind });
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }
}

/// One value of the document.
pub(super) struct Node<'d> {
    value: &'d DeValue<'d>,
    key: String,
    line: usize,
}

impl<'d> Node<'d> {
    pub(super) fn string(&self, report: &mut Report, expected: &'static str) -> Option<At<String>> {
        let text = self.value.as_str().map(|text| self.at(text.to_owned()));
        text.or_else(|| self.wrong_type(report, expected))
    }

    /// A string that `parse` understands; what it does not is a problem of the kind `bad` makes of it.
    pub(super) fn parsed<T, E>(
        &self,
        report: &mut Report,
        expected: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
        bad: impl Fn(String) -> Kind,
    ) -> Option<At<T>> {
        let text = self.string(report, expected)?;
        match parse(&text.value) {
            Ok(value) => Some(text.with(value)),
            Err(_) => {
                report.add(&text, bad(text.value.clone()));
                None
            }
        }
    }

    /// One of the words of a table of words and their meanings.
    pub(super) fn word(
        &self,
        report: &mut Report,
        expected: &'static str,
        known: &'static [&'static str],
    ) -> Option<At<&'static str>> {
        self.parsed(
            report,
            expected,
            |text| known.iter().copied().find(|word| *word == text).ok_or(()),
            |found| Kind::UnknownWord { found, known },
        )
    }

    /// An integer from `range`; one outside is a problem of the kind `bad` makes of its text.
    pub(super) fn integer<T: TryFrom<i64>>(
        &self,
        report: &mut Report,
        range: Range<i64>,
        expected: &'static str,
        bad: impl Fn(String) -> Kind,
    ) -> Option<At<T>> {
        let Some(integer) = self.value.as_integer() else { return self.wrong_type(report, expected) };
        let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|v| range.contains(v));
        let value = value.and_then(|v| T::try_from(v).ok());
        if value.is_none() {
            report.add(&self.at(()), bad(integer.to_string()));
        }
        value.map(|value| self.at(value))
    }

    /// The strings of an array; what is no string is a problem and left out.
    pub(super) fn strings(&self, report: &mut Report, expected: &'static str) -> Option<At<Vec<At<String>>>> {
        let Some(array) = self.value.as_array() else { return self.wrong_type(report, expected) };
        Some(self.at(
            self.elements(report, array).iter().filter_map(|node| node.string(report, expected)).collect(),
        ))
    }

    pub(super) fn section(&self, report: &mut Report, expected: &'static str) -> Option<Section<'d>> {
        let Some(table) = self.value.as_table() else { return self.wrong_type(report, expected) };
        Some(Section { table, key: self.key.clone(), line: self.line })
    }

    /// This place, with a value.
    pub(super) fn at<T>(&self, value: T) -> At<T> {
        At { value, key: self.key.clone(), line: self.line }
    }

    fn elements(&self, report: &Report, array: &'d DeArray<'d>) -> Vec<Node<'d>> {
        let element = |(index, value): (usize, &'d Spanned<DeValue<'d>>)| Node {
            value: value.get_ref(),
            key: format!("{}[{index}]", self.key),
            line: report.line(&value.span()),
        };
        array.iter().enumerate().map(element).collect()
    }

    fn wrong_type<T>(&self, report: &mut Report, expected: &'static str) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        report.add(&self.at(()), Kind::WrongType { found, expected });
        None
    }
}

/// One table of the document.
pub(super) struct Section<'d> {
    table: &'d DeTable<'d>,
    key: String,
    line: usize,
}

impl<'d> Section<'d> {
    pub(super) fn root(table: &'d DeTable<'d>) -> Self {
        Self { table, key: String::new(), line: 1 }
    }

    /// Every other key than these is a problem.
    pub(super) fn only(&self, report: &mut Report, known: &'static [&'static str]) {
        for (name, node) in self.entries(report) {
            if !known.contains(&name.as_str()) {
                report.add(&node.at(()), Kind::UnknownKey { key: name, known });
            }
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, report: &Report, name: &str) -> Option<Node<'d>> {
        let (key, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some(self.node(report, key.get_ref(), &key.span(), value))
    }

    /// The value of a key; that it is missing is a problem.
    pub(super) fn need(&self, report: &mut Report, name: &str, expected: &'static str) -> Option<Node<'d>> {
        let node = self.get(report, name);
        if node.is_none() {
            report.add_at(self.line, join(&self.key, name), Kind::Missing { expected });
        }
        node
    }

    /// All keys and their values, in the order of the file.
    pub(super) fn entries(&self, report: &Report) -> Vec<(String, Node<'d>)> {
        let entry = |(key, value): (&'d Spanned<_>, &'d Spanned<_>)| {
            let name: &std::borrow::Cow<'d, str> = key.get_ref();
            (name.to_string(), self.node(report, name, &key.span(), value))
        };
        self.table.iter().map(entry).collect()
    }

    /// Where the section begins.
    pub(super) fn at<T>(&self, value: T) -> At<T> {
        At { value, key: self.key.clone(), line: self.line }
    }

    fn node(
        &self,
        report: &Report,
        name: &str,
        span: &Range<usize>,
        value: &'d Spanned<DeValue<'d>>,
    ) -> Node<'d> {
        Node { value: value.get_ref(), key: join(&self.key, name), line: report.line(span) }
    }
}

/// A dotted path, with a part in quotes where TOML needs them.
fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}
