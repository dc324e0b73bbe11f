//! An AudioCNN in libtorch, built from its spec.
//!
//! Two things differ from the textbook order and change no value. Pooling comes before ReLU: the larger of four numbers is
//! the same whichever comes first, gradients included, and ReLU then works on a quarter of the elements. Convolution weights
//! lie in memory channels-last, which libtorch's CPU kernels take as the wish to keep activations so too.

use earshot_common::{
    model::{AudioCnn, Layer, ModelError},
    tensors::{self, Tensors},
};
use tch::{Device, TchError, Tensor};

use crate::randomness::Weights;

/// Why a network cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The spec.
    #[error("the model spec cannot be built")]
    Model(#[from] ModelError),
    /// The initial weights lack a tensor.
    #[error("the initial weights have no tensor {0:?}")]
    Missing(String),
    /// libtorch.
    #[error("libtorch refused to build the network")]
    Torch(#[from] TchError),
}

/// A layer's operation; its weights are beside it.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Convolution { padding: i64 },
    Linear,
}

/// A layer with weights.
#[derive(Debug)]
struct Trained {
    /// As the checkpoint names it, without `.weight` and `.bias`.
    name: String,
    operation: Operation,
    weight: Tensor,
    bias: Tensor,
}

/// The network: layers in the spec's order, on one device.
#[derive(Debug)]
pub struct Network {
    layers: Vec<Trained>,
    /// Elements of one clip's maps where dropout acts.
    features: i64,
}

impl Network {
    /// Draws fresh weights as PyTorch's `reset_parameters` does: `kaiming_uniform_(a=√5)`, which is uniform within
    /// `1/√fan_in`, for weights and biases alike.
    ///
    /// # Errors
    /// The spec cannot be built, or libtorch refuses.
    pub fn fresh(spec: &AudioCnn, seed: u64, device: Device) -> Result<Self, NetworkError> {
        let mut draws = Weights::new(seed);
        Self::build(spec, device, |_, shape, fan_in| {
            let bound = 1.0 / (fan_in as f32).sqrt();
            Ok(draws.uniform(bound, shape.iter().product()))
        })
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
        Self::build(spec, device, |name, _, _| {
            let tensor = checkpoint.get(name);
            tensor.map(|tensor| tensor.values.clone()).ok_or_else(|| NetworkError::Missing(name.to_owned()))
        })
    }

    /// Builds layer by layer; `values` gives a tensor's values by its name, shape and fan-in.
    fn build(
        spec: &AudioCnn,
        device: Device,
        mut values: impl FnMut(&str, &[usize], usize) -> Result<Vec<f32>, NetworkError>,
    ) -> Result<Self, NetworkError> {
        let shapes = tensors::checkpoint_shapes(spec)?;
        // After the two input statistics, a weight and a bias for every layer.
        let mut shapes = shapes.iter().skip(2);
        let mut layers = Vec::new();
        let mut features = 0;
        for layer in spec.layers()? {
            let (Some((weight, weight_shape)), Some((bias, bias_shape))) = (shapes.next(), shapes.next())
            else {
                break;
            };
            let operation = match layer {
                Layer::Block { input: [_, rows, columns], block } => {
                    features = i64::from(block.filters) * i64::from(rows / 2) * i64::from(columns / 2);
                    Operation::Convolution { padding: i64::from(block.kernel_size / 2) }
                }
                Layer::Linear { .. } => Operation::Linear,
            };
            let fan_in = weight_shape.iter().skip(1).product();
            let parameter = |values: Vec<f32>, shape: &[usize]| -> Result<Tensor, TchError> {
                let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
                let tensor = Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?;
                let tensor = if shape.len() == 4 { channels_last(&tensor)? } else { tensor };
                tensor.f_to_device(device)?.f_set_requires_grad(true)
            };
            layers.push(Trained {
                name: weight.trim_end_matches(".weight").to_owned(),
                operation,
                weight: parameter(values(weight, weight_shape, fan_in)?, weight_shape)?,
                bias: parameter(values(bias, bias_shape, fan_in)?, bias_shape)?,
            });
        }
        Ok(Self { layers, features })
    }

    /// Elements of one clip that a dropout mask covers.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Every trained tensor: weight and bias of each layer.
    pub fn parameters(&self) -> Vec<&Tensor> {
        self.layers.iter().flat_map(|layer| [&layer.weight, &layer.bias]).collect()
    }

    /// Logits `(batch, classes)` of features `(batch, n_mfcc, frames)`; `mask`, `(batch, features)`, multiplies the last
    /// block's flattened output.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn forward(&self, batch: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        // One channel can be called the fastest-varying dimension without moving anything; only then does the first convolution
        // write its output channels-last as well.
        let mut x = batch.f_unsqueeze(-1)?.f_permute([0, 3, 1, 2])?;
        let last = self.layers.len().saturating_sub(1);
        for (index, layer) in self.layers.iter().enumerate() {
            match layer.operation {
                Operation::Convolution { padding } => {
                    x = x.f_conv2d(&layer.weight, Some(&layer.bias), 1, padding, 1, 1)?;
                    x = x.f_max_pool2d(2, 2, 0, 1, false)?.f_relu()?;
                }
                Operation::Linear => {
                    if x.dim() == 4 {
                        x = x.f_flatten(1, -1)?;
                        if let Some(mask) = mask {
                            x = x.f_mul(mask)?;
                        }
                    }
                    x = x.f_linear(&layer.weight, Some(&layer.bias))?;
                    if index < last {
                        x = x.f_relu()?;
                    }
                }
            }
        }
        Ok(x)
    }

    /// A copy of every trained tensor's values, by the checkpoint's names.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn values(&self) -> Result<Tensors, TchError> {
        let mut values = Tensors::new();
        for layer in &self.layers {
            for (part, tensor) in [("weight", &layer.weight), ("bias", &layer.bias)] {
                values.insert(format!("{}.{part}", layer.name), copy_out(tensor)?);
            }
        }
        Ok(values)
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
