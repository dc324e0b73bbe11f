//! The spec walked from the input to the logits: what is computed, under which name, on which shapes.

use super::{AudioCnn, Block, Convolution, ModelError, Pooling, Reduction};

/// One thing that happens to the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A layer with weights.
    Layer(Layer),
    /// 2×2 pooling.
    Pool(Pool),
    /// Maps become features; dropout follows.
    Reduce(Reduce),
}

/// A layer with weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Prefix of its tensors' names in checkpoints and exported graphs.
    pub name: String,
    /// What it computes.
    pub operation: Operation,
}

/// What a layer with weights computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Convolution, batch norm if wanted, ReLU.
    Conv2d(Conv2d),
    /// The hidden layer: fully connected, then ReLU.
    Hidden(Linear),
    /// Fully connected, to the logits.
    Logits(Linear),
}

/// A convolution with "same" padding and stride 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Channels, rows and columns that enter.
    pub input: [u32; 3],
    /// Channels that leave.
    pub filters: u32,
    /// Height and width of the kernel.
    pub kernel_size: u32,
    /// 1, or as many as there are channels, each with a filter of its own.
    pub groups: u32,
    /// Whether batch norm follows instead of a bias.
    pub batch_norm: bool,
}

/// A fully connected layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Features that enter.
    pub input: u32,
    /// Features that leave.
    pub output: u32,
}

/// 2×2 pooling with stride 2; an odd last row or column is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Of its output in exported graphs.
    pub name: String,
    /// Largest or mean.
    pub pooling: Pooling,
}

/// Maps to features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduce {
    /// Of its output in exported graphs.
    pub name: String,
    /// How.
    pub reduction: Reduction,
    /// Features that leave.
    pub features: u32,
}

impl Step {
    /// Whether int8 holds what leaves it with a scale of its own. What only moves numbers or picks the largest keeps the scale
    /// of what enters, a mean beside maxima shares theirs, and logits stay float.
    pub fn has_scale(&self) -> bool {
        match self {
            Self::Layer(layer) => layer.operation.has_scale(),
            Self::Pool(pool) => pool.has_scale(),
            Self::Reduce(reduce) => reduce.has_scale(),
        }
    }
}

impl Pool {
    /// As [`Step::has_scale`].
    pub fn has_scale(&self) -> bool {
        self.pooling == Pooling::Average
    }
}

impl Reduce {
    /// As [`Step::has_scale`].
    pub fn has_scale(&self) -> bool {
        self.reduction == Reduction::Mean
    }
}

impl Operation {
    /// As [`Step::has_scale`].
    pub fn has_scale(&self) -> bool {
        !matches!(self, Self::Logits(_))
    }

    /// Extents of the weights, output channels first.
    pub fn weight_shape(&self) -> Vec<usize> {
        match *self {
            Self::Conv2d(Conv2d { input: [channels, ..], filters, kernel_size, groups, .. }) => {
                [filters, channels / groups.max(1), kernel_size, kernel_size]
                    .map(|extent| extent as usize)
                    .to_vec()
            }
            Self::Hidden(Linear { input, output }) | Self::Logits(Linear { input, output }) => {
                vec![output as usize, input as usize]
            }
        }
    }

    /// How many weights there are.
    pub fn weights(&self) -> usize {
        self.weight_shape().iter().product()
    }

    /// One for each output channel; batch norm, folded, leaves as many.
    pub fn biases(&self) -> usize {
        match *self {
            Self::Conv2d(Conv2d { filters, .. }) => filters as usize,
            Self::Hidden(Linear { output, .. }) | Self::Logits(Linear { output, .. }) => output as usize,
        }
    }

    /// Places at which every weight is used.
    pub(super) fn positions(&self) -> u64 {
        match *self {
            Self::Conv2d(Conv2d { input: [_, rows, columns], .. }) => u64::from(rows) * u64::from(columns),
            Self::Hidden(_) | Self::Logits(_) => 1,
        }
    }

