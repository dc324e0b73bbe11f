//! The champion's model spec with its weights: what both graphs are written from.

use earshot_common::{
    model::{
        AudioCnn, BATCH_NORM_EPS, Conv2d, Input, Layer, Operation, Pool, Reduce, Step as SpecStep,
        input::inverse_dct,
    },
    tensors::{BATCH_NORM, Tensor, Tensors, TensorsError, decode_checkpoint},
};

use super::error::ExportError;

/// A trained network, step by step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    /// Coefficients it reads.
    pub(super) n_mfcc: usize,
    /// Frames it reads.
    pub(super) frames: usize,
    /// Logits it gives.
    pub(super) classes: usize,
    /// `(n_mfcc, n_mfcc)`, what every frame is multiplied with first; none for a model on MFCCs.
    pub(super) inverse_dct: Option<Vec<f32>>,
    /// Mean of every row of the input over the training clips.
    pub(super) mean: Tensor,
    /// Standard deviation of every row of the input; above 0.
    pub(super) std: Tensor,
    /// From the standardised input to the logits.
    pub(super) steps: Vec<Step>,
}

/// One thing that happens to the maps.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Layer(Weighted),
    Pool(Pool),
    Reduce(Reduce),
}

/// A layer with its weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weighted {
    /// Prefix of its tensors' names in the checkpoint and in the graphs.
    pub(super) name: String,
    /// What it computes and on which shapes.
    pub(super) operation: Operation,
    /// Output channels first.
    pub(super) weight: Tensor,
    /// One for each output channel.
    pub(super) bias: Tensor,
}

impl Network {
    /// Decodes a checkpoint of `model`; batch norm is folded into the convolution before it.
    ///
    /// # Errors
    /// The checkpoint is not of this model, or its input cannot be standardised.
    pub(super) fn new(model: &AudioCnn, checkpoint: &[u8]) -> Result<Self, ExportError> {
        let mut tensors = decode_checkpoint(checkpoint, model).map_err(ExportError::Checkpoint)?;
        let mean = take(&mut tensors, "input.mean")?;
        let std = take(&mut tensors, "input.std")?;
        if let Some((row, &value)) = std.values.iter().enumerate().find(|(_, std)| **std <= 0.0) {
            return Err(ExportError::Deviation { row, value });
        }
        let steps = model.steps().map_err(ExportError::Model)?.into_iter().map(|step| match step {
            SpecStep::Layer(layer) => Weighted::take(layer, &mut tensors).map(Step::Layer),
            SpecStep::Pool(pool) => Ok(Step::Pool(pool)),
            SpecStep::Reduce(reduce) => Ok(Step::Reduce(reduce)),
        });
        let n_mfcc = model.n_mfcc as usize;
        Ok(Self {
            n_mfcc,
            frames: model.frames as usize,
            classes: model.classes as usize,
            inverse_dct: (model.input == Input::Mel).then(|| inverse_dct(n_mfcc)),
            mean,
            std,
            steps: steps.collect::<Result<_, ExportError>>()?,
        })
    }

    /// The steps with weights.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Weighted> {
        self.steps.iter().filter_map(|step| match step {
            Step::Layer(layer) => Some(layer),
            Step::Pool(_) | Step::Reduce(_) => None,
        })
    }
}

impl Step {
    /// Name of the value that the graphs give what leaves it: after the ReLU, where it has one.
    pub(super) fn value(&self) -> String {
        match self {
            Self::Layer(layer) => format!("{}.activation", layer.name),
            Self::Pool(Pool { name, .. }) | Self::Reduce(Reduce { name, .. }) => name.clone(),
        }
    }

    /// As [`SpecStep::has_scale`].
    pub(super) fn has_scale(&self) -> bool {
        match self {
            Self::Layer(layer) => layer.operation.has_scale(),
            Self::Pool(pool) => pool.has_scale(),
            Self::Reduce(reduce) => reduce.has_scale(),
        }
    }
}

impl Weighted {
    fn take(Layer { name, operation }: Layer, tensors: &mut Tensors) -> Result<Self, ExportError> {
        let mut weight = take(tensors, &format!("{name}.weight"))?;
        let bias = match operation {
            Operation::Conv2d(Conv2d { batch_norm: true, .. }) => {
                let parts = BATCH_NORM.map(|part| take(tensors, &format!("{name}.norm.{part}")));
                let [scale, shift, mean, variance] = parts;
                fold(&mut weight, [&scale?, &shift?, &mean?, &variance?])
            }
            _ => take(tensors, &format!("{name}.bias"))?,
        };
        Ok(Self { name, operation, weight, bias })
    }

    /// Weights of each output channel in turn, with that channel's bias.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&[f32], f32)> {
        let size = self.weight.values.len() / self.bias.values.len().max(1);
        self.weight.values.chunks_exact(size.max(1)).zip(self.bias.values.iter().copied())
    }
}

/// Scales a convolution's weights as the batch norm after it would, and gives the bias that does the rest: with the running
/// statistics, `γ·(w·x − μ)/√(σ² + ε) + β` is linear in `x` (Jacob et al. 2018, arXiv:1712.05877, equation 14).
fn fold(weight: &mut Tensor, [scale, shift, mean, variance]: [&Tensor; 4]) -> Tensor {
    let channels = scale.values.len();
    let size = (weight.values.len() / channels.max(1)).max(1);
    let statistics = mean.values.iter().zip(&variance.values);
    let affine = scale.values.iter().zip(&shift.values);
    let mut bias = Vec::with_capacity(channels);
    for ((weights, (&scale, &shift)), (&mean, &variance)) in
        weight.values.chunks_exact_mut(size).zip(affine).zip(statistics)
    {
        let factor = f64::from(scale) / (f64::from(variance) + BATCH_NORM_EPS).sqrt();
        for weight in weights {
            *weight = (f64::from(*weight) * factor) as f32;
        }
        bias.push((f64::from(shift) - f64::from(mean) * factor) as f32);
    }
    Tensor { shape: vec![channels], values: bias }
}

fn take(tensors: &mut Tensors, name: &str) -> Result<Tensor, ExportError> {
    tensors.remove(name).ok_or_else(|| ExportError::Checkpoint(TensorsError::Missing(name.to_owned())))
}
