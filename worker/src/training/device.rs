//! Training on a GPU, with libtorch: features, targets and losses stay there until an epoch ends.
//!
//! Everything here runs on the CPU as well, which is how tests hold it to PyTorch and to [`super::host`].

use earshot_common::{job::Job, tensors::Tensors};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::{
    augmentation::{Augmenter, Bands, Draw, Mix, Span},
    batches::Batches,
    optimiser::Adam,
    schedule::Pace,
};
use crate::{
    features::Features,
    network::{Mode, Network, NetworkError, copy_out},
};

/// Rows of one forward pass without gradients.
const ROWS: usize = 32;

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

/// Batches gathered on the device.
#[derive(Debug)]
pub struct DeviceBatches<'a> {
    plan: Batches<'a>,
    /// `(rows, n_mfcc, frames)` and `(rows)`.
    matrix: Tensor,
    labels: Tensor,
    /// Rows of this epoch's order, once they are asked for.
    order: Option<Tensor>,
    augmentation: DeviceAugmentation,
    device: Device,
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
        let network = Network::from_checkpoint(&job.model, weights, device)?;
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
        self.batches.order = None;
        &mut self.batches.plan
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
        Ok(Self {
            augmentation: DeviceAugmentation::new(plan.augmenter(), device)?,
            plan,
            matrix: features.matrix()?,
            labels: features.labels()?,
            order: None,
            device,
        })
    }

    /// The plan, for another epoch's order.
    pub fn plan(&mut self) -> &mut Batches<'a> {
        self.order = None;
        &mut self.plan
    }

    /// The batch of this index, augmented anew and with a mask of its own.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn get(&mut self, index: usize) -> Result<Batch, TchError> {
        let order = match &self.order {
            Some(order) => order,
            None => self.order.insert(Tensor::f_from_slice(self.plan.order())?.f_to_device(self.device)?),
        };
        let clips = self.plan.indices(index).len();
        let rows = order.f_narrow(0, self.plan.start(index) as i64, clips as i64)?;
        let features = self.matrix.f_index_select(0, &rows)?;
        let labels = self.labels.f_index_select(0, &rows)?;
        if self.plan.augmenter().is_active() {
            for clip in 0..clips {
                let draw = self.plan.augmenter_mut().draw();
                self.augmentation.apply(&features.f_get(clip as i64)?, &draw)?;
            }
        }
        let (features, targets) = match self.plan.augmenter_mut().mix(clips) {
            Some(mix) => {
                let targets = labels.f_one_hot(self.plan.classes() as i64)?.f_to_kind(Kind::Float)?;
                (blend(&mix, &features)?, blend(&mix, &targets)?)
            }
            None => (features, labels),
        };
        let mask = match self.plan.mask(clips) {
            Some(mask) => {
                let mask = Tensor::f_from_slice(mask)?.f_view([clips as i64, -1])?;
                Some(mask.f_to_device(self.device)?)
            }
            None => None,
        };
        Ok(Batch { features, targets, mask })
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

/// Logits of the validation rows `(rows, classes)`, in the split's order.
///
/// # Errors
/// libtorch refuses.
pub fn logits(network: &Network, features: &Features) -> Result<Vec<f32>, TchError> {
    let _no_grad = tch::no_grad_guard();
    let matrix = features.matrix()?;
    let mut logits = Vec::new();
    for rows in features.validation().chunks(ROWS) {
        let rows = Tensor::f_from_slice(rows)?.f_to_device(matrix.device())?;
        let batch = matrix.f_index_select(0, &rows)?;
        logits.extend(copy_out(&network.forward(&batch, Mode::Evaluation)?)?.values);
    }
    Ok(logits)
}

/// [`Augmenter::apply`] for tensors.
#[derive(Debug)]
pub struct DeviceAugmentation {
    /// `(rows, 1)`: what a gain of 1 adds.
    gain: Tensor,
    /// `(bands, coefficients)` and `(coefficients, bands)`, see [`Bands`].
    bands: Option<[Tensor; 2]>,
}

impl DeviceAugmentation {
    /// The same on this device.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(augmenter: &Augmenter, device: Device) -> Result<Self, TchError> {
        let rows = augmenter.gain().len() as i64;
        let square = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([rows, rows])?.f_to_device(device);
        let bands = match augmenter.bands() {
            Some(Bands { to, from }) => Some([square(to)?, square(from)?]),
            None => None,
        };
        let gain = Tensor::f_from_slice(augmenter.gain())?.f_view([rows, 1])?.f_to_device(device)?;
        Ok(Self { gain, bands })
    }

    /// Changes one clip, `(rows, frames)`, in place.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, clip: &Tensor, draw: &Draw) -> Result<(), TchError> {
        let mut clip = clip.shallow_clone();
        if draw.gain != 0.0 {
            let _ = clip.f_add_(&self.gain.f_mul_scalar(draw.gain)?)?;
        }
        if draw.roll != 0 {
            clip.f_copy_(&clip.f_roll([draw.roll], [1])?)?;
        }
        for mask in &draw.freq_masks {
            self.mask_bands(&mut clip, *mask)?;
        }
        for mask in &draw.time_masks {
            let _ = clip.f_narrow(1, mask.start, mask.width)?.f_zero_()?;
        }
        Ok(())
    }

    fn mask_bands(&self, clip: &mut Tensor, mask: Span) -> Result<(), TchError> {
        match &self.bands {
            None => {
                let _ = clip.f_narrow(0, mask.start, mask.width)?.f_zero_()?;
            }
            Some([to, from]) if mask.width > 0 => {
                let deviations = to.f_narrow(0, mask.start, mask.width)?.f_matmul(clip)?;
                let _ = clip.f_sub_(&from.f_narrow(1, mask.start, mask.width)?.f_matmul(&deviations)?)?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Blends `(clips, …)` of features or of one-hot labels.
///
/// # Errors
/// libtorch refuses.
pub fn blend(mix: &Mix, batch: &Tensor) -> Result<Tensor, TchError> {
    let partners = Tensor::f_from_slice(&mix.partners)?.f_to_device(batch.device())?;
    let others = batch.f_index_select(0, &partners)?;
    batch.f_mul_scalar(mix.lambda)?.f_add(&others.f_mul_scalar(1.0 - mix.lambda)?)
}
