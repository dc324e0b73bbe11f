//! One job, from features to the best epoch's weights: a plain loop over epochs.
//!
//! - [`batches`]: which rows come when, their targets and their dropout masks; [`views`]: in which view.
//! - [`augmentation`]: what is done to their features; on a device, batch by batch: [`transform`].
//! - [`stack`]: batches of several runs at once, on a device; [`drawn`]: what an epoch of them draws.
//! - [`lesson`]: what a teacher makes of them.
//! - [`schedule`]: how large a step is; [`optimiser`]: one step of Adam or AdamW.
//! - [`host`] and [`device`]: batch after batch on the CPU with our own kernels, on a GPU with libtorch,
//!   which trains to bear quantisation on either.
//! - [`evaluation`]: loss, accuracy and macro-F1 on the validation rows.
//! - [`int8`]: accuracy once it is quantised, where that is asked for.
//! - [`midway`]: what a run has come to, for an attempt that goes on from there.
//! - [`best`]: the best epoch so far, and when to stop waiting for a better one.
//! - [`taylor`]: what its filters are worth, for pruning.
//!
//! The loop knows nothing of the coordinator: it calls back after every epoch and looks at its [`Control`] before every
//! batch.

use earshot_common::{
    job::{Epoch, Job, Keep},
    tensors::{Tensor as Values, Tensors},
};
use tch::TchError;

use crate::{
    control::{Control, State},
    device::Processor,
    features::Features,
    network::{NetworkError, fresh_weights},
    training::{
        batches::Batches,
        best::Best,
        device::DeviceLearner,
        evaluation::Evaluation,
        host::HostLearner,
        int8::Int8,
        midway::Midway,
        schedule::{Pace, Schedule},
    },
};

pub mod augmentation;
pub mod batches;
pub mod best;
pub mod device;
pub mod drawn;
pub mod evaluation;
pub mod host;
pub mod int8;
pub mod lesson;
pub mod midway;
pub mod optimiser;
pub mod schedule;
pub mod stack;
pub mod taylor;
pub mod transform;
pub mod views;

/// Why training ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A loss or a weight is no longer a finite number.
    #[error("the loss was no longer finite in epoch {epoch}; a smaller learning_rate may help")]
    Diverged {
        /// From 1.
        epoch: u32,
    },
    /// Nobody wants it any more, or it was stopped before its first epoch was over.
    #[error("training was ended from outside")]
    Halted,
    /// The network cannot be built.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// libtorch refused.
    #[error("libtorch failed in training")]
    Torch(#[from] TchError),
}

/// What training leaves.
#[derive(Debug)]
pub struct Trained {
    /// The epoch that the recipe keeps.
    pub best: Epoch,
    /// Its weights, with the input's statistics.
    pub checkpoint: Tensors,
    /// Its logits of the validation rows, as one tensor named `logits`; beside it what int8 came to, where that was asked for.
    pub logits: Tensors,
}

