//! The blob store: a folder of immutable files, each named by the BLAKE3 hash of its bytes.
//!
//! Layout: `<folder>/<first two hex digits>/<64 hex digits>`. A blob is written to a temporary file in the same folder,
//! synced and renamed, so a name either is absent or holds all of its bytes; reads verify the hash all the same, because
//! disks lie. Temporary files carry the prefix `.incoming-` and are swept away when the store is opened.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::ids::BlobId;

const TEMPORARY_PREFIX: &str = ".incoming-";

/// What a blob store can answer besides bytes.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No blob of that name.
    #[error("blob {0} is not in the store at {1}")]
    Missing(BlobId, PathBuf),
    /// The bytes on disk or on the wire are not those of the name.
    #[error(
        "blob {expected} is corrupt: its bytes hash to {found}; delete {path} so that it is fetched or made again"
    )]
    Corrupt {
        /// The name.
        expected: BlobId,
        /// The hash of the bytes.
        found: BlobId,
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("blob store: cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A folder of blobs. Cheap to clone; safe to share between threads and, by the rename, between processes.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
}

impl BlobStore {
    /// Opens the folder, making it if need be, and sweeps away what an interrupted write left behind.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(io_at(&root))?;
        for entry in fs::read_dir(&root).map_err(io_at(&root))? {
            let entry = entry.map_err(io_at(&root))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) && is_stale(&entry) {
                fs::remove_file(entry.path()).map_err(io_at(&entry.path()))?;
            }
        }
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob of this name lies, or would.
    pub fn path(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        let shelf: String = name.chars().take(2).collect();
        self.root.join(shelf).join(name)
    }

    /// Whether a blob of this name is here (its bytes are verified when read).
    pub fn contains(&self, id: BlobId) -> bool {
        self.path(id).is_file()
    }

    /// Reads a blob and verifies its hash.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Corrupt`] or [`BlobError::Io`].
    pub fn read(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        let path = self.path(id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(id, self.root.clone()));
            }
            Err(error) => return Err(io_at(&path)(error)),
        };
        let found = BlobId::of(&bytes);
        if found == id { Ok(bytes) } else { Err(BlobError::Corrupt { expected: id, found, path }) }
    }

    /// Stores bytes under their hash; a blob already here is left as it is.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the disk refuses.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobId, BlobError> {
        let id = BlobId::of(bytes);
        if !self.contains(id) {
            let mut incoming = self.begin()?;
            incoming.write(bytes)?;
            incoming.commit(id)?;
        }
        Ok(id)
    }

    /// Names of all blobs. Files with other names are not of the store and passed over.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the folder cannot be read.
    pub fn ids(&self) -> Result<BTreeSet<BlobId>, BlobError> {
        let mut ids = BTreeSet::new();
        for shelf in fs::read_dir(&self.root).map_err(io_at(&self.root))? {
            let shelf = shelf.map_err(io_at(&self.root))?.path();
            if shelf.is_dir() {
                for entry in fs::read_dir(&shelf).map_err(io_at(&shelf))? {
                    let name = entry.map_err(io_at(&shelf))?.file_name();
                    ids.extend(name.to_str().and_then(|name| name.parse::<BlobId>().ok()));
                }
            }
        }
        Ok(ids)
    }

    /// Removes a blob and says how many bytes it had; one that is not here has none.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the disk refuses.
    pub fn remove(&self, id: BlobId) -> Result<u64, BlobError> {
        let path = self.path(id);
        let removed = fs::metadata(&path).and_then(|file| fs::remove_file(&path).map(|()| file.len()));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            removed => removed.map_err(io_at(&path)),
        }
    }

    /// Starts a blob whose bytes arrive in pieces.
    ///
    /// # Errors
    /// [`BlobError::Io`] when no temporary file can be made.
    pub fn begin(&self) -> Result<Incoming, BlobError> {
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempfile_in(&self.root)
            .map_err(io_at(&self.root))?;
        Ok(Incoming { store: self.clone(), file, hasher: blake3::Hasher::new(), size: 0 })
    }
}

