//! A folder a class: the names of the dataset's subfolders are the classes, sorted, and the files in them are the clips.
//!
//! Every clip is a source of its own, because nothing says what it was cut from, and there are no folds: clips of one
//! recording may then fall on both sides of a split. Whoever knows better writes a list.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    DatasetError, esc50,
    files::{self, Folders, Kind},
    listing::{Listing, Row, Rows},
    name, table,
};
use crate::manifest::{Problem, ProblemKind};

/// Clips of the classes' folders: sorted by class, then by file. Folders whose names are not text are problems.
///
/// # Errors
/// There are no such folders, or one holds folders.
pub(super) fn list(root: &Path, folders: &mut Folders) -> Result<(Listing, Vec<Problem>), DatasetError> {
    let (mut classes, mut problems) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(root).map_err(DatasetError::io(root))? {
        let entry = entry.map_err(DatasetError::io(root))?;
        let shown = entry.file_name().to_string_lossy().into_owned();
        if shown.starts_with('.') {
            continue;
        }
        let is_folder = entry.path().is_dir();
        match entry.file_name().into_string() {
            Ok(class) if is_folder => {
                classes.insert(class, Vec::new());
            }
            Ok(file) if name::is_audio(&file) => problems.push(loose(file)),
            Err(_) if is_folder => problems.push(misnamed(shown)),
            Ok(_) | Err(_) => {}
        }
    }
    check_classes(root, classes.keys())?;
    for (class, clips) in &mut classes {
        let Some(folder) = folders.open(class)? else {
            return Err(DatasetError::at(root, None, files::leaves(class)));
        };
        for (file, kind) in folder.entries() {
            if kind == Kind::Folder {
                return Err(nested(root, class, file));
            }
            if name::is_audio(file) {
                clips.push(file.to_owned());
            }
        }
    }
    Ok((listing(root, &classes)?, problems))
}

/// A listing of classes with their files.
///
/// # Errors
/// Names that cannot be a class's or a clip's, or too many of them.
pub fn listing(root: &Path, classes: &BTreeMap<String, Vec<String>>) -> Result<Listing, DatasetError> {
    let mut rows = Rows::default();
    for (class, (label, files)) in (0_u16..).zip(classes) {
        let at = |message| DatasetError::at(root, None, message);
        name::check_class(label).map_err(|what| at(format!("the name of a class's folder {what}")))?;
        for file in files {
            let file = name::relative(&format!("{label}/{file}")).map_err(at)?;
            let name = name::clip(&file);
            let source = name.clone();
            let row = Row { line: None, file, name, class, fold: None, source, contradiction: None };
            rows.push(root, row, |_| label.clone())?;
        }
    }
    Ok(Listing { classes: classes.keys().cloned().collect(), rows: rows.finish(root)? })
}

fn check_classes<'a>(
    root: &Path,
    mut classes: impl ExactSizeIterator<Item = &'a String>,
) -> Result<(), DatasetError> {
    let lists = format!("`{}` or `{}`", esc50::LIST, table::LIST);
    let refused = |message| Err(DatasetError::at(root, None, message));
    if classes.len() == 0 {
        return refused(format!(
            "no list of clips ({lists}) and no folder for a class: add one, or name a list by its path"
        ));
    }
    // ESC-50's own folders without its list would make a classifier of "audio" and "meta".
    let count = classes.len();
    if classes.all(|class| class == esc50::AUDIO || class == "meta") {
        return refused(format!("`{}/` without a list of its clips: add {lists}", esc50::AUDIO));
    }
    if count > super::CLASSES_MAX { Err(DatasetError::too_many_classes(root)) } else { Ok(()) }
}

fn nested(root: &Path, class: &str, folder: &str) -> DatasetError {
    let message = format!(
        "{class:?} holds the folder {folder:?}: the folder of a class holds files only; to take clips from deeper folders, list them in `{}`",
        table::LIST
    );
    DatasetError::at(root, None, message)
}

fn loose(file: String) -> Problem {
    let message = format!("{file} is in no class's folder: move it into one, or remove it");
    Problem { clip: file, kind: ProblemKind::Unlisted, message }
}

fn misnamed(folder: String) -> Problem {
    let message = format!("the name of {folder} is not UTF-8: rename it");
    Problem { clip: folder, kind: ProblemKind::Misnamed, message }
}
