//! Protocol messages to domain types and back: the only place where they meet.
//!
//! Everything that comes off the wire is checked here: lengths of names, presence of parts, finite numbers. What is checked
//! against state (does this worker hold this attempt?) is the coordinator's.

use earshot_proto::earshot::v1 as proto;

use crate::{
    ids::BlobId,
    int8,
    job::{
        Augment, Epoch, Failure, FeatureAugmentation, Job, Keep, LrScheduler, Optimizer, Outcome, Reason,
        Recipe, RunResult, Teacher, Verdict,
    },
    model::{AudioCnn, Block, Convolution, Head, Input, Pooling, Reduction},
    sweep::prune::Distil,
    views::{Augmentation, LEVELS_MAX, Range},
};

/// Letters a failure's message keeps at most.
pub const MESSAGE_LENGTH_MAX: usize = 2_000;

/// A message that cannot be what it says.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A blob's name is not 32 bytes.
    #[error("{0} is not a blob's name of 32 bytes")]
    BlobId(&'static str),
    /// A number is not finite or out of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// An enum's value is unknown.
    #[error("{0} is of an unknown kind")]
    Kind(&'static str),
}

/// Reads a blob's name; `what` names the field in the error.
///
/// # Errors
/// [`WireError::BlobId`] when it is not 32 bytes long.
pub fn blob_id(bytes: &[u8], what: &'static str) -> Result<BlobId, WireError> {
    <[u8; 32]>::try_from(bytes).map(BlobId::from).map_err(|_| WireError::BlobId(what))
}

/// Writes a blob's name.
pub fn blob_bytes(id: BlobId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

impl From<&AudioCnn> for proto::AudioCnn {
    fn from(model: &AudioCnn) -> Self {
        Self {
            n_mfcc: model.n_mfcc,
            frames: model.frames,
            blocks: model.blocks.iter().map(proto::Block::from).collect(),
            head: Some(proto::Head {
                reduction: proto::Reduction::from(model.head.reduction).into(),
                dropout: model.head.dropout,
                fc_units: model.head.fc_units,
            }),
            classes: model.classes,
            input: proto::Input::from(model.input).into(),
        }
    }
}

impl TryFrom<proto::AudioCnn> for AudioCnn {
    type Error = WireError;

    fn try_from(model: proto::AudioCnn) -> Result<Self, WireError> {
        let head = model.head.ok_or(WireError::Missing("the model's head"))?;
        let input = model.input();
        let model = Self {
            input: input.try_into()?,
            n_mfcc: model.n_mfcc,
            frames: model.frames,
            blocks: model.blocks.into_iter().map(Block::try_from).collect::<Result<_, _>>()?,
            head: Head {
                reduction: head.reduction().try_into()?,
                dropout: head.dropout,
                fc_units: head.fc_units,
            },
            classes: model.classes,
        };
        model.steps().map(|_| model).map_err(|_| WireError::Range("the model spec"))
    }
}

impl From<&Block> for proto::Block {
    fn from(block: &Block) -> Self {
        Self {
            filters: block.filters,
            kernel_size: block.kernel_size,
            convolution: proto::Convolution::from(block.convolution).into(),
            batch_norm: block.batch_norm,
            pooling: proto::Pooling::from(block.pooling).into(),
        }
    }
}

impl TryFrom<proto::Block> for Block {
    type Error = WireError;

    fn try_from(block: proto::Block) -> Result<Self, WireError> {
        Ok(Self {
            filters: block.filters,
            kernel_size: block.kernel_size,
            convolution: block.convolution().try_into()?,
            batch_norm: block.batch_norm,
            pooling: block.pooling().try_into()?,
        })
    }
}

/// An enum of the model spec or the recipe and its protocol twin: the same variants, and one more for none.
macro_rules! twins {
    ($($domain:ident: $what:literal, $($variant:ident)|+;)+) => {$(
        impl From<$domain> for proto::$domain {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant,)+ }
            }
        }

        impl TryFrom<proto::$domain> for $domain {
            type Error = WireError;

            fn try_from(value: proto::$domain) -> Result<Self, WireError> {
                match value {
                    $(proto::$domain::$variant => Ok(Self::$variant),)+
                    proto::$domain::Unspecified => Err(WireError::Kind($what)),
                }
            }
        }
    )+};
}

