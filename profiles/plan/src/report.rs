//! Problems as they are found.

use crate::error::{Kind, Problem};

/// All that has been found to be wrong; it has a file at a time.
pub(crate) struct Report {
    file: &'static str,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { file: "", problems: Vec::new() }
    }

    /// What is added from now on is about `file`.
    pub(crate) fn about(&mut self, file: &'static str) -> &mut Self {
        self.file = file;
        self
    }

    pub(crate) fn add(&mut self, line: usize, column: &str, kind: impl Into<Kind>) {
        let (column, kind) = (column.to_owned(), kind.into());
        self.problems.push(Problem { file: self.file, line, column, kind });
    }

    /// Whether something is wrong already in that place.
    pub(crate) fn has(&self, file: &str, line: usize, column: &str) -> bool {
        self.problems.iter().any(|p| p.file == file && p.line == line && p.column == column)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// In the order of the files, and of the lines in each.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        let order = |file: &str| crate::FILES.iter().position(|f| *f == file);
        self.problems.sort_by_key(|p| (order(p.file), p.line));
        self.problems
    }
}
