//! The table of hyperparameters: what a sweep file may name under `[space]`, with kind, range, default and meaning.
//!
//! A new one is a row here and its use in [`super::point`]. The order of rows is that of points and of the grid (the last
//! varies fastest), so rows that are here keep their order. A default never changes either: points of old logs that do not
//! name a hyperparameter mean it.

use std::{
    fmt,
    ops::{Bound, Bound::Excluded, Bound::Included, RangeBounds, RangeInclusive},
};

use serde::{Deserialize, Serialize};

use super::Value;
use crate::{
    frontend::N_MFCC_MAX,
    job::{MASKS_MAX, MIXUP_ALPHA_MAX},
    model::{BLOCKS, FC_UNITS_MAX, FILTERS_MAX},
    views::{Augmentation, Range},
};

/// One row for each hyperparameter: its name in the sweep file, which values it may take, and its value when a space does
/// not name it.
macro_rules! hyperparameters {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $kind:expr, $default:expr;)+) => {
        /// Everything a trial may vary, in the order of points and of the grid.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Hyperparameter {
            $($(#[doc = $meaning])+ #[serde(rename = $name)] $variant,)+
        }

        impl Hyperparameter {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// As it stands in the sweep file.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Which values it may take.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => $kind,)+ }
            }

            /// The reference's value, for a space that does not name it.
            pub fn default_value(self) -> Value {
                match self { $(Self::$variant => $default,)+ }
            }
        }
    };
}

hyperparameters! {
    // How to train.
    /// The optimiser's step size.
    LearningRate = "learning_rate", Kind::Float(Excluded(0.0), Included(1.0)), Value::Float(1e-3);
    /// Clips of one step.
    BatchSize = "batch_size", Kind::Int(1..=4096), Value::Int(32);

    /// What turns gradients into steps.
    Optimizer = "optimizer", Kind::Word(&["adam", "adamw"]), word("adam");
    /// Added to gradients (Adam) or taken from parameters (AdamW), as many times the parameter.
    WeightDecay = "weight_decay", Kind::Float(Included(0.0), Included(1.0)), Value::Float(0.0);
    /// How the step size changes from step to step; `learning_rate` is then the largest.
    LrScheduler = "lr_scheduler", Kind::Word(&["constant", "cosine", "one_cycle"]), word("constant");
    /// Part of every target that is spread evenly over all classes.
    LabelSmoothing = "label_smoothing", Kind::Float(Included(0.0), Excluded(1.0)), Value::Float(0.0);

    // What to train.
    /// What the rows of the first block's input are: the MFCCs, or as many mel bands turned back from them.
    Input = "input", Kind::Word(&["mfcc", "mel"]), word("mfcc");
    /// Coefficients: rows of the input.
    NMfcc = "n_mfcc", Kind::Int(1..=N_MFCC_MAX as i64), Value::Int(13);
    /// Filters of every block; the list's length is the number of blocks.
    Filters = "filters", Kind::Filters, Value::List(vec![16, 32]);
    /// Height and width of every block's kernel.
    KernelSize = "kernel_size", Kind::OneOf(&[3, 5]), Value::Int(3);
    /// How blocks after the first get from channels to filters. The first has one channel, of which separate convolutions
    /// would only make scaled copies: it is always ordinary.
    Convolution = "convolution", Kind::Word(&["ordinary", "depthwise_separable"]), word("ordinary");
    /// Whether every convolution is followed by batch norm instead of having a bias.
    BatchNorm = "batch_norm", Kind::Bool, Value::Bool(false);
    /// What stands for a 2×2 square after each block.
    Pooling = "pooling", Kind::Word(&["max", "average"]), word("max");
    /// How the last block's maps become features: all elements, the mean of each map, or its mean and its maximum.
    Head = "head", Kind::Word(&["flatten", "mean", "mean_max"]), word("flatten");
    /// Probability that an element of the head's input is zeroed in training.
    Dropout = "dropout", Kind::Float(Included(0.0), Excluded(1.0)), Value::Float(0.3);
    /// Units of the hidden layer.
    FcUnits = "fc_units", Kind::IntOrNone(1..=FC_UNITS_MAX as i64), Value::Int(64);

    // What to do to features in training.
    /// Largest gain in decibels, either way.
    GainDb = "gain_db", Kind::Float(Included(0.0), Included(40.0)), Value::Float(0.0);
    /// Largest circular shift in time, either way, as a part of the clip.
    Roll = "roll", Kind::Float(Included(0.0), Included(0.5)), Value::Float(0.0);
    /// Frames of a time mask at most.
    TimeMaskParam = "time_mask_param", Kind::Int(0..=10_000), Value::Int(0);
    /// Time masks over a clip.
    TimeMasks = "time_masks", Kind::Int(0..=MASKS_MAX as i64), Value::Int(1);
    /// Mel bands of a band mask at most; there are as many bands as coefficients.
    FreqMaskParam = "freq_mask_param", Kind::Int(0..=N_MFCC_MAX as i64), Value::Int(0);
    /// Band masks over a clip.
    FreqMasks = "freq_masks", Kind::Int(0..=MASKS_MAX as i64), Value::Int(1);
    /// α of mixup's Beta(α, α).
    MixupAlpha = "mixup_alpha", Kind::Float(Included(0.0), Included(MIXUP_ALPHA_MAX)), Value::Float(0.0);

    // Which views to train on besides the clean one; defaults are audiomentations', but none comes up.
    /// Probability that noise comes up for a clip in an epoch.
    NoiseP = "noise_p", PROBABILITY, Value::Float(0.0);
    /// The strongest noise: signal-to-noise ratio in decibels.
    NoiseMinSnrDb = "noise_min_snr_db", SNR_DB, Value::Float(NOISE.min);
    /// The weakest noise: signal-to-noise ratio in decibels.
    NoiseMaxSnrDb = "noise_max_snr_db", SNR_DB, Value::Float(NOISE.max);
    /// Probability that a pitch shift comes up for a clip in an epoch.
    PitchP = "pitch_p", PROBABILITY, Value::Float(0.0);
    /// The lowest pitch, in semitones from the clip's own.
    PitchMinSemitones = "pitch_min_semitones", SEMITONES, Value::Float(PITCH.min);
    /// The highest pitch, in semitones from the clip's own.
    PitchMaxSemitones = "pitch_max_semitones", SEMITONES, Value::Float(PITCH.max);
    /// Probability that a time stretch comes up for a clip in an epoch.
    StretchP = "stretch_p", PROBABILITY, Value::Float(0.0);
    /// The slowest rate; 0.8 makes a clip a quarter longer.
    StretchMinRate = "stretch_min_rate", RATE, Value::Float(STRETCH.min);
    /// The fastest rate.
    StretchMaxRate = "stretch_max_rate", RATE, Value::Float(STRETCH.max);
}

