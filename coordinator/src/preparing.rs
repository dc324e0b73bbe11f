//! What a sweep wants of its recordings before it can run, and what its user should know of them.

use std::{collections::BTreeSet, sync::Arc};

use earshot_common::sweep::{self, Sweep};
use earshot_data::{
    manifest::{ClipEntry, Manifest},
    prepare::Options,
};

use crate::dataset::{self, DatasetError};

/// Sources that a warning names; more would bury its advice.
const SOURCES_SHOWN: usize = 5;

/// What a sweep wants to be prepared.
pub fn options_of(sweep: &Sweep) -> Options {
    Options {
        data: sweep.data.root.clone(),
        out: sweep.data.processed.clone(),
        front_end: sweep.front_end.clone(),
        bank: sweep.bank(),
        exports: None,
        cancel: Arc::default(),
    }
}

/// A split that ignores sources lets a model recognise recordings instead of sounds: a warning for each fold that does.
///
/// # Errors
/// The data does not allow the split.
pub fn leaks(sweep: &Sweep, manifest: &Manifest) -> Result<Vec<String>, DatasetError> {
    let mut warnings = Vec::new();
    for (fold, split) in dataset::splits(&sweep.split, &manifest.clips)? {
        let shared: Vec<&str> = split.shared_sources(&manifest.clips).into_keys().collect();
        if shared.is_empty() {
            continue;
        }
        let advice = match sweep.split {
            sweep::Split::Holdout(_) => "scores will flatter; use kind = \"grouped\"",
            sweep::Split::Folds { .. } | sweep::Split::Grouped(_) => "scores will flatter a little",
        };
        let (count, names) = (shared.len(), named(&shared, &manifest.clips));
        warnings.push(format!(
            "{count} sources have clips on both sides of the split (validation fold {fold}): {names}; {advice}"
        ));
    }
    Ok(warnings)
}

/// The first few sources, each with the dataset's folds that have clips of it, and how many more there are.
fn named(sources: &[&str], clips: &[ClipEntry]) -> String {
    let name = |source: &&str| {
        let folds: BTreeSet<u32> =
            clips.iter().filter(|clip| clip.source == **source).filter_map(|clip| clip.fold).collect();
        let shown: Vec<String> = folds.iter().map(ToString::to_string).collect();
        match folds.len() {
            0 => (*source).to_owned(),
            1 => format!("{source} (fold {})", shown.join(", ")),
            _ => format!("{source} (folds {})", shown.join(", ")),
        }
    };
    let mut names: Vec<String> = sources.iter().take(SOURCES_SHOWN).map(name).collect();
    if sources.len() > SOURCES_SHOWN {
        names.push(format!("{} more", sources.len() - SOURCES_SHOWN));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use earshot_common::ids::BlobId;

    use super::*;

    #[test]
    fn sources_are_named_with_their_folds() {
        let clip = |source: &str, fold| ClipEntry {
            name: String::new(),
            class: 0,
            fold: Some(fold),
            source: source.to_owned(),
            content: BlobId::of(b""),
        };
        let clips = [clip("7", 1), clip("7", 3), clip("8", 2)];
        assert_eq!(named(&["7", "8"], &clips), "7 (folds 1, 3), 8 (fold 2)");
        assert!(named(&["8"; 9], &clips).ends_with(", 8 (fold 2), 4 more"));
    }
}
