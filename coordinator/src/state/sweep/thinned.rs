//! A sweep whose trials are thinned out: who is held, and who goes on.

use std::iter;

use earshot_common::{
    ids::{FoldId, RunId, Token, TrialId},
    job::Verdict,
    sweep::{Search, Stop},
};

use super::SweepState;
use crate::{
    search::Stage,
    state::{
        judgement::{Judged, Judgement},
        ranking::MeanMetrics,
        thinning::best_so_far,
        trial::{AttemptEnd, RunStatus, Trial},
    },
};

impl SweepState {
    /// Epochs after which a run may be held.
    pub(super) fn rungs(&self, run: RunId) -> Vec<u32> {
        match self.sweep.stop {
            Some(stop) if run.fold.is_fold() => {
                let epochs = self.sweep.schedule.epochs;
                stop.rungs(stop.bracket(run.trial, epochs), epochs)
            }
            _ => Vec::new(),
        }
    }

    /// What every trial had come to at its rungs and at its end, if the search heeds it; of so many more that were only just
    /// proposed nothing is known.
    pub(super) fn stages(&self, proposed: usize) -> Option<Vec<Vec<Stage>>> {
        let (Search::Bayes { rungs: true, .. }, Some(stop)) = (self.sweep.search, self.sweep.stop) else {
            return None;
        };
        let last = self.sweep.schedule.epochs;
        let of = |(id, trial): (TrialId, &Trial)| {
            let rungs = stop.rungs(stop.bracket(id, last), last).into_iter();
            let reached = rungs.map_while(|epochs| Some((epochs, MeanMetrics::at(trial, epochs)?)));
            let ended = MeanMetrics::of(trial).map(|mean| (last, mean));
            let stages = reached
                .chain(ended)
                .map(|(epochs, mean)| Stage { epochs, score: mean.score(self.sweep.objective) });
            stages.filter(|stage| stage.score.is_finite()).collect()
        };
        Some(self.trials().map(of).chain(iter::repeat_n(Vec::new(), proposed)).collect())
    }

    /// What becomes of a run that has reported an epoch before its last, and the attempts that end with that.
    pub(super) fn thin(&mut self, id: RunId, epoch: u32) -> (Verdict, Vec<Token>) {
        let Some(stop) = self.sweep.stop.filter(|_| id.fold.is_fold()) else {
            return (Verdict::Continue, Vec::new());
        };
        let held = match stop {
            Stop::Race { .. } => Vec::new(),
            Stop::Median { min_epochs, startup } => {
                let goes_on = epoch < min_epochs || self.is_above_median(startup, id, epoch);
                if goes_on { Vec::new() } else { self.folds(id.trial) }
            }
            Stop::Asha(_) | Stop::Hyperband(_) => {
                if self.passes_rung(stop, id, epoch) {
                    Vec::new()
                } else {
                    vec![id.fold]
                }
            }
        };
        if held.is_empty() {
            return (Verdict::Continue, Vec::new());
        }
        let ended = held.into_iter().filter_map(|fold| self.hold(RunId { fold, ..id })).collect();
        self.plan_refit();
        (Verdict::Pause, ended)
    }

    /// A run has completed: its trial may have come to a rung, or past all of them.
    pub(super) fn come_through(&mut self, trial: TrialId) {
        let Some(stop) = self.sweep.stop else { return };
        if let Stop::Race { startup, confidence } = stop {
            return self.race(trial, startup, confidence);
        }
        let epochs = self.sweep.schedule.epochs;
        while let Some(rung) = self.thinning.next_rung(stop, trial, epochs) {
            if !self.is_at(trial, rung, None) || !self.note(stop, trial, rung) {
                return;
            }
            let runs = self.trial(trial).into_iter().flat_map(|trial| trial.runs.values());
            if runs.into_iter().any(|run| run.completed().is_none()) {
                self.judge(trial, Judged::Held);
                return;
            }
            self.thinning.promote(trial);
        }
    }

    /// Whether a held trial may go on.
    pub(super) fn has_promotable(&self) -> bool {
        self.promotable().is_some()
    }

    /// Lets the next held trial go on, if one may.
    pub(super) fn promote(&mut self) {
        if let Some(trial) = self.promotable() {
            self.judge(trial, Judged::Promoted);
            self.go_on(trial);
        }
    }