/// Where training begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// With weights drawn from the recipe's seed.
    Fresh,
    /// With a checkpoint's weights.
    Weights(&'a Tensors),
    /// After the epochs that an earlier attempt at the same job has trained.
    Midway(&'a Midway),
}

/// Who is told of every epoch.
pub trait Observer {
    /// Whether what the run has come to is wanted with this epoch, which just ended.
    fn wants_midway(&mut self, epoch: u32) -> bool;

    /// An epoch is over; with what the run has come to, if that was wanted and another epoch may follow.
    fn epoch(&mut self, epoch: Epoch, midway: Option<Midway>);
}

impl<F: FnMut(Epoch)> Observer for F {
    fn wants_midway(&mut self, _: u32) -> bool {
        false
    }

    fn epoch(&mut self, epoch: Epoch, _: Option<Midway>) {
        self(epoch);
    }
}

/// Trains to the end, to the end of patience, or to what `control` says. `observer` gets every epoch as it ends.
///
/// # Errors
/// [`TrainError`] says why there is no result.
pub fn train(
    job: &Job,
    features: &Features,
    start: Start<'_>,
    processor: Processor,
    control: &Control,
    mut observer: impl Observer,
) -> Result<Trained, TrainError> {
    let recipe = &job.recipe;
    let fresh;
    let weights = match start {
        Start::Weights(checkpoint) => checkpoint,
        Start::Midway(midway) => &midway.network,
        Start::Fresh => {
            fresh = fresh_weights(&job.model, recipe.seed)?;
            &fresh
        }
    };
    let mut learner = Learner::new(job, features, weights, processor)?;
    let schedule = Schedule::new(recipe, learner.batches().count());
    let mut trainer = Trainer { learner: &mut learner, schedule, steps: 0 };
    let labels = features.validation_labels();
    let mut best: Option<Best> = None;
    // Of the best weights after the newest epoch, if it was measured.
    let mut int8: Option<Int8> = None;
    let quantised =
        |best: &Best| Int8::measure(&job.model, &best.weights, &best.logits, features, processor.device());
    let mut first = 1;
    if let Start::Midway(midway) = start {
        trainer.resume(midway)?;
        best = Some(midway.best.clone());
        first = midway.epoch + 1;
    }

    for epoch in first..=recipe.epochs {
        let Some(train_loss) = trainer.epoch(control)? else {
            break;
        };
        let evaluation = Evaluation::new(trainer.learner.logits()?, &labels);
        let mut epoch = evaluation.epoch(epoch, train_loss).ok_or(TrainError::Diverged { epoch })?;
        let so_far = match best.take() {
            Some(best) if recipe.keep == Keep::Best && !best.is_beaten_by(&epoch) => best,
            _ => Best { epoch, weights: trainer.weights(job)?, logits: evaluation.logits },
        };
        let is_final = so_far.is_final(&epoch, recipe.patience) || epoch.epoch == recipe.epochs;
        let is_measured = job.int8_accuracy && (is_final || job.rungs.contains(&epoch.epoch));
        int8 = if is_measured { Some(quantised(&so_far)?) } else { None };
        epoch.int8_accuracy = int8.as_ref().map(|int8| int8.accuracy);
        let midway = !is_final && observer.wants_midway(epoch.epoch);
        let midway = midway.then(|| trainer.midway(epoch.epoch, &so_far)).transpose()?;
        best = Some(so_far);
        observer.epoch(epoch, midway);
        if is_final {
            break;
        }
    }
    match (best, control.state()) {
        (Some(best), State::Running | State::Stopping) => {
            if job.int8_accuracy && int8.is_none() {
                int8 = Some(quantised(&best)?);
            }
            let mut trained = finish(best, features)?;
            trained.logits.extend(int8.into_iter().flat_map(Int8::tensors));
            Ok(trained)
        }
        _ => Err(TrainError::Halted),
    }
}

/// A network in training, where it is computed.
enum Learner<'a> {
    /// With the losses of the epoch so far.
    Host(Box<HostLearner<'a>>, f64),
    Device(Box<DeviceLearner<'a>>),
}

impl<'a> Learner<'a> {
    fn new(
        job: &'a Job,
        features: &'a Features,
        weights: &Tensors,
        processor: Processor,
    ) -> Result<Self, NetworkError> {
        Ok(match processor {
            // Our own kernels do not round as int8 does; a sweep has one such run.
            Processor::Cpu(precision) if job.int8_ranges.is_empty() => {
                Self::Host(Box::new(HostLearner::new(job, features, weights, precision)?), 0.0)
            }
            Processor::Cpu(_) | Processor::Gpu(_) => {
                Self::Device(Box::new(DeviceLearner::new(job, features, weights, processor.device())?))
            }
        })
    }

    fn batches(&mut self) -> &mut Batches<'a> {
        match self {
            Self::Host(learner, _) => learner.batches(),
            Self::Device(learner) => learner.batches(),
        }
    }

    fn step(&mut self, index: usize, pace: Pace) -> Result<(), TchError> {
        match self {
            Self::Host(learner, total) => *total += learner.step(index, pace),
            Self::Device(learner) => learner.step(index, pace)?,
        }
        Ok(())
    }

    /// Losses of all clips since the last call, in sum.
    fn take_total(&mut self) -> Result<f64, TchError> {
        match self {
            Self::Host(_, total) => Ok(std::mem::take(total)),
            Self::Device(learner) => learner.take_total(),
        }
    }

    fn logits(&mut self) -> Result<Vec<f32>, TchError> {
        match self {
            Self::Host(learner, _) => Ok(learner.logits()),
            Self::Device(learner) => learner.logits(),
        }
    }

    fn values(&self) -> Result<Tensors, TchError> {
        match self {
            Self::Host(learner, _) => Ok(learner.values()),
            Self::Device(learner) => learner.values(),
        }
    }

    /// The optimiser's moving means, of gradients and of their squares, by the checkpoint's names.
    fn moments(&self) -> Result<[Tensors; 2], TchError> {
        match self {
            Self::Host(learner, _) => Ok(learner.moments()),
            Self::Device(learner) => learner.moments(),
        }
    }

    /// Goes on from these moments, after so many steps.
    fn resume(&mut self, moments: &[Tensors; 2], steps: u64) -> Result<(), TchError> {
        match self {
            Self::Host(learner, _) => learner.resume(moments, steps),
            Self::Device(learner) => learner.resume(moments, steps)?,
        }
        Ok(())
    }
}

/// What changes from step to step.
struct Trainer<'a, 'b> {
    learner: &'b mut Learner<'a>,
    schedule: Schedule,
    /// Taken so far.
    steps: u64,
}

impl Trainer<'_, '_> {
    /// What the checkpoint will hold, but for the input's statistics.
    fn weights(&self, job: &Job) -> Result<Tensors, TrainError> {
        let mut weights = self.learner.values()?;
        if job.taylor {
            let [_, squares] = self.learner.moments()?;
            weights.extend(taylor::importances(&job.model, &weights, &squares).map_err(NetworkError::Model)?);
        }
        Ok(weights)
    }

    /// What the run has come to after this epoch.
    fn midway(&self, epoch: u32, best: &Best) -> Result<Midway, TchError> {
        let (network, moments) = (self.learner.values()?, self.learner.moments()?);
        Ok(Midway { epoch, network, moments, best: best.clone() })
    }

    /// Goes on after what an earlier attempt has come to; the network has its weights already.
    fn resume(&mut self, midway: &Midway) -> Result<(), TchError> {
        let batches = self.learner.batches();
        for _ in 0..midway.epoch {
            batches.skip_epoch();
        }
        self.steps = u64::from(midway.epoch) * batches.count() as u64;
        self.learner.resume(&midway.moments, self.steps)
    }

    /// One pass over the training rows: the mean loss per clip as it was seen, or nothing when told to end.
    fn epoch(&mut self, control: &Control) -> Result<Option<f64>, TrainError> {
        let batches = self.learner.batches();
        batches.shuffle();
        let (count, rows) = (batches.count(), batches.rows());
        for index in 0..count {
            if control.state() > State::Running {
                return Ok(None);
            }
            self.learner.step(index, self.schedule.pace(self.steps))?;
            self.steps += 1;
        }
        Ok(Some(self.learner.take_total()? / rows as f64))
    }
}

/// What the best epoch leaves.
pub(crate) fn finish(best: Best, features: &Features) -> Result<Trained, TrainError> {
    let finite = |tensors: &Tensors| {
        tensors.values().all(|tensor| tensor.values.iter().all(|value| value.is_finite()))
    };
    let mut checkpoint = best.weights;
    checkpoint.extend(features.input().tensors());
    let rows = features.validation().len();
    let logits = Values { shape: vec![rows, best.logits.len() / rows.max(1)], values: best.logits };
    let logits = Tensors::from([("logits".to_owned(), logits)]);
    if !finite(&checkpoint) || !finite(&logits) {
        return Err(TrainError::Diverged { epoch: best.epoch.epoch });
    }
    Ok(Trained { best: best.epoch, checkpoint, logits })
}
