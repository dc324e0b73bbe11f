//! A network that computes as its exported int8 file does, and can be trained: quantisation-aware training (Jacob et al. 2018,
//! arXiv:1712.05877, section 3).
//!
//! Batch norm is folded by its running statistics, which stay as they are. Weights and biases are rounded at each step, as the
//! exporter rounds them; activations are held in whole numbers of the ranges that are given. What is multiplied and summed are those
//! whole numbers, as floats that hold them exactly, so the logits are those of whole-number arithmetic: to the last bit in evaluation,
//! which sums in double precision where single would not do.
//!
//! Rounding has no slope. Gradients go straight through it, and through what saturates not at all (Bengio, Léonard and Courville 2013,
//! arXiv:1308.3432), as in `torch.fake_quantize_per_tensor_affine`; scales are taken as given.

use earshot_common::{
    int8::{Affine, BIAS_MAX, Range, WEIGHT_MAX},
    model::{
        AudioCnn, BATCH_NORM_EPS, Conv2d, Layer as SpecLayer, ModelError, Operation, Pooling, Reduction,
        Step as SpecStep,
    },
};
use tch::{Device, Kind, TchError, Tensor};

use crate::network::{BatchNorm, Mode, NetworkError, mean_of_maps};

/// Numbers that libtorch keeps of each element that enters or leaves a layer: real, divided, rounded, which of them saturate, and what
/// gradients take from step to step; with room for sums in double precision.
const NUMBERS: u64 = 24;

/// Bytes that a model computes with on a CPU in whole numbers, in batches of so many clips, beside its own kernels' and a copy of the
/// features.
pub(crate) fn footprint(model: &AudioCnn, clips: u64) -> Result<u64, ModelError> {
    let elements: u64 = model.layers()?.iter().map(|layer| layer.operation.elements()).sum();
    Ok(elements * NUMBERS * clips * size_of::<f32>() as u64)
}

/// The network in whole numbers.
#[derive(Debug)]
pub(crate) struct Rounding {
    input: Held,
    steps: Vec<Step>,
}

/// One thing that happens to the whole numbers. What has no scale of its own keeps that of what enters.
#[derive(Debug)]
enum Step {
    Layer(Box<Layer>),
    MaxPool,
    AveragePool(Held),
    Flatten,
    Mean(Held),
    MeanMax,
    Dropout,
}

/// A layer's tensors, shared with the network's; its ReLU is where int8 saturates.
#[derive(Debug)]
struct Layer {
    operation: Operation,
    weight: Tensor,
    /// None with batch norm.
    bias: Option<Tensor>,
    norm: Option<BatchNorm>,
    /// Of what leaves; none: logits stay float.
    output: Option<Held>,
}

/// How an activation is held.
#[derive(Debug)]
struct Held {
    /// Of one element, on the device: a GPU would multiply by the reciprocal of a plain number.
    scale: Tensor,
    /// Smallest and largest whole number, the zero point subtracted.
    ends: [f64; 2],
}

impl Rounding {
    /// Of this spec, with the ranges of its input and of every step that has a scale; `find` gives the network's tensors by name.
    pub(crate) fn new(
        spec: &AudioCnn,
        ranges: &[Range],
        device: Device,
        find: impl Fn(String) -> Result<Tensor, NetworkError>,
    ) -> Result<Self, NetworkError> {
        let mut ranges = ranges.iter().copied();
        let mut held = || Held::new(ranges.next().ok_or(NetworkError::Ranges)?, device);
        let input = held()?;
        let mut steps = Vec::new();
        for step in spec.steps()? {
            match step {
                SpecStep::Layer(layer) => {
                    let output = layer.operation.has_scale().then(&mut held).transpose()?;
                    steps.push(Step::Layer(Box::new(Layer::new(&layer, output, &find)?)));
                }
                SpecStep::Pool(pool) => steps.push(match pool.pooling {
                    Pooling::Max => Step::MaxPool,
                    Pooling::Average => Step::AveragePool(held()?),
                }),
                SpecStep::Reduce(reduce) => {
                    steps.push(match reduce.reduction {
                        Reduction::Flatten => Step::Flatten,
                        Reduction::Mean => Step::Mean(held()?),
                        Reduction::MeanMax => Step::MeanMax,
                    });
                    steps.push(Step::Dropout);
                }
            }
        }
        Ok(Self { input, steps })
    }

