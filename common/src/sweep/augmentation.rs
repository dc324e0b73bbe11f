//! What a space and its points say of augmentations: how often each comes up, and how strong.

use super::{Hyperparameter, Point, Space, Sweep};
use crate::views::{Augmentation, Bank, Range};

/// The hyperparameters of one augmentation.
struct Keys {
    augmentation: Augmentation,
    p: Hyperparameter,
    min: Hyperparameter,
    max: Hyperparameter,
}

const KEYS: [Keys; 3] = [
    Keys {
        augmentation: Augmentation::AddGaussianSnr,
        p: Hyperparameter::NoiseP,
        min: Hyperparameter::NoiseMinSnrDb,
        max: Hyperparameter::NoiseMaxSnrDb,
    },
    Keys {
        augmentation: Augmentation::PitchShift,
        p: Hyperparameter::PitchP,
        min: Hyperparameter::PitchMinSemitones,
        max: Hyperparameter::PitchMaxSemitones,
    },
    Keys {
        augmentation: Augmentation::TimeStretch,
        p: Hyperparameter::StretchP,
        min: Hyperparameter::StretchMinRate,
        max: Hyperparameter::StretchMaxRate,
    },
];

/// An augmentation as a point has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// What is done.
    pub augmentation: Augmentation,
    /// How often it comes up, above 0.
    pub p: f64,
    /// How strong it may be.
    pub range: Range,
}

impl Point {
    /// Augmentations that may come up.
    pub fn augmentations(&self) -> impl Iterator<Item = Choice> {
        KEYS.iter().filter_map(|keys| {
            let p = self.float(keys.p);
            let range = Range { min: self.float(keys.min), max: self.float(keys.max) };
            (p > 0.0).then_some(Choice { augmentation: keys.augmentation, p, range })
        })
    }
}

impl Space {
    /// Augmentations that may come up in some trial, each with the smallest range that holds all trials' ranges.
    pub fn augmentations(&self) -> impl Iterator<Item = (Augmentation, Range)> {
        KEYS.iter().filter_map(|keys| {
            let (_, p_max) = self.extent(keys.p)?;
            let ((min, _), (_, max)) = (self.extent(keys.min)?, self.extent(keys.max)?);
            (p_max > 0.0).then_some((keys.augmentation, Range { min, max }))
        })
    }

    /// Refuses a space in which some point's smallest strength is above its largest.
    ///
    /// # Errors
    /// The hyperparameter to blame, and what would be right.
    pub(super) fn check_augmentations(&self) -> Result<(), (Hyperparameter, String)> {
        for &Keys { min, max, .. } in &KEYS {
            let extents = self.extent(min).zip(self.extent(max));
            if let Some(((_, low), (high, _))) = extents.filter(|((_, low), (high, _))| low > high) {
                let message = format!(
                    "{min} = {low:?} is above {max} = {high:?} in some trials; keep every {min} at or below every {max}",
                    min = min.name(),
                    max = max.name()
                );
                return Err((if self.names(min) { min } else { max }, message));
            }
        }
        Ok(())
    }
}

impl Sweep {
    /// The views that its trials can ask for.
    pub fn bank(&self) -> Bank {
        Bank::new(self.seed, self.space.augmentations(), self.views.levels)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sweep(space: &str) -> Result<Sweep, String> {
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n[space]\n{space}"
        );
        Sweep::parse(&text, Path::new("t.toml"), &[]).map_err(|error| error.to_string())
    }

    fn range(min: f64, max: f64) -> Range {
        Range { min, max }
    }

    #[test]
    fn nothing_is_augmented_by_default() {
        let sweep = sweep("noise_p = 0\npitch_min_semitones = -2").unwrap();
        assert_eq!(
            (sweep.bank().levels.len(), sweep.space.point(0).unwrap().augmentations().count()),
            (0, 0)
        );
    }

    #[test]
    fn the_bank_holds_what_some_trial_asks_for() {
        let sweep = sweep(
            "noise_p = { choice = [0.0, 0.5] }\nnoise_min_snr_db = { choice = [10, 20] }\nnoise_max_snr_db = 30\n\
             stretch_p = 0.1\n[views]\nlevels = 2\n",
        )
        .unwrap();
        let expected = [
            (Augmentation::AddGaussianSnr, range(10.0, 20.0)),
            (Augmentation::AddGaussianSnr, range(20.0, 30.0)),
            (Augmentation::TimeStretch, range(0.8, 1.025)),
            (Augmentation::TimeStretch, range(1.025, 1.25)),
        ];
        let bank = sweep.bank();
        assert_eq!((bank.levels.len(), bank.seed), (expected.len(), 42));
        for (level, (augmentation, range)) in bank.levels.iter().zip(expected) {
            assert_eq!(level.augmentation, augmentation);
            assert!((level.range.min - range.min).abs() < 1e-9 && (level.range.max - range.max).abs() < 1e-9);
        }
        let choices = |number| sweep.space.point(number).unwrap().augmentations().collect::<Vec<_>>();
        assert_eq!(choices(0).len(), 1);
        assert_eq!(
            choices(3)[0],
            Choice { augmentation: Augmentation::AddGaussianSnr, p: 0.5, range: range(20.0, 30.0) }
        );
    }

    #[test]
    fn ranges_that_cross_are_refused() {
        let message = sweep(
            "pitch_p = 0.5\npitch_min_semitones = { choice = [-2, 3] }\npitch_max_semitones = { choice = [2, 4] }",
        );
        let message = message.unwrap_err();
        assert!(
            message.contains("t.toml:9: pitch_min_semitones = 3.0 is above pitch_max_semitones = 2.0"),
            "{message}"
        );
        let message = sweep("noise_max_snr_db = 4").unwrap_err();
        assert!(message.contains("t.toml:8: noise_min_snr_db = 5.0 is above"), "{message}");
        assert!(sweep("stretch_p = 1.5").unwrap_err().contains("from 0 to 1"));
        assert!(sweep("[views]\nlevels = 17").unwrap_err().contains("levels must be from 1 to 16"));
    }
}
