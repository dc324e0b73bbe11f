//! Where a bundle's weights come from, as its provenance says: enough to train them again.

use earshot_common::{
    ids::{BlobId, TrialId},
    job::{Epoch, Job},
    sweep::Sweep,
};
use serde::Deserialize;

/// What trained a bundle's int8 weights, from the other files' weights.
#[derive(Debug, Clone, Deserialize)]
pub struct AwareOrigin {
    /// As [`Origin::job`].
    pub job: Job,
    /// Of the rounded network.
    pub best_epoch: Epoch,
    /// Blob: the weights.
    pub checkpoint: BlobId,
    /// Blob: the rounded network's logits of the validation rows.
    pub logits: BlobId,
}

/// What trained a bundle's weights, and what came of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Origin {
    /// The sweep.
    pub sweep: Sweep,
    /// The trial's number in it.
    pub trial: TrialId,
    /// Model spec, recipe with its seed, shards and split.
    pub job: Job,
    /// On the validation part, by the worker.
    pub best_epoch: Epoch,
    /// Blob: the weights.
    pub checkpoint: BlobId,
    /// Blob: the logits of the validation rows by those weights.
    pub logits: BlobId,
    /// What trained the weights of the int8 files on, where they are others.
    #[serde(default)]
    pub aware: Option<AwareOrigin>,
    /// What the recordings are.
    pub data_hash: BlobId,
    /// How they became features.
    pub front_end_hash: BlobId,
}