twins! {
    Input: "the model's input", Mfcc | Mel;
    Convolution: "a block's convolution", Ordinary | DepthwiseSeparable;
    Pooling: "a block's pooling", Max | Average;
    Reduction: "the head's reduction", Flatten | Mean | MeanMax;
    Optimizer: "the recipe's optimizer", Adam | AdamW;
    LrScheduler: "the recipe's lr_scheduler", Constant | Cosine | OneCycle;
    Keep: "the recipe's keep", Best | Last;
    Reason: "the failure's reason", Diverged | OutOfMemory | Data | Worker | Disk | Drained;
    Verdict: "the verdict", Continue | Stop | Pause;
}

impl From<&Recipe> for proto::Recipe {
    fn from(recipe: &Recipe) -> Self {
        Self {
            optimizer: proto::Optimizer::from(recipe.optimizer).into(),
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            lr_scheduler: proto::LrScheduler::from(recipe.lr_scheduler).into(),
            label_smoothing: recipe.label_smoothing,
            batch_size: recipe.batch_size,
            epochs: recipe.epochs,
            patience: recipe.patience,
            keep: proto::Keep::from(recipe.keep).into(),
            augmentation: Some(recipe.augmentation.into()),
            seed: recipe.seed,
        }
    }
}

impl TryFrom<proto::Recipe> for Recipe {
    type Error = WireError;

    fn try_from(recipe: proto::Recipe) -> Result<Self, WireError> {
        let (optimizer, lr_scheduler, keep) = (recipe.optimizer(), recipe.lr_scheduler(), recipe.keep());
        let recipe = Self {
            optimizer: optimizer.try_into()?,
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            lr_scheduler: lr_scheduler.try_into()?,
            label_smoothing: recipe.label_smoothing,
            batch_size: recipe.batch_size,
            epochs: recipe.epochs,
            patience: recipe.patience,
            keep: keep.try_into()?,
            augmentation: recipe.augmentation.unwrap_or_default().into(),
            seed: recipe.seed,
        };
        match recipe.out_of_range() {
            Some(what) => Err(WireError::Range(what)),
            None => Ok(recipe),
        }
    }
}

impl From<FeatureAugmentation> for proto::FeatureAugmentation {
    fn from(augmentation: FeatureAugmentation) -> Self {
        let FeatureAugmentation {
            gain,
            roll,
            time_masks,
            time_mask_param,
            freq_masks,
            freq_mask_param,
            mixup_alpha,
        } = augmentation;
        Self { gain, roll, time_masks, time_mask_param, freq_masks, freq_mask_param, mixup_alpha }
    }
}

impl From<proto::FeatureAugmentation> for FeatureAugmentation {
    fn from(augmentation: proto::FeatureAugmentation) -> Self {
        let proto::FeatureAugmentation {
            gain,
            roll,
            time_masks,
            time_mask_param,
            freq_masks,
            freq_mask_param,
            mixup_alpha,
        } = augmentation;
        Self { gain, roll, time_masks, time_mask_param, freq_masks, freq_mask_param, mixup_alpha }
    }
}

impl From<&Augment> for proto::Augment {
    fn from(augment: &Augment) -> Self {
        let shards = |level: &Vec<BlobId>| level.iter().copied().map(blob_bytes).collect();
        Self {
            augmentation: augment.augmentation.name().to_owned(),
            p: augment.p,
            min: augment.range.min,
            max: augment.range.max,
            levels: augment.levels.iter().map(|level| proto::Level { shards: shards(level) }).collect(),
        }
    }
}

impl TryFrom<proto::Augment> for Augment {
    type Error = WireError;

