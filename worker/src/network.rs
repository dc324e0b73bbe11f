//! An AudioCNN in libtorch, built from its spec: what trains on a GPU. On the CPU, [`crate::cpu`] does.
//!
//! Two things differ from the textbook order and change no value. Max pooling comes before ReLU: the larger of four numbers
//! is the same whichever comes first, gradients included, and ReLU then works on a quarter of the elements. Convolution
//! weights lie in memory channels-last, which libtorch's CPU kernels take as the wish to keep activations so too.

use earshot_common::{
    int8::Range,
    job::Job,
    model::{
        AudioCnn, BATCH_NORM_EPS, Conv2d, Layer, ModelError, Operation, Pooling, Reduce, Reduction,
        Step as SpecStep,
    },
    tensors::{self, Tensors},
};
use tch::{Device, Kind, TchError, Tensor};

use crate::{randomness::Weights, rounding::Rounding};

/// How far a step moves batch norm's running statistics towards its batch's: `torch.nn.BatchNorm2d`'s default.
pub(crate) const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// Why a network cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The spec.
    #[error("the model spec cannot be built")]
    Model(#[from] ModelError),
    /// The initial weights lack a tensor.
    #[error("the initial weights have no tensor {0:?}")]
    Missing(String),
    /// As many ranges as the network has scales are needed to round as int8 does.
    #[error("the job has fewer int8 ranges than its model has scales")]
    Ranges,
    /// libtorch.
    #[error("libtorch refused to build the network")]
    Torch(#[from] TchError),
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Batch norm normalises by the batch and moves its running statistics.
    Training {
        /// `(batch, features)`, multiplies the head's features; none: no dropout.
        mask: Option<&'a Tensor>,
    },
    /// Batch norm normalises by its running statistics; nothing is dropped.
    Evaluation,
}

/// One thing that happens to a batch.
#[derive(Debug)]
enum Step {
    Convolve { weight: Tensor, bias: Option<Tensor>, padding: i64, groups: i64 },
    Normalise(BatchNorm),
    MaxPool,
    AveragePool,
    Relu,
    Reduce(Reduction),
    Dropout,
    Linear { weight: Tensor, bias: Tensor },
}

/// Batch norm's tensors, one element for each channel.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) running_mean: Tensor,
    pub(crate) running_var: Tensor,
}

/// The network: what happens from the input to the logits, on one device.
#[derive(Debug)]
pub struct Network {
    steps: Vec<Step>,
    /// Every tensor of a checkpoint but the input's statistics, under its name there.
    tensors: Vec<(String, Tensor)>,
    /// Features of one clip where dropout acts.
    features: i64,
    /// How it computes where it rounds as int8 does, in place of its steps.
    rounding: Option<Rounding>,
}

impl Network {
    /// With fresh weights, see [`fresh_weights`].
    ///
    /// # Errors
    /// The spec cannot be built, or libtorch refuses.
    pub fn fresh(spec: &AudioCnn, seed: u64, device: Device) -> Result<Self, NetworkError> {
        Self::from_checkpoint(spec, &fresh_weights(spec, seed)?, device)
    }

    /// Takes a checkpoint's weights; its input statistics are left aside, as the features carry their own.
    ///
    /// # Errors
    /// The spec cannot be built, a tensor is missing, or libtorch refuses.
    pub fn from_checkpoint(
        spec: &AudioCnn,
        checkpoint: &Tensors,
        device: Device,
    ) -> Result<Self, NetworkError> {
        let mut builder = Builder { device, tensors: Vec::new(), checkpoint };
        let mut steps = Vec::new();
        let mut features = 0;
        let mut spec_steps = spec.steps()?.into_iter().peekable();
        while let Some(step) = spec_steps.next() {
            match step {
                SpecStep::Layer(layer) => {
                    steps.extend(builder.layer(&layer)?);
                    match layer.operation {
                        Operation::Conv2d(_) if is_max_pool(spec_steps.peek()) => {
                            spec_steps.next();
                            steps.extend([Step::MaxPool, Step::Relu]);
                        }
                        Operation::Conv2d(_) | Operation::Hidden(_) => steps.push(Step::Relu),
                        Operation::Logits(_) => {}
                    }
                }
                SpecStep::Pool(pool) => steps.push(match pool.pooling {
                    Pooling::Max => Step::MaxPool,
                    Pooling::Average => Step::AveragePool,
                }),
                SpecStep::Reduce(Reduce { reduction, features: count, .. }) => {
                    steps.extend([Step::Reduce(reduction), Step::Dropout]);
                    features = i64::from(count);
                }
            }
        }
        Ok(Self { steps, tensors: builder.tensors, features, rounding: None })
    }

