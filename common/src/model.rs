//! The model spec: which AudioCNN to build, as data, with its exact cost before any training.
//!
//! The worker builds it in tch, the exporter walks it into ONNX; both must agree with the counts here, and tests hold them
//! to it.

use serde::{Deserialize, Serialize};

/// Blocks a model has at least and at most.
pub const BLOCKS: std::ops::RangeInclusive<usize> = 2..=5;
/// Filters of a block at most: more would not fit the devices this is for.
pub const FILTERS_MAX: u32 = 1024;
/// Units of the hidden layer at most.
pub const FC_UNITS_MAX: u32 = 4096;

/// A convolutional classifier over features of shape `(batch, 1, n_mfcc, frames)`.
///
/// The input is standardised per coefficient with statistics of the training clips, which travel in the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AudioCnn {
    /// Rows: the first coefficients of the shard.
    pub n_mfcc: u32,
    /// Columns.
    pub frames: u32,
    /// Convolution blocks, from the input on.
    pub blocks: Vec<Block>,
    /// What turns the last block's maps into logits.
    pub head: Head,
    /// Logits.
    pub classes: u32,
}

/// Convolution with "same" padding and bias, ReLU, 2×2 max pooling with stride 2 (an odd last row or column is dropped).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Output channels.
    pub filters: u32,
    /// Height and width of the kernel: 3 or 5.
    pub kernel_size: u32,
}

/// Dropout, flatten, an optional hidden layer with ReLU, and the classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Probability that an element of the last block's output is zeroed in training.
    pub dropout: f64,
    /// Units of the hidden layer; none: maps go straight to the classes.
    pub fc_units: Option<u32>,
}

/// Why a spec cannot be built.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum ModelError {
    /// Too few or too many blocks.
    #[error("a model has 2 to 5 blocks, got {0}")]
    Blocks(usize),
    /// A number out of its range.
    #[error("{name} must be {range}, got {value}")]
    Range {
        /// The hyperparameter.
        name: &'static str,
        /// What would be right.
        range: String,
        /// What was given.
        value: String,
    },
    /// Pooling would leave nothing.
    #[error(
        "block {block} pools {rows}×{columns} features to nothing; use fewer blocks or more coefficients"
    )]
    PooledAway {
        /// From 1.
        block: usize,
        /// Rows that enter it.
        rows: u32,
        /// Columns that enter it.
        columns: u32,
    },
}

/// Exact cost of one forward pass of one clip, and of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Trained numbers: weights and biases. The input's mean and scale are not trained and not counted.
    pub params: u64,
    /// Multiply-accumulates of convolutions and linear layers; bias, ReLU and pooling are not counted.
    pub macs: u64,
    /// Bytes of the weights as int8 with int32 biases, as the exporter stores them.
    pub int8_bytes: u64,
    /// Largest sum of one layer's int8 input and output, in bytes: what a device needs that runs layer by layer.
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
}

/// One layer with weights, with the shapes that flow through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Convolution, ReLU and pooling.
    Block {
        /// Channels, rows and columns that enter.
        input: [u32; 3],
        /// The block.
        block: Block,
    },
    /// Fully connected.
    Linear {
        /// Features that enter.
        input: u32,
        /// Features that leave.
        output: u32,
    },
}

impl Layer {
    fn cost(&self) -> Cost {
        match *self {
            Self::Block { input: [channels, rows, columns], block } => {
                let area = u64::from(rows) * u64::from(columns);
                let weights =
                    u64::from(channels) * u64::from(block.filters) * u64::from(block.kernel_size).pow(2);
                let filters = u64::from(block.filters);
                Cost {
                    params: weights + filters,
                    macs: weights * area,
                    int8_bytes: weights + 4 * filters,
                    peak_ram_bytes: (u64::from(channels) + filters) * area,
                }
            }
            Self::Linear { input, output } => {
                let (input, output) = (u64::from(input), u64::from(output));
                Cost {
                    params: input * output + output,
                    macs: input * output,
                    int8_bytes: input * output + 4 * output,
                    peak_ram_bytes: input + output,
                }
            }
        }
    }
}

impl AudioCnn {
    /// The reference model: 16 and 32 filters of 3×3, dropout 0.3, 64 hidden units.
    pub fn reference(n_mfcc: u32, frames: u32, classes: u32) -> Self {
        let block = |filters| Block { filters, kernel_size: 3 };
        Self {
            n_mfcc,
            frames,
            blocks: vec![block(16), block(32)],
            head: Head { dropout: 0.3, fc_units: Some(64) },
            classes,
        }
    }

