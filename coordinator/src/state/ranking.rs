//! What makes a completed trial better than another.

use std::{cmp::Ordering, collections::BTreeMap};

use earshot_common::{ids::TrialId, job::Epoch, sweep::Objective};
use serde::{Serialize, Serializer};

use super::trial::{Run, Trial};

/// Means over a trial's runs, each at its best epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanMetrics {
    /// Accuracy, from 0 to 1.
    pub accuracy: f64,
    /// Macro-F1, from 0 to 1.
    pub macro_f1: f64,
    /// Validation loss.
    pub loss: f64,
    /// The best epoch.
    pub epoch: f64,
    /// Accuracy in int8, from 0 to 1; none where it was not measured.
    pub int8_accuracy: Option<f64>,
}

impl MeanMetrics {
    /// Of a trial whose runs have all completed.
    pub(super) fn of(trial: &Trial) -> Option<Self> {
        let best = |run: &Run| run.completed().map(|(_, epoch)| epoch);
        Self::over(&trial.runs.values().map(best).collect::<Option<Vec<_>>>()?)
    }

    /// Of a trial whose runs have all come to this epoch or completed before, as if they had ended with it.
    pub(super) fn at(trial: &Trial, epoch: u32) -> Option<Self> {
        let best = |run: &Run| match run.completed() {
            Some((_, best)) => Some(best),
            None => run.best_by(epoch as usize),
        };
        Self::over(&trial.runs.values().map(best).collect::<Option<Vec<_>>>()?)
    }

    /// Of a trial that was stopped, over the runs that were begun.
    pub(super) fn so_far(trial: &Trial) -> Option<Self> {
        let best =
            |run: &Run| run.completed().map(|(_, best)| best).or_else(|| run.best_by(run.epochs.len()));
        Self::over(&trial.runs.values().filter_map(best).collect::<Vec<_>>())
    }

    /// Over these epochs, one of each run.
    pub(super) fn over(epochs: &[Epoch]) -> Option<Self> {
        let mean = |metric: fn(&Epoch) -> f64| epochs.iter().map(metric).sum::<f64>() / epochs.len() as f64;
        let is_measured = epochs.iter().all(|epoch| epoch.int8_accuracy.is_some());
        (!epochs.is_empty()).then(|| Self {
            accuracy: mean(|epoch| epoch.accuracy),
            macro_f1: mean(|epoch| epoch.macro_f1),
            loss: mean(|epoch| epoch.loss),
            epoch: mean(|epoch| f64::from(epoch.epoch)),
            int8_accuracy: is_measured.then(|| mean(|epoch| epoch.int8_accuracy.unwrap_or_default())),
        })
    }

    /// What the objective makes of them: the larger the better.
    pub fn score(&self, objective: Objective) -> f64 {
        match objective {
            Objective::Accuracy => self.accuracy,
            Objective::MacroF1 => self.macro_f1,
            Objective::Loss => -self.loss,
            // As in Objective::score.
            Objective::Int8Accuracy => self.int8_accuracy.unwrap_or(f64::NEG_INFINITY),
        }
    }
}

/// Completed trials, the best first: by the objective's mean over runs, then by lower loss, then by lower number. Kept in
/// order as trials complete, so that a look at the first few costs the same whatever the sweep's size; and with their means,
/// which do not change any more, so that a look at all of them need not go through their epochs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Ranking {
    #[serde(serialize_with = "places_alone")]
    places: BTreeMap<Place, MeanMetrics>,
}

/// Means follow from the trials, which are written beside.
fn places_alone<S: Serializer>(
    places: &BTreeMap<Place, MeanMetrics>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(places.keys())
}

/// A trial's place among others: the best is the least.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Place {
    pub(super) score: f64,
    pub(super) loss: f64,
    pub(super) trial: TrialId,
}

impl Ranking {
    pub(super) fn enter(&mut self, id: TrialId, mean: MeanMetrics, objective: Objective) {
        self.places.insert(Place { score: mean.score(objective), loss: mean.loss, trial: id }, mean);
    }

    pub(super) fn trials(&self) -> impl Iterator<Item = (TrialId, MeanMetrics)> {
        self.places.iter().map(|(place, &mean)| (place.trial, mean))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.loss.total_cmp(&other.loss)).then(self.trial.cmp(&other.trial))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}
