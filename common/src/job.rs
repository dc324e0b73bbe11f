//! The one kind of work: train this model spec, from these initial weights or none, with this recipe, on these shards, and
//! report every epoch.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{BlobId, RunId},
    int8::Range,
    model::AudioCnn,
    sweep::prune::Distil,
    views::{self, Augmentation},
};

/// Masks of one kind over one clip at most: more would leave little of it.
pub const MASKS_MAX: u32 = 10;
/// Largest α of mixup: beyond, most clips are blended half and half.
pub const MIXUP_ALPHA_MAX: f64 = 2.0;

/// How to train: Adam or AdamW (β 0.9 and 0.999, ε 1e-8, as PyTorch's defaults) on cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Which of the two.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The step size; the largest one where the scheduler changes it.
    pub learning_rate: f64,
    /// Adam adds so many times each parameter to its gradient; AdamW takes so many times the step size of each parameter away.
    #[serde(default)]
    pub weight_decay: f64,
    /// How the step size changes from step to step.
    #[serde(default)]
    pub lr_scheduler: LrScheduler,
    /// Part of every target that is spread evenly over all classes; in training only.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Clips of one step; the last batch of an epoch may be smaller.
    pub batch_size: u32,
    /// Passes over the training part at most.
    pub epochs: u32,
    /// Epochs without a lower validation loss after which training stops; none: it never stops early.
    pub patience: Option<u32>,
    /// Which epoch's weights are the result.
    #[serde(default)]
    pub keep: Keep,
    /// What is done to features in training.
    #[serde(default)]
    pub augmentation: FeatureAugmentation,
    /// Everything random in the run (weights, order, dropout, augmentation) is drawn from this.
    pub seed: u64,
}

/// Which epoch's weights are a run's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of lowest validation loss.
    #[default]
    Best,
    /// The last.
    Last,
}

/// What turns gradients into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// `torch.optim.Adam` (Kingma and Ba 2015).
    #[default]
    Adam,
    /// `torch.optim.AdamW`: weight decay apart from the gradients (Loshchilov and Hutter 2019).
    #[serde(rename = "adamw")]
    AdamW,
}

/// How the step size changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Not at all.
    #[default]
    Constant,
    /// `torch.optim.lr_scheduler.CosineAnnealingLR`, to 0 over all steps of the run.
    Cosine,
    /// `torch.optim.lr_scheduler.OneCycleLR` over all steps of the run, with its defaults.
    OneCycle,
}

/// What is done to features in training, clip by clip and epoch by epoch anew. All zeros: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureAugmentation {
    /// Largest offset of the 0th coefficient, either way: `√n_mels` times a gain in decibels, because the DCT is orthonormal.
    pub gain: f64,
    /// Largest circular shift in time, either way, as a part of the clip.
    pub roll: f64,
    /// Masks over frames.
    pub time_masks: u32,
    /// Frames of one of them at most.
    pub time_mask_param: u32,
    /// Masks over mel bands, of which there are as many as coefficients.
    pub freq_masks: u32,
    /// Bands of one of them at most.
    pub freq_mask_param: u32,
    /// α of mixup's Beta(α, α); 0: no mixup.
    pub mixup_alpha: f64,
}

impl Recipe {
    /// Adam at a constant rate to the last epoch, with nothing else.
    pub fn plain(learning_rate: f64, batch_size: u32, epochs: u32, seed: u64) -> Self {
        Self {
            optimizer: Optimizer::default(),
            learning_rate,
            weight_decay: 0.0,
            lr_scheduler: LrScheduler::default(),
            label_smoothing: 0.0,
            batch_size,
            epochs,
            patience: None,
            keep: Keep::default(),
            augmentation: FeatureAugmentation::default(),
            seed,
        }
    }

    /// The same for training once more on nearly all clips, with too few left to stop by: to the last epoch and its weights. A
    /// constant rate ends at the epoch that was best on the mean; the others end where their schedule does.
    #[must_use]
    pub fn refit(self, best_epoch: f64) -> Self {
        let epochs = match self.lr_scheduler {
            LrScheduler::Constant => (best_epoch.round() as u32).clamp(1, self.epochs),
            LrScheduler::Cosine | LrScheduler::OneCycle => self.epochs,
        };
        Self { epochs, patience: None, keep: Keep::Last, ..self }
    }

