//! The networks of several members as one.

use std::collections::BTreeMap;

use earshot_common::{
    model::{
        AudioCnn, BATCH_NORM_EPS, Conv2d, Layer, Operation, Pooling, Reduce, Reduction, Step as SpecStep,
    },
    tensors::{self, Tensors},
};
use tch::{Device, TchError, Tensor};

use super::{
    operations::{linear, reduce},
    stacked::Stacked,
};
use crate::network::{BATCH_NORM_MOMENTUM, Mode, NetworkError};

/// Networks of one spec, dropout aside, on one device.
#[derive(Debug)]
pub struct FusedNetwork {
    spec: AudioCnn,
    members: i64,
    weights: Weights,
    steps: Vec<Step>,
    /// The trained tensors as the steps have them, in the order in which they are stacked.
    leaves: Vec<Tensor>,
    /// Features of one clip where dropout acts.
    features: usize,
}

/// What a checkpoint holds, of all members.
#[derive(Debug)]
pub struct Weights {
    /// What the optimiser changes.
    pub trained: Stacked,
    /// Batch norm's running statistics.
    pub running: Stacked,
}

/// One thing that happens to a batch.
#[derive(Debug)]
enum Step {
    Convolve {
        weight: Tensor,
        bias: Option<Tensor>,
        padding: i64,
        groups: i64,
    },
    /// Weight, bias, running mean and running variance.
    Normalise([Tensor; 4]),
    MaxPool,
    AveragePool,
    Relu,
    Reduce(Reduction),
    Dropout,
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
}

impl FusedNetwork {
    /// Takes each member's weights from its checkpoint; the input's statistics are left aside.
    ///
    /// # Errors
    /// The spec cannot be built, a tensor is missing, or libtorch refuses.
    pub fn new(spec: &AudioCnn, checkpoints: &[&Tensors], device: Device) -> Result<Self, NetworkError> {
        let weights = Weights::new(spec, checkpoints, device)?;
        Self::build(spec.clone(), weights, checkpoints.len() as i64)
    }

    /// The same with the members in these places, `(places)`, alone.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn select(&self, places: &Tensor) -> Result<Self, NetworkError> {
        Self::build(self.spec.clone(), self.weights.select(places)?, places.numel() as i64)
    }

    /// How many networks there are.
    pub fn members(&self) -> i64 {
        self.members
    }

    /// Features of one clip that a dropout mask covers.
    pub fn features(&self) -> usize {
        self.features
    }

    /// All weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Every trained tensor of all members, in the order in which they are stacked.
    pub fn parameters(&self) -> &[Tensor] {
        &self.leaves
    }

    /// Logits `(members, clips, classes)` of features `(clips, members, n_mfcc, frames)`; a mask is `(members, clips, features)`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn forward(&self, batch: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let mut x = batch.shallow_clone();
        for step in &self.steps {
            x = step.forward(x, self.members, mode)?;
        }
        Ok(x)
    }

    fn build(spec: AudioCnn, weights: Weights, members: i64) -> Result<Self, NetworkError> {
        let mut leaves = Vec::new();
        let mut named = BTreeMap::new();
        for piece in weights.trained.pieces() {
            let (name, shape, piece) = piece?;
            let leaf =
                piece.f_view(fused(shape, members).as_slice())?.f_detach()?.f_set_requires_grad(true)?;
            leaves.push(leaf.shallow_clone());
            named.insert(name, leaf);
        }
        for piece in weights.running.pieces() {
            let (name, _, piece) = piece?;
            named.insert(name, piece);
        }
        let steps = steps(&spec, members, &named)?;
        let features = spec.steps()?.iter().find_map(|step| match step {
            SpecStep::Reduce(Reduce { features, .. }) => Some(*features as usize),
            SpecStep::Layer(_) | SpecStep::Pool(_) => None,
        });
        Ok(Self { spec, members, steps, leaves, features: features.unwrap_or(0), weights })
    }
}

impl Weights {
    fn new(spec: &AudioCnn, checkpoints: &[&Tensors], device: Device) -> Result<Self, NetworkError> {
        let input_statistics = 2;
        let shapes = tensors::checkpoint_shapes(spec)?.into_iter().skip(input_statistics);
        let (running, trained): (Vec<_>, Vec<_>) =
            shapes.partition(|(name, _)| name.contains(".norm.running_"));
        Ok(Self {
            trained: Stacked::new(trained.into_iter(), checkpoints, device)?,
            running: Stacked::new(running.into_iter(), checkpoints, device)?,
        })
    }

