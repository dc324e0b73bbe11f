//! Why a bundle cannot be used.

use std::{io, path::PathBuf};

use earshot_common::ids::BlobId;
use earshot_data::mfcc::FrontEndError;
use tract_onnx::prelude::TractError;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no bundle.
    #[error("{0} is no bundle of ours: name a folder that `coordinator export --out` wrote")]
    NotABundle(PathBuf),
    /// A bundle of another time.
    #[error(
        "{folder} is a bundle of format {found}, this version of Earshot reads {expected}: export it again"
    )]
    Version {
        /// The bundle.
        folder: PathBuf,
        /// What it says.
        found: u32,
        /// What it would have to say.
        expected: u32,
    },
    /// The file system refused.
    #[error("cannot read {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what was exported.
    #[error("{path} is not what was exported: {what}; copy the bundle again, or export it again")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The model reads features of another front end.
    #[error(
        "{model} reads features of the front end {expected}, {FRONT_END} says {found}: these files are of two bundles, \
         copy or export one whole",
        FRONT_END = super::FRONT_END_FILE
    )]
    FrontEnd {
        /// Name of the model.
        model: String,
        /// Hash of the bundle's front end.
        found: BlobId,
        /// What the model's metadata say.
        expected: String,
    },
    /// The bundle's front end cannot be computed.
    #[error("the bundle's front end cannot be computed")]
    Unusable(#[from] FrontEndError),
    /// There is no ONNX Runtime.
    #[error(
        "ONNX Runtime cannot be loaded from {path} ({what}); models are verified in it: run `make setup`, or set \
         ORT_DYLIB_PATH to libonnxruntime"
    )]
    NoRuntime {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// ONNX Runtime refuses a model, or fails in it.
    #[error("ONNX Runtime cannot {step} {model}")]
    Runtime {
        /// Name of the model.
        model: String,
        /// What it was to do.
        step: &'static str,
        /// Why.
        #[source]
        source: ort::Error,
    },
    /// tract refuses a model, or fails in it.
    #[error("tract cannot {step} {model}")]
    Tract {
        /// Name of the model.
        model: String,
        /// What it was to do.
        step: &'static str,
        /// Why.
        #[source]
        source: TractError,
    },
}
