//! From a sweep and a manifest to what the sweep's jobs are made of.
//!
//! Starting a sweep and exporting its champion make the splits from the same two things, so neither has to trust the other.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::{
    blob::BlobError,
    ids::FoldId,
    model::{Cost, ModelError},
    sweep::{self, Sweep},
    views::Range,
};
use earshot_data::{
    manifest::{ClipEntry, Manifest, ViewEntry},
    split::{Split, SplitError},
};

use crate::{
    blobs::Blobs,
    search::Outlook,
    state::{Dataset, DatasetView},
};

/// Why a sweep cannot run on its data.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The data does not allow the split that the sweep asks for.
    #[error("[split] with validation fold {fold} does not fit the data")]
    Split {
        /// The validation fold; 0 for a split without folds.
        fold: FoldId,
        /// Why.
        #[source]
        source: SplitError,
    },
    /// One class or none.
    #[error("the data has {0} class(es), a classifier needs at least 2: add clips of another class")]
    Classes(usize),
    /// A class that lost every clip to problems.
    #[error(
        "class {0:?} has no usable clip: see what `coordinator data prepare` says about its clips, and mend or unlist them"
    )]
    ClassWithoutClips(String),
    /// No point of the space can be trained.
    #[error("no trial meets [constraints]; the nearest miss: {0}")]
    Infeasible(String),
    /// The manifest cannot be encoded.
    #[error("the manifest cannot be encoded")]
    Manifest(#[source] serde_json::Error),
    /// The blob store refused.
    #[error("the sweep's split and manifest cannot be stored")]
    Store(#[source] BlobError),
}

/// The split of every validation fold.
///
/// # Errors
/// [`DatasetError::Split`] names the fold.
pub fn splits(split: &sweep::Split, clips: &[ClipEntry]) -> Result<BTreeMap<FoldId, Split>, DatasetError> {
    let make = |fold: u32| match split {
        sweep::Split::Folds { test, .. } => Split::by_folds(clips, fold, test),
        sweep::Split::Grouped(sizes) => {
            Split::grouped(clips, sizes.validation_size, sizes.test_size, sizes.seed)
        }
        sweep::Split::Holdout(sizes) => {
            let labels: Vec<u16> = clips.iter().map(|clip| clip.class).collect();
            Split::holdout(&labels, sizes.validation_size, sizes.test_size, sizes.seed)
        }
    };
    let folds = split.folds().into_iter();
    folds
        .map(|fold| {
            let split = make(fold).map_err(|source| DatasetError::Split { fold: FoldId(fold), source })?;
            Ok((FoldId(fold), split))
        })
        .collect()
}

/// The split of every run of a sweep's trials: of every validation fold, and of the refit if there is to be one.
///
/// # Errors
/// As [`splits`].
pub fn splits_of_runs(sweep: &Sweep, clips: &[ClipEntry]) -> Result<BTreeMap<FoldId, Split>, DatasetError> {
    let mut splits = splits(&sweep.split, clips)?;
    let refit = splits.values().next().map(|split| split.refit(clips)).filter(|_| sweep.schedule.refit);
    splits.extend(refit.map(|split| (FoldId::REFIT, split)));
    Ok(splits)
}

/// Checks that the sweep can run on this data, and stores what its jobs and its export need.
///
/// # Errors
/// [`DatasetError`] says what does not fit.
pub fn dataset(sweep: &Sweep, manifest: &Manifest, blobs: &Blobs) -> Result<Dataset, DatasetError> {
    check_classes(manifest)?;
    check_feasible(sweep, manifest.frames, manifest.classes.len() as u32)?;
    let splits = splits_of_runs(sweep, &manifest.clips)?;
    let store = |bytes: &[u8]| blobs.put(bytes).map_err(DatasetError::Store);
    let splits = splits.into_iter().map(|(fold, split)| {
        let bytes = split.to_blob().map_err(|source| DatasetError::Split { fold, source })?;
        Ok((fold, store(&bytes)?))
    });
    Ok(Dataset {
        labels: manifest.classes.clone(),
        frames: manifest.frames,
        shards: manifest.shards.iter().map(|shard| shard.blob).collect(),
        views: manifest.views.iter().filter_map(view).collect(),
        splits: splits.collect::<Result<_, _>>()?,
        manifest: store(&serde_json::to_vec(manifest).map_err(DatasetError::Manifest)?)?,
    })
}

/// A level as jobs need it; none for one without clips.
fn view(entry: &ViewEntry) -> Option<DatasetView> {
    let draws = entry.shards.iter().flat_map(|shard| &shard.draws).map(|&draw| f64::from(draw));
    let drawn = draws.map(|draw| Range { min: draw, max: draw }).reduce(|all, draw| all.hull(&draw))?;
    let shards = entry.shards.iter().map(|shard| shard.blob).collect();
    Some(DatasetView { augmentation: entry.level.augmentation, drawn, shards })
}

fn check_classes(manifest: &Manifest) -> Result<(), DatasetError> {
    let classes = &manifest.classes;
    if classes.len() < 2 {
        return Err(DatasetError::Classes(classes.len()));
    }
    let seen: BTreeSet<u16> = manifest.labels().into_iter().collect();
    match (0..).zip(classes).find(|(class, _)| !seen.contains(class)) {
        Some((_, name)) => Err(DatasetError::ClassWithoutClips(name.clone())),
        None => Ok(()),
    }
}

fn check_feasible(sweep: &Sweep, frames: u32, classes: u32) -> Result<(), DatasetError> {
    let mut nearest: Option<(Cost, String)> = None;
    let mut unbuildable = None;
    for cost in costs(Outlook::of(sweep), frames, classes) {
        match cost.map(|cost| (cost, sweep.constraints.broken_by(&cost))) {
            Ok((_, None)) => return Ok(()),
            Ok((cost, Some(broken))) => {
                if nearest.as_ref().is_none_or(|(smallest, _)| cost.params < smallest.params) {
                    nearest = Some((cost, broken));
                }
            }
            Err(error) => unbuildable = Some(error.to_string()),
        }
    }
    let why = nearest.map(|(_, broken)| broken).or(unbuildable);
    Err(DatasetError::Infeasible(why.unwrap_or_else(|| "the space is empty".to_owned())))
}

/// The exact cost of every point in sight, or why it cannot be built.
pub fn costs(
    outlook: Outlook<'_>,
    frames: u32,
    classes: u32,
) -> impl Iterator<Item = Result<Cost, ModelError>> {
    outlook.points.map(move |point| point.model(frames, classes).cost())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use earshot_common::{frontend::FrontEnd, ids::BlobId};
    use earshot_data::{manifest::ShardEntry, shard::View, split::TrainSplit};

    use super::*;

    fn sweep(split: &str, more: &str) -> Sweep {
        let text = format!("name = \"t\"\n[split]\n{split}\n[schedule]\nepochs = 2\n{more}");
        Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
    }

    /// Two classes in each of three folds, three sources in each.
    fn manifest() -> Manifest {
        let clips: Vec<ClipEntry> = (0..36)
            .map(|number: u32| ClipEntry {
                name: format!("clip-{number}"),
                class: (number % 2) as u16,
                fold: Some(1 + number / 12),
                source: format!("source-{}", number / 2),
                content: BlobId::of(&number.to_le_bytes()),
            })
            .collect();
        let shard = ShardEntry { blob: BlobId::of(b"shard"), clips: 36, view: View::Clean };
        Manifest::new(FrontEnd::default(), vec!["dog".into(), "rain".into()], vec![shard], clips, vec![])
    }

    fn check(sweep: &Sweep, manifest: &Manifest, expected: Result<usize, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&folder.path().join("t.redb"), folder.path()).unwrap();
        match (dataset(sweep, manifest, &blobs), expected) {
            (Ok(dataset), Ok(runs)) => {
                assert_eq!(dataset.splits.len(), runs);
                let expected = splits_of_runs(sweep, &manifest.clips).unwrap();
                for (fold, blob) in &dataset.splits {
                    let stored = TrainSplit::read(&blobs.read(*blob).unwrap()).unwrap();
                    assert_eq!(stored.validation, expected[fold].validation);
                }
                let stored: Manifest =
                    serde_json::from_slice(&blobs.read(dataset.manifest).unwrap()).unwrap();
                assert_eq!(&stored, manifest);
            }
            (Err(error), Err(part)) => {
                let chain = format!("{:#}", anyhow::Error::from(error));
                assert!(chain.contains(part), "{chain}");
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn every_kind_of_split_gives_a_run_for_each_fold() {
        check(&sweep("kind = \"folds\"\nvalidation = [1, 2]\ntest = [3]", ""), &manifest(), Ok(2));
        check(&sweep("kind = \"grouped\"\ntest_size = 0.2\nvalidation_size = 0.2", ""), &manifest(), Ok(1));
        check(&sweep("kind = \"holdout\"\ntest_size = 0.2\nvalidation_size = 0.2", ""), &manifest(), Ok(1));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let folds = "kind = \"folds\"\nvalidation = [1]";
        check(
            &sweep("kind = \"folds\"\nvalidation = [9]", ""),
            &manifest(),
            Err("no fold 9: the dataset has folds [1, 2, 3]"),
        );
        check(
            &sweep(folds, "[constraints]\nmax_params = 10\n"),
            &manifest(),
            Err("no trial meets [constraints]; the nearest miss: params is"),
        );
        let mut one_class = manifest();
        one_class.classes.truncate(1);
        check(&sweep(folds, ""), &one_class, Err("at least 2"));
        let mut lost_class = manifest();
        lost_class.classes.push("wind".into());
        check(&sweep(folds, ""), &lost_class, Err("class \"wind\" has no usable clip"));
    }
}
