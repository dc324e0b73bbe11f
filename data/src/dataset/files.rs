//! The files of a listing: which are there, which are not, which nobody listed.
//!
//! Folders are read once each. Nothing outside the dataset's folder is taken for a clip, whatever links say; a link that
//! stays inside is followed, one that leads nowhere or in a circle is a missing file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use unicode_normalization::UnicodeNormalization;

use super::{Clip, DatasetError, listing::Row, name};
use crate::manifest::{Problem, ProblemKind};

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
    /// A pipe, a socket, a device: reading it may never end.
    Other,
}

/// The names in one folder, without hidden ones.
#[derive(Debug, Default)]
pub(super) struct Folder {
    entries: BTreeMap<String, Kind>,
    /// Names that are not UTF-8, as they can be shown.
    misnamed: Vec<String>,
    /// Names by their composed Unicode form, once they are needed.
    composed: Option<BTreeMap<String, String>>,
    /// Names that the listing has.
    listed: BTreeSet<String>,
}

impl Folder {
    fn read(path: &Path) -> Result<Self, DatasetError> {
        let mut folder = Self::default();
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(folder),
            Err(error) => return Err(DatasetError::io(path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(DatasetError::io(path))?;
            let kind = kind(entry.file_type().map_err(DatasetError::io(path))?);
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) => drop(folder.entries.insert(name, kind)),
                Err(name) => folder.misnamed.push(name.to_string_lossy().into_owned()),
            }
        }
        folder.misnamed.sort_unstable();
        Ok(folder)
    }

    /// Names and what they stand for, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.entries.iter().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// The name in this folder that a list means: the same, or the same in another Unicode form (a list written on one
    /// system and files packed on another).
    fn meant(&mut self, name: &str) -> Option<(String, Kind)> {
        if let Some(kind) = self.entries.get(name) {
            return Some((name.to_owned(), *kind));
        }
        if name.is_ascii() {
            return None;
        }
        let composed = self.composed.get_or_insert_with(|| {
            let names = self.entries.keys().filter(|name| !name.is_ascii());
            names.map(|name| (name.nfc().collect(), name.clone())).collect()
        });
        let actual = composed.get(&name.nfc().collect::<String>())?;
        Some((actual.clone(), *self.entries.get(actual)?))
    }
}

/// The dataset's folders that were looked into.
pub(super) struct Folders {
    root: PathBuf,
    real_root: PathBuf,
    /// By path relative to the root; none: it leaves the root.
    read: BTreeMap<String, Option<(PathBuf, Folder)>>,
}

impl Folders {
    pub(super) fn new(root: &Path) -> Result<Self, DatasetError> {
        let real_root = fs::canonicalize(root).map_err(DatasetError::io(root))?;
        Ok(Self { root: root.to_owned(), real_root, read: BTreeMap::new() })
    }

    /// The folder of this relative path, empty if there is none; `None` if it lies outside the dataset.
    pub(super) fn open(&mut self, folder: &str) -> Result<Option<&mut Folder>, DatasetError> {
        Ok(self.open_at(folder)?.map(|(_, folder)| folder))
    }

    fn open_at(&mut self, folder: &str) -> Result<Option<&mut (PathBuf, Folder)>, DatasetError> {
        if !self.read.contains_key(folder) {
            let path = self.path(folder)?;
            let found = match fs::canonicalize(&path) {
                Ok(real) if !real.starts_with(&self.real_root) => None,
                Ok(_) => Some((path.clone(), Folder::read(&path)?)),
                Err(_) => Some((path, Folder::default())),
            };
            self.read.insert(folder.to_owned(), found);
        }
        Ok(self.read.get_mut(folder).and_then(Option::as_mut))
    }

    /// Where a relative path leads, if need be in another Unicode form.
    fn path(&mut self, folder: &str) -> Result<PathBuf, DatasetError> {
        let mut path = self.root.clone();
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            let next = path.join(part);
            let is_there = part.is_ascii() || next.symlink_metadata().is_ok();
            let meant = if is_there { None } else { Folder::read(&path)?.meant(part) };
            path = meant.map_or(next, |(actual, _)| path.join(actual));
        }
        Ok(path)
    }

    fn stays_inside(&self, real: &Path) -> bool {
        real.starts_with(&self.real_root)
    }
}

