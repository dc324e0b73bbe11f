//! How a space is searched, as the sweep file says.

use serde::{Deserialize, Serialize};

/// How the space is searched. The methods themselves are the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
// The log has called it so from its first format on.
#[serde(tag = "algorithm", rename_all = "snake_case")]
pub enum Search {
    /// Every point once.
    Grid {
        /// In an order drawn from the sweep's seed, instead of the space's.
        #[serde(default, skip_serializing_if = "is_false")]
        shuffle: bool,
    },
    /// Points drawn evenly, each without regard to the others but that none comes twice.
    Random,
    /// Points of Sobol's sequence, scrambled: more evenly spread than drawn ones.
    Sobol,
    /// The tree-structured Parzen estimator.
    Tpe {
        /// Trials that have to end before results are heeded; until then points are Sobol's.
        startup: u32,
        /// Points that are weighed against each other for a proposal.
        candidates: u32,
    },
    /// Bayesian optimisation with a Gaussian process.
    Bayes {
        /// As for the estimator.
        startup: u32,
        /// Whether it learns from the scores at every rung, and how far a trial had trained then; since log format 8.
        #[serde(default, skip_serializing_if = "is_false")]
        rungs: bool,
    },
}

impl Search {
    /// Whether what it proposes depends on what trials came to.
    pub fn heeds_results(self) -> bool {
        matches!(self, Self::Tpe { .. } | Self::Bayes { .. })
    }

    /// As it stands in the sweep file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid { .. } => "grid",
            Self::Random => "random",
            Self::Sobol => "sobol",
            Self::Tpe { .. } => "tpe",
            Self::Bayes { .. } => "bayes",
        }
    }
}

/// What is not asked for is written as before it could be.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
