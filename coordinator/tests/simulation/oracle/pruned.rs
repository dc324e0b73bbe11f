//! Pruning: each step is cut once, after what it is cut from has completed and nothing else is to come, and trained once.

use coordinator::state::{Cut, SweepState};
use earshot_common::{
    ids::{BlobId, FoldId, RunId, SweepId, TrialId},
    job::{Job, Keep},
    model::AudioCnn,
};

use super::{Oracle, sweep};

/// What was cut.
pub(super) struct Made {
    model: AudioCnn,
    weights: BlobId,
}

impl Made {
    pub(super) fn model(&self) -> &AudioCnn {
        &self.model
    }
}

impl Oracle {
    pub(super) fn observe_cut(&mut self, id: SweepId, trial: TrialId, step: u32, cut: &Cut) {
        let run = |step| RunId { sweep: id, trial, fold: FoldId::pruned(step) };
        let sweep = sweep(&self.shadow, id);
        let prune = sweep.sweep().prune.expect("nobody wants anything pruned");
        assert!((1..=prune.steps).contains(&step) && !self.uncut.contains(&id));
        assert!(!self.cancelled.contains(&id), "a cancelled sweep was pruned");
        assert!(self.alive.values().all(|alive| alive.run.sweep != id || alive.replay.is_some()));
        assert_eq!(sweep.trials().len() as u64, sweep.sweep().trials(), "pruned before the last trial");
        assert_eq!(sweep.ranking().next().map(|(id, ..)| id), Some(trial), "not the best was pruned");
        if step > 1 {
            assert!(self.completed.contains_key(&run(step - 1)), "step {step} before the one before it");
        } else {
            let refit = sweep.trial(trial).unwrap().refit.as_ref();
            assert_eq!(refit.is_some(), sweep.sweep().schedule.refit, "pruned before the refit");
        }
        match cut {
            Cut::Made { model, weights, .. } => {
                let made = Made { model: model.clone(), weights: *weights };
                assert!(self.cuts.insert(run(step), made).is_none(), "step {step} was cut twice");
                self.covered.cuts_made += 1;
            }
            Cut::Refused { .. } => {
                self.uncut.insert(id);
                self.covered.cuts_refused += 1;
            }
        }
    }

    /// What a step has left is trained from what was cut, on the clips of the run that was pruned.
    pub(super) fn check_pruned_job(&self, run: RunId, job: &Job, seed: u64) {
        let sweep = sweep(&self.shadow, run.sweep);
        let Made { model, weights } = &self.cuts[&run];
        assert_eq!((&job.model, job.initial_weights), (model, Some(*weights)), "another cut is trained");
        assert_eq!((job.recipe.seed, job.recipe.epochs), (seed, sweep.sweep().prune.unwrap().epochs));
        let base = self.exported_fold(run, sweep);
        assert_eq!(job.split, sweep.dataset().splits[&base], "run {run} sees other clips than fold {base}");
        assert_eq!(job.recipe.keep, if base == FoldId::REFIT { Keep::Last } else { Keep::Best });
        assert!(job.rungs.is_empty() && job.recipe.patience.is_none());
    }

    /// A sweep that ended has every step, or a reason why not.
    pub(super) fn conclude_pruning(&mut self, id: SweepId, sweep: &SweepState) {
        let Some(prune) = sweep.sweep().prune else { return };
        let Some((trial_id, trial, _)) = sweep.ranking().next() else {
            assert!(self.cuts.keys().all(|run| run.sweep != id), "nothing had completed and was pruned");
            return;
        };
        let run = |step| RunId { sweep: id, trial: trial_id, fold: FoldId::pruned(step) };
        let completed = (1..=prune.steps).take_while(|&step| self.completed.contains_key(&run(step))).count();
        let cut = self.cuts.keys().filter(|run| run.sweep == id).count();
        assert_eq!(trial.pruned.len(), cut, "steps were lost");
        let others = sweep.trials().filter(|(other, _)| *other != trial_id);
        assert!(others.into_iter().all(|(_, other)| other.pruned.is_empty()), "not the best was pruned");
        if completed == prune.steps as usize {
            self.covered.prunings_completed += 1;
        } else {
            let has_failed = cut == completed + 1;
            assert!(has_failed || self.uncut.contains(&id), "sweep {id} ended in the midst of pruning");
        }
    }
}
