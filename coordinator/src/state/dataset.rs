//! The features of a sweep, as its jobs name them.

use std::collections::BTreeMap;

use earshot_common::{
    ids::{BlobId, FoldId},
    job::Augment,
    sweep::{Point, augmentation::Choice},
    views::{Augmentation, Range},
};
use serde::{Deserialize, Serialize};

/// What a sweep's jobs are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Names of the classes, by their number.
    pub labels: Vec<String>,
    /// Columns of a clip's features.
    pub frames: u32,
    /// Shards, in the order that numbers their rows.
    pub shards: Vec<BlobId>,
    /// The same rows under augmentations, by augmentation, then by strength.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<DatasetView>,
    /// Rows that train and validate, for each validation fold.
    pub splits: BTreeMap<FoldId, BlobId>,
    /// The dataset's manifest.
    pub manifest: BlobId,
}

/// One level of the bank of views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetView {
    /// What was done.
    pub augmentation: Augmentation,
    /// The smallest and the largest strength that any clip has on this level.
    pub drawn: Range,
    /// Its shards, with the rows of [`Dataset::shards`] in the same order.
    pub shards: Vec<BlobId>,
}

impl Dataset {
    /// What a trial's training clips may be seen under: only levels on which some clip's strength is in the trial's range.
    pub fn augment(&self, point: &Point) -> Vec<Augment> {
        let augment = point.augmentations().map(|Choice { augmentation, p, range }| {
            let levels = self.views.iter().filter(|view| view.augmentation == augmentation);
            let within = levels.filter(|view| view.drawn.meets(&range));
            Augment { augmentation, p, range, levels: within.map(|view| view.shards.clone()).collect() }
        });
        augment.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use earshot_common::sweep::Sweep;

    use super::*;

    fn view(augmentation: Augmentation, min: f64, max: f64) -> DatasetView {
        let shards = vec![BlobId::of(format!("{augmentation:?} {min}").as_bytes())];
        DatasetView { augmentation, drawn: Range { min, max }, shards }
    }

    /// The levels that a trial of this space is given, by their smallest strength.
    fn check(space: &str, expected: &[(Augmentation, &[f64])]) {
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n[space]\n{space}"
        );
        let sweep = Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap();
        let (noise, pitch) = (Augmentation::AddGaussianSnr, Augmentation::PitchShift);
        let dataset = Dataset {
            labels: vec![],
            frames: 1,
            shards: vec![BlobId::of(b"clean")],
            views: vec![
                view(noise, 5.2, 14.0),
                view(noise, 15.0, 29.0),
                view(pitch, -1.9, -0.1),
                view(pitch, 0.1, 1.8),
            ],
            splits: BTreeMap::new(),
            manifest: BlobId::of(b"manifest"),
        };
        let augment = dataset.augment(&sweep.space.point(0).unwrap());
        assert_eq!(augment.len(), expected.len());
        for (augment, (augmentation, levels)) in augment.iter().zip(expected) {
            let wanted = levels.iter().map(|&min| view(*augmentation, min, 0.0).shards);
            assert_eq!(augment.augmentation, *augmentation);
            assert!(augment.levels.iter().cloned().eq(wanted), "{augment:?}");
        }
    }

    #[test]
    fn a_trial_is_given_the_levels_that_it_can_choose_from() {
        let (noise, pitch) = (Augmentation::AddGaussianSnr, Augmentation::PitchShift);
        check("dropout = 0.1", &[]);
        check("noise_p = 0.5", &[(noise, &[5.2, 15.0])]);
        check("noise_p = 0.5\nnoise_min_snr_db = 14.5", &[(noise, &[15.0])]);
        check("noise_p = 0.5\nnoise_min_snr_db = 30", &[(noise, &[])]);
        check(
            "noise_p = 1\nnoise_max_snr_db = 14\npitch_p = 1\npitch_max_semitones = 0",
            &[(noise, &[5.2]), (pitch, &[-1.9])],
        );
    }
}
