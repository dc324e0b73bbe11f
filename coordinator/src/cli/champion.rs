//! Gathers what the export is made of: the champion with its blobs, from the running coordinator or from the folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use earshot_common::{
    ids::{BlobId, FoldId, TrialId},
    job::{Epoch, Job},
    sweep::{Hyperparameter, Point, Sweep},
    wire,
};
use earshot_data::{manifest::Manifest, prepare::BLOBS, shard::Shard, split::Split};
use earshot_proto::earshot::v1 as proto;

use super::source::{OfArgs, Source};
use crate::{
    blobs::Blobs,
    client::Client,
    dataset,
    export::{self, Aware, Awareness, Champion, Features, Pruning, PruningStep, Whole},
};

/// A trial, without a number the best, and the features of every row, each blob verified by its hash. `processed` is the prepared folder, where it
/// is not the sweep's own; only a database without a running coordinator needs one.
pub(super) async fn gather(
    source: &mut Source,
    of: &OfArgs,
    trial: Option<u32>,
    is_unpruned_wanted: bool,
    processed: Option<&Path>,
) -> anyhow::Result<(Champion, Features)> {
    let (found, sweep) = source.champion(of, trial).await?;
    let mut shelf = Shelf::of(source, &sweep, processed)?;
    let whole = Parts {
        job: found.job.context("the champion has no job")?,
        best: found.best.context("the champion has no epoch")?,
        checkpoint: found.checkpoint,
        logits: found.logits,
    };
    let (pruning, parts) = match sweep.prune {
        Some(_) => {
            let steps = Steps { trained: found.pruned, ended: found.pruning_ended };
            let (pruning, parts) = steps.choose(whole, &sweep, is_unpruned_wanted, &mut shelf).await?;
            (Some(pruning), parts)
        }
        None if is_unpruned_wanted => {
            bail!("the sweep has no [prune], so there is only the unpruned champion; leave out --unpruned")
        }
        None => (None, whole),
    };
    let awareness = match sweep.quantise {
        Some(_) => {
            Some(awareness(found.aware, found.quantisation_kept, &parts.checkpoint, &mut shelf).await?)
        }
        None => None,
    };
    let job = Job::try_from(parts.job)?;
    let fold = if found.refit { FoldId::REFIT } else { FoldId(found.fold) };
    let exported = pruning.as_ref().and_then(|pruning: &Pruning| pruning.exported);
    let manifest = shelf.read(wire::blob_id(&found.manifest, "the manifest")?).await?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).context("the champion's manifest cannot be read")?;
    let champion = Champion {
        trial: TrialId(found.trial),
        fold,
        point: point(&found.point)?,
        best: Epoch::try_from(parts.best)?,
        checkpoint: shelf.read(wire::blob_id(&parts.checkpoint, "the checkpoint")?).await?,
        logits: shelf.read(wire::blob_id(&parts.logits, "the logits")?).await?,
        teacher: match job.teacher {
            Some(teacher) => Some(shelf.read(teacher.logits).await?),
            None => None,
        },
        initial_weights: match job.initial_weights {
            Some(id) => Some(shelf.read(id).await?),
            None => None,
        },
        split: split(&sweep, &manifest, fold, job.split)?,
        learning_curve: learning_curve(source.trial(of, found.trial).await?, fold, exported)?,
        trials_completed: found.trials_completed,
        sweep,
        job,
        manifest,
        pruning,
        awareness,
    };
    let mut features = Features::new(champion.job.model.n_mfcc, champion.job.model.frames);
    for &id in &champion.job.shards {
        let shard =
            Shard::read(&shelf.read(id).await?).with_context(|| format!("shard {id} cannot be read"))?;
        features.push(&shard)?;
    }
    Ok((champion, features))
}

/// What an export takes of a run.
struct Parts {
    job: proto::Job,
    best: proto::Epoch,
    checkpoint: Vec<u8>,
    logits: Vec<u8>,
}

/// The champion's pruning.
struct Steps {
    trained: Vec<proto::PrunedChampion>,
    ended: String,
}

impl Steps {
    /// Which of the champion's models is exported, and what the others are like.
    async fn choose(
        self,
        whole: Parts,
        sweep: &Sweep,
        is_unpruned_wanted: bool,
        shelf: &mut Shelf,
    ) -> anyhow::Result<(Pruning, Parts)> {
        let mut steps = Vec::new();
        let mut trained = Vec::new();
        for found in self.trained {
            let parts = Parts {
                job: found.job.context("a step of pruning has no job")?,
                best: found.best.context("a step of pruning has no epoch")?,
                checkpoint: found.checkpoint,
                logits: found.logits,
            };
            let job = Job::try_from(parts.job.clone())?;
            let (accuracy, cost) = (Epoch::try_from(parts.best)?.accuracy, job.model.cost()?);
            steps.push(PruningStep { step: found.step, accuracy, cost, why: found.why });
            trained.push(parts);
        }
        let best = Epoch::try_from(whole.best)?;
        let (exported, reason) =
            export::choose(&best, &steps, &sweep.export, is_unpruned_wanted, &self.ended);
        let model = Job::try_from(whole.job.clone())?.model;
        let checkpoint = shelf.read(wire::blob_id(&whole.checkpoint, "the unpruned checkpoint")?).await?;
        let of_step = steps.iter().zip(trained).find(|(step, _)| Some(step.step) == exported);
        let parts = of_step.map_or(whole, |(_, parts)| parts);
        Ok((Pruning { whole: Whole { model, checkpoint, best }, steps, exported, reason }, parts))
    }
}

