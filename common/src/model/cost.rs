//! What a model costs on a device.

use serde::{Deserialize, Serialize};

use super::{AudioCnn, Input, Layer, ModelError};

/// Exact cost of one forward pass of one clip, and of the weights, as exported: batch norm is folded into the convolution
/// before it, whose weights and biases are all that is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Trained numbers: weights and biases. The input's mean and scale and the inverse DCT are not trained and not counted.
    pub params: u64,
    /// Multiply-accumulates of convolutions, linear layers and the inverse DCT; bias, ReLU and pooling are not counted.
    pub macs: u64,
    /// Bytes of the weights as int8 with int32 biases and of the inverse DCT as float, as the exporter stores them.
    pub int8_bytes: u64,
    /// Largest sum of one layer's int8 input and output, in bytes: what a device needs that runs layer by layer. Pooling works
    /// in place and the input is made frame by frame, so neither counts.
    pub peak_ram_bytes: u64,
}

impl Cost {
    /// KiB of the int8 weights.
    pub fn int8_kib(&self) -> f64 {
        self.int8_bytes as f64 / 1024.0
    }

    /// KiB of the activations at their peak.
    pub fn peak_ram_kib(&self) -> f64 {
        self.peak_ram_bytes as f64 / 1024.0
    }

    /// One after the other.
    fn then(self, next: Self) -> Self {
        Self {
            params: self.params + next.params,
            macs: self.macs + next.macs,
            int8_bytes: self.int8_bytes + next.int8_bytes,
            peak_ram_bytes: self.peak_ram_bytes.max(next.peak_ram_bytes),
        }
    }

    fn of_input(model: &AudioCnn) -> Self {
        let matrix = match model.input {
            Input::Mfcc => 0,
            Input::Mel => u64::from(model.n_mfcc).pow(2),
        };
        let macs = matrix * u64::from(model.frames);
        Self { params: 0, macs, int8_bytes: matrix * size_of::<f32>() as u64, peak_ram_bytes: 0 }
    }

    fn of_layer(layer: &Layer) -> Self {
        let [weights, biases] =
            [layer.operation.weights(), layer.operation.biases()].map(|count| count as u64);
        Self {
            params: weights + biases,
            macs: weights * layer.operation.positions(),
            int8_bytes: weights + size_of::<i32>() as u64 * biases,
            peak_ram_bytes: layer.operation.elements(),
        }
    }
}

impl AudioCnn {
    /// Exact cost.
    ///
    /// # Errors
    /// As [`AudioCnn::steps`].
    pub fn cost(&self) -> Result<Cost, ModelError> {
        let layers = self.layers()?;
        Ok(layers.iter().map(Cost::of_layer).fold(Cost::of_input(self), Cost::then))
    }
}
