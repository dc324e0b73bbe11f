//! The leaderboard, in two halves: what is read from the state, and what is made of it for people. The engine's thread, on which
//! workers wait, does the first alone.

use std::sync::Arc;

use earshot_common::{
    ids::TrialId,
    model::Cost,
    sweep::{Objective, Point},
};
use earshot_proto::earshot::v1 as proto;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{ViewError, assignments, find};
use crate::state::{Estimate, MeanMetrics, State, SweepState};

/// Completed trials, the best first, as they stood when they were read.
#[derive(Debug, Clone)]
pub struct Board {
    sweep: String,
    objective: Objective,
    minimise: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    rank: u32,
    trial: TrialId,
    mean: MeanMetrics,
    runs: u32,
    cost: Cost,
    point: Arc<Point>,
    estimate: Option<Estimate>,
}

/// Of which completed trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All of them.
    All,
    /// Those on the front: no other scores as well and costs as little, and is better in something.
    Front,
}

impl Board {
    /// Reads a sweep's completed trials, `top` at most; 0: all.
    ///
    /// # Errors
    /// As [`find`].
    pub fn read(state: &State, name: Option<&str>, top: u32, among: Among) -> Result<Self, ViewError> {
        let (_, sweep) = find(state, name)?;
        Ok(match among {
            Among::All => Self::of(sweep, top, |_| true),
            Among::Front => {
                let front = sweep.front();
                Self::of(sweep, top, |id| front.contains(&id))
            }
        })
    }

    fn of(sweep: &SweepState, top: u32, is_shown: impl Fn(TrialId) -> bool) -> Self {
        let most = if top == 0 { usize::MAX } else { top as usize };
        let ranked = (1..).zip(sweep.ranking()).filter(|(_, (id, ..))| is_shown(*id)).take(most);
        let rows = ranked.map(|(rank, (id, trial, mean))| Row {
            rank,
            trial: id,
            mean,
            runs: trial.runs.len() as u32,
            cost: trial.cost,
            point: Arc::clone(&trial.point),
            estimate: sweep.estimate(mean),
        });
        let named = sweep.sweep();
        Self {
            sweep: named.name.clone(),
            objective: named.objective,
            minimise: named.minimise.iter().map(|cost| cost.name().to_owned()).collect(),
            rows: rows.collect(),
        }
    }

    /// As it is shown.
    pub fn message(self) -> proto::Leaderboard {
        let Self { sweep, objective, minimise, rows } = self;
        let rows = rows.into_par_iter().map(|row| row.message(objective)).collect();
        proto::Leaderboard { sweep, objective: objective.name().to_owned(), minimise, rows }
    }
}

impl Row {
    fn message(self, objective: Objective) -> proto::LeaderboardRow {
        let Self { rank, trial, mean, runs, cost, point, estimate } = self;
        proto::LeaderboardRow {
            rank,
            trial: trial.0,
            accuracy: mean.accuracy,
            macro_f1: mean.macro_f1,
            loss: mean.loss,
            epoch: mean.epoch.ceil() as u32,
            runs,
            params: cost.params,
            macs: cost.macs,
            int8_kib: cost.int8_kib(),
            peak_ram_kib: cost.peak_ram_kib(),
            point: assignments(&point),
            standard_error: estimate.map(|estimate| estimate.standard_error),
            int8_accuracy: mean.int8_accuracy,
            corrected: estimate.map(|estimate| objective.shown(estimate.corrected)),
        }
    }
}