/// What was trained to bear quantisation from the weights that are exported, or why nothing was.
async fn awareness(
    found: Option<proto::AwareChampion>,
    kept: String,
    exported: &[u8],
    shelf: &mut Shelf,
) -> anyhow::Result<Awareness> {
    let Some(found) = found else {
        let none = || "no run that trains it to bear that has completed".to_owned();
        return Ok(Awareness::Kept { why: if kept.is_empty() { none() } else { kept } });
    };
    let job = Job::try_from(found.job.context("an aware run has no job")?)?;
    if job.initial_weights != Some(wire::blob_id(exported, "the checkpoint")?) {
        let why = "what was trained to bear quantisation is another model of the trial".to_owned();
        return Ok(Awareness::Kept { why });
    }
    Ok(Awareness::Trained(Box::new(Aware {
        job,
        best: Epoch::try_from(found.best.context("an aware run has no epoch")?)?,
        checkpoint: shelf.read(wire::blob_id(&found.checkpoint, "the aware checkpoint")?).await?,
        logits: shelf.read(wire::blob_id(&found.logits, "the aware logits")?).await?,
        why: found.why,
    })))
}

/// Every epoch of the run that is exported: a step of pruning, or else of this fold.
fn learning_curve(trial: proto::Trial, fold: FoldId, step: Option<u32>) -> anyhow::Result<Vec<Epoch>> {
    let is_exported = |run: &proto::Run| match step {
        Some(step) => run.pruned == step,
        None if run.refit => fold == FoldId::REFIT,
        None => run.pruned == 0 && !run.aware && FoldId(run.fold) == fold,
    };
    let run = trial.runs.into_iter().find(is_exported);
    let epochs = run.into_iter().flat_map(|run| run.epochs);
    Ok(epochs.map(Epoch::try_from).collect::<Result<_, _>>()?)
}

/// Where blobs come from.
enum Shelf {
    Running(Box<Client>),
    Folders(Blobs),
}

impl Shelf {
    fn of(source: &Source, sweep: &Sweep, processed: Option<&Path>) -> anyhow::Result<Self> {
        match source {
            Source::Running(client) => Ok(Self::Running(client.clone())),
            Source::File { db, .. } => {
                let processed = processed.map_or_else(|| sweep.data.processed.clone(), PathBuf::from);
                if !processed.join(BLOBS).is_dir() {
                    bail!(
                        "the sweep's features are not in {}; run this where the sweep was started, or name the prepared \
                         folder with --processed DIR",
                        processed.display()
                    );
                }
                Ok(Self::Folders(Blobs::open(db, &processed)?))
            }
        }
    }

    async fn read(&mut self, id: BlobId) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Running(client) => Ok(client.blob(id).await?),
            Self::Folders(blobs) => Ok(blobs.read(id)?),
        }
    }
}

/// The champion's split, test rows included. Made anew, it must be the one that the run was trained with.
fn split(sweep: &Sweep, manifest: &Manifest, fold: FoldId, trained: BlobId) -> anyhow::Result<Split> {
    let split = dataset::splits_of_runs(sweep, &manifest.clips)?.remove(&fold);
    let split = split.with_context(|| format!("the sweep has no validation fold {fold}"))?;
    let made = BlobId::of(&split.to_blob()?);
    ensure!(
        made == trained,
        "the split made from the manifest is not the one that trained the champion; it was started by another version of \
         Earshot, export it with that one"
    );
    Ok(split)
}

/// Reads the assignments of a point: each value as it would stand in a sweep file, which is JSON as well.
fn point(assignments: &[proto::Assignment]) -> anyhow::Result<Point> {
    let mut values = serde_json::Map::new();
    for proto::Assignment { name, value } in assignments {
        ensure!(
            Hyperparameter::from_name(name).is_some(),
            "{name:?} is no hyperparameter of this version of Earshot"
        );
        let json = serde_json::from_str(value)
            .with_context(|| format!("the value {value} of {name} cannot be read"))?;
        values.insert(name.clone(), json);
    }
    serde_json::from_value(values.into()).context("the champion's point cannot be read")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_point_survives_the_wire() {
        let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n\
                    [space]\nlearning_rate = 1e-5\nfc_units = \"none\"\nfilters = [8, 16, 32]\n";
        let expected = Sweep::parse(text, Path::new("t.toml"), &[]).unwrap().space.point(0).unwrap();
        let assignments = expected.iter().map(|(name, value)| proto::Assignment {
            name: name.name().to_owned(),
            value: value.to_string(),
        });
        assert_eq!(point(&assignments.collect::<Vec<_>>()).unwrap(), expected);
        let unknown = proto::Assignment { name: "momentum".into(), value: "0.9".into() };
        assert!(point(&[unknown]).is_err());
    }
}
