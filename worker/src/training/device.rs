//! Training with libtorch, on a GPU or of what our own kernels cannot do: features, targets and losses stay there until an epoch ends.
//!
//! Everything here runs on the CPU as well, which is how tests hold it to PyTorch and to [`super::host`].

use std::slice;

use earshot_common::{job::Job, sweep::prune::Distil, tensors::Tensors};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::{
    batches::Batches,
    optimiser::Adam,
    schedule::Pace,
    stack::{Stack, StackedBatch},
};
use crate::{
    device::upload,
    features::Features,
    network::{Mode, Network, NetworkError, copy_out},
};

/// Rows of one forward pass without gradients: as few as keep a GPU busy, because their activations need memory.
pub(crate) const ROWS: usize = 128;
/// The same on a CPU, where a few clips are work enough.
const ROWS_CPU: usize = 16;

/// Rows of one forward pass without gradients.
pub(crate) fn rows_at_once(device: Device) -> usize {
    if device == Device::Cpu { ROWS_CPU } else { ROWS }
}

/// A network in training with its batches.
#[derive(Debug)]
pub struct DeviceLearner<'a> {
    network: Network,
    adam: Adam,
    label_smoothing: f64,
    features: &'a Features,
    batches: DeviceBatches<'a>,
    /// Losses of the epoch so far: asking for each batch's would make a GPU wait at every step.
    total: Option<Tensor>,
}

/// Batches of one run, gathered on the device.
#[derive(Debug)]
pub struct DeviceBatches<'a> {
    plan: Batches<'a>,
    stack: Stack,
}

/// What one step sees.
#[derive(Debug)]
pub struct Batch {
    /// `(clips, n_mfcc, frames)`.
    pub features: Tensor,
    /// Classes `(clips)`, or, blended, probabilities `(clips, classes)`.
    pub targets: Tensor,
    /// `(clips, features)`; none without dropout.
    pub mask: Option<Tensor>,
    /// `(clips, classes)`: a teacher's probabilities, with how they are learnt; none without a teacher.
    pub taught: Option<(Tensor, Distil)>,
}

impl<'a> DeviceLearner<'a> {
    /// For this job, from these weights.
    ///
    /// # Errors
    /// The network cannot be built, or libtorch refuses.
    pub fn new(
        job: &'a Job,
        features: &'a Features,
        weights: &Tensors,
        device: Device,
    ) -> Result<Self, NetworkError> {
        let network = Network::of_job(job, weights, device)?;
        let batches = DeviceBatches::new(job, features, &network, device)?;
        Ok(Self {
            adam: Adam::new(&network.parameters(), &job.recipe)?,
            label_smoothing: job.recipe.label_smoothing,
            network,
            features,
            batches,
            total: None,
        })
    }

    /// Which rows come when.
    pub fn batches(&mut self) -> &mut Batches<'a> {
        self.batches.plan()
    }

    /// One step on the batch of this index.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, index: usize, pace: Pace) -> Result<(), TchError> {
        let batch = self.batches.get(index)?;
        let loss = step(&self.network, &mut self.adam, &batch, pace, self.label_smoothing)?;
        let clips = batch.targets.size().first().copied().unwrap_or(0);
        let sum = loss.f_to_kind(Kind::Double)?.f_mul_scalar(clips)?;
        self.total = Some(match self.total.take() {
            Some(total) => total.f_add(&sum)?,
            None => sum,
        });
        Ok(())
    }

    /// Losses of all clips since the last call, in sum.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn take_total(&mut self) -> Result<f64, TchError> {
        self.total.take().map_or(Ok(0.0), |total| total.f_double_value(&[]))
    }

    /// Logits of the validation rows `(rows, classes)`, in the split's order.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn logits(&self) -> Result<Vec<f32>, TchError> {
        logits(&self.network, self.features)
    }

    /// A copy of every tensor's values, by the checkpoint's names.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn values(&self) -> Result<Tensors, TchError> {
        self.network.values()
    }

    /// The optimiser's moving means, of gradients and of their squares, by the checkpoint's names.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn moments(&self) -> Result<[Tensors; 2], TchError> {
        let [mut means, mut squares] = [const { Tensors::new() }; 2];
        for (name, [mean, square]) in self.network.trained().zip(self.adam.moments()?) {
            means.insert(name.to_owned(), mean);
            squares.insert(name.to_owned(), square);
        }
        Ok([means, squares])
    }

    /// Goes on from these moments, after so many steps.
    ///
    /// # Errors
    /// libtorch refuses: they are another network's.
    pub fn resume(&mut self, [means, squares]: &[Tensors; 2], steps: u64) -> Result<(), TchError> {
        let missing = |name| TchError::Torch(format!("no moments of tensor {name:?}"));
        let moments = self.network.trained().map(|name| match (means.get(name), squares.get(name)) {
            (Some(mean), Some(square)) => Ok([mean, square]),
            _ => Err(missing(name)),
        });
        let moments: Vec<_> = moments.collect::<Result<_, _>>()?;
        self.adam.resume(moments, steps)
    }
}