/// What became of a listing's rows.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) clips: Vec<Clip>,
    pub(super) problems: Vec<Problem>,
}

/// Looks for the file of every row. `list` is the list's name in the dataset, or none where folders are the list.
///
/// # Errors
/// A file lies outside the dataset's folder, or a folder cannot be read.
pub(super) fn find(
    rows: Vec<Row>,
    list: Option<&str>,
    folders: &mut Folders,
    errors_at: &Path,
) -> Result<Found, DatasetError> {
    let mut found = Found::default();
    for row in rows {
        let (folder, file) = row.file.rsplit_once('/').unwrap_or(("", &row.file));
        let error = |message| Err(DatasetError::at(errors_at, row.line, message));
        let Some((path, entries)) = folders.open_at(folder)? else {
            return error(leaves(folder));
        };
        let meant = entries.meant(file);
        let (path, kind) = match &meant {
            Some((actual, kind)) => {
                entries.listed.insert(actual.clone());
                (path.join(actual), Some(*kind))
            }
            None => (path.join(file), None),
        };
        let absence = match look(&path, kind, folders) {
            Look::File => None,
            Look::Outside => return error(leaves(&row.file)),
            Look::Unusable(what) => Some(what),
        };
        let name = row.name.clone();
        if let Some(what) = absence {
            found.problems.push(missing(&row, list, what));
        } else if let Some(message) = row.contradiction {
            found.problems.push(Problem { clip: name, kind: ProblemKind::Mislabelled, message });
        } else {
            let Row { file, class, fold, source, .. } = row;
            found.clips.push(Clip { name, file, path, class, fold, source });
        }
    }
    found
        .problems
        .extend(folders.read.iter().flat_map(|(folder, read)| left_over(folder, read.as_ref(), list)));
    Ok(found)
}

enum Look {
    File,
    Outside,
    Unusable(&'static str),
}

fn look(path: &Path, kind: Option<Kind>, folders: &Folders) -> Look {
    match kind {
        Some(Kind::File) => Look::File,
        Some(Kind::Folder) => Look::Unusable("is a folder"),
        Some(Kind::Other) => Look::Unusable("is a pipe, a socket or a device"),
        None => Look::Unusable("cannot be found"),
        Some(Kind::Link) => match fs::canonicalize(path) {
            Ok(real) if !folders.stays_inside(&real) => Look::Outside,
            Ok(real) if real.is_file() => Look::File,
            Ok(_) => Look::Unusable("is a link to something that is no file"),
            Err(_) => Look::Unusable("is a link that leads nowhere"),
        },
    }
}

fn missing(row: &Row, list: Option<&str>, what: &str) -> Problem {
    let file = &row.file;
    let message = match (list, row.line) {
        (Some(list), Some(line)) => format!("listed on line {line} of {list}, but {file} {what}"),
        _ => format!("{file} {what}: remove or replace it"),
    };
    Problem { clip: row.name.clone(), kind: ProblemKind::Missing, message }
}

/// Recordings in a folder of the dataset's that are no rows.
fn left_over(folder: &str, read: Option<&(PathBuf, Folder)>, list: Option<&str>) -> Vec<Problem> {
    let Some((_, entries)) = read else {
        return Vec::new();
    };
    let shown = |file: &str| if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") };
    let misnamed = entries.misnamed.iter().filter(|file| name::is_audio(file)).map(|file| {
        let file = shown(file);
        let message = format!("the name of {file} is not UTF-8: rename it");
        Problem { clip: file, kind: ProblemKind::Misnamed, message }
    });
    let is_unlisted = |(file, kind): &(&str, Kind)| {
        *kind != Kind::Folder && name::is_audio(file) && !entries.listed.contains(*file)
    };
    let unlisted = entries.entries().filter(is_unlisted).map(|(file, _)| {
        let file = shown(file);
        let list = list.unwrap_or("the classes' folders");
        let message = format!("{file} is not listed in {list}: add a row, or remove the file");
        Problem { clip: file, kind: ProblemKind::Unlisted, message }
    });
    misnamed.chain(unlisted).collect()
}

/// What is wrong with a path that links lead out of the dataset.
pub(super) fn leaves(path: &str) -> String {
    format!("{path:?} is a link that leaves the dataset's folder: put the file or folder itself there")
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Folder
    } else if file_type.is_symlink() {
        Kind::Link
    } else {
        Kind::Other
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
