//! The bundle's folder: written beside its place, verified there, then moved into place as a whole.
//!
//! A reader sees the old bundle or the new one, never a mixture; between the two renames of a replacement, for an instant,
//! none. A failure at any point leaves the old one as it was.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use earshot_common::ids::BlobId;
use tempfile::TempDir;

use super::{error::ExportError, provenance};
use crate::bundle::{FileEntry, PROVENANCE_FILE};

/// A bundle that is not in its place yet; dropped, it leaves nothing behind.
pub(super) struct Draft {
    folder: TempDir,
    place: PathBuf,
    parent: PathBuf,
    files: BTreeMap<String, FileEntry>,
}

impl Draft {
    /// Begins a bundle that will stand at `place`.
    ///
    /// # Errors
    /// [`ExportError::Occupied`] when something stands there that is no bundle of ours, [`ExportError::Io`] when no folder
    /// can be made beside it.
    pub(super) fn begin(place: &Path) -> Result<Self, ExportError> {
        check_free(place)?;
        let parent = match place.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(io_at(&parent))?;
        let folder = sibling(&parent, "incoming")?;
        Ok(Self { folder, place: place.to_owned(), parent, files: BTreeMap::new() })
    }

    /// Adds a file, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.folder.path().join(name);
        let folder = path.parent().unwrap_or(self.folder.path());
        fs::create_dir_all(folder).map_err(io_at(folder))?;
        fs::File::create(&path)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(io_at(&path))?;
        let entry = FileEntry { bytes: bytes.len() as u64, blake3: BlobId::of(bytes) };
        self.files.insert(name.to_owned(), entry);
        Ok(())
    }

    /// A file's bytes as they lie on the disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ExportError> {
        let path = self.folder.path().join(name);
        fs::read(&path).map_err(io_at(&path))
    }

    /// Files written so far.
    pub(super) fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.files
    }

    /// Reads every file once more and moves the bundle into its place.
    ///
    /// # Errors
    /// A file is not what was written, the place is no longer free, or the disk refuses.
    pub(super) fn commit(self) -> Result<(), ExportError> {
        for (model, entry) in &self.files {
            if BlobId::of(&self.read(model)?) != entry.blake3 {
                let what = "its bytes are not those that were written".to_owned();
                return Err(ExportError::Corrupt { model: model.clone(), what });
            }
        }
        check_free(&self.place)?;
        if self.place.exists() {
            let old = sibling(&self.parent, "replaced")?;
            let kept = old.path().join("bundle");
            fs::rename(&self.place, &kept).map_err(io_at(&self.place))?;
            if let Err(error) = fs::rename(self.folder.path(), &self.place) {
                if fs::rename(&kept, &self.place).is_err() {
                    // Deleting the only bundle there is would be worse than leaving it under another name.
                    let _kept = old.keep();
                }
                return Err(io_at(&self.place)(error));
            }
        } else {
            fs::rename(self.folder.path(), &self.place).map_err(io_at(&self.place))?;
        }
        // The renames are durable only once the folder around them is synced.
        fs::File::open(&self.parent).and_then(|folder| folder.sync_all()).map_err(io_at(&self.parent))
    }
}

/// Whether a bundle may be put there: there is nothing, an empty folder, or a bundle of ours.
fn check_free(place: &Path) -> Result<(), ExportError> {
    let occupied = || ExportError::Occupied(place.to_owned());
    if place.file_name().is_none() {
        return Err(occupied());
    }
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_at(place)(error)),
        Ok(metadata) if !metadata.is_dir() => return Err(occupied()),
        Ok(_) => {}
    }
    let is_empty = fs::read_dir(place).map_err(io_at(place))?.next().is_none();
    let is_ours = || fs::read(place.join(PROVENANCE_FILE)).is_ok_and(|bytes| provenance::is_ours(&bytes));
    if is_empty || is_ours() { Ok(()) } else { Err(occupied()) }
}

/// A folder of our own on the same file system, which a rename needs; others may read it, as any folder a user makes.
fn sibling(parent: &Path, purpose: &str) -> Result<TempDir, ExportError> {
    let prefix = format!(".earshot-{purpose}-");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent).map_err(io_at(parent))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &[u8] = br#"{"format":"earshot bundle","format_version":1}"#;

    fn write(place: &Path, text: &[u8]) -> Result<(), ExportError> {
        let mut draft = Draft::begin(place)?;
        draft.write("labels.txt", text)?;
        draft.write(PROVENANCE_FILE, OURS)?;
        draft.commit()
    }

    /// Everything beside `place`, temporary folders included.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_bundle_of_ours_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/champion");
        write(&place, b"old").unwrap();
        fs::write(place.join("stray"), b"from the old one").unwrap();
        write(&place, b"new").unwrap();
        assert_eq!(fs::read(place.join("labels.txt")).unwrap(), b"new");
        assert_eq!(names(&place).len(), 2);
        assert_eq!(names(place.parent().unwrap()), ["champion"]);
    }

    #[test]
    fn anything_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("thesis");
        fs::create_dir(&place).unwrap();
        fs::write(place.join(PROVENANCE_FILE), b"{\"format\":\"another\"}").unwrap();
        let message = write(&place, b"new").unwrap_err().to_string();
        assert!(message.contains("is not a bundle of ours: give another folder"), "{message}");
        assert_eq!(names(&place), [PROVENANCE_FILE]);

        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(write(&file, b"new"), Err(ExportError::Occupied(_))));
        assert!(matches!(write(Path::new("/"), b"new"), Err(ExportError::Occupied(_))));
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_file_that_rots_before_the_move_leaves_the_old_bundle() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("champion");
        write(&place, b"old").unwrap();
        let mut draft = Draft::begin(&place).unwrap();
        draft.write("labels.txt", b"new").unwrap();
        fs::write(draft.folder.path().join("labels.txt"), b"neW").unwrap();
        let error = draft.commit().unwrap_err();
        assert!(error.to_string().starts_with("labels.txt is corrupt"), "{error}");
        assert_eq!(fs::read(place.join("labels.txt")).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["champion"]);
    }
}