    /// What is out of its range, if anything; every number is finite.
    pub fn out_of_range(&self) -> Option<&'static str> {
        let FeatureAugmentation { gain, roll, time_masks, freq_masks, mixup_alpha, .. } = self.augmentation;
        let ranges = [
            ("learning_rate", self.learning_rate > 0.0 && self.learning_rate.is_finite()),
            ("weight_decay", (0.0..=1.0).contains(&self.weight_decay)),
            ("label_smoothing", (0.0..1.0).contains(&self.label_smoothing)),
            ("batch_size", self.batch_size > 0),
            ("epochs", self.epochs > 0),
            ("patience", self.patience != Some(0)),
            ("gain", gain >= 0.0 && gain.is_finite()),
            ("roll", (0.0..=0.5).contains(&roll)),
            ("time_masks", time_masks <= MASKS_MAX),
            ("freq_masks", freq_masks <= MASKS_MAX),
            ("mixup_alpha", (0.0..=MIXUP_ALPHA_MAX).contains(&mixup_alpha)),
        ];
        ranges.into_iter().find(|(_, is_right)| !is_right).map(|(name, _)| name)
    }
}

/// An augmentation that a run's training clips may be seen under.
///
/// Each epoch, each training clip: every augmentation comes up with its probability; of those that come up one is taken at
/// random, and of the clip's views under it whose strength is in the range, one at random. Without any, the clip stays clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// What was done.
    pub augmentation: Augmentation,
    /// Probability that it comes up, above 0.
    pub p: f64,
    /// Strengths that may be taken.
    pub range: views::Range,
    /// For each level of the bank that has such strengths: its shards, with the rows of [`Job::shards`] in the same order.
    pub levels: Vec<Vec<BlobId>>,
}

/// A network whose predictions are learnt beside the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Teacher {
    /// Blob: its logits of the training rows as they are, `(training rows, classes)`, in the split's order.
    pub logits: BlobId,
    /// How.
    pub distil: Distil,
}

/// Jobs without it are written as before there was any.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a worker is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What to build.
    pub model: AudioCnn,
    /// How to train it.
    pub recipe: Recipe,
    /// Shards whose rows, in this order, are numbered from 0.
    pub shards: Vec<BlobId>,
    /// Views that training clips may be seen under; validation sees clean clips only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<Augment>,
    /// Blob that lists the rows that train and those that validate.
    pub split: BlobId,
    /// Checkpoint to start from; none: fresh weights drawn from the recipe's seed.
    pub initial_weights: Option<BlobId>,
    /// Whether the checkpoint is to say what each filter and hidden unit is worth to the loss: [`crate::tensors::TAYLOR`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub taylor: bool,
    /// Whose predictions are learnt beside the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// Ranges of the standardised input and of every step that has a scale, in their order: training rounds as an int8 file with
    /// these ranges would. Empty: it trains in floats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub int8_ranges: Vec<Range>,
    /// Whether reports at rungs and at the run's end are to say how accurate its best weights are in int8.
    #[serde(default, skip_serializing_if = "is_false")]
    pub int8_accuracy: bool,
    /// What an earlier attempt at the run had come to; the next epoch is trained from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<BlobId>,
    /// Epochs after which the run may have to wait for others: what it has come to by then is handed in with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<u32>,
}

/// What runs have in common whose tensors have the same shapes from the first step to the last, so that they can be trained as
/// one computation. How many rows train is in the split, and for the worker to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Without its dropout, which multiplies numbers that are there anyway.
    model: AudioCnn,
    batch_size: u32,
    epochs: u32,
    shards: Vec<BlobId>,
}

impl Shape {
    /// That of a run of this model and recipe on these shards.
    pub fn new(model: &AudioCnn, recipe: &Recipe, shards: &[BlobId]) -> Self {
        let mut model = model.clone();
        model.head.dropout = 0.0;
        let &Recipe { batch_size, epochs, .. } = recipe;
        Self { model, batch_size, epochs, shards: shards.to_vec() }
    }
}

impl Job {
    /// Its shape; none for a run that goes on from where another attempt was kept, for it is not at its first step, nor for one
    /// that may be held at a rung or has to say what its filters are worth, for what the optimisers of one computation have come to
    /// is not kept; nor for one with a teacher or one that rounds, of which a sweep has one, nor for one that is measured in int8.
    pub fn shape(&self) -> Option<Shape> {
        let is_plain =
            !self.taylor && self.teacher.is_none() && self.int8_ranges.is_empty() && !self.int8_accuracy;
        (is_plain && self.resume.is_none() && self.rungs.is_empty())
            .then(|| Shape::new(&self.model, &self.recipe, &self.shards))
    }

    /// Every blob that a worker needs for it.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        let Self {
            model: _,
            recipe: _,
            shards,
            augment,
            split,
            initial_weights,
            taylor: _,
            teacher,
            int8_ranges: _,
            int8_accuracy: _,
            resume,
            rungs: _,
        } = self;
        let views = augment.iter().flat_map(|augment| augment.levels.iter().flatten());
        let teacher = teacher.map(|teacher| teacher.logits);
        let others = [Some(*split), *initial_weights, *resume, teacher].into_iter().flatten();
        shards.iter().chain(views).copied().chain(others)
    }
}

