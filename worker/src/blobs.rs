//! Content-addressed bytes: fetched from the coordinator once, kept on disk, verified always.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use earshot_common::{
    blob::{BlobError, BlobStore},
    credentials::Line,
    ids::BlobId,
    wire,
};
use earshot_proto::earshot::v1::{BlobChunk, FetchRequest, blobs_client::BlobsClient};
use tokio::{runtime::Handle, task::spawn_blocking};
use tonic::{Code, Status};

use crate::{
    agent::backoff::{Backoff, Pace},
    control::{Control, State},
    slot::BlobSource,
};

/// Bytes of one piece at most, as the protocol says.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one blob at most: a guard against a coordinator that is not one, far above any shard.
pub const BLOB_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Times that a blob is asked for again when its bytes arrive wrong. More would hide broken hardware.
const CORRUPT_TRIES_MAX: u32 = 5;

/// Why a blob cannot be had or given.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// The coordinator has no such blob.
    #[error("the coordinator has no blob {0}")]
    Missing(BlobId),
    /// It says it is larger than any blob may be.
    #[error("blob {id} is said to have {size} bytes, at most {BLOB_BYTES_MAX} are taken")]
    TooLarge {
        /// The blob.
        id: BlobId,
        /// Its size, by its first piece.
        size: u64,
    },
    /// The bytes came wrong again and again.
    #[error("blob {id} arrives corrupt: {what}")]
    Corrupt {
        /// The blob.
        id: BlobId,
        /// What was wrong.
        what: &'static str,
    },
    /// The coordinator refuses for good.
    #[error("the coordinator refuses blob {id}: {}", status.message())]
    Refused {
        /// The blob.
        id: BlobId,
        /// Its answer.
        status: Box<Status>,
    },
    /// It cannot be reached, or answers that it cannot just now.
    #[error("the coordinator cannot be reached: {}", .0.message())]
    Unavailable(Box<Status>),
    /// The cache's disk.
    #[error("the blob cache failed")]
    Store(#[source] BlobError),
    /// A corrupt file of the cache cannot be deleted.
    #[error("the blob cache cannot delete a corrupt file")]
    Delete(#[source] io::Error),
    /// A task of the cache panicked.
    #[error("the blob cache's task panicked")]
    Task,
    /// The attempt is no longer wanted.
    #[error("the attempt is no longer wanted")]
    Halted,
}

/// The coordinator's blobs through the cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: BlobStore,
    client: BlobsClient<Line>,
    pace: Pace,
    /// One lock a blob, so that slots which want the same one fetch it once. Never held while waiting for anything else.
    locks: Arc<Mutex<BTreeMap<BlobId, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Blobs {
    /// A cache in `store` of what the coordinator at the end of `line` has.
    pub fn new(store: BlobStore, line: Line, pace: Pace) -> Self {
        Self { store, client: BlobsClient::new(line), pace, locks: Arc::default() }
    }

    /// The blob's bytes, from the cache or from the coordinator, for as long as the attempt is wanted.
    ///
    /// # Errors
    /// [`BlobsError`], but never [`BlobsError::Unavailable`]: a coordinator that is away is waited for.
    pub async fn read(&self, id: BlobId, control: &Control) -> Result<Vec<u8>, BlobsError> {
        tokio::select! {
            biased;
            () = control.reached(State::Draining) => Err(BlobsError::Halted),
            bytes = self.read_once(id) => bytes,
        }
    }

    async fn read_once(&self, id: BlobId) -> Result<Vec<u8>, BlobsError> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        if let Some(bytes) = self.cached(id).await? {
            return Ok(bytes);
        }
        let mut backoff = Backoff::new(self.pace);
        let mut corrupt = 0;
        loop {
            match self.fetch(id).await {
                Ok(bytes) => {
                    let store = self.store.clone();
                    return blocking(move || {
                        keep(&store, id, &bytes);
                        Ok(bytes)
                    })
                    .await;
                }
                Err(error @ BlobsError::Corrupt { .. }) if corrupt < CORRUPT_TRIES_MAX => {
                    corrupt += 1;
                    tracing::warn!(%id, "{error}; asking again");
                }
                Err(BlobsError::Unavailable(status)) => {
                    tracing::debug!(%id, "cannot fetch a blob: {}", status.message());
                }
                Err(error) => return Err(error),
            }
            backoff.wait().await;
        }
    }

    /// The bytes on disk; a file that is not what its name says is deleted.
    async fn cached(&self, id: BlobId) -> Result<Option<Vec<u8>>, BlobsError> {
        let store = self.store.clone();
        blocking(move || match store.read(id) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(BlobError::Missing(..)) => Ok(None),
            Err(BlobError::Corrupt { path, .. }) => {
                tracing::warn!(%id, "the cached blob is corrupt; fetching it again");
                fs::remove_file(&path).map(|()| None).map_err(BlobsError::Delete)
            }
            Err(error) => Err(BlobsError::Store(error)),
        })
        .await
    }

    /// One try: every piece in order, each verified, then the whole.
    async fn fetch(&self, id: BlobId) -> Result<Vec<u8>, BlobsError> {
        let request = FetchRequest { blob: wire::blob_bytes(id) };
        let answer = |status: Status| status_error(id, status);
        let mut pieces = self.client.clone().fetch(request).await.map_err(answer)?.into_inner();
        let mut bytes = Vec::new();
        let mut whole = None;
        while let Some(piece) = pieces.message().await.map_err(answer)? {
            let size = *whole.get_or_insert(piece.size);
            if size > BLOB_BYTES_MAX {
                return Err(BlobsError::TooLarge { id, size });
            }
            check_piece(id, &piece, bytes.len() as u64, size)
                .map_err(|what| BlobsError::Corrupt { id, what })?;
            bytes.extend_from_slice(&piece.data);
        }
        if BlobId::of(&bytes) != id {
            return Err(BlobsError::Corrupt { id, what: "the whole does not hash to its name" });
        }
        Ok(bytes)
    }

    /// Gives the coordinator a blob: one try.
    ///
    /// # Errors
    /// [`BlobsError::Unavailable`] and [`BlobsError::Corrupt`] may go better another time.
    pub async fn put(&self, bytes: &[u8]) -> Result<BlobId, BlobsError> {
        let id = BlobId::of(bytes);
        let size = bytes.len() as u64;
        let mut offset = 0;
        let pieces: Vec<BlobChunk> = bytes
            .chunks(CHUNK_BYTES_MAX)
            .map(|data| {
                let piece = BlobChunk {
                    blob: wire::blob_bytes(id),
                    size,
                    offset,
                    data: data.to_vec().into(),
                    digest: wire::blob_bytes(BlobId::of(data)),
                };
                offset += data.len() as u64;
                piece
            })
            .collect();
        let answer = self.client.clone().put(tokio_stream::iter(pieces)).await;
        answer.map(|_| id).map_err(|status| status_error(id, status))
    }

    fn lock(&self, id: BlobId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(id, Arc::downgrade(&lock));
        lock
    }
}