    /// Logits `(batch, classes)` of features `(batch, n_mfcc, frames)`.
    pub(crate) fn forward(&self, batch: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let mut held = &self.input;
        let mut whole = held.hold(&batch.f_unsqueeze(1)?)?;
        for step in &self.steps {
            match step {
                Step::Layer(layer) => {
                    let real = layer.forward(&whole, &held.scale, mode)?;
                    let Some(output) = &layer.output else { return Ok(real) };
                    whole = output.hold(&real)?;
                    held = output;
                }
                Step::MaxPool => whole = whole.f_max_pool2d(2, 2, 0, 1, false)?,
                Step::AveragePool(output) => {
                    let sums = whole.f_avg_pool2d(2, 2, 0, false, true, None)?.f_mul_scalar(4.0)?;
                    whole = output.hold(&sums.f_mul(&held.scale)?.f_div_scalar(4.0)?)?;
                    held = output;
                }
                Step::Flatten => whole = whole.f_flatten(1, -1)?,
                Step::Mean(output) => {
                    whole = output.hold(&means(&whole, &held.scale)?)?;
                    held = output;
                }
                Step::MeanMax => {
                    let mean = held.hold(&means(&whole, &held.scale)?)?;
                    whole = Tensor::f_cat(&[mean, whole.f_amax([2, 3], false)?], 1)?;
                }
                Step::Dropout => {
                    if let Mode::Training { mask: Some(mask) } = mode {
                        whole = whole.f_mul(mask)?;
                    }
                }
            }
        }
        Err(TchError::Torch("the network has no logits".to_owned()))
    }
}

impl Rounding {
    /// The network in floats, with batch norm folded: `see` gets every activation that int8 has a scale for, in their order.
    pub(crate) fn observe(
        &self,
        batch: &Tensor,
        mut see: impl FnMut(usize, &Tensor) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        let mut real = batch.f_unsqueeze(1)?;
        let mut numbers = 0..;
        let mut seen = |real: Tensor| see(numbers.next().unwrap_or_default(), &real).map(|()| real);
        real = seen(real)?;
        for step in &self.steps {
            real = match step {
                Step::Layer(layer) if layer.output.is_none() => return Ok(()),
                Step::Layer(layer) => seen(layer.weigh(&real)?.f_relu()?)?,
                Step::MaxPool => real.f_max_pool2d(2, 2, 0, 1, false)?,
                Step::AveragePool(_) => seen(real.f_avg_pool2d(2, 2, 0, false, true, None)?)?,
                Step::Flatten => real.f_flatten(1, -1)?,
                Step::Mean(_) => seen(mean_of_maps(&real)?)?,
                Step::MeanMax => Tensor::f_cat(&[mean_of_maps(&real)?, real.f_amax([2, 3], false)?], 1)?,
                Step::Dropout => real,
            };
        }
        Ok(())
    }
}

impl Held {
    fn new(range: Range, device: Device) -> Result<Self, NetworkError> {
        let Affine { scale, zero_point } = Affine::covering(range);
        let ends = [i8::MIN, i8::MAX].map(|end| f64::from(end) - f64::from(zero_point));
        Ok(Self { scale: Tensor::f_from_slice(&[scale])?.f_to_device(device)?, ends })
    }

    /// The nearest whole numbers, saturated, less the zero point.
    fn hold(&self, real: &Tensor) -> Result<Tensor, TchError> {
        let [low, high] = self.ends;
        let steps = real.f_div(&self.scale)?;
        let rounded = steps.f_detach()?.f_round()?;
        let inside = rounded.f_ge(low)?.f_logical_and(&rounded.f_le(high)?)?;
        straight_through(&rounded.f_clamp(low, high)?, &steps.f_mul(&inside)?)
    }
}

impl Layer {
    fn new(
        SpecLayer { name, operation }: &SpecLayer,
        output: Option<Held>,
        find: impl Fn(String) -> Result<Tensor, NetworkError>,
    ) -> Result<Self, NetworkError> {
        let norm = match operation {
            Operation::Conv2d(Conv2d { batch_norm: true, .. }) => Some(BatchNorm::new(name, &find)?),
            _ => None,
        };
        let bias = if norm.is_none() { Some(find(format!("{name}.bias"))?) } else { None };
        Ok(Self { operation: *operation, weight: find(format!("{name}.weight"))?, bias, norm, output })
    }

    /// What the layer makes of whole numbers at this scale, as real numbers, before its ReLU.
    fn forward(&self, whole: &Tensor, input_scale: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let (weight, bias) = self.folded()?;
        let scale = weight_scales(&weight, &bias, input_scale)?;
        let sum_scale = scale.f_mul(input_scale)?;
        let weight = rounded(&weight.f_div(&by_channel(&scale, weight.dim())?)?, f64::from(WEIGHT_MAX))?;
        let bias = rounded(&bias.f_div(&sum_scale)?, f64::from(2.0 * BIAS_MAX))?;
        // In training a sum beyond 2^24 may lose its last bit, as any float would.
        let is_exact = matches!(mode, Mode::Training { .. }) || fits_float(&weight, &bias)?;
        let kind = if is_exact { Kind::Float } else { Kind::Double };
        let [whole, weight, bias] = [whole, &weight, &bias].map(|tensor| tensor.f_to_kind(kind));
        let (whole, weight, bias) = (whole?, weight?, bias?);
        let sums = self.apply(&whole, &weight, &bias)?;
        let dimensions = sums.dim();
        let sums = sums.f_to_kind(Kind::Float)?;
        // Channels come second here, and first among weights.
        let sum_scale = by_channel(&sum_scale, dimensions - 1)?;
        sums.f_mul(&sum_scale)
    }

