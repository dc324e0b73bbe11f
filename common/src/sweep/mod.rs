//! The sweep file: from TOML to a validated [`Sweep`].
//!
//! - `raw`: the file as it is written, strict: unknown keys and wrong types end here.
//! - [`hyperparameter`]: the table of what may be varied; [`value`]: what it may be given.
//! - [`domain`]: the values of one hyperparameter; [`space`]: all of them, conditions, what is forbidden, and the grid;
//!   [`point`]: one point, and how it becomes a model spec and a recipe.
//! - [`search`]: the method and its own settings; [`stop`]: which trials get more epochs.
//! - [`cost_metric`]: what may be kept small beside the metric.
//! - [`prune`]: how the champion is made smaller at the end.
//! - [`quantise`]: what is done so that it loses little in int8.
//! - [`augmentation`]: what space and points say of views.
//! - [`error`]: what is wrong, in which file and line, and what would be right.
//!
//! A [`Sweep`] that exists is one that can run: every range is checked, and every point builds a model, unless
//! conditions or forbidden combinations decide which points there are: then one that does not is an infeasible trial.

pub mod augmentation;
pub mod cost_metric;
pub mod domain;
pub mod error;
pub mod hyperparameter;
pub mod point;
pub mod prune;
pub mod quantise;
mod raw;
pub mod search;
pub mod space;
pub mod stop;
pub mod value;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    cost_metric::CostMetric,
    domain::Domain,
    error::SweepError,
    hyperparameter::Hyperparameter,
    point::Point,
    prune::Prune,
    quantise::Quantise,
    search::Search,
    space::{Combination, Space},
    stop::{Halving, Stop},
    value::Value,
};
use crate::{frontend::FrontEnd, ids::BlobId, job::Epoch, model::Cost};

/// A validated sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// For people; letters, digits, `-` and `_`.
    pub name: String,
    /// Everything random in the sweep is drawn from this.
    pub seed: u64,
    /// Its part of the workers' time beside other sweeps: one of weight 3 gets three times as much as one of weight 1.
    #[serde(default = "weight_default", skip_serializing_if = "is_weight_default")]
    pub weight: u32,
    /// Where the recordings lie and where their features go.
    pub data: Data,
    /// How waveforms become features.
    pub front_end: FrontEnd,
    /// Which clips train, validate and test.
    pub split: Split,
    /// What is searched.
    pub space: Space,
    /// How its views are graded.
    #[serde(default, skip_serializing_if = "Views::is_default")]
    pub views: Views,
    /// How it is searched.
    pub search: Search,
    /// How long a run trains.
    pub schedule: Schedule,
    /// Which trials are stopped before; none: all train to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// What makes a trial the best.
    pub objective: Objective,
    /// What is to be small beside it: then there is a front of best trials, each the best at its costs. Empty: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minimise: Vec<CostMetric>,
    /// What a trial must fit in to be trained at all.
    pub constraints: Constraints,
    /// How much may be spent.
    pub budget: Budget,
    /// How the champion is made smaller at the end; none: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
    /// What is done so that it loses little in int8, beyond calibration; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantise: Option<Quantise>,
    /// What an exported model must keep to.
    #[serde(default, skip_serializing_if = "Gates::is_default")]
    pub export: Gates,
}

/// Sweeps of which nobody says otherwise share alike.
fn weight_default() -> u32 {
    1
}

/// Sweeps of no weight of their own are written as before there were weights.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_weight_default(weight: &u32) -> bool {
    *weight == weight_default()
}

/// Where the recordings lie and where their features go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// A folder of recordings, or their list.
    pub root: PathBuf,
    /// The folder of cleaned clips, features and shards.
    pub processed: PathBuf,
}

/// Which clips train, validate and test. Selection sees the validation part; the test part is scored once, at export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The dataset's own folds: a trial has one run for each validation fold.
    Folds {
        /// Folds that validate, one run each.
        validation: Vec<u32>,
        /// Folds that neither train nor validate.
        test: Vec<u32>,
    },
    /// Classes stay balanced and no source is in two parts.
    Grouped(Sizes),
    /// A plain stratified split, as `sklearn.train_test_split`; it ignores sources and so flatters.
    Holdout(Sizes),
}

/// How large the parts of a split are that is not made of the dataset's folds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Part of the clips that tests; may be 0.
    pub test_size: f64,
    /// Part that validates: of the clips that do not test for a hold-out, of all clips for a grouped split.
    pub validation_size: f64,
    /// `random_state`, or the order in which sources are dealt.
    pub seed: u32,
}

impl Split {
    /// The validation folds, one run of every trial each. A split without folds has the single fold 0.
    pub fn folds(&self) -> Vec<u32> {
        match self {
            Self::Folds { validation, .. } => validation.clone(),
            Self::Grouped(_) | Self::Holdout(_) => vec![0],
        }
    }
}

/// How finely the strengths of augmented views are graded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Views {
    /// Strata of each augmentation's range, and so views of every clip: more tell a trial's range apart more finely.
    pub levels: u8,
}

