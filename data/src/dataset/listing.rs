//! What a list says, before anyone looks for its files.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::DatasetError;

/// Clips at most: rows are 32-bit numbers.
pub const CLIPS_MAX: usize = 16_000_000;

/// Bytes of a list at most: [`CLIPS_MAX`] rows of a generous length.
pub const LIST_BYTES_MAX: u64 = 2 << 30;

/// One clip as its list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line in the list, from 1; none where folders are the list.
    pub line: Option<u64>,
    /// The file, relative to the dataset's folder, with `/` between folders.
    pub file: String,
    /// The clip's name.
    pub name: String,
    /// Class index.
    pub class: u16,
    /// The dataset's own fold, if it has folds.
    pub fold: Option<u32>,
    /// The recording it was cut from.
    pub source: String,
    /// Why the row cannot be right, if its name says otherwise.
    pub contradiction: Option<String>,
}

/// A list that can be trusted as far as it goes: files are inside the folder, names are unique, classes are consistent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Names of the classes, by class index.
    pub classes: Vec<String>,
    /// Clips, in the list's order.
    pub rows: Vec<Row>,
}

/// Collects rows and keeps their names apart.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    by_name: BTreeMap<String, usize>,
}

impl Rows {
    /// Adds a row, or says why it cannot stand beside the others; `class_of` gives a class's name for that.
    pub(super) fn push(
        &mut self,
        list: &Path,
        row: Row,
        class_of: impl Fn(u16) -> String,
    ) -> Result<(), DatasetError> {
        if self.rows.len() == CLIPS_MAX {
            return Err(DatasetError::TooMany {
                path: list.to_owned(),
                what: "clips",
                most: CLIPS_MAX as u64,
            });
        }
        if let Some(first) = self.by_name.get(&row.name).and_then(|at| self.rows.get(*at)) {
            let message = clash(first, &row, class_of);
            return Err(DatasetError::at(list, row.line, message));
        }
        self.by_name.insert(row.name.clone(), self.rows.len());
        self.rows.push(row);
        Ok(())
    }

    /// All of them, at least one.
    pub(super) fn finish(self, list: &Path) -> Result<Vec<Row>, DatasetError> {
        if self.rows.is_empty() { Err(DatasetError::Empty(list.to_owned())) } else { Ok(self.rows) }
    }
}

/// Two rows of one name.
fn clash(first: &Row, second: &Row, class_of: impl Fn(u16) -> String) -> String {
    let there = first.line.map(|line| format!(" on line {line}")).unwrap_or_default();
    let (file, other, name) = (&second.file, &first.file, &second.name);
    if file != other {
        return format!(
            "{file:?} would be the clip {name:?}, as {other:?}{there} is: remove one of them, or give it another name"
        );
    }
    if first.class == second.class {
        return format!("clip {name:?} is already listed{there}: remove one of the rows");
    }
    let [first, second] = [first.class, second.class].map(class_of);
    format!("{file:?} is {second:?} here and {first:?}{there}: remove the row that is wrong")
}

/// Opens a list of at most [`LIST_BYTES_MAX`].
pub(super) fn open(list: &Path) -> Result<io::Take<fs::File>, DatasetError> {
    let file = fs::File::open(list).map_err(DatasetError::io(list))?;
    let metadata = file.metadata().map_err(DatasetError::io(list))?;
    let too_many = |path: PathBuf| DatasetError::TooMany { path, what: "bytes", most: LIST_BYTES_MAX };
    if metadata.len() > LIST_BYTES_MAX {
        Err(too_many(list.to_owned()))
    } else {
        Ok(file.take(LIST_BYTES_MAX))
    }
}

/// A reader of rows; white space around fields is not part of them.
pub(super) fn reader<R: Read>(bytes: R) -> csv::Reader<R> {
    csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes)
}
