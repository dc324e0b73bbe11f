//! Quantisation, as an export sees it: what calibration alone comes to, and what was trained to bear it.

use earshot_common::{
    ids::BlobId,
    int8::{Range, calibration},
    job::{Epoch, Job},
    model::AudioCnn,
};
use prost::Message;
use serde::Serialize;

use super::{
    ExportError, Features,
    calibrate::collect,
    choice::{self, Trial, Way},
    exporter::recorded_logits,
    graph,
    network::Network,
    quantise::Profile,
    session::Session,
};

/// How reports call it.
const NAME: &str = "quantisation-aware training";

/// The exported model, trained on while it rounded as its int8 file does.
#[derive(Debug, Clone)]
pub struct Aware {
    /// That run's job.
    pub job: Job,
    /// The epoch whose weights the checkpoint holds, of the rounded network.
    pub best: Epoch,
    /// Blob: weights.
    pub checkpoint: Vec<u8>,
    /// Blob: the rounded network's logits of the validation rows, by the worker.
    pub logits: Vec<u8>,
    /// What calibration alone had come to, in words.
    pub why: String,
}

/// What became of a sweep's wish to have the model trained to bear quantisation.
#[derive(Debug, Clone)]
pub enum Awareness {
    /// It was.
    Trained(Box<Aware>),
    /// It was not.
    Kept {
        /// Why not, in words.
        why: String,
    },
}

/// What calibration alone comes to, in the profile of ONNX Runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrated {
    /// How it was calibrated.
    pub method: &'static str,
    /// Of the input and of every step that has a scale.
    pub ranges: Vec<Range>,
    /// Of the quantised model on the validation part.
    pub accuracy: f64,
}

/// Quantises a model as an export would, without writing it.
///
/// # Errors
/// The checkpoint is another spec's, or tract fails.
pub fn calibrate(
    model: &AudioCnn,
    checkpoint: &[u8],
    features: &Features,
    train: &[u32],
    validation: &[u32],
) -> Result<Calibrated, ExportError> {
    let network = Network::new(model, checkpoint)?;
    let activations = model.cost().map_err(ExportError::Model)?.peak_ram_bytes;
    let bytes = graph::float(&network, &Vec::new()).encode_to_vec();
    let sample = calibration::sample(train);
    let seen = collect(&bytes, &network, activations, features, &sample)?;
    let float = Session::load(super::FLOAT_FILE, &bytes, activations, &[])?.logits(features, validation)?;
    let trial = Trial { classes: network.classes, activations, features, rows: validation, float: &float };
    let ways = choice::calibrations(&network, &seen, sample.len());
    let choice = trial.choose(Profile::OnnxRuntime, &ways, &Vec::new())?;
    let chosen = choice.attempts.iter().find(|attempt| attempt.chosen);
    Ok(Calibrated {
        method: choice.way.name,
        ranges: choice.way.ranges,
        accuracy: chosen.map_or(0.0, |attempt| attempt.accuracy),
    })
}

/// An aware run's network, with what the worker recorded of it.
pub(super) struct Attuned {
    pub(super) network: Network,
    /// One row for each validation row.
    recorded: Vec<f32>,
    ranges: Vec<Range>,
    checkpoint: BlobId,
}

impl Attuned {
    /// Decodes an aware run's blobs; `rows` are the validation part's.
    ///
    /// # Errors
    /// They are not of this run.
    pub(super) fn new(aware: &Aware, rows: usize) -> Result<Self, ExportError> {
        let Aware { job, checkpoint, logits, .. } = aware;
        Ok(Self {
            network: Network::new(&job.model, checkpoint)?,
            recorded: recorded_logits(logits, rows, &job.model)?,
            ranges: job.int8_ranges.clone(),
            checkpoint: BlobId::of(checkpoint),
        })
    }

    /// As one more way to quantise.
    pub(super) fn way(&self) -> Way<'_> {
        Way {
            name: NAME,
            network: &self.network,
            ranges: self.ranges.clone(),
            recorded: Some(&self.recorded),
            is_aware: true,
            metadata: vec![
                ("earshot.calibration", "the ranges that it was trained with".to_owned()),
                ("earshot.aware_checkpoint", self.checkpoint.to_string()),
            ],
        }
    }
}

/// The run that made the weights of a bundle's int8 files, as the provenance tells it.
#[derive(Debug, Serialize)]
pub(super) struct AwareProvenance<'a> {
    job: &'a Job,
    best_epoch: &'a Epoch,
    checkpoint: BlobId,
    logits: BlobId,
}

impl<'a> AwareProvenance<'a> {
    pub(super) fn new(aware: &'a Aware) -> Self {
        Self {
            job: &aware.job,
            best_epoch: &aware.best,
            checkpoint: BlobId::of(&aware.checkpoint),
            logits: BlobId::of(&aware.logits),
        }
    }
}

impl Awareness {
    /// The run, if there was one.
    pub(super) fn trained(&self) -> Option<&Aware> {
        match self {
            Self::Trained(aware) => Some(aware),
            Self::Kept { .. } => None,
        }
    }

    /// What became of it, in words; `is_taken` says whether the int8 file has its weights.
    pub(super) fn told(&self, is_taken: bool) -> String {
        match self {
            Self::Kept { why } => format!("calibrated alone: {why}"),
            Self::Trained(aware) => {
                let accuracy = 100.0 * aware.best.accuracy;
                let taken =
                    if is_taken { "which is exported" } else { "which is no better, so it is not exported" };
                format!("{}; trained to bear it, it has {accuracy:.2} % there, {taken}", aware.why)
            }
        }
    }
}
