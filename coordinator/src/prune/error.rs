//! Why a network is not pruned.

use earshot_common::{model::ModelError, tensors::TensorsError};

/// Why a network is not pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The weights are not those of the spec.
    #[error("the weights do not belong to the model")]
    Tensors(#[from] TensorsError),
    /// The spec cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is no γ to go by.
    #[error(
        "importance = \"batch_norm\" needs batch norm in every block, and block {block} has none; set space.batch_norm = true or \
         prune by \"magnitude\" or \"taylor\""
    )]
    NoBatchNorm {
        /// From 1.
        block: usize,
    },
    /// Training did not keep them.
    #[error(
        "the checkpoint does not say what its filters are worth to the loss (tensor {0:?} is missing): it was trained without \
         importance = \"taylor\""
    )]
    NoTaylor(String),
    /// Every layer is down to one multiple before the target is met.
    #[error(
        "the target {target} cannot be met: with one multiple of {multiple_of} in every layer that can be pruned it is still {least}; \
         raise the target or lower prune.multiple_of"
    )]
    OutOfReach {
        /// What was wanted.
        target: f64,
        /// The least that is possible.
        least: f64,
        /// The multiple.
        multiple_of: u32,
    },
}
