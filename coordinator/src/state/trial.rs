//! Trials, their runs, and the attempts at them.
//!
//! A run's life:
//!
//! ```text
//!            asked                     finished
//!  waiting ──────────▶ leased(token) ───────────▶ completed
//!   ▲   ▲                 │     │
//!   │   │ expired, left,  │     │ at a rung where it is not among the best
//!   │   └─ failed ────────┤     └──────────────────────────────▶ held
//!   │     (retryable)     │ diverged, or attempts used up         │
//!   │                     └──────────────────────▶ failed         │ promoted
//!   └─────────────────────────────────────────────────────────────┘
//! ```

use std::{collections::BTreeMap, sync::Arc};

use earshot_common::{
    ids::{BlobId, FoldId, Token, WorkerId},
    int8::Range,
    job::{Epoch, Failure, Reason, RunResult},
    model::{AudioCnn, Cost},
    sweep::{Objective, Point},
};
use serde::{Serialize, Serializer};

use super::{event::Refusal, judgement::Judgement, ranking::MeanMetrics, thinning::best_so_far};
use crate::search::Why;

/// One point of the space.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Its hyperparameters, which whoever shows many trials shares.
    #[serde(serialize_with = "as_point")]
    pub point: Arc<Point>,
    /// Why the search proposed it; none in logs of before that was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The model they describe.
    pub model: AudioCnn,
    /// That model's exact cost; nothing, if it cannot be built.
    pub cost: Cost,
    /// One run for each validation fold; empty when infeasible.
    pub runs: BTreeMap<FoldId, Run>,
    /// Why it is not to be trained, in words: the constraint that it breaks, or what cannot be built.
    pub infeasible: Option<String>,
    /// Whether it was to get more epochs, each time that this was asked, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judgements: Vec<Judgement>,
    /// The best trial's run on nearly all that does not test, when all trials have ended. It decides nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refit: Option<Run>,
    /// What steps of pruning have left of the best trial, in their order. It decides nothing either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pruned: Vec<PrunedStep>,
    /// What trains the exported model to bear quantisation. It decides nothing either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aware: Option<AwareRun>,
}

/// A run that trains the exported model on, rounding as int8 does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AwareRun {
    /// The run whose model it is.
    pub base: FoldId,
    /// Blob: the weights that it begins with, which are that run's.
    pub weights: BlobId,
    /// Ranges in which int8 holds the input and what leaves steps.
    pub ranges: Vec<Range>,
    /// What calibration alone came to, in words.
    pub why: String,
    /// The run.
    pub run: Run,
}

/// As the point that is shared.
fn as_point<S: Serializer>(point: &Arc<Point>, serializer: S) -> Result<S::Ok, S::Error> {
    point.serialize(serializer)
}

/// What a step of pruning has left, and the run that trains it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrunedStep {
    /// The smaller model.
    pub model: AudioCnn,
    /// Its exact cost.
    pub cost: Cost,
    /// Blob: its weights before they are trained on.
    pub weights: BlobId,
    /// Blob: what the champion before the first step makes of the training rows; none without distillation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<BlobId>,
    /// What was removed and why, in words.
    pub why: String,
    /// The run.
    pub run: Run,
}

/// Where a trial stands, as its runs say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TrialStatus {
    /// No run was handed out yet.
    Waiting,
    /// Some run was.
    Running,
    /// None is trained now, for others were better; it may still be promoted while its sweep goes on.
    Stopped,
    /// Every run completed.
    Completed,
    /// A run failed for good.
    Failed,
    /// Never to be trained.
    Infeasible,
}

/// One trial trained on one fold.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Run {
    /// Where it stands.
    pub status: RunStatus,
    /// Everything tried, oldest first.
    pub attempts: Vec<Attempt>,
    /// Epochs of the newest attempt, those included that it found done.
    pub epochs: Vec<Epoch>,
    /// From where the next attempt goes on; none: anew.
    pub midway: Option<Midway>,
}

/// What a run had come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Midway {
    /// The last epoch that was over.
    pub epoch: u32,
    /// All that it takes to go on, in the worker's own format.
    pub blob: BlobId,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum RunStatus {
    /// To be handed out.
    #[default]
    Waiting,
    /// Being trained under this token.
    Leased(Token),
    /// Trained.
    Completed(RunResult),
    /// Not trained on unless its trial is promoted.
    Held,
    /// Given up.
    Failed,
}

