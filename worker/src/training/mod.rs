//! One job, from features to the best epoch's weights: a plain loop over epochs.
//!
//! - [`batches`]: which rows come when, their targets and their dropout masks; [`views`]: in which view.
//! - [`augmentation`]: what is done to their features.
//! - [`schedule`]: how large a step is; [`optimiser`]: one step of Adam or AdamW.
//! - [`evaluation`]: loss, accuracy and macro-F1 on the validation rows.
//! - [`midway`]: what a run has come to, for an attempt that goes on from there.
//! - [`best`]: the best epoch so far, and when to stop waiting for a better one.
//!
//! The loop knows nothing of the coordinator: it calls back after every epoch and looks at its [`Control`] before every
//! batch.

use earshot_common::{
    job::{Epoch, Job, Keep},
    tensors::{Tensor as Values, Tensors},
};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use crate::{
    control::{Control, State},
    features::Features,
    network::{Mode, Network, NetworkError},
    training::{
        batches::{Batch, Batches},
        best::Best,
        evaluation::evaluate,
        midway::Midway,
        optimiser::Adam,
        schedule::{Pace, Schedule},
    },
};

pub mod augmentation;
pub mod batches;
pub mod best;
pub mod evaluation;
pub mod midway;
pub mod optimiser;
pub mod schedule;
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
    /// Its logits of the validation rows, as one tensor named `logits`.
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
    /// Whether what the run has come to is wanted with the epoch that just ended.
    fn wants_midway(&mut self) -> bool;

    /// An epoch is over; with what the run has come to, if that was wanted and another epoch may follow.
    fn epoch(&mut self, epoch: Epoch, midway: Option<Midway>);
}

impl<F: FnMut(Epoch)> Observer for F {
    fn wants_midway(&mut self) -> bool {
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
    device: Device,
    control: &Control,
    mut observer: impl Observer,
) -> Result<Trained, TrainError> {
    let recipe = &job.recipe;
    let network = match start {
        Start::Fresh => Network::fresh(&job.model, recipe.seed, device)?,
        Start::Weights(checkpoint) => Network::from_checkpoint(&job.model, checkpoint, device)?,
        Start::Midway(midway) => Network::from_checkpoint(&job.model, &midway.network, device)?,
    };
    let batches = Batches::new(job, features, &network, device)?;
    let mut trainer = Trainer {
        network: &network,
        adam: Adam::new(&network.parameters(), recipe)?,
        schedule: Schedule::new(recipe, batches.count()),
        label_smoothing: recipe.label_smoothing,
        batches,
        steps: 0,
    };
    let labels = features.validation_labels();
    let mut best: Option<Best> = None;
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
        let evaluation = evaluate(&network, features, &labels)?;
        if !train_loss.is_finite() || !evaluation.loss.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        let epoch = Epoch {
            epoch,
            train_loss,
            loss: evaluation.loss,
            accuracy: evaluation.confusion.accuracy(),
            macro_f1: evaluation.confusion.macro_f1(),
        };
        let so_far = match best.take() {
            Some(best) if recipe.keep == Keep::Best && !best.is_beaten_by(&epoch) => best,
            _ => Best::new(epoch, &network, evaluation.logits)?,
        };
        let is_final = so_far.is_final(&epoch, recipe.patience) || epoch.epoch == recipe.epochs;
        let midway = !is_final && observer.wants_midway();
        let midway = midway.then(|| trainer.midway(epoch.epoch, &so_far)).transpose()?;
        best = Some(so_far);
        observer.epoch(epoch, midway);
        if is_final {
            break;
        }
    }
    match (best, control.state()) {
        (Some(best), State::Running | State::Stopping) => finish(best, features),
        _ => Err(TrainError::Halted),
    }
}

/// What changes from step to step.
struct Trainer<'a> {
    network: &'a Network,
    adam: Adam,
    schedule: Schedule,
    label_smoothing: f64,
    batches: Batches<'a>,
    /// Taken so far.
    steps: u64,
}

impl Trainer<'_> {
    /// What the run has come to after this epoch.
    fn midway(&self, epoch: u32, best: &Best) -> Result<Midway, TchError> {
        let (network, moments) = (self.network.values()?, self.adam.moments()?);
        Ok(Midway { epoch, network, moments, best: best.clone() })
    }

    /// Goes on after what an earlier attempt has come to; the network has its weights already.
    fn resume(&mut self, midway: &Midway) -> Result<(), TchError> {
        for _ in 0..midway.epoch {
            self.batches.skip_epoch();
        }
        self.steps = u64::from(midway.epoch) * self.batches.count() as u64;
        self.adam.resume(&midway.moments, self.steps)
    }

    /// One pass over the training rows: the mean loss per clip as it was seen, or nothing when told to end.
    fn epoch(&mut self, control: &Control) -> Result<Option<f64>, TrainError> {
        // Summed on the device: asking for each batch's loss would make a GPU wait at every step.
        let mut total: Option<Tensor> = None;
        self.batches.shuffle()?;
        for index in 0..self.batches.count() {
            if control.state() > State::Running {
                return Ok(None);
            }
            let batch = self.batches.get(index)?;
            let pace = self.schedule.pace(self.steps);
            let loss = step(self.network, &mut self.adam, &batch, pace, self.label_smoothing)?;
            self.steps += 1;
            let clips = batch.targets.size().first().copied().unwrap_or(0);
            let sum = loss.f_to_kind(Kind::Double)?.f_mul_scalar(clips)?;
            total = Some(match total {
                Some(total) => total.f_add(&sum)?,
                None => sum,
            });
        }
        let total = total.map_or(Ok(0.0), |total| total.f_double_value(&[]))?;
        Ok(Some(total / self.batches.rows() as f64))
    }
}

/// One step on one batch: forward, backward, Adam. The mean loss over the batch, before the step.
///
/// # Errors
/// libtorch refuses.
pub fn step(
    network: &Network,
    adam: &mut Adam,
    batch: &Batch,
    pace: Pace,
    label_smoothing: f64,
) -> Result<Tensor, TchError> {
    let logits = network.forward(&batch.features, Mode::Training { mask: batch.mask.as_ref() })?;
    let loss = logits.f_cross_entropy_loss::<Tensor>(
        &batch.targets,
        None,
        Reduction::Mean,
        -100,
        label_smoothing,
    )?;
    let gradients = Tensor::f_run_backward(&[&loss], &network.parameters(), false, false)?;
    adam.step(&gradients, pace)?;
    loss.f_detach()
}

fn finish(best: Best, features: &Features) -> Result<Trained, TrainError> {
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
