//! Why there is no bundle.

use std::{io, path::PathBuf};

use earshot_common::{model::ModelError, tensors::TensorsError};
use tract_onnx::prelude::TractError;

use super::gates::{self, Missed};
use crate::prune::PruneError;

/// Why there is no bundle. A folder that stood at its place before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The checkpoint is not that of the champion's model.
    #[error("the champion's checkpoint does not fit its model: train the trial again")]
    Checkpoint(#[source] TensorsError),
    /// The champion's model spec cannot be built.
    #[error("the champion's model spec cannot be built")]
    Model(#[source] ModelError),
    /// A standard deviation that cannot be divided by.
    #[error("the checkpoint's input.std of row {row} is {value}, it must be above 0: train the trial again")]
    Deviation {
        /// From 0.
        row: usize,
        /// What it is.
        value: f32,
    },
    /// The champion cannot be sliced.
    #[error("the champion's layers cannot be scanned")]
    Prune(#[from] PruneError),
    /// The recorded logits cannot be read, or are of another shape.
    #[error("the worker's recorded logits cannot be used: train the trial again")]
    Recorded(#[source] TensorsError),
    /// Shards, manifest, split and model do not belong together.
    #[error("features, split and model do not belong together ({what}): prepare the data again")]
    Features {
        /// What contradicts what.
        what: String,
    },
    /// A class name that cannot stand on a line of `labels.txt`.
    #[error(
        "class {class} is named {name:?}: a name must be one line of text without control characters, rename the category"
    )]
    Label {
        /// Class index.
        class: usize,
        /// Its name.
        name: String,
    },
    /// tract refuses a model, or fails in it.
    #[error("tract cannot {step} {model}: this is a defect of the exporter, the model was not exported")]
    Tract {
        /// Which of the two files.
        model: &'static str,
        /// What it was to do.
        step: &'static str,
        /// Why.
        #[source]
        source: TractError,
    },
    /// A file that is not what was written.
    #[error("{model} is corrupt: {what}; check the disk it was written to and export again")]
    Corrupt {
        /// Which of the files.
        model: String,
        /// What is wrong, and in which tensor.
        what: String,
    },
    /// The exported model says something else than the reference it is held against.
    #[error(
        "{model} disagrees with {reference}: on row {row} the logit of class {class} is {found}, not {expected} \
         (tolerance {tolerance}); the model was not exported"
    )]
    Disagrees {
        /// Which of the two files.
        model: &'static str,
        /// What it is held against.
        reference: &'static str,
        /// Row of the manifest.
        row: u32,
        /// Class index.
        class: usize,
        /// What the file gives.
        found: f32,
        /// What it should give.
        expected: f32,
        /// Difference allowed.
        tolerance: f32,
    },
    /// Both runtimes run an int8 model, and predict differently.
    #[error(
        "tract and ONNX Runtime predict the same with {model} for {agreement:.3} of the clips only; the model was not exported"
    )]
    Runtimes {
        /// Which of the files.
        model: &'static str,
        /// Part of the validation and test clips.
        agreement: f64,
    },
    /// The model that is meant to be shipped breaks the sweep's limits.
    #[error("the model breaks the limits of the sweep's [export], it was not exported:\n{}", gates::table(.0))]
    Gates(Vec<Missed>),
    /// The place of the bundle is taken by something else.
    #[error(
        "{0} is there already and is not a bundle of ours: give another folder with --out, or move that one away"
    )]
    Occupied(PathBuf),
    /// The file system refused.
    #[error("export cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The models do not run as a bundle's.
    #[error("the models cannot be run as those of a bundle")]
    Bundle(#[from] crate::bundle::BundleError),
    /// Provenance or report could not be written as JSON.
    #[error("export cannot write {file} as JSON")]
    Json {
        /// The file.
        file: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
