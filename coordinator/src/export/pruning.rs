//! Pruning, as an export sees it: which of the champion's models is exported, and what the others are like.

use earshot_common::{
    job::Epoch,
    metrics::ClassScores,
    model::{AudioCnn, Cost},
    sweep::Gates,
};
use serde::Serialize;

use super::{
    Champion, ExportError, Features, Forward, change,
    score::{Scored, Scores},
    sensitivity::{self, Sensitivity},
};

/// What came of a sweep's pruning.
#[derive(Debug, Clone)]
pub struct Pruning {
    /// The champion before the first step.
    pub whole: Whole,
    /// Every step that was trained, in their order.
    pub steps: Vec<PruningStep>,
    /// The step that is exported; none: the champion as it was.
    pub exported: Option<u32>,
    /// Why that one.
    pub reason: String,
}

/// The champion before the first step.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its spec.
    pub model: AudioCnn,
    /// Blob: its weights.
    pub checkpoint: Vec<u8>,
    /// The epoch whose weights these are.
    pub best: Epoch,
}

/// A step that was trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PruningStep {
    /// From 1.
    pub step: u32,
    /// On the validation part, by the worker.
    pub accuracy: f64,
    /// Exact.
    pub cost: Cost,
    /// What was removed and why, in words.
    pub why: String,
}

/// Chooses what is exported: of the steps whose validation accuracy is no further below the whole champion's than the gates allow the last,
/// which is the smallest; without one, the champion as it was. `ended` says why no further step was cut, if one could not be.
pub fn choose(
    whole: &Epoch,
    steps: &[PruningStep],
    gates: &Gates,
    is_unpruned_wanted: bool,
    ended: &str,
) -> (Option<u32>, String) {
    let drop = |step: &PruningStep| whole.accuracy - step.accuracy;
    let changes = |step: &PruningStep| change(drop(step));
    let is_allowed = |step: &&PruningStep| gates.allows(drop(step));
    let ended = if ended.is_empty() { String::new() } else { format!("; no further step: {ended}") };
    let Some(last) = steps.last() else {
        let why =
            if is_unpruned_wanted { "as asked for, unpruned" } else { "no step of pruning was trained" };
        return (None, format!("{why}{ended}"));
    };
    if is_unpruned_wanted {
        return (None, format!("as asked for, unpruned; step {} {}", last.step, changes(last)));
    }
    match steps.iter().rev().find(is_allowed) {
        Some(step) if step.step == last.step => {
            (Some(step.step), format!("step {} of pruning {}{ended}", step.step, changes(step)))
        }
        Some(step) => {
            let reason = format!(
                "step {} of pruning {}; step {} {}, more than max_drop allows",
                step.step,
                changes(step),
                last.step,
                changes(last)
            );
            (Some(step.step), reason)
        }
        None => {
            let least = steps.first().map(changes).unwrap_or_default();
            (None, format!("unpruned: already step 1 of pruning {least}, more than max_drop allows"))
        }
    }
}

/// What an export finds out about the champion before the first step.
pub(super) struct Measured {
    pub(super) scored: Scored,
    sensitivity: Vec<Sensitivity>,
}

/// The part of `report.json` about pruning.
#[derive(Debug, Serialize)]
pub(super) struct PruningReport<'a> {
    /// The step that is exported; none: the champion as it was.
    pub(super) exported: Option<u32>,
    pub(super) reason: &'a str,
    pub(super) steps: &'a [PruningStep],
    /// Before the first step, in float.
    pub(super) whole: WholeReport,
    /// What each layer alone can lose without training.
    pub(super) sensitivity: &'a [Sensitivity],
}

/// The champion before the first step.
#[derive(Debug, Serialize)]
pub(super) struct WholeReport {
    pub(super) cost: Cost,
    pub(super) validation: Scores,
    pub(super) test: Option<Scores>,
    /// By class index, on the reported part.
    pub(super) classes: Vec<ClassScores>,
}

impl Measured {
    /// Scores the whole champion, and scans its layers.
    ///
    /// # Errors
    /// Its checkpoint is another model's, or tract fails.
    pub(super) fn new(champion: &Champion, features: &Features) -> Result<Option<Self>, ExportError> {
        let (Some(pruning), Some(prune)) = (&champion.pruning, champion.sweep.prune) else { return Ok(None) };
        let Whole { model, checkpoint, .. } = &pruning.whole;
        let split = &champion.split;
        let forward = Forward::new(model, checkpoint)?;
        let test = (!split.test.is_empty()).then(|| forward.confusion(features, &split.test)).transpose()?;
        let scored = Scored { validation: forward.confusion(features, &split.validation)?, test };
        let sensitivity =
            sensitivity::scan(model, checkpoint, prune.importance, features, &split.validation)?;
        Ok(Some(Self { scored, sensitivity }))
    }

    /// As the report tells it.
    pub(super) fn report<'a>(&'a self, pruning: &'a Pruning) -> PruningReport<'a> {
        let reported = self.scored.reported();
        PruningReport {
            exported: pruning.exported,
            reason: &pruning.reason,
            steps: &pruning.steps,
            whole: WholeReport {
                // It was trained, so its spec can be built.
                cost: pruning.whole.model.cost().unwrap_or_default(),
                validation: Scores::of(&self.scored.validation),
                test: self.scored.test.as_ref().map(Scores::of),
                classes: (0..reported.classes()).map(|class| reported.class_scores(class)).collect(),
            },
            sensitivity: &self.sensitivity,
        }
    }
}

impl WholeReport {
    /// Scores on the reported part.
    pub(super) fn reported(&self) -> Scores {
        self.test.unwrap_or(self.validation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accuracies: &[f64], max_drop: Option<f64>, expected: Option<u32>, reason: &str) {
        let whole =
            Epoch { epoch: 1, train_loss: 0.0, loss: 0.0, accuracy: 0.9, macro_f1: 0.9, int8_accuracy: None };
        let step = |(step, &accuracy): (u32, &f64)| PruningStep {
            step,
            accuracy,
            cost: Cost::default(),
            why: String::new(),
        };
        let steps: Vec<PruningStep> = (1..).zip(accuracies).map(step).collect();
        let gates = Gates { max_drop, ..Gates::default() };
        let (exported, why) = choose(&whole, &steps, &gates, false, "");
        assert!(exported == expected && why.contains(reason), "{exported:?} {why}");
        assert_eq!(choose(&whole, &steps, &gates, true, "").0, None);
    }

    #[test]
    fn the_smallest_that_loses_little_is_exported() {
        check(&[0.91, 0.89, 0.7], None, Some(3), "loses 20.00 points");
        check(&[0.91, 0.89, 0.895], Some(0.01), Some(3), "loses 0.50 points");
        check(
            &[0.91, 0.89, 0.7],
            Some(0.02),
            Some(2),
            "step 3 loses 20.00 points of validation accuracy, more",
        );
        check(&[0.5, 0.4], Some(0.02), None, "already step 1 of pruning loses 40.00 points");
        check(&[0.89, 0.92], Some(0.02), Some(2), "step 2 of pruning gains 2.00 points");
        check(&[], Some(0.02), None, "no step");
    }
}
