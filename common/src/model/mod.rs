//! The model spec: which AudioCNN to build, as data, with its exact cost before any training.
//!
//! - [`AudioCnn`] here: what a spec says, and which specs can be built.
//! - [`step`]: the spec walked from the input to the logits, with the shapes that flow.
//! - [`cost`]: what it costs on a device.
//! - [`input`]: the inverse DCT before a model on mel bands.
//!
//! The worker builds it in tch, the exporter walks it into ONNX; both must agree with the counts here, and tests hold them
//! to it.

pub mod cost;
pub mod input;
pub mod step;

use serde::{Deserialize, Serialize};

pub use self::{
    cost::Cost,
    step::{Conv2d, Layer, Linear, Operation, Pool, Reduce, Step},
};

/// Blocks a model has at least and at most.
pub const BLOCKS: std::ops::RangeInclusive<usize> = 2..=5;
/// Filters of a block at most: more would not fit the devices this is for.
pub const FILTERS_MAX: u32 = 1024;
/// Units of the hidden layer at most.
pub const FC_UNITS_MAX: u32 = 4096;
/// Added to the variance in batch norm: `torch.nn.BatchNorm2d`'s `eps`.
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// A convolutional classifier over features of shape `(batch, 1, n_mfcc, frames)`.
///
/// The input is standardised per row with statistics of the training clips, which travel in the checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AudioCnn {
    /// What the rows of the first block's input are.
    #[serde(default)]
    pub input: Input,
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

/// What the rows of the first block's input are. A device feeds MFCCs either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The MFCCs.
    #[default]
    Mfcc,
    /// `n_mfcc` mel bands, turned back from as many MFCCs by the inverse DCT: see [`input::inverse_dct`].
    Mel,
}

/// Convolution with "same" padding, batch norm if wanted, ReLU, and 2×2 pooling with stride 2 (an odd last row or column is
/// dropped).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Output channels.
    pub filters: u32,
    /// Height and width of the kernel: 3 or 5.
    pub kernel_size: u32,
    /// One convolution or two.
    #[serde(default)]
    pub convolution: Convolution,
    /// Whether each convolution is followed by batch norm instead of having a bias.
    #[serde(default)]
    pub batch_norm: bool,
    /// What stands for a 2×2 square.
    #[serde(default)]
    pub pooling: Pooling,
}

/// How a block gets from its channels to its filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convolution {
    /// One kernel for each pair of channel and filter.
    #[default]
    Ordinary,
    /// One kernel for each channel, ReLU, then a 1×1 convolution (Howard et al. 2017, arXiv:1704.04861, figure 3).
    DepthwiseSeparable,
}

/// What stands for a 2×2 square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Its largest value.
    #[default]
    Max,
    /// The mean of its values.
    Average,
}

/// The last block's maps reduced to features, dropout, an optional hidden layer with ReLU, and the classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// How maps become features.
    #[serde(default)]
    pub reduction: Reduction,
    /// Probability that a feature is zeroed in training.
    pub dropout: f64,
    /// Units of the hidden layer; none: features go straight to the classes.
    pub fc_units: Option<u32>,
}

/// How the last block's maps become features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Every element is one.
    #[default]
    Flatten,
    /// The mean of each map.
    Mean,
    /// The mean of each map, then the largest value of each.
    MeanMax,
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

impl Block {
    /// An ordinary convolution with bias and max pooling, as the reference has.
    pub fn new(filters: u32, kernel_size: u32) -> Self {
        Self {
            filters,
            kernel_size,
            convolution: Convolution::default(),
            batch_norm: false,
            pooling: Pooling::default(),
        }
    }
}

impl AudioCnn {
    /// The reference model: 16 and 32 filters of 3×3, dropout 0.3, 64 hidden units.
    pub fn reference(n_mfcc: u32, frames: u32, classes: u32) -> Self {
        Self {
            input: Input::default(),
            n_mfcc,
            frames,
            blocks: vec![Block::new(16, 3), Block::new(32, 3)],
            head: Head { reduction: Reduction::default(), dropout: 0.3, fc_units: Some(64) },
            classes,
        }
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
mod tests;
