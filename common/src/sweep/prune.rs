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
    /// How much of it is learnt from the champion before the first step; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<Distil>,
}

/// Distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531): a part of the loss is how far the predictions are from a
/// teacher's, both softened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distil {
    /// That part, above 0 and at most 1; the labels have the rest.
    pub weight: f64,
    /// What logits are divided by.
    pub temperature: f64,
}

impl Distil {
    /// What is out of its range, if anything.
    pub fn out_of_range(self) -> Option<&'static str> {
        let ranges = [
            ("weight", self.weight > 0.0 && self.weight <= 1.0),
            ("temperature", (0.1..=100.0).contains(&self.temperature)),
        ];
        ranges.into_iter().find(|(_, is_right)| !is_right).map(|(name, _)| name)
    }
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
