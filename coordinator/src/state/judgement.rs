//! What was decided about a trial on the way, and by what.

use earshot_common::ids::TrialId;
use serde::Serialize;

/// One decision about whether a trial gets more epochs or folds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Judgement {
    /// The epoch after which it was judged; in a race its best one on the newest fold.
    pub epoch: u32,
    /// What the objective made of it until then: the larger the better.
    pub score: f64,
    /// What was decided.
    pub verdict: Judged,
    /// By what.
    pub basis: Basis,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// To train on at once.
    GoesOn,
    /// To wait at the rung.
    Held,
    /// To go on after having been held.
    Promoted,
    /// To train no more.
    Stopped,
}

/// What a decision rests on, as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Basis {
    /// The trials that had come to the rung, itself included.
    Rung {
        /// How many.
        came: u32,
        /// How many of these may go on.
        places: u32,
        /// How many went on before.
        promoted: u32,
        /// The best score of those that wait.
        best: f64,
    },
    /// The best trial, on the folds that both had.
    Race {
        /// Which.
        best: TrialId,
        /// How many folds.
        folds: u32,
        /// The mean difference from it.
        difference: f64,
        /// How sure it is that it is behind, from 0 to 1.
        behind: f64,
    },
    /// Too few trials had every fold to judge it.
    Early,
    /// The others' bests at that epoch.
    Median {
        /// How many.
        others: u32,
        /// Their median.
        median: f64,
    },
}
