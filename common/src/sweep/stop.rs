//! When trials are stopped before their last epoch or fold, as the sweep file says.

use serde::{Deserialize, Serialize};

use crate::ids::TrialId;

/// Which trials get more epochs, or more folds. Decided from what has been reported so far, without waiting for others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Stop {
    /// Asynchronous successive halving (Li et al. 2020, "A system for massively parallel hyperparameter tuning"): at each rung a
    /// trial is held, and the best of those that came there are promoted to the next, as slots are free.
    Asha(Halving),
    /// Asynchronous Hyperband (the same paper, section 3.3; Li et al. 2018): several halvings side by side, of which each starts
    /// a rung later than the one before.
    Hyperband(Halving),
    /// The median rule (Golovin et al. 2017, "Google Vizier"): a trial whose best so far is below the median of what the others
    /// had at that epoch is stopped for good.
    Median {
        /// Epochs before which none is stopped.
        min_epochs: u32,
        /// Others that have to have come that far before any is stopped.
        startup: u32,
    },
    /// Racing (Maron and Moore 1994; Birattari et al. 2002): a trial begins on the first fold and earns the others one by one, as
    /// long as a paired test does not find it behind the best trial.
    Race {
        /// Trials that train on every fold before any is stopped: what chance does is learnt from them.
        startup: u32,
        /// How sure the test has to be that it is behind, from 0.5 to below 1.
        confidence: f64,
    },
}

/// How trials are thinned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halving {
    /// Epochs of the first rung.
    pub min_epochs: u32,
    /// One in so many is promoted, and trains so many times the epochs.
    pub reduction: u32,
}

impl Stop {
    /// As it stands in the sweep file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asha(_) => "asha",
            Self::Hyperband(_) => "hyperband",
            Self::Median { .. } => "median",
            Self::Race { .. } => "race",
        }
    }

    /// Epochs before which no trial is stopped.
    pub fn min_epochs(self) -> u32 {
        match self {
            Self::Asha(Halving { min_epochs, .. })
            | Self::Hyperband(Halving { min_epochs, .. })
            | Self::Median { min_epochs, .. } => min_epochs,
            // A run is trained to its end.
            Self::Race { .. } => u32::MAX,
        }
    }

    /// The bracket of a trial, from 0: the number of rungs that it skips.
    pub fn bracket(self, trial: TrialId, epochs: u32) -> u32 {
        match self {
            Self::Hyperband(halving) => halving.bracket(trial, epochs),
            Self::Asha(_) | Self::Median { .. } | Self::Race { .. } => 0,
        }
    }

    /// Epochs at which a trial of this bracket is held, fewest first, all before the last of `epochs`.
    pub fn rungs(self, bracket: u32, epochs: u32) -> Vec<u32> {
        match self {
            Self::Asha(halving) | Self::Hyperband(halving) => {
                halving.rungs(epochs).skip(bracket as usize).collect()
            }
            Self::Median { .. } | Self::Race { .. } => Vec::new(),
        }
    }
}

impl Halving {
    fn rungs(self, epochs: u32) -> impl Iterator<Item = u32> {
        let next = move |rung: &u32| rung.checked_mul(self.reduction.max(2));
        std::iter::successors(Some(self.min_epochs.max(1)), next).take_while(move |&rung| rung < epochs)
    }

    /// Brackets take trials in proportion to the sizes that Hyperband gives them, evenly mixed: each trial's place is a step of
    /// the golden ratio further, round a circle that the brackets share.
    fn bracket(self, trial: TrialId, epochs: u32) -> u32 {
        /// 2⁶⁴ divided by the golden ratio.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let brackets = self.rungs(epochs).count() as u32 + 1;
        let sizes = (0..brackets).map(|bracket| {
            let halvings = brackets - 1 - bracket;
            let trials =
                u64::from(self.reduction).saturating_pow(halvings).saturating_mul(u64::from(brackets));
            u128::from(trials.div_ceil(u64::from(halvings) + 1))
        });
        let total: u128 = sizes.clone().sum();
        let mut place = (u128::from(u64::from(trial.0).wrapping_mul(STEP)) * total) >> 64;
        for (bracket, size) in (0..).zip(sizes) {
            if place < size {
                return bracket;
            }
            place -= size;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALVING: Halving = Halving { min_epochs: 3, reduction: 3 };

    #[test]
    fn rungs_grow_by_the_reduction_and_end_before_the_last_epoch() {
        let asha = Stop::Asha(HALVING);
        assert_eq!(asha.rungs(0, 81), [3, 9, 27]);
        assert_eq!(asha.rungs(0, 82), [3, 9, 27, 81]);
        assert!(asha.rungs(0, 3).is_empty());
        assert_eq!(Stop::Hyperband(HALVING).rungs(2, 81), [27]);
        assert!(Stop::Hyperband(HALVING).rungs(3, 81).is_empty());
    }

    #[test]
    fn brackets_have_hyperbands_sizes() {
        let hyperband = Stop::Hyperband(HALVING);
        let mut counts = [0_u32; 4];
        // 27, 12, 6 and 4 of each round, as in table 1 of the paper for four brackets.
        for trial in 0..4_900 {
            counts[hyperband.bracket(TrialId(trial), 81) as usize] += 1;
        }
        for (count, size) in counts.into_iter().zip([27, 12, 6, 4]) {
            assert!(count.abs_diff(100 * size) <= 2, "{counts:?}");
        }
        assert_eq!(hyperband.bracket(TrialId(5), 2), 0, "no rungs, one bracket");
    }
}
