//! ESC-50's layout: `audio/` and `meta/esc50.csv`, with the columns `filename,fold,target,category,esc10,src_file,take`.

use std::{collections::BTreeMap, io::Read, path::Path};

use serde::Deserialize;

use super::{
    DatasetError,
    classes::CLASSES_MAX,
    listing::{Listing, Row, Rows, reader},
    name,
};

/// The list of clips, relative to the dataset's folder.
pub const LIST: &str = "meta/esc50.csv";

/// The recordings, relative to the dataset's folder.
pub const AUDIO: &str = "audio";

const COLUMNS: &str = "filename,fold,target,category,esc10,src_file,take";

#[derive(Deserialize)]
struct Fields {
    filename: String,
    fold: u32,
    target: u32,
    category: String,
    src_file: String,
}

/// Reads the list's rows; `list` is its name in messages.
///
/// # Errors
/// A row that is not one of this list, or contradicts another.
pub fn parse(list: &Path, bytes: impl Read) -> Result<Listing, DatasetError> {
    let mut reader = reader(bytes);
    let csv_error = |error: &csv::Error| DatasetError::csv(list, error, COLUMNS);
    let headers = reader.headers().map_err(|error| csv_error(&error))?.clone();
    let (mut rows, mut targets, mut record) = (Rows::default(), Targets::default(), csv::StringRecord::new());
    while reader.read_record(&mut record).map_err(|error| csv_error(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let at = |message| DatasetError::at(list, Some(line), message);
        let fields: Fields = record.deserialize(Some(&headers)).map_err(|error| csv_error(&error))?;
        let name = clip_name(&fields.filename).ok_or_else(|| {
            let filename = &fields.filename;
            at(format!("filename must be the plain name of a file in `{AUDIO}/`, got {filename:?}"))
        })?;
        name::check_class(&fields.category).map_err(|what| at(format!("category {what}")))?;
        let class = targets.number(&fields, line).map_err(at)?;
        let class = class.ok_or_else(|| DatasetError::too_many_classes(list))?;
        let row = Row {
            line: Some(line),
            file: format!("{AUDIO}/{}", fields.filename),
            contradiction: contradiction(&name, &fields, line),
            name,
            class,
            fold: Some(fields.fold),
            source: fields.src_file,
        };
        rows.push(list, row, |class| targets.category(class))?;
    }
    let mut rows = rows.finish(list)?;
    let (classes, indices) = targets.sorted();
    for row in &mut rows {
        row.class = indices.get(usize::from(row.class)).copied().unwrap_or_default();
    }
    Ok(Listing { classes, rows })
}

/// Targets and their categories, numbered in the order they are met in.
#[derive(Default)]
struct Targets {
    /// Number, category and first line of every target.
    targets: BTreeMap<u32, (u16, String, u64)>,
    /// Target and first line of every category.
    categories: BTreeMap<String, (u32, u64)>,
}

impl Targets {
    /// The number of a row's class, or why it cannot have one beside the earlier rows; `None` beyond the most classes.
    fn number(&mut self, fields: &Fields, line: u64) -> Result<Option<u16>, String> {
        let Fields { target, category, .. } = fields;
        let next = self.targets.len();
        if next == CLASSES_MAX && !self.targets.contains_key(target) {
            return Ok(None);
        }
        let known = self.targets.entry(*target).or_insert((next as u16, category.clone(), line));
        let (number, known, first) = (known.0, &known.1, known.2);
        if known != category {
            return Err(format!(
                "target {target} is {category:?} here and {known:?} on line {first}: make them the same"
            ));
        }
        let (known, first) = *self.categories.entry(category.clone()).or_insert((*target, line));
        if known != *target {
            return Err(format!(
                "category {category:?} has target {target} here and {known} on line {first}: make them the same"
            ));
        }
        Ok(Some(number))
    }

    fn category(&self, number: u16) -> String {
        let found = self.targets.values().find(|(known, ..)| *known == number);
        found.map(|(_, category, _)| category.clone()).unwrap_or_default()
    }

    /// Categories in the order of their targets, which is that of the class indices, and the index of every number.
    fn sorted(self) -> (Vec<String>, Vec<u16>) {
        let mut indices = vec![0; self.targets.len()];
        for (index, (number, ..)) in self.targets.values().enumerate() {
            if let Some(slot) = indices.get_mut(usize::from(*number)) {
                *slot = index as u16;
            }
        }
        (self.targets.into_values().map(|(_, category, _)| category).collect(), indices)
    }
}

/// The clip's name, if this is the plain name of a file.
fn clip_name(filename: &str) -> Option<String> {
    let plain = name::relative(filename).is_ok_and(|file| file == filename && !file.contains('/'));
    plain.then(|| name::clip(filename))
}

/// ESC-50 names a clip `{fold}-{source}-{take}-{target}`. A name that follows this for the row's source must agree with the
/// row's fold and target, too; any other name says nothing.
fn contradiction(name: &str, row: &Fields, line: u64) -> Option<String> {
    let mut parts = name.split('-');
    let (fold, source, _take, target) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (fold, target): (u32, u32) = (fold.parse().ok()?, target.parse().ok()?);
    let named_so = source == row.src_file && parts.next().is_none();
    (named_so && (fold, target) != (row.fold, row.target)).then(|| {
        format!(
            "its name says fold {fold} and target {target}, line {line} of {LIST} says fold {} and target {}: correct one of them",
            row.fold, row.target
        )
    })
}
