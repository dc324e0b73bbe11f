//! Export: from the champion's checkpoint to a folder that can be trusted on a device.
//!
//! In reading order:
//! - `features`: the rows that calibrate and verify.
//! - `network`: the model spec with its weights.
//! - `onnx`, `graph`: the schema's forms, and the float graph in them.
//! - `session`: tract, running a file's bytes over rows; `forward`: a network's logits without a file.
//! - `calibrate`: ranges of activations.
//! - `quantise`, `qdq`: the network in whole numbers, and its graph, for either runtime.
//! - `choice`: which of the ranges, by the validation part.
//! - `arithmetic`: what the int8 graph means, computed apart from it.
//! - `scored`: how a worker quantised it to score it, where the sweep's objective wants that.
//! - `aware`: what was trained to bear quantisation, as one more way to quantise.
//! - `verify`: the files as they lie on the disk, against checkpoint, recorded logits and arithmetic.
//! - `deploy`: the files in ONNX Runtime: the same predictions, and the time they take.
//! - `gates`: which model is shipped, and whether it keeps to the sweep's limits.
//! - `exporter`, `verified`: a champion whose parts belong together, written, verified and described.
//! - `pruning`, `sensitivity`: the champion before it was pruned, and what each of its layers can lose.
//! - `robustness`: the shipped model on noisy, quiet, clipped and short clips.
//! - `score`, `report`, `page`, `picture`, `provenance`: what is said about them.
//! - `bundle`: the folder, moved into place as a whole.
//!
//! Everything the export needs is in its arguments: it reads no database, no blob store, no clock and draws no randomness,
//! so that the same champion gives the same bytes, but for what the timer says.

mod arithmetic;
mod aware;
mod bundle;
mod calibrate;
mod choice;
mod deploy;
mod error;
mod exporter;
mod features;
mod forward;
mod gates;
mod graph;
mod network;
mod onnx;
mod page;
mod picture;
mod provenance;
mod pruning;
mod qdq;
mod quantise;
mod report;
mod robustness;
mod score;
mod scored;
mod sensitivity;
mod session;
#[cfg(test)]
mod tests;
mod verified;
mod verify;

use std::path::{Path, PathBuf};

use earshot_common::{
    ids::{FoldId, TrialId},
    job::{Epoch, Job},
    sweep::{Point, Sweep},
};
use earshot_data::{manifest::Manifest, split::Split};
use serde::Serialize;

pub(crate) use self::gates::change;
pub use self::{
    aware::{Aware, Awareness, Calibrated, calibrate},
    deploy::{Deployed, Timer},
    error::ExportError,
    features::Features,
    forward::Forward,
    gates::{Missed, Shipped},
    pruning::{Pruning, PruningStep, Whole, choose},
    robustness::{Condition, Recordings, Robustness},
    score::Scores,
    sensitivity::{Removed, Sensitivity},
};
use self::{bundle::Draft, exporter::Exporter};
use crate::bundle::Kind;

/// Names of the models in the bundle.
const FLOAT_FILE: &str = Kind::Float.file();
#[cfg(test)]
const INT8_FILE: &str = Kind::Int8.file();

/// The best feasible trial, with everything the export needs, fetched and verified by its hash.
#[derive(Debug, Clone)]
pub struct Champion {
    /// The sweep that found it.
    pub sweep: Sweep,
    /// Its number.
    pub trial: TrialId,
    /// Fold of the run that is exported.
    pub fold: FoldId,
    /// Its hyperparameters.
    pub point: Point,
    /// That run's job.
    pub job: Job,
    /// The epoch whose weights the checkpoint holds.
    pub best: Epoch,
    /// Blob: weights.
    pub checkpoint: Vec<u8>,
    /// Blob: the worker's logits of the validation rows by those weights.
    pub logits: Vec<u8>,
    /// The data it was trained on.
    pub manifest: Manifest,
    /// Rows that trained, validated and test.
    pub split: Split,
    /// Every epoch of that run; empty where it is not known.
    pub learning_curve: Vec<Epoch>,
    /// Trials it was chosen from.
    pub trials_completed: u32,
    /// What came of the sweep's pruning; none where there is to be none. The job, the weights and all else above are of the step that is
    /// exported.
    pub pruning: Option<Pruning>,
    /// What became of the wish to have it trained to bear quantisation; none where the sweep has none.
    pub awareness: Option<Awareness>,
    /// Blob: the weights that the run began with; none: fresh ones.
    pub initial_weights: Option<Vec<u8>>,
    /// Blob: its teacher's logits of the training rows; none: it had none.
    pub teacher: Option<Vec<u8>>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The bundle.
    pub folder: PathBuf,
    /// The trial it is.
    pub trial: TrialId,
    /// `model.onnx`.
    pub float: ModelSummary,
    /// `model.int8.onnx`.
    pub int8: ModelSummary,
    /// `model.tensorrt.onnx`.
    pub tensorrt: ModelSummary,
    /// Largest difference of a validation logit between the float file and the worker.
    pub logit_difference_max: f32,
    /// Largest difference of a logit between either int8 file in tract and whole-number arithmetic, on a sample of validation
    /// clips.
    pub int8_logit_difference_max: f32,
    /// Part of the validation and test clips for which the float and the int8 file give the same class.
    pub top1_agreement: f64,
    /// The model that is meant to be shipped.
    pub shipped: Shipped,
    /// Which step of the sweep's pruning is exported, if any, and why; none where nothing was to be pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<String>,
    /// Whether the int8 model was trained to bear quantisation, and why; none where nobody wished that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantisation: Option<String>,
}

/// One of the models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// Name in the bundle.
    pub file: &'static str,
    /// Size.
    pub bytes: u64,
    /// On the validation part.
    pub validation: Scores,
    /// On the test part; none when the split has none.
    pub test: Option<Scores>,
    /// In ONNX Runtime, with its latency.
    pub onnxruntime: Deployed,
}

/// Writes the champion's bundle to `out`, telling `progress` what it is about to do. A bundle that is there is replaced. `timer` times
/// single runs of the models, `recordings` gives the files of the clips.
///
/// # Errors
/// [`ExportError`] says what is wrong and how to mend it; then `out` is as it was before.
pub fn export(
    champion: &Champion,
    features: &Features,
    out: &Path,
    timer: Timer<'_>,
    recordings: Recordings<'_>,
    progress: &dyn Fn(&str),
) -> Result<Summary, ExportError> {
    let mut draft = Draft::begin(out)?;
    let exporter = Exporter::new(champion, features)?;
    let models = exporter.write(&mut draft, progress)?;
    let verified = exporter.verify(&draft, &models, timer, progress)?;
    progress("listening under worse conditions");
    let robustness = exporter.robustness(&draft, &verified, recordings)?;
    progress("writing the report");
    exporter.describe(&mut draft, &verified, &robustness)?;
    draft.commit()?;
    Ok(verified.summary(champion, out))
}
