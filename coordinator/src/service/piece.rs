//! One piece of a blob on the wire, checked the same way on both of its ends.

use earshot_common::{
    ids::BlobId,
    wire::{self, WireError},
};
use earshot_proto::earshot::v1::BlobChunk;

/// Bytes of one piece at most, as the protocol says.
pub(crate) const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a message that holds a piece: the piece, and room for its names.
pub(crate) const MESSAGE_BYTES_MAX: usize = PIECE_BYTES_MAX + 1024;

/// Bytes of one blob at most: several times the checkpoint of the largest model that an edge device could hold, and of the
/// largest shard.
pub(crate) const BLOB_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why a piece is not taken.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PieceError {
    /// A name that is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Not of the blob that the first piece named.
    #[error("a piece names another blob or size than the first")]
    OtherBlob,
    /// Not the next one, or beyond the blob's end.
    #[error("a piece of {bytes} bytes begins at {found}, where {expected} is due in a blob of {size}")]
    OutOfPlace {
        /// Where it says that it begins.
        found: u64,
        /// Where the next one begins.
        expected: u64,
        /// Its length.
        bytes: usize,
        /// The blob's.
        size: u64,
    },
    /// Longer than a piece may be.
    #[error("a piece has {0} bytes, at most {PIECE_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// The blob is larger than any may be.
    #[error("the blob is said to have {0} bytes, at most {BLOB_BYTES_MAX} are taken")]
    BlobTooLarge(u64),
    /// Damaged on its way.
    #[error("the piece at {offset} of blob {id} does not hash to its digest")]
    Digest {
        /// The blob.
        id: BlobId,
        /// Where it begins.
        offset: u64,
    },
}

/// The blob that a row of pieces is of, as the first of them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Its name.
    pub(crate) id: BlobId,
    /// Its length.
    pub(crate) size: u64,
}

impl Whole {
    /// What the first piece says.
    pub(crate) fn of(first: &BlobChunk) -> Result<Self, PieceError> {
        if first.size > BLOB_BYTES_MAX {
            return Err(PieceError::BlobTooLarge(first.size));
        }
        Ok(Self { id: wire::blob_id(&first.blob, "the blob")?, size: first.size })
    }

    /// Whether this is the piece that begins at `offset`, undamaged.
    pub(crate) fn check(self, piece: &BlobChunk, offset: u64) -> Result<(), PieceError> {
        if Self::of(piece)? != self {
            return Err(PieceError::OtherBlob);
        }
        let bytes = piece.data.len();
        if bytes > PIECE_BYTES_MAX {
            return Err(PieceError::TooLarge(bytes));
        }
        // One that brings nothing could come for ever.
        let is_due = piece.offset == offset && bytes > 0;
        if !is_due || offset + bytes as u64 > self.size {
            return Err(PieceError::OutOfPlace {
                found: piece.offset,
                expected: offset,
                bytes,
                size: self.size,
            });
        }
        if wire::blob_id(&piece.digest, "the digest")? != BlobId::of(&piece.data) {
            return Err(PieceError::Digest { id: self.id, offset });
        }
        Ok(())
    }

    /// The piece that begins at `offset`.
    pub(crate) fn piece(self, offset: u64, data: Vec<u8>) -> BlobChunk {
        let digest = wire::blob_bytes(BlobId::of(&data));
        BlobChunk { blob: wire::blob_bytes(self.id), size: self.size, offset, data: data.into(), digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut BlobChunk), expected: &Result<(), PieceError>) {
        let whole = Whole { id: BlobId::of(b"0123456789"), size: 10 };
        let mut piece = whole.piece(4, b"4567".to_vec());
        change(&mut piece);
        assert_eq!(&whole.check(&piece, 4), expected);
    }

    #[test]
    fn only_the_next_undamaged_piece_is_taken() {
        let id = BlobId::of(b"0123456789");
        check(|_| (), &Ok(()));
        check(|piece| piece.data = b"4568".to_vec().into(), &Err(PieceError::Digest { id, offset: 4 }));
        check(|piece| piece.size = 11, &Err(PieceError::OtherBlob));
        check(|piece| piece.size = u64::MAX, &Err(PieceError::BlobTooLarge(u64::MAX)));
        check(|piece| piece.blob = vec![0; 32], &Err(PieceError::OtherBlob));
        check(|piece| piece.blob = vec![0; 31], &Err(PieceError::Wire(WireError::BlobId("the blob"))));
        let out_of_place = |found, bytes| PieceError::OutOfPlace { found, expected: 4, bytes, size: 10 };
        check(|piece| piece.offset = 5, &Err(out_of_place(5, 4)));
        check(|piece| piece.data = b"456789x".to_vec().into(), &Err(out_of_place(4, 7)));
        check(|piece| piece.data = Vec::new().into(), &Err(out_of_place(4, 0)));
        let long = vec![0; PIECE_BYTES_MAX + 1];
        check(|piece| piece.data = long.into(), &Err(PieceError::TooLarge(PIECE_BYTES_MAX + 1)));
    }
}
