//! Which clips a dataset has, their classes, folds and sources, and what is wrong with its list.
//!
//! In reading order: [`Layout`] tells which of three layouts it is, [`esc50`], [`table`] and [`folders`] read one each to the
//! same [`Listing`], and `files` looks for the files. `name` and `classes` say what may be a name.
//!
//! A list that cannot be trusted (a bad row, one target with two categories, the same file twice, a file outside the folder)
//! is an error that says file, line and mend. A clip that cannot be used is a [`Problem`]; the others go on without it.
//!
//! Clips are named by their file without extension, in subfolders with these before it: `dog/1.wav` is `dog__1`. Names are
//! unique and safe as names of files, because those of the features are made from them.

use std::path::{Path, PathBuf};

use crate::manifest::Problem;

mod classes;
mod error;
pub mod esc50;
mod files;
pub mod folders;
mod layout;
mod listing;
mod name;
pub mod table;

pub use self::{
    classes::CLASSES_MAX,
    error::DatasetError,
    layout::Layout,
    listing::{CLIPS_MAX, LIST_BYTES_MAX, Listing, Row},
};

/// One labelled recording of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// Unique in the dataset, and safe as the name of a file.
    pub name: String,
    /// The file as its list has it, relative to the dataset's folder.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
    /// Class index.
    pub class: u16,
    /// The dataset's own fold; of all clips or of none.
    pub fold: Option<u32>,
    /// The recording it was cut from; the clip's own name if nothing is known.
    pub source: String,
}

/// The clips that are listed and there, in the list's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// How the dataset says what its clips are.
    pub layout: Layout,
    /// Names of the classes, by class index: ESC-50's categories in the order of their targets, otherwise sorted.
    pub classes: Vec<String>,
    /// Clips to prepare.
    pub clips: Vec<Clip>,
    /// Clips left out, and files that are not listed.
    pub problems: Vec<Problem>,
    /// What is odd and yet taken as it is, with its mend: classes whose names look alike.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// Reads the list of `data`, a dataset's folder or its list, and looks for its files; [`Layout::detect`] says which list
    /// that is. No audio is read.
    ///
    /// # Errors
    /// The list is missing, ambiguous, empty or wrong, or a file lies outside the dataset's folder.
    pub fn read(data: &Path) -> Result<Self, DatasetError> {
        let (layout, root) = Layout::detect(data)?;
        let mut folders = files::Folders::new(&root)?;
        let (listing, list, mut problems) = match &layout {
            Layout::Esc50 => {
                let list = root.join(esc50::LIST);
                (esc50::parse(&list, listing::open(&list)?)?, list, Vec::new())
            }
            Layout::Table(list) => (table::parse(list, listing::open(list)?)?, list.clone(), Vec::new()),
            Layout::Folders => {
                let (listing, problems) = folders::list(&root, &mut folders)?;
                (listing, root, problems)
            }
        };
        let Listing { classes, rows } = listing;
        let found = files::find(rows, layout.list_name().as_deref(), &mut folders, &list)?;
        problems.extend(found.problems);
        let warnings = classes::look_alikes(&classes);
        Ok(Self { layout, classes, clips: found.clips, problems, warnings })
    }
}

#[cfg(test)]
mod tests;
