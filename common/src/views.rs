//! Views: renderings of a clip, and the bank of them that a sweep needs.
//!
//! Augmentations are named and ranged as audiomentations does: `AddGaussianSNR`, `PitchShift`, `TimeStretch`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Levels of one augmentation at most: shards of a bank grow with it, and eight strata already tell strengths well apart.
pub const LEVELS_MAX: u8 = 16;

/// What is done to a recording before its features are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// White Gaussian noise; strengths are signal-to-noise ratios in decibels.
    AddGaussianSnr,
    /// Another pitch at the same length; strengths are semitones.
    PitchShift,
    /// Another length at the same pitch; strengths are rates, above 1 for faster and shorter.
    TimeStretch,
}

impl Augmentation {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::AddGaussianSnr, Self::PitchShift, Self::TimeStretch];

    /// As it stands in a view's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddGaussianSnr => "add_gaussian_snr",
            Self::PitchShift => "pitch_shift",
            Self::TimeStretch => "time_stretch",
        }
    }

    /// The augmentation of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|augmentation| augmentation.name() == name)
    }

    /// Strengths where a sweep does not say: audiomentations' defaults.
    pub const fn default_range(self) -> Range {
        match self {
            Self::AddGaussianSnr => Range { min: 5.0, max: 40.0 },
            Self::PitchShift => Range { min: -4.0, max: 4.0 },
            Self::TimeStretch => Range { min: 0.8, max: 1.25 },
        }
    }
}

/// Strengths of an augmentation, both ends included, in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The smallest.
    pub min: f64,
    /// The largest; not below `min`.
    pub max: f64,
}

impl Range {
    /// Whether a strength is in it. Strengths are recorded in 32 bits, and so are the ends compared: 0.8 is in 0.8 to 0.8.
    pub fn contains(&self, strength: f32) -> bool {
        (self.min as f32..=self.max as f32).contains(&strength)
    }

    /// Whether some strength of 32 bits may be in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.min as f32 <= other.max as f32 && other.min as f32 <= self.max as f32
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn hull(&self, other: &Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// One rendering of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum View {
    /// The recording as it is.
    #[default]
    Clean,
    /// Under an augmentation, at a strength of its own for every clip.
    Augmented {
        /// What was done.
        augmentation: Augmentation,
        /// Which stratum of the bank's range the strengths are drawn from, from 0 in ascending order.
        level: u8,
    },
}

impl fmt::Display for View {
    /// As it stands in a shard: `clean`, or augmentation and level as `pitch_shift/2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("clean"),
            Self::Augmented { augmentation, level } => write!(f, "{}/{level}", augmentation.name()),
        }
    }
}

impl From<View> for String {
    fn from(view: View) -> Self {
        view.to_string()
    }
}

/// A text that names no view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no view of this version of Earshot")]
pub struct UnknownView(String);

impl TryFrom<String> for View {
    type Error = UnknownView;

    fn try_from(text: String) -> Result<Self, UnknownView> {
        let levels = Augmentation::ALL.into_iter().flat_map(|augmentation| {
            (0..LEVELS_MAX).map(move |level| Self::Augmented { augmentation, level })
        });
        std::iter::once(Self::Clean)
            .chain(levels)
            .find(|view| view.to_string() == text)
            .ok_or(UnknownView(text))
    }
}

/// One stratum of an augmentation's strengths: every clip has one view whose strength is drawn from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// What is done.
    pub augmentation: Augmentation,
    /// Its number, from 0 in ascending order of strengths.
    pub level: u8,
    /// The stratum.
    pub range: Range,
}

impl Level {
    /// The view that clips have on this level.
    pub fn view(&self) -> View {
        View::Augmented { augmentation: self.augmentation, level: self.level }
    }
}

/// The views that a sweep needs of every clip.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bank {
    /// Strengths and noise are drawn from this, with each clip's name and level.
    pub seed: u64,
    /// Levels by augmentation, then by strength; none where no trial augments.
    pub levels: Vec<Level>,
}

impl Bank {
    /// Divides each augmentation's range into `levels` equal strata; one is enough for a single strength.
    pub fn new(seed: u64, ranges: impl IntoIterator<Item = (Augmentation, Range)>, levels: u8) -> Self {
        let strata = |(augmentation, range): (Augmentation, Range)| {
            let count = if range.min < range.max { levels.clamp(1, LEVELS_MAX) } else { 1 };
            let edge = move |at: u8| {
                let part = f64::from(at) / f64::from(count);
                range.min * (1.0 - part) + range.max * part
            };
            (0..count).map(move |level| Level {
                augmentation,
                level,
                range: Range { min: edge(level), max: edge(level + 1) },
            })
        };
        Self { seed, levels: ranges.into_iter().flat_map(strata).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_named_and_found_by_their_names() {
        let view = View::Augmented { augmentation: Augmentation::PitchShift, level: 2 };
        for (view, name) in [(View::Clean, "clean"), (view, "pitch_shift/2")] {
            assert_eq!(serde_json::to_string(&view).unwrap(), format!("{name:?}"));
            assert_eq!(View::try_from(name.to_owned()), Ok(view));
        }
        for wrong in ["", "Clean", "pitch_shift", "pitch_shift/02", "pitch_shift/16"] {
            assert!(View::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn strata_divide_a_range_without_gaps() {
        let range = Augmentation::TimeStretch.default_range();
        let bank = Bank::new(1, [(Augmentation::TimeStretch, range)], 3);
        let edges: Vec<_> = bank.levels.iter().map(|level| (level.level, level.range)).collect();
        assert_eq!(edges.len(), 3);
        assert!((edges[0].1.min - 0.8).abs() < 1e-12 && (edges[2].1.max - 1.25).abs() < 1e-12);
        assert!((edges[1].1.min - 0.95).abs() < 1e-12 && (edges[0].1.max - 0.95).abs() < 1e-12);
    }

    #[test]
    fn strengths_of_32_bits_are_in_their_range() {
        let range = Range { min: 0.8, max: 0.8 };
        assert!(range.contains(0.8) && !range.contains(0.8_f32.next_up()) && range.meets(&range));
        assert!(!range.meets(&Range { min: 0.81, max: 0.9 }));
    }

    #[test]
    fn a_single_strength_needs_a_single_level() {
        let bank = Bank::new(1, [(Augmentation::PitchShift, Range { min: 2.0, max: 2.0 })], 4);
        assert_eq!(bank.levels.len(), 1);
    }
}