/// A blob on its way in; dropped before [`Incoming::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    store: BlobStore,
    file: NamedTempFile,
    hasher: blake3::Hasher,
    size: u64,
}

impl Incoming {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file.write_all(bytes).map_err(io_at(self.file.path()))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts the blob in its place, durably, if its bytes are those of `expected`.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] when they are not, [`BlobError::Io`] when the disk refuses.
    pub fn commit(self, expected: BlobId) -> Result<(), BlobError> {
        let found = BlobId::from(self.hasher.finalize());
        let path = self.store.path(expected);
        if found != expected {
            return Err(BlobError::Corrupt { expected, found, path });
        }
        self.file.as_file().sync_all().map_err(io_at(self.file.path()))?;
        let root = &self.store.root;
        let shelf = path.parent().unwrap_or(root);
        let is_new = !shelf.is_dir();
        fs::create_dir_all(shelf).map_err(io_at(shelf))?;
        self.file.persist(&path).map_err(|error| io_at(&path)(error.error))?;
        // The rename is durable only once the folder itself is synced, and a new folder only once the one around it is.
        sync_folder(shelf)?;
        if is_new { sync_folder(root) } else { Ok(()) }
    }
}

/// Another process may be writing into the same store: only files an hour old are leftovers.
fn is_stale(entry: &fs::DirEntry) -> bool {
    const STALE_S: u64 = 3600;
    let age = entry
        .metadata()
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > STALE_S)
}

fn sync_folder(folder: &Path) -> Result<(), BlobError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_at(folder))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path().join("blobs")).unwrap();
        (folder, store)
    }

    #[test]
    fn bytes_come_back_by_their_hash() {
        let (_folder, store) = store();
        let id = store.put(b"features").unwrap();
        assert_eq!(store.read(id).unwrap(), b"features");
        assert_eq!(store.put(b"features").unwrap(), id);
    }

    #[test]
    fn blobs_are_listed_and_removed() {
        let (_folder, store) = store();
        let ids = [b"one".as_slice(), b"three"].map(|bytes| store.put(bytes).unwrap());
        fs::write(store.path(ids[0]).with_file_name("notes.txt"), b"mine").unwrap();
        assert_eq!(store.ids().unwrap(), BTreeSet::from(ids));
        assert_eq!((store.remove(ids[1]).unwrap(), store.remove(ids[1]).unwrap()), (5, 0));
        assert_eq!(store.ids().unwrap(), BTreeSet::from([ids[0]]));
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let (_folder, store) = store();
        let id = store.put(b"features").unwrap();
        fs::write(store.path(id), b"featureS").unwrap();
        assert!(matches!(store.read(id), Err(BlobError::Corrupt { .. })));
    }

    /// What a process that was killed left is no blob, and goes; what another may still be writing stays.
    #[test]
    fn what_an_interrupted_write_left_is_swept_away_once_it_is_old() {
        let (_folder, store) = store();
        let id = store.put(b"features").unwrap();
        let leave = |name: &str, age_s: u64| {
            let path = store.root.join(name);
            fs::write(&path, b"half").unwrap();
            let then = fs::metadata(&path).unwrap().modified().unwrap() - Duration::from_secs(age_s);
            fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let (old, young) = (leave(".incoming-old", 7_200), leave(".incoming-young", 60));
        assert_eq!(store.ids().unwrap(), BTreeSet::from([id]));
        let store = BlobStore::open(&store.root).unwrap();
        assert!(!old.exists() && young.exists());
        assert_eq!(store.read(id).unwrap(), b"features");
    }

    #[test]
    fn a_wrong_or_dropped_upload_leaves_nothing() {
        let (_folder, store) = store();
        let mut incoming = store.begin().unwrap();
        incoming.write(b"half").unwrap();
        assert!(matches!(incoming.commit(BlobId::of(b"whole")), Err(BlobError::Corrupt { .. })));
        assert!(matches!(store.read(BlobId::of(b"half")), Err(BlobError::Missing(..))));
        assert_eq!(fs::read_dir(&store.root).unwrap().count(), 0);
    }
}