/// Puts a blob into the cache. One that cannot be kept, as on a full disk, costs another fetch and no attempt.
fn keep(store: &BlobStore, id: BlobId, bytes: &[u8]) {
    if let Err(error) = store.put(bytes) {
        let error = crate::slot::chain(&error);
        tracing::warn!(%id, "going on without a cached blob: {error}; free space, or choose another folder with --cache");
    }
}

fn check_piece(id: BlobId, piece: &BlobChunk, offset: u64, size: u64) -> Result<(), &'static str> {
    if wire::blob_id(&piece.blob, "blob").ok() != Some(id) || piece.size != size {
        return Err("a piece belongs to another blob");
    }
    if piece.offset != offset || offset + piece.data.len() as u64 > size {
        return Err("a piece is out of its place");
    }
    if piece.data.len() > CHUNK_BYTES_MAX {
        return Err("a piece is too large");
    }
    if wire::blob_id(&piece.digest, "digest").ok() != Some(BlobId::of(&piece.data)) {
        return Err("a piece does not hash to its digest");
    }
    Ok(())
}

fn status_error(id: BlobId, status: Status) -> BlobsError {
    match status.code() {
        Code::NotFound => BlobsError::Missing(id),
        Code::DataLoss => {
            let what = "it was damaged on its way, or in the coordinator's store, as `coordinator db check` would say";
            BlobsError::Corrupt { id, what }
        }
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::OutOfRange => BlobsError::Refused { id, status: Box::new(status) },
        _ => BlobsError::Unavailable(Box::new(status)),
    }
}

/// Runs file work off tokio's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobsError> + Send + 'static,
) -> Result<T, BlobsError> {
    spawn_blocking(work).await.unwrap_or(Err(BlobsError::Task))
}

/// [`Blobs`] for a slot's thread, which may block.
#[derive(Debug)]
pub struct BlockingBlobs {
    /// The blobs.
    pub blobs: Blobs,
    /// The runtime that their connection lives on.
    pub runtime: Handle,
}

impl BlobSource for BlockingBlobs {
    fn read(&self, id: BlobId, control: &Control) -> Result<Vec<u8>, BlobsError> {
        self.runtime.block_on(self.blobs.read(id, control))
    }
}