fn word(text: &str) -> Value {
    Value::Text(text.to_owned())
}

const NOISE: Range = Augmentation::AddGaussianSnr.default_range();
const PITCH: Range = Augmentation::PitchShift.default_range();
const STRETCH: Range = Augmentation::TimeStretch.default_range();

const PROBABILITY: Kind = Kind::Float(Included(0.0), Included(1.0));
/// From noise ten times as strong as the clip to noise that no ear or network finds.
const SNR_DB: Kind = Kind::Float(Included(-20.0), Included(100.0));
/// An octave up or down; beyond it little of a sound is left.
const SEMITONES: Kind = Kind::Float(Included(-12.0), Included(12.0));
/// Half and twice the speed, for the same reason.
const RATE: Kind = Kind::Float(Included(0.5), Included(2.0));

/// The word for the absence of a number.
pub(super) const NONE: &str = "none";

/// Which values a hyperparameter may take.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A number between these; whole numbers become floats.
    Float(Bound<f64>, Bound<f64>),
    /// A whole number of this range.
    Int(RangeInclusive<i64>),
    /// A whole number of this range, or the word `"none"`.
    IntOrNone(RangeInclusive<i64>),
    /// One of these whole numbers.
    OneOf(&'static [i64]),
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A list of whole numbers, one for each block.
    Filters,
}