/// One epoch's metrics, all on the validation part except the first. Every number is finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: u32,
    /// Mean loss over the training clips, as they were seen in training; a teacher's part is in it.
    pub train_loss: f64,
    /// Mean cross-entropy over the validation clips.
    pub loss: f64,
    /// From 0 to 1.
    pub accuracy: f64,
    /// Unweighted mean of the classes' F1, from 0 to 1.
    pub macro_f1: f64,
    /// Accuracy of the best weights so far, quantised: at rungs and at a run's end, where the job asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8_accuracy: Option<f64>,
}

/// What a finished attempt leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// The epoch whose weights the checkpoint holds: that of lowest validation loss, unless the recipe says otherwise.
    pub best_epoch: u32,
    /// Blob: weights of that epoch.
    pub checkpoint: BlobId,
    /// Blob: logits of the validation rows by those weights.
    pub logits: BlobId,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The loss was no longer a finite number; trying again would give the same.
    Diverged,
    /// The device's memory did not suffice.
    OutOfMemory,
    /// A shard or a split could not be fetched or read.
    Data,
    /// Something in the worker failed.
    Worker,
    /// The worker's disk is full, or failed.
    Disk,
    /// The worker was told to leave.
    Drained,
}

impl Reason {
    /// Whether another attempt may fare better.
    pub fn is_retryable(self) -> bool {
        self != Self::Diverged
    }
}

/// A failed attempt's reason, with words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For decisions.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Trained to its end.
    Completed(RunResult),
    /// Not.
    Failed(Failure),
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Train another epoch.
    Continue,
    /// End the attempt with what it has.
    Stop,
    /// End the attempt without a result: others are tried first. The run may go on later from what was kept of it.
    Pause,
}

/// The seed of a run: the same for every attempt of it, different for every other run.
pub fn derive_seed(sweep_seed: u64, run: RunId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"earshot run seed v1");
    hasher.update(&sweep_seed.to_le_bytes());
    hasher.update(&run.trial.0.to_le_bytes());
    hasher.update(&run.fold.0.to_le_bytes());
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    u64::from_le_bytes(seed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::{FoldId, SweepId, TrialId};

    #[test]
    fn runs_of_one_shape_differ_in_what_changes_no_tensor() {
        let job = |change: fn(&mut Job)| {
            let mut job = Job {
                model: AudioCnn::reference(13, 431, 10),
                recipe: Recipe::plain(1e-3, 32, 10, 1),
                shards: vec![BlobId::of(b"shard")],
                augment: vec![],
                split: BlobId::of(b"fold 1"),
                initial_weights: None,
                taylor: false,
                teacher: None,
                int8_ranges: vec![],
                int8_accuracy: false,
                resume: None,
                rungs: vec![],
            };
            change(&mut job);
            job.shape()
        };
        let plain = job(|_| ());
        assert!(plain.is_some());
        let same: [fn(&mut Job); 6] = [
            |job| {
                job.recipe = Recipe { seed: 2, learning_rate: 1e-2, weight_decay: 0.1, ..job.recipe.clone() }
            },
            |job| job.recipe.optimizer = Optimizer::AdamW,
            |job| job.recipe.augmentation.mixup_alpha = 0.2,
            |job| job.recipe.patience = Some(3),
            |job| job.model.head.dropout = 0.5,
            |job| job.split = BlobId::of(b"fold 2"),
        ];
        for change in same {
            assert_eq!(job(change), plain);
        }
        let other: [fn(&mut Job); 5] = [
            |job| job.model.head.fc_units = None,
            |job| job.model.n_mfcc = 20,
            |job| job.recipe.batch_size = 16,
            |job| job.recipe.epochs = 11,
            |job| job.shards.clear(),
        ];
        for change in other {
            assert_ne!(job(change), plain);
        }
        assert_eq!(job(|job| job.resume = Some(BlobId::of(b"midway"))), None);
        assert_eq!(job(|job| job.taylor = true), None);
        assert_eq!(job(|job| job.int8_ranges = vec![Range::default()]), None);
        assert_eq!(job(|job| job.int8_accuracy = true), None);
    }

    #[test]
    fn every_run_has_a_seed_of_its_own() {
        let run = |trial, fold| RunId { sweep: SweepId(0), trial: TrialId(trial), fold: FoldId(fold) };
        let seeds: BTreeSet<u64> =
            (0..100).flat_map(|trial| (0..5).map(move |fold| derive_seed(42, run(trial, fold)))).collect();
        assert_eq!(seeds.len(), 500);
        assert_eq!(derive_seed(42, run(3, 1)), derive_seed(42, run(3, 1)));
        assert_ne!(derive_seed(42, run(3, 1)), derive_seed(43, run(3, 1)));
    }
}