    /// What a job trains, from these weights: rounding as int8 does if it has ranges for that.
    ///
    /// # Errors
    /// As [`Self::from_checkpoint`].
    pub fn of_job(job: &Job, checkpoint: &Tensors, device: Device) -> Result<Self, NetworkError> {
        let network = Self::from_checkpoint(&job.model, checkpoint, device)?;
        if job.int8_ranges.is_empty() { Ok(network) } else { network.rounding(&job.model, &job.int8_ranges) }
    }

    /// The same network, rounding as an int8 file with these ranges does: of the input, and of every step that has a scale.
    ///
    /// # Errors
    /// There are too few ranges, or libtorch refuses.
    pub fn rounding(mut self, spec: &AudioCnn, ranges: &[Range]) -> Result<Self, NetworkError> {
        let find = |name: String| match self.tensors.iter().find(|(known, _)| *known == name) {
            Some((_, tensor)) => Ok(tensor.shallow_clone()),
            None => Err(NetworkError::Missing(name)),
        };
        let device = self.tensors.first().map_or(Device::Cpu, |(_, tensor)| tensor.device());
        self.rounding = Some(Rounding::new(spec, ranges, device, find)?);
        Ok(self)
    }

    /// Features of one clip that a dropout mask covers.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Every trained tensor, a layer's weights before its biases.
    pub fn parameters(&self) -> Vec<&Tensor> {
        self.tensors.iter().map(|(_, tensor)| tensor).filter(|tensor| tensor.requires_grad()).collect()
    }

    /// Trains no tensor from here on: what is traced may hold constants alone.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn freeze(&self) -> Result<(), TchError> {
        self.parameters().into_iter().try_for_each(|tensor| tensor.f_set_requires_grad(false).map(drop))
    }

    /// The names of [`Self::parameters`].
    pub fn trained(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().filter(|(_, tensor)| tensor.requires_grad()).map(|(name, _)| name.as_str())
    }

    /// Logits `(batch, classes)` of features `(batch, n_mfcc, frames)`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn forward(&self, batch: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        if let Some(rounding) = &self.rounding {
            return rounding.forward(batch, mode);
        }
        // One channel can be called the fastest-varying dimension without moving anything; only then does the first convolution
        // write its output channels-last as well.
        let mut x = batch.f_unsqueeze(-1)?.f_permute([0, 3, 1, 2])?;
        for step in &self.steps {
            x = step.forward(x, mode)?;
        }
        Ok(x)
    }

    /// Runs a rounding network in floats over features `(batch, n_mfcc, frames)`: `see` gets every activation that int8 has a scale
    /// for, in their order. Of a network that does not round there is nothing to see.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn observe(
        &self,
        batch: &Tensor,
        see: impl FnMut(usize, &Tensor) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        self.rounding.as_ref().map_or(Ok(()), |rounding| rounding.observe(batch, see))
    }

    /// A copy of every tensor's values, by the checkpoint's names.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn values(&self) -> Result<Tensors, TchError> {
        self.tensors.iter().map(|(name, tensor)| Ok((name.clone(), copy_out(tensor)?))).collect()
    }
}

/// Draws a checkpoint, less the input's statistics, as PyTorch's `reset_parameters` does: `kaiming_uniform_(a=√5)`, which is
/// uniform within `1/√fan_in`, for weights and biases alike; batch norm starts as the identity.
///
/// # Errors
/// The spec cannot be built.
pub fn fresh_weights(spec: &AudioCnn, seed: u64) -> Result<Tensors, NetworkError> {
    let mut draws = Weights::new(seed);
    let mut fan_in = 1;
    let input_statistics = 2;
    let shapes = tensors::checkpoint_shapes(spec)?.into_iter().skip(input_statistics);
    let draw = |(name, shape): (String, Vec<usize>)| {
        let count = shape.iter().product();
        let batch_norm = name.rsplit_once(".norm.").map(|(_, part)| part);
        if shape.len() > 1 {
            fan_in = shape.iter().skip(1).product();
        }
        let values = match batch_norm {
            Some("weight" | "running_var") => vec![1.0; count],
            Some(_) => vec![0.0; count],
            None => draws.uniform(1.0 / (fan_in as f32).sqrt(), count),
        };
        (name, tensors::Tensor { shape, values })
    };
    Ok(shapes.map(draw).collect())
}

fn is_max_pool(step: Option<&SpecStep>) -> bool {
    matches!(step, Some(SpecStep::Pool(pool)) if pool.pooling == Pooling::Max)
}

