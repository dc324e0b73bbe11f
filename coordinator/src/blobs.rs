//! The coordinator's blobs: a store of its own, and beside it the shards of the folders that were prepared for its sweeps.
//!
//! The own store lies next to the database and takes what sweeps produce: splits, manifests, checkpoints, logits. Shards
//! stay where preparation put them and are only read.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use earshot_common::{
    blob::{BlobError, BlobStore, Incoming},
    ids::BlobId,
};
use earshot_data::prepare::BLOBS;

/// Where the coordinator finds and puts blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    own: BlobStore,
    /// A folder for each preparation; sweeps may share one. Behind a std lock: nothing waits while holding it.
    shards: Arc<RwLock<Vec<BlobStore>>>,
}

impl Blobs {
    /// The blobs of the database at `db` and of the prepared folder `processed`.
    ///
    /// # Errors
    /// [`BlobError::Io`] when one of the two folders cannot be made or read.
    pub fn open(db: &Path, processed: &Path) -> Result<Self, BlobError> {
        let blobs = Self { own: BlobStore::open(folder_of(db))?, shards: Arc::default() };
        blobs.add(processed)?;
        Ok(blobs)
    }

    /// Reads shards from another prepared folder as well.
    ///
    /// # Errors
    /// [`BlobError::Io`] when it cannot be made or read.
    pub fn add(&self, processed: &Path) -> Result<(), BlobError> {
        let store = BlobStore::open(processed.join(BLOBS))?;
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        if shards.iter().all(|known| known.root() != store.root()) {
            shards.push(store);
        }
        Ok(())
    }

    /// Whether a blob of this name is in one of the stores.
    pub fn contains(&self, id: BlobId) -> bool {
        self.holder(id).contains(id)
    }

    /// Reads a blob and verifies its hash.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Corrupt`] or [`BlobError::Io`].
    pub fn read(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        self.holder(id).read(id)
    }

    /// Starts reading a blob piece by piece, so that a large one is never in memory as a whole.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Io`].
    pub fn reader(&self, id: BlobId) -> Result<BlobReader, BlobError> {
        let path = self.holder(id).path(id);
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        match open() {
            Ok((file, size)) => {
                Ok(BlobReader { id, path, file, size, hasher: blake3::Hasher::new(), read: 0 })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::Missing(id, path)),
            Err(source) => Err(BlobError::Io { path, source }),
        }
    }

    /// Stores bytes in the own store.
    ///
    /// # Errors
    /// [`BlobError::Io`] when the disk refuses.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobId, BlobError> {
        self.own.put(bytes)
    }

    /// Starts a blob of the own store whose bytes arrive in pieces.
    ///
    /// # Errors
    /// [`BlobError::Io`] when no temporary file can be made.
    pub fn begin(&self) -> Result<Incoming, BlobError> {
        self.own.begin()
    }

    /// The store that has the blob; the own one when none has.
    fn holder(&self, id: BlobId) -> BlobStore {
        if self.own.contains(id) {
            return self.own.clone();
        }
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.iter().find(|store| store.contains(id)).unwrap_or(&self.own).clone()
    }
}

/// A blob being read in pieces. The hash of the whole is compared after the last piece.
#[derive(Debug)]
pub struct BlobReader {
    id: BlobId,
    path: PathBuf,
    file: File,
    size: u64,
    hasher: blake3::Hasher,
    read: u64,
}

impl BlobReader {
    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes read so far: where the next piece begins.
    pub fn offset(&self) -> u64 {
        self.read
    }

    /// The next piece, of at most `bytes_max` bytes; empty after the last.
    ///
    /// # Errors
    /// [`BlobError::Io`], or [`BlobError::Corrupt`] instead of the end when the pieces together are not the blob.
    pub fn next_piece(&mut self, bytes_max: usize) -> Result<Vec<u8>, BlobError> {
        let mut piece =
            Vec::with_capacity(bytes_max.min(usize::try_from(self.size - self.read).unwrap_or(bytes_max)));
        let rest = (&self.file).take(self.size - self.read).take(bytes_max as u64).read_to_end(&mut piece);
        rest.map_err(|source| BlobError::Io { path: self.path.clone(), source })?;
        self.hasher.update(&piece);
        self.read += piece.len() as u64;
        if piece.is_empty() {
            let found = BlobId::from(self.hasher.finalize());
            if found != self.id {
                return Err(BlobError::Corrupt { expected: self.id, found, path: self.path.clone() });
            }
        }
        Ok(piece)
    }
}

/// The folder of a database's own blobs: beside it, with another extension.
pub fn folder_of(db: &Path) -> PathBuf {
    db.with_extension("blobs")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&folder.path().join("sweep.redb"), &folder.path().join("processed")).unwrap();
        (folder, blobs)
    }

    fn pieces(reader: &mut BlobReader, bytes_max: usize) -> Result<Vec<Vec<u8>>, BlobError> {
        let mut pieces = Vec::new();
        loop {
            match reader.next_piece(bytes_max)? {
                piece if piece.is_empty() => return Ok(pieces),
                piece => pieces.push(piece),
            }
        }
    }

    #[test]
    fn both_stores_are_read_and_only_the_own_one_is_written() {
        let (folder, blobs) = blobs();
        let shard = BlobStore::open(folder.path().join("processed/blobs")).unwrap().put(b"shard").unwrap();
        let split = blobs.put(b"split").unwrap();
        assert_eq!(
            (blobs.read(shard).unwrap(), blobs.read(split).unwrap()),
            (b"shard".to_vec(), b"split".to_vec())
        );
        assert!(BlobStore::open(folder.path().join("sweep.blobs")).unwrap().contains(split));
        assert!(matches!(blobs.reader(BlobId::of(b"none")), Err(BlobError::Missing(..))));
    }

    #[test]
    fn pieces_make_the_whole_and_a_flipped_byte_shows_at_the_end() {
        let (folder, blobs) = blobs();
        let id = blobs.put(b"0123456789").unwrap();
        let mut reader = blobs.reader(id).unwrap();
        assert_eq!(pieces(&mut reader, 4).unwrap(), [b"0123".to_vec(), b"4567".to_vec(), b"89".to_vec()]);
        let path = BlobStore::open(folder.path().join("sweep.blobs")).unwrap().path(id);
        fs::write(path, b"0123456780").unwrap();
        assert!(matches!(pieces(&mut blobs.reader(id).unwrap(), 4), Err(BlobError::Corrupt { .. })));
    }
}
