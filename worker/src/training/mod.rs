//! One job, from features to the best epoch's weights: a plain loop over epochs.
//!
//! - [`batches`]: which rows come when, their targets and their dropout masks; [`views`]: in which view.
//! - [`augmentation`]: what is done to their features.
//! - [`schedule`]: how large a step is; [`optimiser`]: one step of Adam or AdamW.
//! - [`evaluation`]: loss, accuracy and macro-F1 on the validation rows.
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
        optimiser::Adam,
        schedule::{Pace, Schedule},
    },
};

pub mod augmentation;
pub mod batches;
pub mod best;
pub mod evaluation;
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

/// Trains to the end, to the end of patience, or to what `control` says. `report` gets every epoch as it ends.
///
/// # Errors
/// [`TrainError`] says why there is no result.
pub fn train(
    job: &Job,
    features: &Features,
    initial: Option<&Tensors>,
    device: Device,
    control: &Control,
    mut report: impl FnMut(Epoch),
) -> Result<Trained, TrainError> {
    let recipe = &job.recipe;
    let network = match initial {
        Some(checkpoint) => Network::from_checkpoint(&job.model, checkpoint, device)?,
        None => Network::fresh(&job.model, recipe.seed, device)?,
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

    for epoch in 1..=recipe.epochs {
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
        report(epoch);
        let is_kept = match recipe.keep {
            Keep::Best => best.as_ref().is_none_or(|best| best.is_beaten_by(&epoch)),
            Keep::Last => true,
        };
        if is_kept {
            best = Some(Best::new(epoch, &network, evaluation.logits)?);
        }
        if best.as_ref().is_some_and(|best| best.is_final(&epoch, recipe.patience)) {
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