/// One assignment of a run to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Its fencing token.
    pub token: Token,
    /// Who holds or held it.
    pub worker: WorkerId,
    /// When it was granted.
    pub granted_at_ms: u64,
    /// How it ended; none while it is alive.
    pub end: Option<AttemptEnd>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AttemptEnd {
    /// With the run's result.
    Completed,
    /// At a rung where the trial was not among the best, or below the median.
    Held,
    /// The worker said why not.
    Failed(Failure),
    /// The worker fell silent.
    Expired,
    /// The grant never reached the worker.
    Unclaimed,
    /// The worker left.
    Left,
    /// The trial's other run failed, or the sweep was cancelled, so nobody needs this one.
    Abandoned,
}

impl Trial {
    /// A run by its fold, the refit, steps of pruning and what is trained to bear quantisation included.
    pub fn run(&self, fold: FoldId) -> Option<&Run> {
        match (fold, fold.pruning_step()) {
            (FoldId::REFIT, _) => self.refit.as_ref(),
            (FoldId::AWARE, _) => self.aware.as_ref().map(|aware| &aware.run),
            (_, Some(step)) => self.pruned_step(step).map(|pruned| &pruned.run),
            (_, None) => self.runs.get(&fold),
        }
    }

    pub(super) fn run_mut(&mut self, fold: FoldId) -> Option<&mut Run> {
        match (fold, fold.pruning_step()) {
            (FoldId::REFIT, _) => self.refit.as_mut(),
            (FoldId::AWARE, _) => self.aware.as_mut().map(|aware| &mut aware.run),
            (_, Some(step)) => self.pruned.get_mut(step as usize - 1).map(|pruned| &mut pruned.run),
            (_, None) => self.runs.get_mut(&fold),
        }
    }

    /// All runs with their folds: the refit, the steps of pruning and what is trained to bear quantisation last, in this order.
    pub fn all_runs(&self) -> impl Iterator<Item = (FoldId, &Run)> {
        let refit = self.refit.iter().map(|run| (FoldId::REFIT, run));
        let pruned = (1..).zip(&self.pruned).map(|(step, pruned)| (FoldId::pruned(step), &pruned.run));
        let aware = self.aware.iter().map(|aware| (FoldId::AWARE, &aware.run));
        self.runs.iter().map(|(&fold, run)| (fold, run)).chain(refit).chain(pruned).chain(aware)
    }

    /// The run whose weights are exported unless they are pruned: the refit if it has completed, otherwise the best by the
    /// objective; of equals the one of the smallest fold.
    pub fn exported(&self, objective: Objective) -> Option<(FoldId, &RunResult, Epoch)> {
        let completed = self.runs.iter().filter_map(|(&fold, run)| Some((fold, run.completed()?)));
        let best = completed.reduce(|best, other| {
            let is_better = objective.score(&other.1.1).total_cmp(&objective.score(&best.1.1)).is_gt();
            if is_better { other } else { best }
        });
        let refit = self.refit.as_ref().and_then(Run::completed).map(|run| (FoldId::REFIT, run));
        refit.or(best).map(|(fold, (result, epoch))| (fold, result, epoch))
    }

    /// What the objective makes of it once all runs have completed: the larger the better.
    pub fn score(&self, objective: Objective) -> Option<f64> {
        MeanMetrics::of(self).map(|mean| mean.score(objective))
    }

    /// Where it stands.
    pub fn status(&self) -> TrialStatus {
        if self.infeasible.is_some() {
            return TrialStatus::Infeasible;
        }
        let any = |test: fn(&Run) -> bool| self.runs.values().any(test);
        if any(|run| run.status == RunStatus::Failed) {
            TrialStatus::Failed
        } else if self.runs.values().all(|run| matches!(run.status, RunStatus::Completed(_))) {
            TrialStatus::Completed
        } else if any(|run| run.status == RunStatus::Held)
            && !any(|run| matches!(run.status, RunStatus::Waiting | RunStatus::Leased(_)))
        {
            TrialStatus::Stopped
        } else if any(|run| !run.attempts.is_empty()) {
            TrialStatus::Running
        } else {
            TrialStatus::Waiting
        }
    }
}