impl Kind {
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Float(low, high), Value::Float(number)) => (*low, *high).contains(number),
            (Self::Int(range) | Self::IntOrNone(range), Value::Int(number)) => range.contains(number),
            (Self::IntOrNone(_), Value::Text(text)) => text == NONE,
            (Self::OneOf(numbers), Value::Int(number)) => numbers.contains(number),
            (Self::Word(words), Value::Text(text)) => words.contains(&text.as_str()),
            (Self::Bool, Value::Bool(_)) => true,
            (Self::Filters, Value::List(filters)) => {
                BLOCKS.contains(&filters.len())
                    && filters.iter().all(|f| (1..=i64::from(FILTERS_MAX)).contains(f))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Kind {
    /// What would be right, as in "n_mfcc must be …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(low, high) => {
                match low {
                    Included(low) => write!(f, "a number from {low}")?,
                    Excluded(low) => write!(f, "a number above {low}")?,
                    Bound::Unbounded => write!(f, "a number")?,
                }
                match (low, high) {
                    (Included(_), Included(high)) => write!(f, " to {high}"),
                    (Included(_), Excluded(high)) => write!(f, " to below {high}"),
                    (_, Included(high)) => write!(f, " and at most {high}"),
                    (_, Excluded(high)) => write!(f, " and below {high}"),
                    (_, Bound::Unbounded) => Ok(()),
                }
            }
            Self::Int(range) => write!(f, "a whole number from {} to {}", range.start(), range.end()),
            Self::IntOrNone(range) => {
                write!(f, "a whole number from {} to {}, or {NONE:?}", range.start(), range.end())
            }
            Self::OneOf(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
                f.write_str(&numbers.join(" or "))
            }
            Self::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                f.write_str(&words.join(" or "))
            }
            Self::Bool => f.write_str("true or false"),
            Self::Filters => write!(
                f,
                "a list of {} to {} whole numbers from 1 to {FILTERS_MAX}, one for each block, as [16, 32]",
                BLOCKS.start(),
                BLOCKS.end()
            ),
        }
    }
}

impl Hyperparameter {
    /// The hyperparameter of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|hyperparameter| hyperparameter.name() == name)
    }

    /// Takes a value if it is of this hyperparameter's kind.
    ///
    /// # Errors
    /// What would be right.
    pub fn accept(self, value: Value) -> Result<Value, String> {
        let kind = self.kind();
        let value = match (&kind, value) {
            (Kind::Float(..), Value::Int(number)) => Value::Float(number as f64),
            (_, value) => value,
        };
        if kind.holds(&value) {
            Ok(value)
        } else {
            Err(format!("{} must be {kind}, got {value}", self.name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_of_its_kind() {
        for &hyperparameter in Hyperparameter::ALL {
            let default = hyperparameter.default_value();
            assert_eq!(hyperparameter.accept(default.clone()), Ok(default), "{hyperparameter:?}");
        }
    }

    #[test]
    fn names_are_the_same_in_json() {
        for &hyperparameter in Hyperparameter::ALL {
            let json = serde_json::to_value(hyperparameter).unwrap();
            assert_eq!(json, hyperparameter.name());
            assert_eq!(Hyperparameter::from_name(hyperparameter.name()), Some(hyperparameter));
        }
    }

    fn check(hyperparameter: Hyperparameter, wrong: Value, expected: &str) {
        let message = hyperparameter.accept(wrong).unwrap_err();
        assert_eq!(message, format!("{} must be {expected}", hyperparameter.name()));
    }

    #[test]
    fn wrong_values_are_told_what_would_be_right() {
        let float = Value::Float;
        check(Hyperparameter::LearningRate, float(0.0), "a number above 0 and at most 1, got 0.0");
        check(Hyperparameter::Dropout, float(1.0), "a number from 0 to below 1, got 1.0");
        check(Hyperparameter::Dropout, float(f64::NAN), "a number from 0 to below 1, got NaN");
        check(Hyperparameter::NMfcc, Value::Int(65), "a whole number from 1 to 64, got 65");
        check(Hyperparameter::KernelSize, Value::Int(4), "3 or 5, got 4");
        check(Hyperparameter::BatchNorm, Value::Int(1), "true or false, got 1");
        check(Hyperparameter::Input, Value::Int(1), "\"mfcc\" or \"mel\", got 1");
        check(
            Hyperparameter::FcUnits,
            Value::Text("no".into()),
            "a whole number from 1 to 4096, or \"none\", got \"no\"",
        );
        check(
            Hyperparameter::Filters,
            Value::List(vec![16]),
            "a list of 2 to 5 whole numbers from 1 to 1024, one for each block, as [16, 32], got [16]",
        );
        assert_eq!(Hyperparameter::Dropout.accept(Value::Int(0)), Ok(float(0.0)));
    }
}