    /// Layers with weights, from the input on, with the shapes between them.
    ///
    /// # Errors
    /// The first number out of range, or the block that pools everything away.
    pub fn layers(&self) -> Result<Vec<Layer>, ModelError> {
        self.check_ranges()?;
        let mut layers = Vec::new();
        let [mut channels, mut rows, mut columns] = [1, self.n_mfcc, self.frames];
        for (index, &block) in self.blocks.iter().enumerate() {
            if rows < 2 || columns < 2 {
                return Err(ModelError::PooledAway { block: index + 1, rows, columns });
            }
            layers.push(Layer::Block { input: [channels, rows, columns], block });
            [channels, rows, columns] = [block.filters, rows / 2, columns / 2];
        }
        let mut features = channels * rows * columns;
        if let Some(units) = self.head.fc_units {
            layers.push(Layer::Linear { input: features, output: units });
            features = units;
        }
        layers.push(Layer::Linear { input: features, output: self.classes });
        Ok(layers)
    }

    /// Exact cost.
    ///
    /// # Errors
    /// As [`AudioCnn::layers`].
    pub fn cost(&self) -> Result<Cost, ModelError> {
        let zero = Cost { params: 0, macs: 0, int8_bytes: 0, peak_ram_bytes: 0 };
        Ok(self.layers()?.iter().map(Layer::cost).fold(zero, |sum, cost| Cost {
            params: sum.params + cost.params,
            macs: sum.macs + cost.macs,
            int8_bytes: sum.int8_bytes + cost.int8_bytes,
            peak_ram_bytes: sum.peak_ram_bytes.max(cost.peak_ram_bytes),
        }))
    }

    fn check_ranges(&self) -> Result<(), ModelError> {
        let range = |name, range: String, value: String| Err(ModelError::Range { name, range, value });
        if !BLOCKS.contains(&self.blocks.len()) {
            return Err(ModelError::Blocks(self.blocks.len()));
        }
        for block in &self.blocks {
            if !(1..=FILTERS_MAX).contains(&block.filters) {
                return range("filters", format!("from 1 to {FILTERS_MAX}"), block.filters.to_string());
            }
            if block.kernel_size != 3 && block.kernel_size != 5 {
                return range("kernel_size", "3 or 5".into(), block.kernel_size.to_string());
            }
        }
        if !(0.0..1.0).contains(&self.head.dropout) {
            return range("dropout", "from 0 to below 1".into(), self.head.dropout.to_string());
        }
        if let Some(units) = self.head.fc_units.filter(|units| !(1..=FC_UNITS_MAX).contains(units)) {
            return range("fc_units", format!("from 1 to {FC_UNITS_MAX}, or \"none\""), units.to_string());
        }
        if !(1..=u32::from(crate::frontend::N_MFCC_MAX)).contains(&self.n_mfcc) {
            return range(
                "n_mfcc",
                format!("from 1 to {}", crate::frontend::N_MFCC_MAX),
                self.n_mfcc.to_string(),
            );
        }
        if !(1..=100_000).contains(&self.frames) {
            return range("frames", "from 1 to 100000".into(), self.frames.to_string());
        }
        if !(2..=65_535).contains(&self.classes) {
            return range("classes", "from 2 to 65535".into(), self.classes.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_costs_what_pytorch_counts() {
        // sum(p.numel() for p in model.parameters()) of the same model written in PyTorch, 13 × 431 and 50 classes.
        let cost = AudioCnn::reference(13, 431, 50).cost().unwrap();
        assert_eq!(cost.params, 160 + 4_640 + 657_472 + 3_250);
        assert_eq!(cost.macs, 144 * 13 * 431 + 4_608 * 6 * 215 + 657_408 + 3_200);
        assert_eq!(cost.int8_bytes, 144 + 4_608 + 657_408 + 3_200 + 4 * (16 + 32 + 64 + 50));
        assert_eq!(cost.peak_ram_bytes, 17 * 13 * 431);
    }

    #[test]
    fn blocks_that_pool_everything_away_are_refused() {
        let mut model = AudioCnn::reference(13, 431, 10);
        model.blocks = vec![Block { filters: 8, kernel_size: 3 }; 4];
        assert_eq!(model.cost(), Err(ModelError::PooledAway { block: 4, rows: 1, columns: 53 }));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let reference = AudioCnn::reference(13, 431, 10);
        let wrong = [
            ("dropout", AudioCnn { head: Head { dropout: 1.0, fc_units: None }, ..reference.clone() }),
            ("dropout", AudioCnn { head: Head { dropout: f64::NAN, fc_units: None }, ..reference.clone() }),
            ("fc_units", AudioCnn { head: Head { dropout: 0.0, fc_units: Some(0) }, ..reference.clone() }),
            (
                "kernel_size",
                AudioCnn { blocks: vec![Block { filters: 8, kernel_size: 4 }; 2], ..reference.clone() },
            ),
            (
                "filters",
                AudioCnn { blocks: vec![Block { filters: 0, kernel_size: 3 }; 2], ..reference.clone() },
            ),
            ("n_mfcc", AudioCnn { n_mfcc: 65, ..reference.clone() }),
            ("classes", AudioCnn { classes: 1, ..reference }),
        ];
        for (name, model) in wrong {
            let error = model.cost().unwrap_err();
            assert!(matches!(&error, ModelError::Range { name: found, .. } if *found == name), "{error}");
        }
    }
}
