//! The champion's model spec with its weights: what both graphs are written from.

use earshot_common::{
    model::{AudioCnn, Layer},
    tensors::{Tensor, Tensors, TensorsError, checkpoint_shapes, decode_checkpoint},
};

use super::error::ExportError;

/// A trained network, layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    /// Coefficients it reads.
    pub(super) n_mfcc: usize,
    /// Frames it reads.
    pub(super) frames: usize,
    /// Logits it gives.
    pub(super) classes: usize,
    /// Mean of every coefficient over the training clips.
    pub(super) mean: Tensor,
    /// Standard deviation of every coefficient; above 0.
    pub(super) std: Tensor,
    /// From the input on; the last one gives the logits and has no ReLU.
    pub(super) layers: Vec<Weighted>,
}

/// A layer with its weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weighted {
    /// Prefix of its tensors' names in the checkpoint and in the graphs.
    pub(super) name: String,
    /// What it computes and on which shapes.
    pub(super) layer: Layer,
    /// Output channels first.
    pub(super) weight: Tensor,
    /// One for each output channel.
    pub(super) bias: Tensor,
}

impl Network {
    /// Decodes a checkpoint of `model`.
    ///
    /// # Errors
    /// The checkpoint is not of this model, or its input cannot be standardised.
    pub(super) fn new(model: &AudioCnn, checkpoint: &[u8]) -> Result<Self, ExportError> {
        let mut tensors = decode_checkpoint(checkpoint, model).map_err(ExportError::Checkpoint)?;
        let names: Vec<String> = checkpoint_shapes(model)
            .map_err(ExportError::Model)?
            .into_iter()
            .filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned))
            .collect();
        let mean = take(&mut tensors, "input.mean")?;
        let std = take(&mut tensors, "input.std")?;
        if let Some((coefficient, &value)) = std.values.iter().enumerate().find(|(_, std)| **std <= 0.0) {
            return Err(ExportError::Deviation { coefficient, value });
        }
        let layers = names
            .into_iter()
            .zip(model.layers().map_err(ExportError::Model)?)
            .map(|(name, layer)| {
                Ok(Weighted {
                    layer,
                    weight: take(&mut tensors, &format!("{name}.weight"))?,
                    bias: take(&mut tensors, &format!("{name}.bias"))?,
                    name,
                })
            })
            .collect::<Result<_, ExportError>>()?;
        Ok(Self {
            n_mfcc: model.n_mfcc as usize,
            frames: model.frames as usize,
            classes: model.classes as usize,
            mean,
            std,
            layers,
        })
    }

    /// Tensors as the float graph stores them, by name: the checkpoint's own values, mean and std shaped to broadcast
    /// over `(batch, 1, n_mfcc, frames)`.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>, &[f32])> {
        let input = [("input.mean", &self.mean), ("input.std", &self.std)];
        let input = input
            .map(|(name, tensor)| (name.to_owned(), vec![1, 1, self.n_mfcc, 1], tensor.values.as_slice()));
        let layers = self.layers.iter().flat_map(|layer| {
            [("weight", &layer.weight), ("bias", &layer.bias)].map(|(part, tensor)| {
                (format!("{}.{part}", layer.name), tensor.shape.clone(), tensor.values.as_slice())
            })
        });
        input.into_iter().chain(layers)
    }
}

impl Weighted {
    /// Weights of each output channel in turn, with that channel's bias.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&[f32], f32)> {
        let size = self.weight.values.len() / self.bias.values.len().max(1);
        self.weight.values.chunks_exact(size.max(1)).zip(self.bias.values.iter().copied())
    }
}

fn take(tensors: &mut Tensors, name: &str) -> Result<Tensor, ExportError> {
    tensors.remove(name).ok_or_else(|| ExportError::Checkpoint(TensorsError::Missing(name.to_owned())))
}
