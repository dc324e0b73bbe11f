//! What is wrong with a sweep file.

use std::{fmt, io, ops::Range, path::Path};

/// What is wrong, in which file and line, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepError {
    file: String,
    /// Line and its text, where a line is to blame.
    line: Option<(usize, String)>,
    message: String,
}

impl SweepError {
    pub(super) fn read(path: &Path, source: &io::Error) -> Self {
        Self {
            file: path.display().to_string(),
            line: None,
            message: format!("cannot read the sweep file: {source}"),
        }
    }

    pub(super) fn new(path: &Path, message: impl Into<String>) -> Self {
        Self { file: path.display().to_string(), line: None, message: message.into() }
    }

    /// Points at the line of `text` where `span` begins.
    pub(super) fn at(mut self, text: &str, span: Option<Range<usize>>) -> Self {
        if let Some(before) = span.and_then(|span| text.get(..span.start)) {
            let number = before.matches('\n').count() + 1;
            let line = text.lines().nth(number - 1).unwrap_or_default();
            self.line = Some((number, line.trim_end().to_owned()));
        }
        self
    }

    /// The line to blame, from 1.
    pub fn line(&self) -> Option<usize> {
        self.line.as_ref().map(|(number, _)| *number)
    }
}

impl fmt::Display for SweepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.line {
            Some((number, line)) => {
                write!(f, "{}:{number}: {}\n  {number} | {line}", self.file, self.message)
            }
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for SweepError {}

/// `; did you mean …?` for the nearest of `known`, or a list of all of them.
pub(super) fn hint<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(2));
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}? Known: {}", known.join(", ")),
        None => format!("known: {}", known.join(", ")),
    }
}
