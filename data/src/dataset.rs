//! ESC-50's layout: `audio/` and `meta/esc50.csv`, with the columns `filename,fold,target,category,esc10,src_file,take`.
//!
//! A list that cannot be trusted (a bad row, one target with two categories, the same file twice, a file outside the folder)
//! is an error that says file, line and mend. A clip that cannot be used is a [`Problem`]; the others go on without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use crate::manifest::{Problem, ProblemKind};

/// The list of clips, relative to the dataset's folder.
pub const LIST: &str = "meta/esc50.csv";

/// The recordings, relative to the dataset's folder.
pub const AUDIO: &str = "audio";

/// Classes at most: class indices are 16-bit numbers, and a tuner of small classifiers has no use for more.
pub const CLASSES_MAX: usize = 4096;

/// Clips at most: rows are 32-bit numbers.
pub const CLIPS_MAX: usize = 16_000_000;

/// One labelled recording of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// File name without extension, unique in the dataset.
    pub name: String,
    /// The file, inside the dataset's folder.
    pub path: PathBuf,
    /// Class index.
    pub class: u16,
    /// The dataset's own fold.
    pub fold: u32,
    /// The recording it was cut from.
    pub source: String,
}

/// The clips that are listed and there, in the list's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Names of the classes, by class index: the list's categories in the order of their targets.
    pub classes: Vec<String>,
    /// Clips to prepare.
    pub clips: Vec<Clip>,
    /// Clips left out, and files that are not listed.
    pub problems: Vec<Problem>,
}

/// Why a dataset cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder that must be there is not, or cannot be read.
    #[error("cannot read {path}: a dataset is a folder with `{AUDIO}/` and `{LIST}`")]
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
    /// A list without rows.
    #[error("{0} lists no clip: add a row for every file in `{AUDIO}/`")]
    Empty(PathBuf),
    /// More than this crate takes.
    #[error("{path} lists more than {most} {what}")]
    TooMany {
        /// The list.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

#[derive(Deserialize)]
struct Row {
    filename: String,
    fold: u32,
    target: u32,
    category: String,
    src_file: String,
}

/// A row, its line, and the clip's name.
struct Listed {
    row: Row,
    line: u64,
    name: String,
}

impl Dataset {
    /// Reads the list in `root` and looks for its files. No audio is read.
    ///
    /// # Errors
    /// The list is missing, empty or wrong, or a file lies outside `root`.
    pub fn read(root: &Path) -> Result<Self, DatasetError> {
        let list = root.join(LIST);
        let listed = read_list(&list)?;
        let targets = targets(&listed, &list)?;
        let folder = root.join(AUDIO);
        let real_root = fs::canonicalize(root).map_err(io_at(root))?;
        let mut unlisted = audio_files(&folder)?;
        let (mut clips, mut problems) = (Vec::with_capacity(listed.len()), Vec::new());
        for Listed { row, line, name } in listed {
            unlisted.remove(&row.filename);
            let path = folder.join(&row.filename);
            match fs::canonicalize(&path) {
                Ok(real) if !real.starts_with(&real_root) => {
                    let message = format!(
                        "{:?} is a link that leaves the dataset's folder: put the file itself there",
                        row.filename
                    );
                    return Err(DatasetError::Row { path: list, line, message });
                }
                Ok(_) => {}
                Err(_) => {
                    let message = format!(
                        "listed on line {line} of {LIST}, but {AUDIO}/{} cannot be found",
                        row.filename
                    );
                    problems.push(Problem { clip: name, kind: ProblemKind::Missing, message });
                    continue;
                }
            }
            if let Some(message) = contradiction(&name, &row, line) {
                problems.push(Problem { clip: name, kind: ProblemKind::Mislabelled, message });
                continue;
            }
            let class = targets.get(&row.target).map_or(0, |(class, _)| *class);
            clips.push(Clip { name, path, class, fold: row.fold, source: row.src_file });
        }
        problems.extend(unlisted.into_iter().map(|filename| {
            let message =
                format!("{AUDIO}/{filename} is not listed in {LIST}: add a row, or remove the file");
            Problem { clip: filename, kind: ProblemKind::Unlisted, message }
        }));
        let classes = targets.into_values().map(|(_, category)| category).collect();
        Ok(Self { classes, clips, problems })
    }
}

/// Rows of the list, each valid by itself and of a name of its own.
fn read_list(list: &Path) -> Result<Vec<Listed>, DatasetError> {
    let file = fs::File::open(list).map_err(io_at(list))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let mut rows: Vec<Listed> = Vec::new();
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    let headers = reader.headers().map_err(|error| row_error(list, &error))?.clone();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| row_error(list, &error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|error| row_error(list, &error))?;
        let at = |message: String| DatasetError::Row { path: list.to_owned(), line, message };
        let name = clip_name(&row.filename).ok_or_else(|| {
            at(format!("filename must be the plain name of a file in `{AUDIO}/`, got {:?}", row.filename))
        })?;
        if row.category.is_empty() {
            return Err(at(format!("category is empty: name the class of {:?}", row.filename)));
        }
        if let Some(first) = lines.insert(name.clone(), line) {
            return Err(at(format!(
                "clip {name:?} is already listed on line {first}: remove one of the rows"
            )));
        }
        if rows.len() == CLIPS_MAX {
            return Err(DatasetError::TooMany { path: list.to_owned(), what: "clips", most: CLIPS_MAX });
        }
        rows.push(Listed { row, line, name });
    }
    if rows.is_empty() { Err(DatasetError::Empty(list.to_owned())) } else { Ok(rows) }
}