impl<'a> DeviceBatches<'a> {
    /// The batches of this job.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(
        job: &'a Job,
        features: &'a Features,
        network: &Network,
        device: Device,
    ) -> Result<Self, TchError> {
        let plan = Batches::new(job, features, network.features() as usize);
        let stack = Stack::new(slice::from_ref(&plan), &[features], device)?;
        Ok(Self { plan, stack })
    }

    /// The plan, for another epoch's order.
    pub fn plan(&mut self) -> &mut Batches<'a> {
        self.stack.next_epoch();
        &mut self.plan
    }

    /// The batch of this index, augmented anew and with a mask of its own.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn get(&mut self, index: usize) -> Result<Batch, TchError> {
        let StackedBatch { features, targets, mask, taught } =
            self.stack.get(slice::from_mut(&mut self.plan), index)?;
        let mask = mask.map(|mask| mask.f_squeeze_dim(0)).transpose()?;
        let (features, targets) = (features.f_squeeze_dim(1)?, targets.f_squeeze_dim(1)?);
        let taught = match taught {
            Some((probabilities, distil)) => Some((probabilities.f_squeeze_dim(1)?, distil)),
            None => None,
        };
        Ok(Batch { features, targets, mask, taught })
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
    let loss = match &batch.taught {
        Some((taught, distil)) => distilled(&loss, &logits, taught, *distil)?,
        None => loss,
    };
    let gradients = Tensor::f_run_backward(&[&loss], &network.parameters(), false, false)?;
    adam.step(&gradients, pace)?;
    loss.f_detach()
}

/// A loss with a part of it from a teacher, as [`crate::cpu`] has it.
fn distilled(own: &Tensor, logits: &Tensor, taught: &Tensor, distil: Distil) -> Result<Tensor, TchError> {
    let Distil { weight, temperature } = distil;
    let clips = logits.size().first().copied().unwrap_or(1).max(1) as f64;
    let log_probabilities = logits.f_div_scalar(temperature)?.f_log_softmax(1, Kind::Float)?;
    let divergence = log_probabilities.f_kl_div(taught, Reduction::Sum, false)?;
    let scale = weight * temperature.powi(2) / clips;
    own.f_mul_scalar(1.0 - weight)?.f_add(&divergence.f_mul_scalar(scale)?)
}

/// Logits of the validation rows `(rows, classes)`, in the split's order.
///
/// # Errors
/// libtorch refuses.
pub fn logits(network: &Network, features: &Features) -> Result<Vec<f32>, TchError> {
    let _no_grad = tch::no_grad_guard();
    let matrix = features.matrix()?;
    let mut logits = Vec::new();
    for rows in features.validation().chunks(rows_at_once(matrix.device())) {
        let batch = matrix.f_index_select(0, &upload(rows, matrix.device())?)?;
        logits.push(network.forward(&batch, Mode::Evaluation)?);
    }
    Ok(copy_out(&Tensor::f_cat(&logits, 0)?)?.values)
}