impl Step {
    fn forward(&self, x: Tensor, mode: Mode) -> Result<Tensor, TchError> {
        match self {
            Self::Convolve { weight, bias, padding, groups } => {
                x.f_conv2d(weight, bias.as_ref(), 1, *padding, 1, *groups)
            }
            Self::Normalise(norm) => norm.forward(&x, mode),
            Self::MaxPool => x.f_max_pool2d(2, 2, 0, 1, false),
            Self::AveragePool => x.f_avg_pool2d(2, 2, 0, false, true, None),
            Self::Relu => x.f_relu(),
            Self::Reduce(Reduction::Flatten) => x.f_flatten(1, -1),
            Self::Reduce(Reduction::Mean) => mean_of_maps(&x),
            Self::Reduce(Reduction::MeanMax) => {
                Tensor::f_cat(&[mean_of_maps(&x)?, x.f_amax([2, 3], false)?], 1)
            }
            Self::Dropout => match mode {
                Mode::Training { mask: Some(mask) } => x.f_mul(mask),
                _ => Ok(x),
            },
            Self::Linear { weight, bias } => x.f_linear(weight, Some(bias)),
        }
    }
}

impl BatchNorm {
    /// Of the layer of this name; `find` gives tensors by their names.
    pub(crate) fn new(
        name: &str,
        mut find: impl FnMut(String) -> Result<Tensor, NetworkError>,
    ) -> Result<Self, NetworkError> {
        let mut part = |part: &str| find(format!("{name}.norm.{part}"));
        let (weight, bias) = (part("weight")?, part("bias")?);
        Ok(Self { weight, bias, running_mean: part("running_mean")?, running_var: part("running_var")? })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        x.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            matches!(mode, Mode::Training { .. }),
            BATCH_NORM_MOMENTUM,
            BATCH_NORM_EPS,
            true,
        )
    }
}

pub(crate) fn mean_of_maps(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_mean_dim([2_i64, 3].as_slice(), false, None::<Kind>)
}

/// Makes layers' tensors and keeps them by name.
struct Builder<'a> {
    device: Device,
    tensors: Vec<(String, Tensor)>,
    checkpoint: &'a Tensors,
}

impl Builder<'_> {
    /// A layer's steps before its ReLU.
    fn layer(&mut self, Layer { name, operation }: &Layer) -> Result<Vec<Step>, NetworkError> {
        let weight = self.trained(format!("{name}.weight"), &operation.weight_shape())?;
        let channels = [operation.biases()];
        Ok(match operation {
            Operation::Conv2d(Conv2d { kernel_size, groups, batch_norm, .. }) => {
                let (padding, groups) = (i64::from(kernel_size / 2), i64::from(*groups));
                if *batch_norm {
                    let norm = self.batch_norm(name, &channels)?;
                    vec![Step::Convolve { weight, bias: None, padding, groups }, Step::Normalise(norm)]
                } else {
                    let bias = Some(self.trained(format!("{name}.bias"), &channels)?);
                    vec![Step::Convolve { weight, bias, padding, groups }]
                }
            }
            Operation::Hidden(_) | Operation::Logits(_) => {
                vec![Step::Linear { weight, bias: self.trained(format!("{name}.bias"), &channels)? }]
            }
        })
    }

    fn batch_norm(&mut self, name: &str, channels: &[usize]) -> Result<BatchNorm, NetworkError> {
        BatchNorm::new(name, |tensor| {
            if tensor.contains(".running_") {
                self.tensor(tensor, channels)
            } else {
                self.trained(tensor, channels)
            }
        })
    }

    fn trained(&mut self, name: String, shape: &[usize]) -> Result<Tensor, NetworkError> {
        Ok(self.tensor(name, shape)?.f_set_requires_grad(true)?)
    }

    fn tensor(&mut self, name: String, shape: &[usize]) -> Result<Tensor, NetworkError> {
        let Some(values) = self.checkpoint.get(&name).map(|tensor| &tensor.values) else {
            return Err(NetworkError::Missing(name));
        };
        let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
        let tensor = Tensor::f_from_slice(values)?.f_view(extents.as_slice())?;
        let tensor = if shape.len() == 4 { channels_last(&tensor)? } else { tensor };
        let tensor = tensor.f_to_device(self.device)?;
        self.tensors.push((name, tensor.shallow_clone()));
        Ok(tensor)
    }
}

/// The same values, laid out so that channels vary fastest.
fn channels_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

/// A tensor's values, row-major.
pub(crate) fn copy_out(tensor: &Tensor) -> Result<tensors::Tensor, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0.0; tensor.numel()];
    let numel = values.len();
    tensor.f_copy_data(&mut values, numel)?;
    let shape = tensor.size().into_iter().map(|extent| extent as usize).collect();
    Ok(tensors::Tensor { shape, values })
}