    fn promotable(&self) -> Option<TrialId> {
        let is_idle = self.waiting.is_empty() && self.leased.is_empty() && self.is_exhausted();
        self.thinning.promotable(self.sweep.stop?, is_idle)
    }

    /// Puts a trial's held runs into the queue.
    fn go_on(&mut self, trial: TrialId) {
        self.thinning.promote(trial);
        for fold in self.folds(trial) {
            let released = self.change(RunId { sweep: self.id, trial, fold }, |run| {
                let is_held = run.status == RunStatus::Held;
                if is_held {
                    run.status = RunStatus::Waiting;
                }
                is_held
            });
            if released == Some(true) {
                self.waiting.insert((trial, fold));
            }
        }
    }

    fn folds(&self, trial: TrialId) -> Vec<FoldId> {
        self.trial(trial).map_or_else(Vec::new, |trial| trial.runs.keys().copied().collect())
    }

    /// Whether a run at this epoch may train another. It may not where its trial's other runs have not come to the rung: the
    /// trial is judged when they all have.
    fn passes_rung(&mut self, stop: Stop, id: RunId, epoch: u32) -> bool {
        let next = self.thinning.next_rung(stop, id.trial, self.sweep.schedule.epochs);
        if next != Some(epoch) {
            return true;
        }
        if !self.is_at(id.trial, epoch, Some(id.fold)) || !self.note(stop, id.trial, epoch) {
            return false;
        }
        let goes_on = self.thinning.may_go_on(stop, id.trial);
        self.judge(id.trial, if goes_on { Judged::GoesOn } else { Judged::Held });
        if goes_on {
            self.go_on(id.trial);
        }
        goes_on
    }

    /// Writes down what becomes of a trial that waits at a rung, before it leaves.
    fn judge(&mut self, id: TrialId, verdict: Judged) {
        let basis = self.sweep.stop.and_then(|stop| self.thinning.basis(stop, id));
        if let Some((epoch, score, basis)) = basis
            && let Some(trial) = self.trials.get_mut(id.0 as usize)
        {
            trial.judgements.push(Judgement { epoch, score, verdict, basis });
        }
    }

    /// Whether all of a trial's runs have completed or wait at this epoch; of this fold it is known.
    fn is_at(&self, trial: TrialId, epoch: u32, known: Option<FoldId>) -> bool {
        let Some(trial) = self.trial(trial) else { return false };
        trial.runs.iter().all(|(&fold, run)| match run.status {
            _ if known == Some(fold) => true,
            RunStatus::Completed(_) => true,
            RunStatus::Held => run.epochs.len() >= epoch as usize,
            RunStatus::Waiting | RunStatus::Leased(_) | RunStatus::Failed => false,
        })
    }

    /// Notes a trial at a rung, where it then waits.
    fn note(&mut self, stop: Stop, id: TrialId, rung: u32) -> bool {
        let Some(mean) = self.trial(id).and_then(|trial| MeanMetrics::at(trial, rung)) else { return false };
        let score = mean.score(self.sweep.objective);
        self.thinning.note(stop, id, self.sweep.schedule.epochs, mean, score);
        true
    }

    fn is_above_median(&mut self, startup: u32, id: RunId, epoch: u32) -> bool {
        let best = self.run(id).and_then(|run| best_so_far(&run.epochs)).copied();
        let Some(best) = best else { return true };
        let score = self.sweep.objective.score(&best);
        let below = self.thinning.below_median(startup, (id.trial, id.fold, epoch), score);
        if let Some(basis) = below
            && let Some(trial) = self.trials.get_mut(id.trial.0 as usize)
        {
            trial.judgements.push(Judgement { epoch, score, verdict: Judged::Stopped, basis });
        }
        below.is_none()
    }

    /// Holds a run that has not ended: its attempt's token, if it had one.
    fn hold(&mut self, id: RunId) -> Option<Token> {
        let key = (id.trial, id.fold);
        self.waiting.remove(&key);
        self.leased.remove(&key);
        self.change(id, |run| {
            let token = match run.status {
                RunStatus::Leased(token) => Some(token),
                RunStatus::Waiting => None,
                RunStatus::Completed(_) | RunStatus::Held | RunStatus::Failed => return None,
            };
            if let Some(token) = token {
                run.end(token, AttemptEnd::Held);
            }
            run.status = RunStatus::Held;
            token
        })?
    }
}