    /// Elements that enter and leave.
    pub fn elements(&self) -> u64 {
        match *self {
            Self::Conv2d(Conv2d { input: [channels, ..], filters, .. }) => {
                (u64::from(channels) + u64::from(filters)) * self.positions()
            }
            Self::Hidden(Linear { input, output }) | Self::Logits(Linear { input, output }) => {
                u64::from(input) + u64::from(output)
            }
        }
    }
}

impl AudioCnn {
    /// Activations that int8 holds with a scale of their own: the standardised input's and what leaves steps.
    ///
    /// # Errors
    /// As [`AudioCnn::steps`].
    pub fn scales(&self) -> Result<usize, ModelError> {
        Ok(1 + self.steps()?.iter().filter(|step| step.has_scale()).count())
    }

    /// Everything from the (standardised) input to the logits, in order.
    ///
    /// # Errors
    /// The first number out of range, or the block that pools everything away.
    pub fn steps(&self) -> Result<Vec<Step>, ModelError> {
        self.check_ranges()?;
        let mut steps = Vec::new();
        let mut shape = [1, self.n_mfcc, self.frames];
        for (index, block) in self.blocks.iter().enumerate() {
            let [_, rows, columns] = shape;
            if rows < 2 || columns < 2 {
                return Err(ModelError::PooledAway { block: index + 1, rows, columns });
            }
            let name = format!("blocks.{index}");
            steps.extend(convolutions(&name, *block, shape).map(Step::Layer));
            steps.push(Step::Pool(Pool { name: format!("{name}.pooled"), pooling: block.pooling }));
            shape = [block.filters, rows / 2, columns / 2];
        }
        let reduce = reduce(self.head.reduction, shape);
        let mut input = reduce.features;
        steps.push(Step::Reduce(reduce));
        let layer = |name: &str, operation| Step::Layer(Layer { name: name.to_owned(), operation });
        if let Some(output) = self.head.fc_units {
            steps.push(layer("head.fc", Operation::Hidden(Linear { input, output })));
            input = output;
        }
        steps.push(layer("head.out", Operation::Logits(Linear { input, output: self.classes })));
        Ok(steps)
    }

    /// The steps with weights.
    ///
    /// # Errors
    /// As [`AudioCnn::steps`].
    pub fn layers(&self) -> Result<Vec<Layer>, ModelError> {
        let layer = |step| match step {
            Step::Layer(layer) => Some(layer),
            Step::Pool(_) | Step::Reduce(_) => None,
        };
        Ok(self.steps()?.into_iter().filter_map(layer).collect())
    }
}

/// A block's one or two convolutions over maps of this shape.
fn convolutions(
    name: &str,
    block: Block,
    [channels, rows, columns]: [u32; 3],
) -> impl Iterator<Item = Layer> {
    let conv2d = |name: String, channels, filters, kernel_size, groups| Layer {
        name,
        operation: Operation::Conv2d(Conv2d {
            input: [channels, rows, columns],
            filters,
            kernel_size,
            groups,
            batch_norm: block.batch_norm,
        }),
    };
    let Block { filters, kernel_size, .. } = block;
    let layers = match block.convolution {
        Convolution::Ordinary => [Some(conv2d(name.to_owned(), channels, filters, kernel_size, 1)), None],
        Convolution::DepthwiseSeparable => [
            Some(conv2d(format!("{name}.depthwise"), channels, channels, kernel_size, channels)),
            Some(conv2d(format!("{name}.pointwise"), channels, filters, 1, 1)),
        ],
    };
    layers.into_iter().flatten()
}

fn reduce(reduction: Reduction, [channels, rows, columns]: [u32; 3]) -> Reduce {
    let (name, features) = match reduction {
        Reduction::Flatten => ("flat", channels * rows * columns),
        Reduction::Mean => ("mean", channels),
        Reduction::MeanMax => ("mean_max", 2 * channels),
    };
    Reduce { name: name.to_owned(), reduction, features }
}