    fn try_from(augment: proto::Augment) -> Result<Self, WireError> {
        let range = Range { min: augment.min, max: augment.max };
        let in_range = augment.p > 0.0
            && augment.p <= 1.0
            && range.min <= range.max
            && range.min.is_finite()
            && range.max.is_finite()
            && augment.levels.len() <= usize::from(LEVELS_MAX);
        if !in_range {
            return Err(WireError::Range("an augmentation"));
        }
        let shards = |level: proto::Level| {
            level.shards.iter().map(|bytes| blob_id(bytes, "a view's shard")).collect::<Result<_, _>>()
        };
        Ok(Self {
            augmentation: Augmentation::from_name(&augment.augmentation)
                .ok_or(WireError::Kind("an augmentation"))?,
            p: augment.p,
            range,
            levels: augment.levels.into_iter().map(shards).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Teacher> for proto::Teacher {
    fn from(Teacher { logits, distil: Distil { weight, temperature } }: Teacher) -> Self {
        Self { logits: blob_bytes(logits), weight, temperature }
    }
}

impl TryFrom<proto::Teacher> for Teacher {
    type Error = WireError;

    fn try_from(teacher: proto::Teacher) -> Result<Self, WireError> {
        let distil = Distil { weight: teacher.weight, temperature: teacher.temperature };
        match distil.out_of_range() {
            Some(_) => Err(WireError::Range("the teacher's weight or temperature")),
            None => Ok(Self { logits: blob_id(&teacher.logits, "the teacher's logits")?, distil }),
        }
    }
}

impl From<int8::Range> for proto::Int8Range {
    fn from(int8::Range { min, max }: int8::Range) -> Self {
        Self { min, max }
    }
}

/// One for each scale of the model, or none at all.
fn int8_ranges(ranges: Vec<proto::Int8Range>, model: &AudioCnn) -> Result<Vec<int8::Range>, WireError> {
    let ranges: Vec<_> =
        ranges.into_iter().map(|proto::Int8Range { min, max }| int8::Range { min, max }).collect();
    let is_right = ranges.is_empty() || model.scales() == Ok(ranges.len());
    if is_right && ranges.iter().all(|range| range.is_valid()) {
        Ok(ranges)
    } else {
        Err(WireError::Range("the job's int8 ranges"))
    }
}

impl From<&Job> for proto::Job {
    fn from(job: &Job) -> Self {
        Self {
            model: Some((&job.model).into()),
            recipe: Some((&job.recipe).into()),
            shards: job.shards.iter().copied().map(blob_bytes).collect(),
            split: blob_bytes(job.split),
            initial_weights: job.initial_weights.map(blob_bytes),
            taylor: job.taylor,
            int8_accuracy: job.int8_accuracy,
            teacher: job.teacher.map(Into::into),
            int8_ranges: job.int8_ranges.iter().map(|&range| range.into()).collect(),
            resume: job.resume.map(blob_bytes),
            augment: job.augment.iter().map(Into::into).collect(),
            rungs: job.rungs.clone(),
        }
    }
}

impl TryFrom<proto::Job> for Job {
    type Error = WireError;

    fn try_from(job: proto::Job) -> Result<Self, WireError> {
        let weights = job.initial_weights.map(|bytes| blob_id(&bytes, "initial_weights")).transpose()?;
        let resume = job.resume.map(|bytes| blob_id(&bytes, "resume")).transpose()?;
        if job.shards.is_empty() {
            return Err(WireError::Missing("the job's shards"));
        }
        let augment: Vec<Augment> =
            job.augment.into_iter().map(Augment::try_from).collect::<Result<_, _>>()?;
        let mut levels = augment.iter().flat_map(|augment| &augment.levels);
        if levels.any(|shards| shards.len() != job.shards.len()) {
            return Err(WireError::Range("the number of an augmentation's shards"));
        }
        let model: AudioCnn = job.model.ok_or(WireError::Missing("the job's model"))?.try_into()?;
        let int8_ranges = int8_ranges(job.int8_ranges, &model)?;
        Ok(Self {
            augment,
            model,
            recipe: job.recipe.ok_or(WireError::Missing("the job's recipe"))?.try_into()?,
            shards: job.shards.iter().map(|bytes| blob_id(bytes, "a shard")).collect::<Result<_, _>>()?,
            split: blob_id(&job.split, "the split")?,
            initial_weights: weights,
            taylor: job.taylor,
            int8_accuracy: job.int8_accuracy,
            teacher: job.teacher.map(Teacher::try_from).transpose()?,
            int8_ranges,
            resume,
            rungs: job.rungs,
        })
    }
}

impl From<&Epoch> for proto::Epoch {
    fn from(epoch: &Epoch) -> Self {
        Self {
            epoch: epoch.epoch,
            train_loss: epoch.train_loss,
            loss: epoch.loss,
            accuracy: epoch.accuracy,
            macro_f1: epoch.macro_f1,
            int8_accuracy: epoch.int8_accuracy,
        }
    }
}

impl TryFrom<proto::Epoch> for Epoch {
    type Error = WireError;

    fn try_from(epoch: proto::Epoch) -> Result<Self, WireError> {
        let unit = 0.0..=1.0;
        if epoch.epoch == 0 {
            return Err(WireError::Range("the epoch's number"));
        }
        if !epoch.train_loss.is_finite() || !epoch.loss.is_finite() {
            return Err(WireError::Range("the epoch's loss"));
        }
        if epoch.int8_accuracy.is_some_and(|accuracy| !unit.contains(&accuracy)) {
            return Err(WireError::Range("the epoch's int8 accuracy"));
        }
        if !unit.contains(&epoch.accuracy) || !unit.contains(&epoch.macro_f1) {
            return Err(WireError::Range("the epoch's accuracy or macro-F1"));
        }
        Ok(Self {
            epoch: epoch.epoch,
            train_loss: epoch.train_loss,
            loss: epoch.loss,
            accuracy: epoch.accuracy,
            macro_f1: epoch.macro_f1,
            int8_accuracy: epoch.int8_accuracy,
        })
    }
}

impl From<&Outcome> for proto::finish_request::Outcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed(result) => Self::Result(proto::Result {
                best_epoch: result.best_epoch,
                checkpoint: blob_bytes(result.checkpoint),
                logits: blob_bytes(result.logits),
            }),
            Outcome::Failed(failure) => Self::Failure(proto::Failure {
                reason: proto::Reason::from(failure.reason).into(),
                message: failure.message.clone(),
            }),
        }
    }
}

impl TryFrom<proto::finish_request::Outcome> for Outcome {
    type Error = WireError;

