//! One answer, three formats.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;
use tabled::{builder::Builder, settings::Style};

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// Every field, by the names in proto/README.md
    Json,
    /// One row for each thing answered about, with a header
    Csv,
}

/// An answer, ready for every format.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    /// All of it.
    pub(super) json: Value,
    /// Single facts, above the grids of a table.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Grids of a table.
    pub(super) grids: Vec<Grid>,
    /// The rows of CSV, numbers unrounded.
    pub(super) csv: Grid,
}

/// Rows of the same columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Grid {
    /// Names.
    pub(super) columns: Vec<String>,
    /// Cells, one for each column.
    pub(super) rows: Vec<Vec<String>>,
}

impl Grid {
    /// No rows yet.
    pub(super) fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }
}

/// Prints to the standard output. A reader that has seen enough, as `head` does, is no error.
pub(super) fn print(document: &Document, format: Format) -> anyhow::Result<()> {
    let text = render(document, format)?;
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the answer"),
        _ => Ok(()),
    }
}

/// The document as text, ending in a line's end.
pub(super) fn render(document: &Document, format: Format) -> anyhow::Result<String> {
    match format {
        Format::Table => Ok(table(document)),
        Format::Json => Ok(serde_json::to_string_pretty(&document.json)? + "\n"),
        Format::Csv => csv(&document.csv),
    }
}

fn table(document: &Document) -> String {
    let width = document.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let facts = document.facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n"));
    let mut parts: Vec<String> = Vec::new();
    if width > 0 {
        parts.push(facts.collect());
    }
    let shown = document.grids.iter().filter(|grid| !grid.rows.is_empty());
    parts.extend(shown.map(|grid| {
        let mut builder = Builder::new();
        builder.push_record(&grid.columns);
        for row in &grid.rows {
            builder.push_record(row);
        }
        format!("{}\n", builder.build().with(Style::rounded()))
    }));
    parts.join("\n")
}

fn csv(grid: &Grid) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&grid.columns)?;
    for row in &grid.rows {
        writer.write_record(row)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
