//! A sweep whose trials race: each begins on the first fold, and earns the others.

use std::collections::BTreeMap;

use earshot_common::{
    ids::{FoldId, RunId, TrialId},
    sweep::Stop,
};

use super::SweepState;
use crate::state::{
    judgement::{Basis, Judged, Judgement},
    spread::student_below,
    trial::{Run, RunStatus, Trial},
};

impl SweepState {
    /// How a run of a new trial begins: where trials race, on the first fold alone.
    pub(super) fn first_status(&self, is_first_fold: bool) -> RunStatus {
        match self.sweep.stop {
            Some(Stop::Race { .. }) if !is_first_fold => RunStatus::Held,
            _ => RunStatus::Waiting,
        }
    }

    /// A trial of a race has completed a fold: it earns the next one, or not.
    pub(super) fn race(&mut self, id: TrialId, startup: u32, confidence: f64) {
        let Some(trial) = self.trial(id) else { return };
        let Some(next) = next_fold(trial) else { return };
        let scores = self.scores(trial);
        let epoch =
            trial.runs.values().filter_map(Run::completed).map(|(result, _)| result.best_epoch).next_back();
        let score = self.spread.adjusted(&scores);
        let score = score.unwrap_or_else(|| scores.values().sum::<f64>() / scores.len().max(1) as f64);
        let basis = if self.spread.trials() < startup { Basis::Early } else { self.behind(&scores) };
        let is_behind = matches!(basis, Basis::Race { behind, .. } if behind > confidence);
        let verdict = if is_behind { Judged::Stopped } else { Judged::GoesOn };
        let judgement = Judgement { epoch: epoch.unwrap_or(0), score, verdict, basis };
        if let Some(trial) = self.trials.get_mut(id.0 as usize) {
            trial.judgements.push(judgement);
        }
        if !is_behind {
            self.change(RunId { sweep: self.id, trial: id, fold: next }, |run| {
                run.status = RunStatus::Waiting;
            });
            self.waiting.insert((id, next));
        }
    }

    /// A trial's score on every fold that it has completed.
    pub(super) fn scores(&self, trial: &Trial) -> BTreeMap<FoldId, f64> {
        let objective = self.sweep.objective;
        let completed = trial.runs.iter().filter_map(|(&fold, run)| Some((fold, run.completed()?.1)));
        completed.map(|(fold, epoch)| (fold, objective.score(&epoch))).collect()
    }

    /// How sure it is that a trial with these scores is behind the best one: a paired test on the folds that both had, with the
    /// variance that all trials on all folds show.
    fn behind(&self, scores: &BTreeMap<FoldId, f64>) -> Basis {
        let best = self.ranking.trials().next().and_then(|(id, _)| Some((id, self.trial(id)?)));
        let (Some((best, trial)), Some(variance)) = (best, self.spread.variance()) else {
            return Basis::Early;
        };
        let others = self.scores(trial);
        let differences = scores.iter().filter_map(|(fold, score)| Some(score - others.get(fold)?));
        let differences: Vec<f64> = differences.collect();
        let folds = differences.len() as f64;
        let difference = differences.iter().sum::<f64>() / folds;
        let error = (2.0 * variance / folds).sqrt();
        let behind = if error > 0.0 {
            1.0 - student_below(difference / error, self.spread.freedom())
        } else {
            // Where nothing is left to chance, a difference is one.
            f64::from(u8::from(difference < 0.0))
        };
        Basis::Race { best, folds: differences.len() as u32, difference, behind }
    }
}

/// The first fold that a trial has not begun, if it has completed all that it has.
fn next_fold(trial: &Trial) -> Option<FoldId> {
    let is_at_work =
        |run: &Run| matches!(run.status, RunStatus::Waiting | RunStatus::Leased(_) | RunStatus::Failed);
    if trial.runs.values().any(is_at_work) {
        return None;
    }
    trial.runs.iter().find(|(_, run)| run.status == RunStatus::Held).map(|(&fold, _)| fold)
}