    fn try_from(outcome: proto::finish_request::Outcome) -> Result<Self, WireError> {
        match outcome {
            proto::finish_request::Outcome::Result(result) => Ok(Self::Completed(RunResult {
                best_epoch: result.best_epoch,
                checkpoint: blob_id(&result.checkpoint, "the checkpoint")?,
                logits: blob_id(&result.logits, "the logits")?,
            })),
            proto::finish_request::Outcome::Failure(failure) => Ok(Self::Failed(Failure {
                reason: failure.reason().try_into()?,
                message: failure.message.chars().take(MESSAGE_LENGTH_MAX).collect(),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            model: AudioCnn::reference(13, 431, 10),
            recipe: Recipe { patience: Some(3), ..Recipe::plain(1e-3, 32, 10, 7) },
            shards: vec![BlobId::of(b"a"), BlobId::of(b"b")],
            split: BlobId::of(b"split"),
            initial_weights: Some(BlobId::of(b"weights")),
            taylor: true,
            int8_accuracy: true,
            teacher: Some(Teacher {
                logits: BlobId::of(b"teacher"),
                distil: Distil { weight: 0.5, temperature: 4.0 },
            }),
            int8_ranges: vec![int8::Range { min: -1.5, max: 0.1 }; 4],
            resume: Some(BlobId::of(b"midway")),
            rungs: vec![1, 3],
            augment: vec![Augment {
                augmentation: Augmentation::PitchShift,
                p: 0.5,
                range: Range { min: -2.0, max: 1.5 },
                levels: vec![vec![BlobId::of(b"c"), BlobId::of(b"d")]],
            }],
        }
    }

    #[test]
    fn a_job_survives_the_wire() {
        assert_eq!(Job::try_from(proto::Job::from(&job())), Ok(job()));
    }

    #[test]
    fn variants_survive_the_wire() {
        let mut model = AudioCnn::reference(32, 431, 10);
        model.input = Input::Mel;
        model.head.reduction = Reduction::MeanMax;
        model.blocks[1] = Block {
            filters: 24,
            kernel_size: 5,
            convolution: Convolution::DepthwiseSeparable,
            batch_norm: true,
            pooling: Pooling::Average,
        };
        assert_eq!(AudioCnn::try_from(proto::AudioCnn::from(&model)), Ok(model));
    }

    #[test]
    fn recipes_survive_the_wire() {
        let recipe = Recipe {
            optimizer: Optimizer::AdamW,
            weight_decay: 1e-2,
            lr_scheduler: LrScheduler::OneCycle,
            label_smoothing: 0.1,
            augmentation: FeatureAugmentation {
                gain: 1.0,
                roll: 0.5,
                time_masks: 2,
                time_mask_param: 3,
                freq_masks: 4,
                freq_mask_param: 5,
                mixup_alpha: 0.2,
            },
            ..job().recipe
        };
        assert_eq!(Recipe::try_from(proto::Recipe::from(&recipe)), Ok(recipe));
    }

    #[test]
    fn malformed_augmentations_are_refused() {
        let check = |change: fn(&mut Augment), expected| {
            let mut job = job();
            job.augment.iter_mut().for_each(change);
            assert_eq!(Job::try_from(proto::Job::from(&job)), Err(expected));
        };
        check(|augment| augment.p = 0.0, WireError::Range("an augmentation"));
        check(|augment| augment.range.max = -3.0, WireError::Range("an augmentation"));
        check(|augment| augment.range.min = f64::NAN, WireError::Range("an augmentation"));
        let shards = "the number of an augmentation's shards";
        check(|augment| augment.levels = vec![vec![BlobId::of(b"c")]], WireError::Range(shards));
        let mut unknown = proto::Job::from(&job());
        unknown.augment[0].augmentation = "reverb".into();
        assert_eq!(Job::try_from(unknown), Err(WireError::Kind("an augmentation")));
    }

    #[test]
    fn malformed_jobs_are_refused_by_part() {
        let good = || proto::Job::from(&job());
        let check = |wrong: proto::Job, expected| assert_eq!(Job::try_from(wrong), Err(expected));
        check(proto::Job { split: vec![1, 2], ..good() }, WireError::BlobId("the split"));
        check(proto::Job { shards: vec![], ..good() }, WireError::Missing("the job's shards"));
        check(proto::Job { model: None, ..good() }, WireError::Missing("the job's model"));
        let ranges = |count, min| vec![proto::Int8Range { min, max: 1.0 }; count];
        let wrong = "the job's int8 ranges";
        check(proto::Job { int8_ranges: ranges(3, -1.0), ..good() }, WireError::Range(wrong));
        check(proto::Job { int8_ranges: ranges(4, 0.5), ..good() }, WireError::Range(wrong));
        check(proto::Job { int8_ranges: ranges(4, f32::NAN), ..good() }, WireError::Range(wrong));
        let model = proto::AudioCnn { input: 0, ..(&job().model).into() };
        check(proto::Job { model: Some(model), ..good() }, WireError::Kind("the model's input"));
        let recipe = proto::Recipe { learning_rate: f64::NAN, ..(&job().recipe).into() };
        check(proto::Job { recipe: Some(recipe), ..good() }, WireError::Range("learning_rate"));
        let augmentation = Some(proto::FeatureAugmentation { time_masks: 11, ..Default::default() });
        let recipe = proto::Recipe { augmentation, ..(&job().recipe).into() };
        check(proto::Job { recipe: Some(recipe), ..good() }, WireError::Range("time_masks"));
    }

    #[test]
    fn an_epoch_that_is_not_finite_is_refused() {
        let good =
            Epoch { epoch: 1, train_loss: 1.0, loss: 1.0, accuracy: 0.5, macro_f1: 0.5, int8_accuracy: None };
        assert_eq!(Epoch::try_from(proto::Epoch::from(&good)), Ok(good));
        assert!(Epoch::try_from(proto::Epoch { loss: f64::INFINITY, ..(&good).into() }).is_err());
        assert!(Epoch::try_from(proto::Epoch { accuracy: f64::NAN, ..(&good).into() }).is_err());
        assert!(Epoch::try_from(proto::Epoch { epoch: 0, ..(&good).into() }).is_err());
        let measured = Epoch { int8_accuracy: Some(0.25), ..good };
        assert_eq!(Epoch::try_from(proto::Epoch::from(&measured)), Ok(measured));
        let beyond = proto::Epoch { int8_accuracy: Some(1.5), ..(&good).into() };
        assert_eq!(Epoch::try_from(beyond), Err(WireError::Range("the epoch's int8 accuracy")));
    }
}
