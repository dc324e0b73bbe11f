//! Why a dataset cannot be read.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{classes, esc50, table};

/// Why a dataset cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder that must be there is not, or cannot be read.
    #[error(
        "cannot read {path}: a dataset is a folder with `{esc50}`, with `{table}`, or with a folder for each class",
        esc50 = esc50::LIST,
        table = table::LIST
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A row that is not one of this list.
    #[error("{path}:{line}: {message}")]
    Row {
        /// The list.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// What is wrong and how to mend it.
        message: String,
    },
    /// A folder that is no dataset, or could be two.
    #[error("{path}: {message}")]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        message: String,
    },
    /// No clips at all.
    #[error("{0} names no clip: add a row for every file, or files to the classes' folders")]
    Empty(PathBuf),
    /// More than this crate takes.
    #[error("{path} has more than {most} {what}")]
    TooMany {
        /// The list or folder.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The limit.
        most: u64,
    },
}

impl DatasetError {
    /// What is wrong with a row, or with a file where there is no list.
    pub(super) fn at(path: &Path, line: Option<u64>, message: String) -> Self {
        let path = path.to_owned();
        match line {
            Some(line) => Self::Row { path, line, message },
            None => Self::Layout { path, message },
        }
    }

    /// What the CSV reader found wrong; `columns` are those that would be right.
    pub(super) fn csv(list: &Path, error: &csv::Error, columns: &str) -> Self {
        let line = error.position().map_or(1, csv::Position::line);
        let message = match error.kind() {
            csv::ErrorKind::Io(source) => {
                let source = io::Error::new(source.kind(), source.to_string());
                return Self::io(list)(source);
            }
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} fields where the first line has {expected_len}: complete the row")
            }
            csv::ErrorKind::Utf8 { .. } => "not UTF-8: save the list as UTF-8".to_owned(),
            csv::ErrorKind::Deserialize { err, .. } => format!("{err} (columns are {columns})"),
            other => format!("{other:?}"),
        };
        Self::Row { path: list.to_owned(), line, message }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn too_many_classes(path: &Path) -> Self {
        Self::TooMany { path: path.to_owned(), what: "classes", most: classes::CLASSES_MAX as u64 }
    }
}
