//! Quantisation: decided once, after all else, and what follows is trained once, from the weights that would be exported.

use coordinator::state::{Quantisation, RunStatus, SweepState};
use earshot_common::{
    ids::{FoldId, RunId, SweepId, TrialId},
    int8::Range,
    job::{Job, Keep},
    model::AudioCnn,
};

use super::{Oracle, sweep};

impl Oracle {
    pub(super) fn observe_quantised(&mut self, id: SweepId, trial: TrialId, found: &Quantisation) {
        let sweep = sweep(&self.shadow, id);
        assert!(sweep.sweep().quantise.is_some(), "nobody wants anything quantised");
        assert!(!self.cancelled.contains(&id), "a cancelled sweep was quantised");
        assert!(self.alive.values().all(|alive| alive.run.sweep != id || alive.replay.is_some()));
        assert_eq!(sweep.trials().len() as u64, sweep.sweep().trials(), "quantised before the last trial");
        assert_eq!(sweep.ranking().next().map(|(id, ..)| id), Some(trial), "not the best was quantised");
        let refit = sweep.trial(trial).unwrap().refit.as_ref();
        assert_eq!(refit.is_some(), sweep.sweep().schedule.refit, "quantised before the refit");
        self.check_pruned(id, sweep, trial);
        let ranges = match found {
            Quantisation::Aware { ranges, .. } => Some(ranges.clone()),
            Quantisation::Kept { .. } => None,
        };
        self.covered.models_kept += u64::from(ranges.is_none());
        assert!(self.quantised.insert(id, ranges).is_none(), "sweep {id} was quantised twice");
    }

    /// Whether no step of pruning is to come.
    fn check_pruned(&self, id: SweepId, sweep: &SweepState, trial: TrialId) {
        let Some(prune) = sweep.sweep().prune else { return };
        let pruned = &sweep.trial(trial).unwrap().pruned;
        let has_failed = pruned.last().is_some_and(|last| last.run.status == RunStatus::Failed);
        let is_whole = pruned.len() == prune.steps as usize
            && pruned.iter().all(|step| matches!(step.run.status, RunStatus::Completed(_)));
        assert!(is_whole || has_failed || self.uncut.contains(&id), "sweep {id} was quantised amid pruning");
    }

    /// What would be exported is trained on, from its weights, on its clips; `whole` is the trial's model.
    pub(super) fn check_aware_job(&self, run: RunId, job: &Job, seed: u64, whole: &AudioCnn) {
        let sweep = sweep(&self.shadow, run.sweep);
        let aware = sweep.sweep().quantise.expect("nobody wants anything quantised").aware;
        let of = |fold| RunId { fold, ..run };
        let split = self.exported_fold(run, sweep);
        let reference = self.best_accuracy(of(split));
        let loses_little = |step: &u32| {
            let fold = of(FoldId::pruned(*step));
            let max_drop = sweep.sweep().export.max_drop.unwrap_or(f64::INFINITY);
            self.completed.contains_key(&fold) && reference - self.best_accuracy(fold) <= max_drop
        };
        let step = (1..=8).rfind(loses_little);
        let base = step.map_or(split, FoldId::pruned);
        let model = step.map_or(whole, |step| self.cuts[&of(FoldId::pruned(step))].model());
        let weights = self.completed[&of(base)].result.checkpoint;
        assert_eq!((&job.model, job.initial_weights), (model, Some(weights)), "another model is trained on");
        let Some(Some(ranges)) = self.quantised.get(&run.sweep) else { panic!("{run} was not asked for") };
        assert_eq!((&job.int8_ranges, job.split), (ranges, sweep.dataset().splits[&split]));
        assert_eq!((job.recipe.seed, job.recipe.epochs), (seed, aware.epochs));
        assert!((job.recipe.learning_rate - aware.learning_rate).abs() < f64::EPSILON);
        assert_eq!(job.recipe.keep, if split == FoldId::REFIT { Keep::Last } else { Keep::Best });
        assert!(
            job.rungs.is_empty() && job.recipe.patience.is_none() && !job.taylor && job.teacher.is_none()
        );
    }

    /// The refit, or else the best fold of a run's trial.
    pub(super) fn exported_fold(&self, run: RunId, sweep: &SweepState) -> FoldId {
        let of = |fold| RunId { fold, ..run };
        let refit = self.completed.contains_key(&of(FoldId::REFIT)).then_some(FoldId::REFIT);
        let folds = sweep.sweep().split.folds().into_iter().map(FoldId);
        let accuracy = |fold: &FoldId| self.best_accuracy(of(*fold));
        let best = folds.rev().max_by(|a, b| accuracy(a).total_cmp(&accuracy(b)));
        refit.or(best).unwrap()
    }

    fn best_accuracy(&self, run: RunId) -> f64 {
        let completed = &self.completed[&run];
        completed.epochs[completed.result.best_epoch as usize - 1].accuracy
    }

    /// A sweep that ended was quantised, and what followed was trained or given up.
    pub(super) fn conclude_quantisation(&mut self, id: SweepId, sweep: &SweepState) {
        if sweep.sweep().quantise.is_none() {
            return;
        }
        let decided: Option<&Option<Vec<Range>>> = self.quantised.get(&id);
        let Some((trial_id, trial, _)) = sweep.ranking().next() else {
            assert!(decided.is_none(), "nothing had completed and was quantised");
            return;
        };
        let wanted = decided.unwrap_or_else(|| panic!("sweep {id} ended before it was quantised"));
        assert_eq!(trial.aware.as_ref().map(|aware| &aware.ranges), wanted.as_ref());
        let others = sweep.trials().filter(|(other, _)| *other != trial_id);
        assert!(others.into_iter().all(|(_, other)| other.aware.is_none()), "not the best was quantised");
        let Some(aware) = &trial.aware else { return };
        let run = RunId { sweep: id, trial: trial_id, fold: FoldId::AWARE };
        match aware.run.status {
            RunStatus::Completed(result) => {
                assert_eq!(self.completed[&run].result, result);
                self.covered.aware_runs_completed += 1;
            }
            RunStatus::Failed => assert!(aware.run.attempts_spent() > 0, "given up without a reason"),
            status => panic!("run {run} is {status:?} at the end"),
        }
    }
}
