//! Which layout a dataset has, told from what is there.

use std::path::{Path, PathBuf};

use super::{DatasetError, esc50, table};

/// How a dataset says what its clips are. [`Layout::detect`] looks for them in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// ESC-50's: `meta/esc50.csv` and `audio/`.
    Esc50,
    /// A CSV with `filename,label[,fold][,source]`: `clips.csv`, or the file that was named.
    Table(PathBuf),
    /// A folder for each class.
    Folders,
}

impl Layout {
    /// The layout of `data`, and the dataset's folder.
    ///
    /// 1. If `data` is a file, it is the list: ESC-50's if its path ends in `meta/esc50.csv`, otherwise a table.
    /// 2. A folder with `meta/esc50.csv` is in ESC-50's layout.
    /// 3. A folder with `clips.csv` is listed there.
    /// 4. Any other folder has a folder for each class.
    ///
    /// # Errors
    /// Both lists are there, or `data` cannot be looked at.
    pub fn detect(data: &Path) -> Result<(Self, PathBuf), DatasetError> {
        let metadata = data.metadata().map_err(DatasetError::io(data))?;
        if !metadata.is_dir() {
            return Ok(Self::of_list(data));
        }
        let is_there = |list: &str| data.join(list).symlink_metadata().is_ok();
        let layout = match (is_there(esc50::LIST), is_there(table::LIST)) {
            (true, true) => return Err(ambiguous(data)),
            (true, false) => Self::Esc50,
            (false, true) => Self::Table(data.join(table::LIST)),
            (false, false) => Self::Folders,
        };
        Ok((layout, data.to_owned()))
    }

    fn of_list(list: &Path) -> (Self, PathBuf) {
        let folder = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if list.ends_with(esc50::LIST) {
            let meta = folder(list);
            (Self::Esc50, folder(&meta))
        } else {
            (Self::Table(list.to_owned()), folder(list))
        }
    }

    /// The list relative to the dataset's folder, as messages name it; none where folders are the list.
    pub fn list_name(&self) -> Option<String> {
        match self {
            Self::Esc50 => Some(esc50::LIST.to_owned()),
            Self::Table(list) => Some(list.file_name()?.to_string_lossy().into_owned()),
            Self::Folders => None,
        }
    }

    /// The layout in words.
    pub fn describe(&self) -> String {
        match self.list_name() {
            Some(list) => format!("listed in {list}"),
            None => "a folder for each class".to_owned(),
        }
    }
}

fn ambiguous(data: &Path) -> DatasetError {
    let (esc50, table) = (esc50::LIST, table::LIST);
    let message = format!(
        "there are two lists, `{esc50}` and `{table}`: remove one, or name the one that counts by its path"
    );
    DatasetError::at(data, None, message)
}
