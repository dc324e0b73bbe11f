//! Cuts what is due: a smaller network computed from a checkpoint, and its weights stored.

use earshot_common::{
    ids::BlobId,
    model::AudioCnn,
    sweep::prune::Target,
    tensors::{self, Tensor, Tensors},
};

use crate::{
    blobs::Blobs,
    errands::{self, ErrandError},
    export::Forward,
    prune::{self, PruneError, Sliced},
    state::{Cut, Due},
};

/// Computes a cut and stores its weights.
pub(crate) fn cut(blobs: &Blobs, due: &Due) -> Result<Cut, ErrandError> {
    let unreadable = |source| ErrandError::Checkpoint(due.checkpoint, source);
    let checkpoint =
        tensors::decode_checkpoint(&blobs.read(due.checkpoint)?, &due.model).map_err(unreadable)?;
    let Due { prune, whole, model, step, .. } = due;
    let importances = prune::importance::measure(model, &checkpoint, prune.importance)?;
    let limit = prune::plan::limit(whole, prune, *step).map_err(PruneError::Model)?;
    let kept = prune::plan::plan(model, &importances, prune.target, prune.multiple_of, limit)?;
    let Sliced { model: smaller, tensors } = prune::slice::slice(model, &checkpoint, &kept)?;
    let why = why(due, &smaller, limit)?;
    let weights = blobs.put(&tensors::encode(&tensors).map_err(ErrandError::Encode)?)?;
    let teacher = match (prune.distil, due.teacher) {
        (Some(_), None) => Some(teacher(blobs, due)?),
        (_, known) => known,
    };
    Ok(Cut::Made { model: smaller, weights, teacher, why })
}

/// What the champion before the first step makes of the training clips, stored as logits.
fn teacher(blobs: &Blobs, due: &Due) -> Result<BlobId, ErrandError> {
    let features = errands::features(blobs, &due.model, &due.shards)?;
    let split = errands::split(blobs, due.split)?;
    let forward = Forward::new(&due.model, &blobs.read(due.checkpoint)?).map_err(ErrandError::Run)?;
    let values = forward.logits(&features, &split.train).map_err(ErrandError::Run)?;
    let logits = Tensor { shape: vec![split.train.len(), due.model.classes as usize], values };
    let bytes =
        tensors::encode(&Tensors::from([("logits".to_owned(), logits)])).map_err(ErrandError::Encode)?;
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