/// Class index and category of every target, in the order of the targets.
fn targets(rows: &[Listed], list: &Path) -> Result<BTreeMap<u32, (u16, String)>, DatasetError> {
    let mut targets: BTreeMap<u32, (&str, u64)> = BTreeMap::new();
    let mut categories: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    for Listed { row, line, .. } in rows {
        let at = |message| Err(DatasetError::Row { path: list.to_owned(), line: *line, message });
        let (category, first) = *targets.entry(row.target).or_insert((&row.category, *line));
        if category != row.category {
            return at(format!(
                "target {} is {:?} here and {category:?} on line {first}: make them the same",
                row.target, row.category
            ));
        }
        let (target, first) = *categories.entry(&row.category).or_insert((row.target, *line));
        if target != row.target {
            return at(format!(
                "category {:?} has target {} here and {target} on line {first}: make them the same",
                row.category, row.target
            ));
        }
    }
    if targets.len() > CLASSES_MAX {
        return Err(DatasetError::TooMany { path: list.to_owned(), what: "classes", most: CLASSES_MAX });
    }
    let indexed = (0_u16..).zip(targets);
    Ok(indexed.map(|(class, (target, (category, _)))| (target, (class, category.to_owned()))).collect())
}

/// The name without extension, if this is the plain name of a file.
fn clip_name(filename: &str) -> Option<String> {
    let path = Path::new(filename);
    let mut components = path.components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    // A name with a trailing slash or in another system's notation is not plain either.
    let plain = plain && !filename.contains(['/', '\\']);
    plain.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
}

