//! ONNX Runtime, as devices run it: one thread, no spinning.

use std::{env, path::PathBuf, sync::OnceLock};

use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use super::BundleError;

/// Where the library is, by the environment at run time, then by that of the build, then by the system.
const VARIABLE: &str = "ORT_DYLIB_PATH";
const AT_BUILD: Option<&str> = option_env!("ORT_DYLIB_PATH");
const BY_THE_SYSTEM: &str = "libonnxruntime.so";

/// A model that ONNX Runtime has accepted.
pub struct Runtime {
    name: String,
    session: Session,
    shape: [usize; 2],
}

impl Runtime {
    /// Prepares a model that reads `shape` coefficients and frames; `name` is for messages.
    ///
    /// # Errors
    /// [`BundleError::NoRuntime`] when there is no library, [`BundleError::Runtime`] when it refuses the model.
    pub fn load(name: &str, bytes: &[u8], shape: [usize; 2]) -> Result<Self, BundleError> {
        let failed = |source| BundleError::Runtime { model: name.to_owned(), step: "prepare", source };
        let environment = environment()?;
        let session = || -> Result<Session, ort::Error> {
            let builder = Session::builder(environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(1)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?;
            let mut builder = builder;
            builder.commit_from_memory(bytes)
        };
        Ok(Self { name: name.to_owned(), session: session().map_err(failed)?, shape })
    }

    /// Logits of clips' features, row-major `(clips, n_mfcc, frames)`.
    ///
    /// # Errors
    /// [`BundleError::Runtime`] when it fails.
    pub fn logits(&mut self, features: &[f32]) -> Result<Vec<f32>, BundleError> {
        let [n_mfcc, frames] = self.shape;
        let clips = features.len() / (n_mfcc * frames).max(1);
        let mut run = || -> Result<Vec<f32>, ort::Error> {
            let input = TensorRef::from_array_view(([clips, 1, n_mfcc, frames], features))?;
            let outputs = self.session.run(ort::inputs!["features" => input])?;
            let (_, logits) = outputs.get("logits").map_or_else(
                || Err(ort::Error::new("the model gives no logits")),
                |logits| logits.try_extract_tensor::<f32>(),
            )?;
            Ok(logits.to_vec())
        };
        run().map_err(|source| BundleError::Runtime { model: self.name.clone(), step: "run", source })
    }
}

/// The library's version, as it states it.
///
/// # Errors
/// As [`Runtime::load`].
pub fn runtime_version() -> Result<String, BundleError> {
    environment()?;
    // "ORT Build Info: git-branch=rel-1.32.0, …"
    let info = ort::info();
    let branch = info.split("git-branch=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    Ok(branch.unwrap_or(info).trim_start_matches("rel-").to_owned())
}

/// Of which a process has one.
fn environment() -> Result<&'static Environment, BundleError> {
    static ENVIRONMENT: OnceLock<Result<Environment, (PathBuf, String)>> = OnceLock::new();
    let found = ENVIRONMENT.get_or_init(|| {
        let named = env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let at_build = || AT_BUILD.map(PathBuf::from).filter(|path| path.is_file());
        let path = named.or_else(at_build).unwrap_or_else(|| PathBuf::from(BY_THE_SYSTEM));
        let builder = ort::init_from(&path).map_err(|error| (path.clone(), error.to_string()))?;
        builder.build().map_err(|error| (path, error.to_string()))
    });
    found.as_ref().map_err(|(path, what)| BundleError::NoRuntime { path: path.clone(), what: what.clone() })
}
