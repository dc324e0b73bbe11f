//! Where a bundle comes from: everything needed to tell two bundles apart, and to make this one again.
//!
//! It names no time and no machine. What was measured is in the report, and in which model is shipped; all else is the same each time.

use std::collections::BTreeMap;

use earshot_common::{
    ids::{BlobId, FoldId, TrialId},
    job::{Epoch, Job},
    model::Cost,
    sweep::{Point, Sweep},
};
use serde::{Deserialize, Serialize};

use super::{
    Champion,
    aware::{AwareProvenance, Awareness},
    gates::Shipped,
    onnx::Metadata,
    verified::Verified,
};
use crate::bundle::{FORMAT, FORMAT_VERSION, FileEntry};

/// The contents of `provenance.json`.
#[derive(Debug, Serialize)]
pub(super) struct Provenance<'a> {
    format: &'static str,
    format_version: u32,
    earshot_version: &'static str,
    sweep: &'a Sweep,
    sweep_hash: BlobId,
    trial: TrialId,
    /// The fold that validated; none for the refit.
    fold: Option<FoldId>,
    /// The step of pruning that is exported; none: the champion as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruning_step: Option<u32>,
    trials_completed: u32,
    point: &'a Point,
    /// Model spec, recipe with its seed, shards and split.
    job: &'a Job,
    /// On the validation part, by the worker.
    best_epoch: &'a Epoch,
    checkpoint: BlobId,
    logits: BlobId,
    /// What trained the weights of the int8 files, where that was another run.
    #[serde(skip_serializing_if = "Option::is_none")]
    aware: Option<AwareProvenance<'a>>,
    data_hash: BlobId,
    front_end_hash: BlobId,
    cost: Cost,
    /// Every other file of the bundle.
    files: &'a BTreeMap<String, FileEntry>,
    /// The model that is meant to be shipped.
    shipped: &'a Shipped,
    /// Of ONNX Runtime, which verified and measured the models.
    onnxruntime_version: String,
}

impl<'a> Provenance<'a> {
    /// Of this champion and these files.
    pub(super) fn new(
        champion: &'a Champion,
        cost: Cost,
        files: &'a BTreeMap<String, FileEntry>,
        verified: &'a Verified,
        onnxruntime_version: String,
    ) -> Self {
        let is_aware = verified.int8.is_aware || verified.tensorrt.is_aware;
        let aware = champion.awareness.as_ref().filter(|_| is_aware).and_then(Awareness::trained);
        Self {
            format: FORMAT,
            format_version: FORMAT_VERSION,
            earshot_version: env!("CARGO_PKG_VERSION"),
            sweep: &champion.sweep,
            sweep_hash: champion.sweep.hash(),
            trial: champion.trial,
            fold: Some(champion.fold).filter(|fold| *fold != FoldId::REFIT),
            pruning_step: champion.pruning.as_ref().and_then(|pruning| pruning.exported),
            trials_completed: champion.trials_completed,
            point: &champion.point,
            job: &champion.job,
            best_epoch: &champion.best,
            checkpoint: BlobId::of(&champion.checkpoint),
            logits: BlobId::of(&champion.logits),
            aware: aware.map(AwareProvenance::new),
            data_hash: champion.manifest.data_hash,
            front_end_hash: champion.manifest.front_end_hash,
            cost,
            files,
            shipped: &verified.shipped,
            onnxruntime_version,
        }
    }
}

/// What the model files themselves say: enough to refuse features of another front end and to name the predictions.
pub(super) fn metadata(champion: &Champion) -> Result<Metadata, serde_json::Error> {
    let manifest = &champion.manifest;
    Ok(vec![
        ("earshot.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("earshot.labels", serde_json::to_string(&manifest.classes)?),
        ("earshot.front_end", serde_json::to_string(&manifest.front_end)?),
        ("earshot.front_end_hash", manifest.front_end_hash.to_string()),
        ("earshot.data_hash", manifest.data_hash.to_string()),
        ("earshot.sweep", champion.sweep.name.clone()),
        ("earshot.trial", champion.trial.to_string()),
        ("earshot.fold", champion.fold.to_string()),
        ("earshot.point", serde_json::to_string(&champion.point)?),
        ("earshot.checkpoint", BlobId::of(&champion.checkpoint).to_string()),
        ("earshot.validation_metrics", serde_json::to_string(&champion.best)?),
    ])
}

/// Whether these bytes are the provenance of a bundle, of whatever version.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Mark {
        format: String,
    }
    serde_json::from_slice::<Mark>(bytes).is_ok_and(|mark| mark.format == FORMAT)
}