    /// The layer in floats, before its ReLU.
    fn weigh(&self, real: &Tensor) -> Result<Tensor, TchError> {
        let (weight, bias) = self.folded()?;
        self.apply(real, &weight, &bias)
    }

    fn apply(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, TchError> {
        match self.operation {
            Operation::Conv2d(Conv2d { kernel_size, groups, .. }) => {
                x.f_conv2d(weight, Some(bias), 1, i64::from(kernel_size / 2), 1, i64::from(groups))
            }
            Operation::Hidden(_) | Operation::Logits(_) => x.f_linear(weight, Some(bias)),
        }
    }

    /// Weights and biases as the exporter folds batch norm into them.
    fn folded(&self) -> Result<(Tensor, Tensor), TchError> {
        let Some(norm) = &self.norm else {
            let none = || TchError::Torch("a layer has neither bias nor batch norm".to_owned());
            return Ok((self.weight.shallow_clone(), self.bias.as_ref().ok_or_else(none)?.shallow_clone()));
        };
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        let deviation = double(&norm.running_var)?.f_add_scalar(BATCH_NORM_EPS)?.f_sqrt()?;
        let factor = double(&norm.weight)?.f_div(&deviation)?;
        let weight = double(&self.weight)?.f_mul(&by_channel(&factor, self.weight.dim())?)?;
        let bias = double(&norm.bias)?.f_sub(&double(&norm.running_mean)?.f_mul(&factor)?)?;
        Ok((weight.f_to_kind(Kind::Float)?, bias.f_to_kind(Kind::Float)?))
    }
}

/// Whether no sum of a layer, nor a part of one, goes beyond the whole numbers that a float holds. Then single precision is exact, and
/// several times as fast; but for a GPU, whose libraries may transform what they convolve.
fn fits_float(weight: &Tensor, bias: &Tensor) -> Result<bool, TchError> {
    /// The largest difference of an activation from its zero point.
    const ACTIVATION_MAX: f64 = 255.0;
    const WHOLE_MAX: f64 = (1 << 24) as f64;
    if weight.device() != Device::Cpu {
        return Ok(false);
    }
    let magnitudes =
        weight.f_abs()?.f_flatten(1, -1)?.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)?;
    let sums = magnitudes.f_mul_scalar(ACTIVATION_MAX)?.f_add(&bias.f_abs()?)?;
    Ok(sums.f_max()?.f_double_value(&[])? < WHOLE_MAX)
}

/// Of each output channel, the smallest scale that holds all of its weights, and its bias at `input_scale` times it; 1 where there
/// is nothing to hold.
fn weight_scales(weight: &Tensor, bias: &Tensor, input_scale: &Tensor) -> Result<Tensor, TchError> {
    let (weight, bias) = (weight.f_detach()?.f_flatten(1, -1)?, bias.f_detach()?);
    let limit = input_scale.f_full_like(f64::from(WEIGHT_MAX))?;
    let for_weights = weight.f_abs()?.f_amax([1], false)?.f_div(&limit)?;
    // A power of two: its reciprocal is exact.
    let for_bias = bias.f_abs()?.f_div_scalar(f64::from(BIAS_MAX))?.f_div(input_scale)?;
    let scale = for_weights.f_maximum(&for_bias)?;
    let is_normal = |scale: &Tensor| scale.f_ge(f64::from(f32::MIN_POSITIVE));
    let is_right = is_normal(&scale)?.f_logical_and(&is_normal(&scale.f_mul(input_scale)?)?)?;
    scale.f_where_self(&is_right, &scale.f_ones_like()?)
}

/// The nearest whole numbers, at most `limit` either way; gradients go straight through.
fn rounded(steps: &Tensor, limit: f64) -> Result<Tensor, TchError> {
    straight_through(&steps.f_detach()?.f_round()?.f_clamp(-limit, limit)?, steps)
}

/// The values of one tensor with the gradients of another.
fn straight_through(values: &Tensor, gradients: &Tensor) -> Result<Tensor, TchError> {
    // The difference is 0, exactly.
    values.f_add(&gradients.f_sub(&gradients.f_detach()?)?)
}

/// Means of maps at this scale, `(batch, channels)`: sums brought to real numbers, then divided.
fn means(whole: &Tensor, scale: &Tensor) -> Result<Tensor, TchError> {
    let area: i64 = whole.size().iter().skip(2).product();
    let sums = whole.f_sum_dim_intlist([2_i64, 3].as_slice(), false, Kind::Double)?.f_to_kind(Kind::Float)?;
    sums.f_mul(scale)?.f_div(&scale.f_full_like(area as f64)?)
}

/// One number for each channel, to be multiplied with tensors of so many dimensions that have channels first.
fn by_channel(numbers: &Tensor, dimensions: usize) -> Result<Tensor, TchError> {
    let shape: Vec<i64> = std::iter::once(-1).chain(std::iter::repeat_n(1, dimensions - 1)).collect();
    numbers.f_view(shape.as_slice())
}
