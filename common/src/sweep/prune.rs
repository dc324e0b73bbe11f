//! How the champion is made smaller once all trials have ended.

use serde::{Deserialize, Serialize};

/// Pruning of the champion: whole filters and hidden units are removed in steps, each followed by a run that trains what is left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prune {
    /// What tells a filter that is worth keeping from one that is not.
    pub importance: Importance,
    /// How far it goes.
    pub target: Target,
    /// Steps on the way there, each removing the same part of what is left.
    pub steps: u32,
    /// Filters and units that a pruned layer keeps are a multiple of this; at least one multiple.
    pub multiple_of: u32,
    /// Passes over the training part after each step.
    pub epochs: u32,
}

/// What tells a filter that is worth keeping from one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// |γ| of its batch norm (Liu et al. 2017, arXiv:1708.06519). Hidden units have none and stay.
    BatchNorm,
    /// The L2 norm of its weights, batch norm folded into them.
    Magnitude,
    /// What the loss would change by without it, to first order (Molchanov et al. 2019, arXiv:1906.10771), as training came to
    /// know it.
    Taylor,
}

impl Importance {
    /// As it stands in the sweep file.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchNorm => "batch_norm",
            Self::Magnitude => "magnitude",
            Self::Taylor => "taylor",
        }
    }
}

/// How far pruning goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// KiB of the int8 weights at most.
    Int8Kib(f64),
    /// Multiply-accumulates of one clip at most.
    Macs(u64),
    /// Part of the filters and hidden units that is removed at least.
    Ratio(f64),
}
