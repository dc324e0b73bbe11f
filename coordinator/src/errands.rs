//! What the mind wants done with blobs, which it does not read: cuts of a network, and its quantisation.
//!
//! An errand is run off the engine's thread, its blobs are stored, and then it is told to the mind. So a crash in between leaves a
//! blob that nothing names, and the same is computed again; told twice, the second is refused.

use std::{sync::Arc, time::Duration};

use earshot_common::{
    blob::BlobError,
    ids::{BlobId, SweepId},
    model::AudioCnn,
    tensors::TensorsError,
};
use earshot_data::{shard::Shard, split::TrainSplit};

use crate::{
    blobs::Blobs,
    causes::chain,
    engine::{Engine, EngineError},
    export::{ExportError, Features},
    prune::PruneError,
    pruner, quantiser,
    state::{Candidate, Cut, Due, EventKind, Quantisation, State},
};

/// Pause before a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why an errand came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrandError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("checkpoint {0} cannot be read")]
    Checkpoint(BlobId, #[source] TensorsError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error("the champion cannot be run")]
    Run(#[source] ExportError),
    #[error("blob {0} is not what it should be")]
    Data(BlobId),
    #[error("what was cut cannot be written")]
    Encode(#[source] TensorsError),
}

/// Something to be done.
#[derive(Debug)]
enum Errand {
    Cut(SweepId, Box<Due>),
    Quantise(SweepId, Box<Candidate>),
}

/// Runs whatever is due, until the engine ends.
pub async fn run(engine: Engine, blobs: Blobs) {
    // An engine that has stopped says so itself.
    let _ = run_all(&engine, &Arc::new(blobs)).await;
}

async fn run_all(engine: &Engine, blobs: &Arc<Blobs>) -> Result<(), EngineError> {
    let mut changes = engine.changes();
    loop {
        changes.borrow_and_update();
        let Some(errand) = engine.read(Errand::due).await?.map(Arc::new) else {
            changes.changed().await.map_err(|_| EngineError::Stopped)?;
            continue;
        };
        let (shelf, running) = (Arc::clone(blobs), Arc::clone(&errand));
        let told = match tokio::task::spawn_blocking(move || running.run(&shelf)).await {
            Ok(Ok(told)) => told,
            Ok(Err(ErrandError::Blob(BlobError::Io { path, source }))) => {
                tracing::error!("{errand} waits for the disk: {}: {source}", path.display());
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Ok(Err(error)) => errand.refused(chain(&error)),
            Err(panicked) => errand.refused(format!("it failed: {panicked}")),
        };
        match &told {
            EventKind::Pruned { cut: Cut::Made { why, .. }, .. }
            | EventKind::Quantised { quantisation: Quantisation::Aware { why, .. }, .. } => {
                tracing::info!("{errand}: {why}");
            }
            EventKind::Pruned { cut: Cut::Refused { why }, .. }
            | EventKind::Quantised { quantisation: Quantisation::Kept { why }, .. } => {
                tracing::warn!("{errand} led nowhere: {why}");
            }
            _ => {}
        }
        match engine.submit(told).await {
            // Cancelled meanwhile.
            Ok(_) | Err(EngineError::Refused(_)) => {}
            Err(stopped @ EngineError::Stopped) => return Err(stopped),
        }
    }
}

impl Errand {
    fn due(state: &State) -> Option<Self> {
        let cut = state.pruning_due().map(|(sweep, due)| Self::Cut(sweep, Box::new(due)));
        let quantise =
            || state.quantisation_due().map(|(sweep, candidate)| Self::Quantise(sweep, Box::new(candidate)));
        cut.or_else(quantise)
    }

    fn run(&self, blobs: &Blobs) -> Result<EventKind, ErrandError> {
        Ok(match self {
            Self::Cut(_, due) => self.cut(due, pruner::cut(blobs, due)?),
            Self::Quantise(_, candidate) => self.quantised(candidate, quantiser::quantise(blobs, candidate)?),
        })
    }

    /// What is told where it came to nothing.
    fn refused(&self, why: String) -> EventKind {
        match self {
            Self::Cut(_, due) => self.cut(due, Cut::Refused { why }),
            Self::Quantise(_, candidate) => self.quantised(candidate, Quantisation::Kept { why }),
        }
    }

    fn cut(&self, due: &Due, cut: Cut) -> EventKind {
        EventKind::Pruned { sweep: self.sweep(), trial: due.trial, step: due.step, cut }
    }

    fn quantised(&self, candidate: &Candidate, quantisation: Quantisation) -> EventKind {
        EventKind::Quantised { sweep: self.sweep(), trial: candidate.trial, quantisation }
    }

    fn sweep(&self) -> SweepId {
        match self {
            Self::Cut(sweep, _) | Self::Quantise(sweep, _) => *sweep,
        }
    }
}

impl std::fmt::Display for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut(_, due) => write!(f, "step {} of pruning trial {}", due.step, due.trial),
            Self::Quantise(_, candidate) => write!(f, "quantising trial {}", candidate.trial),
        }
    }
}

/// The features of all rows, as far as a model reads them.
pub(crate) fn features(blobs: &Blobs, model: &AudioCnn, shards: &[BlobId]) -> Result<Features, ErrandError> {
    let mut features = Features::new(model.n_mfcc, model.frames);
    for &id in shards {
        let shard = Shard::read(&blobs.read(id)?).map_err(|_| ErrandError::Data(id))?;
        features.push(&shard).map_err(ErrandError::Run)?;
    }
    Ok(features)
}

/// Which rows train and which validate.
pub(crate) fn split(blobs: &Blobs, id: BlobId) -> Result<TrainSplit, ErrandError> {
    TrainSplit::read(&blobs.read(id)?).map_err(|_| ErrandError::Data(id))
}
