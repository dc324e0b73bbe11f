//! Everything at once: from a dataset's folder to shards, features and a manifest.

use std::{path::PathBuf, sync::{Arc, atomic::AtomicBool}};

use earshot_common::frontend::FrontEnd;

use crate::manifest::Manifest;

/// What to prepare, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The dataset's folder.
    pub data: PathBuf,
    /// The prepared folder, made if need be.
    pub out: PathBuf,
    /// How waveforms become features.
    pub front_end: FrontEnd,
    /// Set to stop at the next clip; what is done is kept for the next run.
    pub cancel: Arc<AtomicBool>,
}

/// What became of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipOutcome {
    /// Made in this run.
    Made,
    /// Already there from an earlier run.
    Kept,
    /// Left out: it is among the manifest's problems.
    LeftOut,
}

/// Hears how far a preparation has got, from many threads.
pub trait Progress: Sync {
    /// Called once, with the number of clips listed and found.
    fn start(&self, clips: u64);
    /// Called once for every one of them.
    fn clip_done(&self, name: &str, outcome: ClipOutcome);
}

/// Nobody listens.
impl Progress for () {
    fn start(&self, _clips: u64) {}
    fn clip_done(&self, _name: &str, _outcome: ClipOutcome) {}
}

/// Why a dataset was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The cancel flag was set.
    #[error("stopped before the end: run again to continue")]
    Cancelled,
}

/// Prepares a dataset.
///
/// # Errors
/// See [`PrepareError`].
pub fn prepare(_options: &Options, _progress: &dyn Progress) -> Result<Manifest, PrepareError> {
    Err(PrepareError::Cancelled)
}
