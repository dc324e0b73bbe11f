//! Cuts what is due: the hand of the mind's pruning, which reads blobs.
//!
//! A cut is computed from a checkpoint off the engine's thread, stored, and then told to the mind, so a crash in between leaves a
//! blob that nothing names, and the same cut is made again. Told twice, the second is refused.

use std::{sync::Arc, time::Duration};

use earshot_common::{
    blob::BlobError,
    ids::BlobId,
    model::AudioCnn,
    sweep::prune::Target,
    tensors::{self, Tensor, Tensors, TensorsError},
};
use earshot_data::{shard::Shard, split::TrainSplit};

use crate::{
    blobs::Blobs,
    causes::chain,
    engine::{Engine, EngineError},
    export::{ExportError, Features, Forward},
    prune::{self, PruneError, Sliced},
    state::{Cut, Due, EventKind, State},
};

/// Pause before a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why there is no cut.
#[derive(Debug, thiserror::Error)]
enum CutError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("checkpoint {0} cannot be read")]
    Checkpoint(BlobId, #[source] TensorsError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error("the champion's predictions cannot be made")]
    Teacher(#[source] ExportError),
    #[error("blob {0} is not what it should be")]
    Data(BlobId),
    #[error("what was cut cannot be written")]
    Encode(#[source] TensorsError),
}

/// Cuts whatever is due, until the engine ends.
pub async fn run(engine: Engine, blobs: Blobs) {
    // An engine that has stopped says so itself.
    let _ = cut_all(&engine, &Arc::new(blobs)).await;
}

async fn cut_all(engine: &Engine, blobs: &Arc<Blobs>) -> Result<(), EngineError> {
    let mut changes = engine.changes();
    loop {
        changes.borrow_and_update();
        let Some((sweep, due)) = engine.read(State::pruning_due).await? else {
            changes.changed().await.map_err(|_| EngineError::Stopped)?;
            continue;
        };
        let (trial, step) = (due.trial, due.step);
        let shelf = Arc::clone(blobs);
        let cut = tokio::task::spawn_blocking(move || cut(&shelf, &due)).await;
        let cut = match cut {
            Ok(Ok(cut)) => cut,
            Ok(Err(CutError::Blob(BlobError::Io { path, source }))) => {
                tracing::error!(%trial, step, "pruning waits for the disk: {}: {source}", path.display());
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Ok(Err(error)) => Cut::Refused { why: chain(&error) },
            Err(panicked) => Cut::Refused { why: format!("cutting failed: {panicked}") },
        };
        match &cut {
            Cut::Made { why, .. } => tracing::info!(%trial, "step {step} of pruning: {why}"),
            Cut::Refused { why } => tracing::warn!(%trial, "pruning ends before step {step}: {why}"),
        }
        match engine.submit(EventKind::Pruned { sweep, trial, step, cut }).await {
            // Cancelled meanwhile.
            Ok(_) | Err(EngineError::Refused(_)) => {}
            Err(stopped @ EngineError::Stopped) => return Err(stopped),
        }
    }
}

/// Computes a cut and stores its weights.
fn cut(blobs: &Blobs, due: &Due) -> Result<Cut, CutError> {
    let unreadable = |source| CutError::Checkpoint(due.checkpoint, source);
    let checkpoint =
        tensors::decode_checkpoint(&blobs.read(due.checkpoint)?, &due.model).map_err(unreadable)?;
    let Due { prune, whole, model, step, .. } = due;
    let importances = prune::importance::measure(model, &checkpoint, prune.importance)?;
    let limit = prune::plan::limit(whole, prune, *step).map_err(PruneError::Model)?;
    let kept = prune::plan::plan(model, &importances, prune.target, prune.multiple_of, limit)?;
    let Sliced { model: smaller, tensors } = prune::slice::slice(model, &checkpoint, &kept)?;
    let why = why(due, &smaller, limit)?;
    let weights = blobs.put(&tensors::encode(&tensors).map_err(CutError::Encode)?)?;
    let teacher = match (prune.distil, due.teacher) {
        (Some(_), None) => Some(teacher(blobs, due)?),
        (_, known) => known,
    };
    Ok(Cut::Made { model: smaller, weights, teacher, why })
}

/// What the champion before the first step makes of the training clips, stored as logits.
fn teacher(blobs: &Blobs, due: &Due) -> Result<BlobId, CutError> {
    let AudioCnn { n_mfcc, frames, classes, .. } = due.model;
    let mut features = Features::new(n_mfcc, frames);
    for &id in &due.shards {
        let shard = Shard::read(&blobs.read(id)?).map_err(|_| CutError::Data(id))?;
        features.push(&shard).map_err(CutError::Teacher)?;
    }
    let split = TrainSplit::read(&blobs.read(due.split)?).map_err(|_| CutError::Data(due.split))?;
    let forward = Forward::new(&due.model, &blobs.read(due.checkpoint)?).map_err(CutError::Teacher)?;
    let values = forward.logits(&features, &split.train).map_err(CutError::Teacher)?;
    let logits = Tensor { shape: vec![split.train.len(), classes as usize], values };
    let bytes = tensors::encode(&Tensors::from([("logits".to_owned(), logits)])).map_err(CutError::Encode)?;
    Ok(blobs.put(&bytes)?)
}

/// What was removed, by what, and what that came to.
fn why(due: &Due, smaller: &AudioCnn, limit: f64) -> Result<String, PruneError> {
    let [before, after] = [&due.model, smaller].map(prune::group::groups);
    let (before, after) = (before?, after?);
    let changed = before.iter().filter_map(|(layer, count)| {
        let left = after.get(layer)?;
        (left != count).then(|| format!("{layer} {count} → {left}"))
    });
    let changed: Vec<String> = changed.collect();
    let changed = if changed.is_empty() { "nothing had to go".to_owned() } else { changed.join(", ") };
    let name = match due.prune.target {
        Target::Int8Kib(_) => "int8_kib",
        Target::Macs(_) => "macs",
        Target::Ratio(_) => "filters and units",
    };
    let from = prune::plan::measured(&due.model, due.prune.target)?;
    let to = prune::plan::measured(smaller, due.prune.target)?;
    let importance = due.prune.importance.name();
    Ok(format!("by {importance}: {changed}; {name} {from:.1} → {to:.1}, at most {limit:.1}"))
}