impl Run {
    /// The result and its epoch, once completed, with what was measured of its weights at the end.
    pub fn completed(&self) -> Option<(&RunResult, Epoch)> {
        let RunStatus::Completed(result) = &self.status else { return None };
        let best = self.epochs.iter().find(|epoch| epoch.epoch == result.best_epoch)?;
        Some((result, measured(&self.epochs, best)))
    }

    /// The best of the first epochs, so many, as if the run had ended there.
    pub(super) fn best_by(&self, epoch: usize) -> Option<Epoch> {
        let epochs = self.epochs.get(..epoch)?;
        best_so_far(epochs).map(|best| measured(epochs, best))
    }

    /// Hands it out: the number of the attempt, from 1.
    pub(super) fn lease(&mut self, token: Token, worker: WorkerId, at_ms: u64) -> u32 {
        self.status = RunStatus::Leased(token);
        self.epochs.truncate(self.midway.map_or(0, |midway| midway.epoch as usize));
        self.attempts.push(Attempt { token, worker, granted_at_ms: at_ms, end: None });
        self.attempts.len() as u32
    }

    /// Takes the next epoch of `last`, or the newest one said again, with what the run has come to if that was kept.
    pub(super) fn take(&mut self, epoch: &Epoch, midway: Option<BlobId>, last: u32) -> Result<(), Refusal> {
        self.append(epoch, last)?;
        if let Some(blob) = midway {
            self.midway = Some(Midway { epoch: epoch.epoch, blob });
        }
        Ok(())
    }

    fn append(&mut self, epoch: &Epoch, last: u32) -> Result<(), Refusal> {
        if self.epochs.last() == Some(epoch) {
            return Ok(());
        }
        let reported = self.epochs.len() as u32;
        let expected = (reported + 1).min(last);
        if epoch.epoch != expected || reported == last {
            return Err(Refusal::EpochOutOfOrder { expected, got: epoch.epoch });
        }
        self.epochs.push(*epoch);
        Ok(())
    }

    /// The blob from which the next attempt goes on, while there may be one.
    pub(super) fn kept(&self) -> Option<BlobId> {
        let has_ended = matches!(self.status, RunStatus::Completed(_) | RunStatus::Failed);
        self.midway.filter(|_| !has_ended).map(|midway| midway.blob)
    }

    /// Whether a result fits what was reported.
    pub(super) fn check(&self, result: &RunResult) -> Result<(), Refusal> {
        let reported = self.epochs.len() as u32;
        if (1..=reported).contains(&result.best_epoch) {
            Ok(())
        } else {
            Err(Refusal::BestEpoch { best: result.best_epoch, reported })
        }
    }

    /// Ends an attempt that did not complete: the run waits again, or is given up after as many as it may have. After a failure
    /// the next one begins anew, for what was kept may be the reason.
    pub(super) fn fall_back(&mut self, token: Token, end: AttemptEnd, attempts_max: usize) {
        if matches!(&end, AttemptEnd::Failed(failure) if failure.reason != Reason::Drained) {
            self.midway = None;
        }
        let is_final = matches!(&end, AttemptEnd::Failed(failure) if !failure.reason.is_retryable());
        self.end(token, end);
        let is_given_up = is_final || self.attempts_spent() >= attempts_max;
        self.status = if is_given_up { RunStatus::Failed } else { RunStatus::Waiting };
    }

    pub(super) fn end(&mut self, token: Token, end: AttemptEnd) {
        // Nearly always the newest.
        if let Some(attempt) = self.attempts.iter_mut().rev().find(|attempt| attempt.token == token) {
            attempt.end = Some(end);
        }
    }

    /// Attempts that speak against the run. A worker that was told to leave does not, nor one that never knew.
    pub fn attempts_spent(&self) -> usize {
        let spent = |end: &AttemptEnd| match end {
            AttemptEnd::Expired => true,
            AttemptEnd::Failed(failure) => failure.reason != Reason::Drained,
            AttemptEnd::Completed
            | AttemptEnd::Held
            | AttemptEnd::Unclaimed
            | AttemptEnd::Left
            | AttemptEnd::Abandoned => false,
        };
        self.attempts.iter().filter_map(|attempt| attempt.end.as_ref()).filter(|end| spent(end)).count()
    }
}

/// An epoch of these, of lowest loss, with what was last measured of its weights.
fn measured(epochs: &[Epoch], best: &Epoch) -> Epoch {
    Epoch { int8_accuracy: epochs.iter().rev().find_map(|epoch| epoch.int8_accuracy), ..*best }
}
