//! What a split lets a model recognise instead of sounds: recordings that are on both of its sides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{duplicates::Duplicates, survey::ClipReport};
use crate::{manifest::ClipEntry, split::Split};

/// The split that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenSplit {
    /// In words.
    pub name: String,
    /// The split of every validation fold, 0 where there are no folds; or why there is none.
    pub splits: Result<BTreeMap<u32, Split>, String>,
}

/// What leaks, for every validation fold and between the dataset's folds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leakage {
    /// The split that was looked at, in words; none was chosen if this is empty.
    pub split: String,
    /// Why the split cannot be made; empty if it can.
    pub refusal: String,
    /// One for each validation fold.
    pub folds: Vec<FoldLeakage>,
    /// Sources with clips in more than one of the dataset's own folds.
    pub sources_across_folds: Vec<SharedSource>,
}

/// What leaks when one fold validates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoldLeakage {
    /// The fold; 0 for a split without folds.
    pub validation_fold: u32,
    /// Sources with clips in more than one part.
    pub sources: Vec<String>,
    /// Clips of the validation part whose source is in another part, too.
    pub validation_clips: u64,
    /// Groups of clips with the same audio, in more than one part.
    pub duplicates: Vec<Vec<String>>,
}

/// A source in several folds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSource {
    /// The source.
    pub source: String,
    /// Its folds, ascending.
    pub folds: Vec<u32>,
    /// Its clips.
    pub clips: Vec<String>,
}

pub(super) fn leakage(
    clips: &[ClipReport],
    duplicates: &[Duplicates],
    chosen: Option<&ChosenSplit>,
) -> Leakage {
    let entries: Vec<ClipEntry> = clips.iter().map(ClipReport::entry).collect();
    let mut leakage = Leakage { sources_across_folds: across_folds(clips), ..Leakage::default() };
    if let Some(chosen) = chosen {
        leakage.split.clone_from(&chosen.name);
        match &chosen.splits {
            Ok(splits) => {
                let of_fold =
                    |(fold, split): (&u32, &Split)| fold_leakage(*fold, split, &entries, duplicates);
                leakage.folds = splits.iter().map(of_fold).collect();
            }
            Err(refusal) => leakage.refusal.clone_from(refusal),
        }
    }
    leakage
}

fn fold_leakage(fold: u32, split: &Split, entries: &[ClipEntry], duplicates: &[Duplicates]) -> FoldLeakage {
    let shared = split.shared_sources(entries);
    let is_shared = |row: &&u32| {
        entries.get(**row as usize).is_some_and(|clip| shared.contains_key(clip.source.as_str()))
    };
    let parts: Vec<BTreeSet<&str>> = [&split.train, &split.validation, &split.test]
        .map(|rows| rows.iter().filter_map(|row| Some(entries.get(*row as usize)?.name.as_str())).collect())
        .into();
    let is_torn = |group: &&Duplicates| {
        let has_one = |part: &&BTreeSet<&str>| group.clips.iter().any(|clip| part.contains(clip.as_str()));
        parts.iter().filter(has_one).count() > 1
    };
    FoldLeakage {
        validation_fold: fold,
        validation_clips: split.validation.iter().filter(is_shared).count() as u64,
        sources: shared.keys().map(|source| (*source).to_owned()).collect(),
        duplicates: duplicates.iter().filter(is_torn).map(|group| group.clips.clone()).collect(),
    }
}

fn across_folds(clips: &[ClipReport]) -> Vec<SharedSource> {
    let mut sources: BTreeMap<&str, (BTreeSet<u32>, Vec<String>)> = BTreeMap::new();
    for clip in clips {
        if let Some(fold) = clip.fold {
            let (folds, names) = sources.entry(&clip.source).or_default();
            folds.insert(fold);
            names.push(clip.clip.clone());
        }
    }
    let shared = sources.into_iter().filter(|(_, (folds, _))| folds.len() > 1);
    shared
        .map(|(source, (folds, clips))| SharedSource {
            source: source.to_owned(),
            folds: folds.into_iter().collect(),
            clips,
        })
        .collect()
}
