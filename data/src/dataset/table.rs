//! A list of one's own: a CSV with the columns `filename,label` and, if one likes, `fold` and `source`.
//!
//! Files are named relative to the folder that the list is in. Classes are the labels, sorted. Without `fold` a sweep's split
//! cannot be of kind `folds`; without `source`, or where it is empty, a clip is a source of its own. Other columns say
//! nothing, unless their name is nearly one of these.

use std::{io::Read, path::Path};

use super::{
    DatasetError,
    classes::Classes,
    listing::{Listing, Row, Rows, reader},
    name,
};

/// The list's name, in the dataset's folder; any other can be given as a path.
pub const LIST: &str = "clips.csv";

const COLUMNS: [&str; 4] = ["filename", "label", "fold", "source"];

/// Where the columns are.
struct Columns {
    filename: usize,
    label: usize,
    fold: Option<usize>,
    source: Option<usize>,
}

/// Reads the list's rows; `list` is its name in messages.
///
/// # Errors
/// A row that is not one of this list, or contradicts another.
pub fn parse(list: &Path, bytes: impl Read) -> Result<Listing, DatasetError> {
    let mut reader = reader(bytes);
    let csv_error = |error: &csv::Error| DatasetError::csv(list, error, "filename,label[,fold][,source]");
    let headers = reader.headers().map_err(|error| csv_error(&error))?;
    let columns = Columns::find(headers).map_err(|message| DatasetError::at(list, Some(1), message))?;
    let (mut rows, mut classes, mut record) = (Rows::default(), Classes::default(), csv::StringRecord::new());
    while reader.read_record(&mut record).map_err(|error| csv_error(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let at = |message| DatasetError::at(list, Some(line), message);
        let field = |column: usize| record.get(column).unwrap_or_default();
        let file = name::relative(field(columns.filename)).map_err(at)?;
        let label = field(columns.label);
        name::check_class(label).map_err(|what| at(format!("label {what}")))?;
        let class = classes.number(label).ok_or_else(|| DatasetError::too_many_classes(list))?;
        let fold = columns.fold.map(|column| fold(field(column))).transpose().map_err(at)?;
        let name = name::clip(&file);
        let source =
            columns.source.map(field).filter(|source| !source.is_empty()).unwrap_or(&name).to_owned();
        let row = Row { line: Some(line), file, name, class, fold, source, contradiction: None };
        rows.push(list, row, |class| classes.name(class).to_owned())?;
    }
    let mut rows = rows.finish(list)?;
    let (classes, indices) = classes.sorted();
    for row in &mut rows {
        row.class = indices.get(usize::from(row.class)).copied().unwrap_or_default();
    }
    Ok(Listing { classes, rows })
}

fn fold(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("fold must be a number from 0, got {text:?}: give every row one, or remove the column")
    })
}

impl Columns {
    fn find(headers: &csv::StringRecord) -> Result<Self, String> {
        let mut found = [None; COLUMNS.len()];
        for (at, header) in headers.iter().enumerate() {
            let exact = COLUMNS.iter().zip(&mut found).find(|(name, _)| **name == header);
            match exact {
                Some((name, Some(_))) => return Err(format!("column {name} is there twice: remove one")),
                Some((_, slot)) => *slot = Some(at),
                None => refuse_slip(header)?,
            }
        }
        let [filename, label, fold, source] = found;
        let missing = |name: &str| {
            let found = headers.iter().collect::<Vec<_>>().join(",");
            let separated = found.contains([';', '\t']);
            let advice = if separated {
                "separate the columns by commas"
            } else {
                "columns are filename,label[,fold][,source]"
            };
            format!("column {name} is missing, found {found:?}: {advice}")
        };
        Ok(Self {
            filename: filename.ok_or_else(|| missing("filename"))?,
            label: label.ok_or_else(|| missing("label"))?,
            fold,
            source,
        })
    }
}

/// A column whose name is nearly one of ours was meant to be it; leaving it out would change the split unseen.
fn refuse_slip(header: &str) -> Result<(), String> {
    let lower = header.to_lowercase();
    match COLUMNS.iter().find(|name| strsim::damerau_levenshtein(name, &lower) <= 1) {
        Some(name) => Err(format!("column {header:?} is not known: did you mean {name}?")),
        None => Ok(()),
    }
}