    /// A copy that stays as it is.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn snapshot(&self) -> Result<Self, TchError> {
        Ok(Self { trained: self.trained.snapshot()?, running: self.running.snapshot()? })
    }

    /// Takes those members' numbers, `(members)` of booleans, from elsewhere.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn take_over(&mut self, other: &Self, are_taken: &Tensor) -> Result<(), TchError> {
        self.trained.take_over(&other.trained, are_taken)?;
        self.running.take_over(&other.running, are_taken)
    }

    /// Those of the members in these places, `(places)`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn select(&self, places: &Tensor) -> Result<Self, TchError> {
        Ok(Self { trained: self.trained.select(places)?, running: self.running.select(places)? })
    }

    /// A copy of one member's, by the checkpoint's names.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn member(&self, place: usize) -> Result<Tensors, TchError> {
        let mut tensors = self.trained.member(place)?;
        tensors.extend(self.running.member(place)?);
        Ok(tensors)
    }
}

/// The shape of the members' tensors side by side: convolutions have more channels, fully connected layers more matrices.
fn fused(shape: &[usize], members: i64) -> Vec<i64> {
    let extents = shape.iter().map(|&extent| extent as i64);
    match shape {
        [_, _] => [members].into_iter().chain(extents).collect(),
        _ => extents
            .enumerate()
            .map(|(axis, extent)| if axis == 0 { members * extent } else { extent })
            .collect(),
    }
}

fn steps(spec: &AudioCnn, members: i64, named: &BTreeMap<&str, Tensor>) -> Result<Vec<Step>, NetworkError> {
    let mut steps = Vec::new();
    for step in spec.steps()? {
        match step {
            SpecStep::Layer(layer) => {
                steps.extend(layer_steps(&layer, members, named)?);
                if !matches!(layer.operation, Operation::Logits(_)) {
                    steps.push(Step::Relu);
                }
            }
            SpecStep::Pool(pool) => match pool.pooling {
                // As in the unfused network: pooling first changes no value, and ReLU has less to do.
                Pooling::Max => {
                    steps.pop_if(|step| matches!(step, Step::Relu));
                    steps.extend([Step::MaxPool, Step::Relu]);
                }
                Pooling::Average => steps.push(Step::AveragePool),
            },
            SpecStep::Reduce(Reduce { reduction, .. }) => {
                steps.extend([Step::Reduce(reduction), Step::Dropout]);
            }
        }
    }
    Ok(steps)
}

/// A layer's steps before its ReLU.
fn layer_steps(
    Layer { name, operation }: &Layer,
    members: i64,
    named: &BTreeMap<&str, Tensor>,
) -> Result<Vec<Step>, NetworkError> {
    let tensor = |part: &str| {
        let name = format!("{name}.{part}");
        named.get(name.as_str()).map(Tensor::shallow_clone).ok_or(NetworkError::Missing(name))
    };
    let weight = tensor("weight")?;
    Ok(match operation {
        Operation::Conv2d(Conv2d { kernel_size, groups, batch_norm, .. }) => {
            let (padding, groups) = (i64::from(kernel_size / 2), members * i64::from(*groups));
            if *batch_norm {
                let norm = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"];
                let [weight_of_norm, bias, mean, var] = norm.map(tensor);
                let norm = [weight_of_norm?, bias?, mean?, var?];
                vec![Step::Convolve { weight, bias: None, padding, groups }, Step::Normalise(norm)]
            } else {
                vec![Step::Convolve { weight, bias: Some(tensor("bias")?), padding, groups }]
            }
        }
        Operation::Hidden(_) | Operation::Logits(_) => {
            vec![Step::Linear { weight, bias: tensor("bias")? }]
        }
    })
}

impl Step {
    fn forward(&self, x: Tensor, members: i64, mode: Mode) -> Result<Tensor, TchError> {
        match self {
            Self::Convolve { weight, bias, padding, groups } => {
                x.f_conv2d(weight, bias.as_ref(), 1, *padding, 1, *groups)
            }
            Self::Normalise([weight, bias, mean, var]) => x.f_batch_norm(
                Some(weight),
                Some(bias),
                Some(mean),
                Some(var),
                matches!(mode, Mode::Training { .. }),
                BATCH_NORM_MOMENTUM,
                BATCH_NORM_EPS,
                true,
            ),
            Self::MaxPool => x.f_max_pool2d(2, 2, 0, 1, false),
            Self::AveragePool => x.f_avg_pool2d(2, 2, 0, false, true, None),
            Self::Relu => x.f_relu(),
            Self::Reduce(reduction) => reduce(&x, *reduction, members),
            Self::Dropout => match mode {
                Mode::Training { mask: Some(mask) } => x.f_mul(mask),
                _ => Ok(x),
            },
            Self::Linear { weight, bias } => linear(&x, weight, bias),
        }
    }
}
