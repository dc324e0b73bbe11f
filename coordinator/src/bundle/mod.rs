//! A bundle as its users have it: opened, held to what it says of itself, and run on clips.
//!
//! In reading order:
//! - `folder`: the files that belong together, and whether they do.
//! - `model`: one of the models in tract, a clip at a time.
//! - `onnxruntime`: the same in ONNX Runtime, which verifies and measures.
//! - `classify`: a file's bytes to probabilities, with the time that each half took.
//! - `latency`: percentiles of such times.
//! - `golden`: made-up clips with their features and logits, by which any implementation can prove itself.
//! - `verify`: whether a bundle is still what was exported.
//! - `origin`: what trained it, to train it again.
//! - `infer.py`: the same in Python, written into every bundle as it stands here.
//!
//! Deliberately absent: how a bundle is made, which is [`crate::export`]'s.

mod classify;
mod error;
mod folder;
mod golden;
mod latency;
mod model;
mod onnxruntime;
mod origin;
mod verify;
mod waveform;

pub use self::{
    classify::{Classifier, ClassifyError, Heard},
    error::BundleError,
    folder::{Bundle, FileEntry, Kind},
    golden::{Comparison, check},
    latency::Latency,
    model::Model,
    onnxruntime::{Runtime, runtime_version},
    origin::{AwareOrigin, Origin},
    verify::{Finding, verify},
};
pub(crate) use self::{
    folder::{FORMAT, FORMAT_VERSION, FRONT_END_FILE, LABELS_FILE, PROVENANCE_FILE},
    golden::golden_files,
};

/// Name of the Python script in the bundle.
pub(crate) const INFER_FILE: &str = "infer.py";
/// What training began with, where it did not begin anew: what pruning had left of the champion.
pub(crate) const INITIAL_WEIGHTS_FILE: &str = "initial.safetensors";
/// What a teacher made of the training rows, where there was one.
pub(crate) const TEACHER_FILE: &str = "teacher.safetensors";
/// Its text, the same in every bundle: it reads what it needs from the files beside it.
pub(crate) const INFER: &str = include_str!("infer.py");