impl Default for Views {
    fn default() -> Self {
        Self { levels: 4 }
    }
}

impl Views {
    /// Whether it is what a sweep has that says nothing; such sweeps are written as before there were views.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Passes over the training part at most.
    pub epochs: u32,
    /// Epochs without a lower validation loss after which a run stops; none: early stopping is off.
    pub patience: Option<u32>,
    /// Whether the best trial is trained once more at the end, on nearly all that does not test.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refit: bool,
}

/// Sweeps without a refit are written as before there was one.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What makes a trial the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Largest validation accuracy.
    Accuracy,
    /// Largest validation macro-F1.
    MacroF1,
    /// Smallest validation loss.
    Loss,
    /// Largest validation accuracy of the quantised model, which is what ships.
    Int8Accuracy,
}

impl Objective {
    /// As it stands in the sweep file and in commands' output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro_f1",
            Self::Loss => "loss",
            Self::Int8Accuracy => "int8_accuracy",
        }
    }

    /// What it makes of one epoch: the larger the better.
    pub fn score(self, epoch: &Epoch) -> f64 {
        match self {
            Self::Accuracy => epoch.accuracy,
            Self::MacroF1 => epoch.macro_f1,
            Self::Loss => -epoch.loss,
            // What was not measured is no better than a failure.
            Self::Int8Accuracy => epoch.int8_accuracy.unwrap_or(f64::NEG_INFINITY),
        }
    }

    /// A score, of which the larger is the better, as users know it: of a loss the loss itself.
    pub fn shown(self, score: f64) -> f64 {
        match self {
            Self::Accuracy | Self::MacroF1 | Self::Int8Accuracy => score,
            Self::Loss => -score,
        }
    }
}

/// Limits on a model's exact cost, each absent for none. A trial beyond one is never trained.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Trained numbers.
    pub max_params: Option<u64>,
    /// Multiply-accumulates of one clip.
    pub max_macs: Option<u64>,
    /// KiB of the int8 weights.
    pub max_int8_kib: Option<f64>,
    /// KiB of int8 activations at their peak.
    pub max_peak_ram_kib: Option<f64>,
}

impl Constraints {
    /// What a model of this cost breaks, in words; none when it may be trained.
    pub fn broken_by(&self, cost: &Cost) -> Option<String> {
        let limits = [
            ("params", cost.params as f64, self.max_params.map(|limit| limit as f64)),
            ("macs", cost.macs as f64, self.max_macs.map(|limit| limit as f64)),
            ("int8_kib", cost.int8_kib(), self.max_int8_kib),
            ("peak_ram_kib", cost.peak_ram_kib(), self.max_peak_ram_kib),
        ];
        limits
            .into_iter()
            .find_map(|(name, value, limit)| {
                limit.filter(|&limit| value > limit).map(|limit| (name, value, limit))
            })
            .map(|(name, value, limit)| format!("{name} is {value}, constraints allow {limit}"))
    }
}

/// Limits on the exported model, each absent for none. A model beyond one is not exported.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// KiB of the file that is meant to be shipped.
    pub max_int8_kib: Option<f64>,
    /// Median of its latency in ONNX Runtime on one thread, in milliseconds, on the machine that exports.
    pub max_latency_ms: Option<f64>,
    /// Accuracy that it may lose to the float model, from 0 to 1, on the test part, or on the validation part where there is none.
    pub max_drop: Option<f64>,
}

impl Gates {
    /// Whether so much accuracy may be lost.
    pub fn allows(&self, drop: f64) -> bool {
        self.max_drop.is_none_or(|most| drop <= most)
    }

    /// Whether it is what a sweep has that says nothing; such sweeps are written as before there were gates.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How much may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Trials at most; none: all that the search proposes.
    pub trials: Option<u32>,
    /// Attempts of one run at most, before it counts as failed.
    pub attempts: u32,
}

impl Sweep {
    /// Reads and validates a sweep file, with `overrides` of the form `section.key=value` laid over it. Relative paths in
    /// it are relative to the current folder, as in the commands that share them.
    ///
    /// # Errors
    /// [`SweepError`] says what is wrong, in which line, and what would be right.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, SweepError> {
        let text = std::fs::read_to_string(path).map_err(|source| SweepError::read(path, &source))?;
        Self::parse(&text, path, overrides)
    }

    /// As [`Sweep::load`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Sweep::load`].
    pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Self, SweepError> {
        raw::parse(text, path, overrides)
    }

    /// Trials the sweep will make at most, infeasible ones included; fewer only where the search runs out of points that it
    /// could not count beforehand.
    pub fn trials(&self) -> u64 {
        let points = self.space.size().unwrap_or(u64::MAX);
        self.budget.trials.map_or(points, |budget| points.min(u64::from(budget)))
    }

    /// BLAKE3 of the validated form: two files that mean the same have the same hash.
    pub fn hash(&self) -> BlobId {
        BlobId::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}