/// ESC-50 names a clip `{fold}-{source}-{take}-{target}`. A name that follows this for the row's source must agree with the
/// row's fold and target, too; any other name says nothing.
fn contradiction(name: &str, row: &Row, line: u64) -> Option<String> {
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

/// Names of the files in a folder, without hidden ones.
fn audio_files(folder: &Path) -> Result<BTreeSet<String>, DatasetError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let entry = entry.map_err(io_at(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !entry.path().is_dir() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn row_error(list: &Path, error: &csv::Error) -> DatasetError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::Io(source) => {
            return DatasetError::Io {
                path: list.to_owned(),
                source: io::Error::new(source.kind(), source.to_string()),
            };
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where the first line has {expected_len}: complete the row")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8: save the list as UTF-8".to_owned(),
        csv::ErrorKind::Deserialize { err, .. } => {
            format!("{err} (columns are filename,fold,target,category,esc10,src_file,take)")
        }
        other => format!("{other:?}"),
    };
    DatasetError::Row { path: list.to_owned(), line, message }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "filename,fold,target,category,esc10,src_file,take\n";

    /// A dataset of these rows, with a file for each name in `files`.
    fn dataset(rows: &str, files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("audio")).unwrap();
        fs::create_dir(root.path().join("meta")).unwrap();
        fs::write(root.path().join(LIST), format!("{HEADER}{rows}")).unwrap();
        for file in files {
            fs::write(root.path().join(AUDIO).join(file), b"").unwrap();
        }
        root
    }

    fn check(rows: &str, expected: &str) {
        let root = dataset(rows, &[]);
        let message = Dataset::read(root.path()).unwrap_err().to_string();
        let relative = message.replace(&format!("{}/", root.path().display()), "");
        assert_eq!(relative, expected);
    }

    #[test]
    fn targets_become_class_indices_in_their_order() {
        let root = dataset(
            "b.wav,1,41,chainsaw,True,7,A\na.ogg,2,0,dog,True,8,A\nc.wav,1,12,fire,False,7,B\n",
            &["a.ogg", "b.wav", "c.wav"],
        );
        let dataset = Dataset::read(root.path()).unwrap();
        assert_eq!(dataset.classes, ["dog", "fire", "chainsaw"]);
        let clips: Vec<_> =
            dataset.clips.iter().map(|clip| (clip.name.as_str(), clip.class, clip.fold)).collect();
        assert_eq!(clips, [("b", 2, 1), ("a", 0, 2), ("c", 1, 1)]);
        assert_eq!(dataset.clips[0].source, "7");
        assert!(dataset.problems.is_empty());
    }

    #[test]
    fn untrustworthy_lists_are_refused() {
        check("", "meta/esc50.csv lists no clip: add a row for every file in `audio/`");
        check("a.wav,1,0,dog\n", "meta/esc50.csv:2: 4 fields where the first line has 7: complete the row");
        check(
            "a.wav,1,0,dog,True,1,A\nb.wav,one,0,dog,True,1,A\n",
            "meta/esc50.csv:3: field 1: invalid digit found in string (columns are filename,fold,target,category,esc10,src_file,take)",
        );
        check(
            "a.wav,1,0,dog,True,1,A\nb.wav,1,0,cat,True,1,A\n",
            "meta/esc50.csv:3: target 0 is \"cat\" here and \"dog\" on line 2: make them the same",
        );
        check(
            "a.wav,1,0,dog,True,1,A\nb.wav,1,1,dog,True,1,A\n",
            "meta/esc50.csv:3: category \"dog\" has target 1 here and 0 on line 2: make them the same",
        );
        check(
            "a.wav,1,0,dog,True,1,A\na.ogg,1,0,dog,True,1,A\n",
            "meta/esc50.csv:3: clip \"a\" is already listed on line 2: remove one of the rows",
        );
        check("a.wav,1,0,,True,1,A\n", "meta/esc50.csv:2: category is empty: name the class of \"a.wav\"");
        for outside in ["../a.wav", "/etc/passwd", "x/a.wav", "..", "a.wav/", "x\\a.wav", ""] {
            let row = format!("{outside},1,0,dog,True,1,A\n");
            let expected = format!(
                "meta/esc50.csv:2: filename must be the plain name of a file in `audio/`, got {outside:?}"
            );
            check(&row, &expected);
        }
    }

    #[test]
    fn a_missing_list_says_what_a_dataset_is() {
        let root = tempfile::tempdir().unwrap();
        let message = Dataset::read(root.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("meta/esc50.csv: a dataset is a folder with `audio/` and `meta/esc50.csv`"),
            "{message}"
        );
    }

    #[test]
    fn unusable_clips_are_problems() {
        let root = dataset(
            "1-7-A-0.wav,1,0,dog,True,7,A\n1-8-A-0.wav,1,1,cat,True,8,A\ngone.wav,1,1,cat,True,9,A\n1-x-A-5.wav,2,0,dog,True,7,A\n",
            &["1-7-A-0.wav", "1-8-A-0.wav", "1-x-A-5.wav", "extra.wav", ".hidden"],
        );
        let dataset = Dataset::read(root.path()).unwrap();
        let names: Vec<_> = dataset.clips.iter().map(|clip| clip.name.as_str()).collect();
        assert_eq!(names, ["1-7-A-0", "1-x-A-5"]);
        let problems: Vec<_> =
            dataset.problems.iter().map(|problem| (problem.clip.as_str(), problem.kind)).collect();
        let expected = [
            ("1-8-A-0", ProblemKind::Mislabelled),
            ("gone", ProblemKind::Missing),
            ("extra.wav", ProblemKind::Unlisted),
        ];
        assert_eq!(problems, expected);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_the_folder_are_refused() {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        let root = dataset("a.wav,1,0,dog,True,1,A\n", &["real.wav"]);
        let link = root.path().join("audio/a.wav");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let message = Dataset::read(root.path()).unwrap_err().to_string();
        assert!(message.contains(":2: \"a.wav\" is a link that leaves the dataset's folder"), "{message}");

        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("real.wav", &link).unwrap();
        assert_eq!(Dataset::read(root.path()).unwrap().clips.len(), 1);
    }
}
