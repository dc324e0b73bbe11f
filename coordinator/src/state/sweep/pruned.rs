//! A sweep whose champion is made smaller, step by step, once all else has ended.
//!
//! What a step cuts off depends on weights, which are blobs, and the mind reads none. So it says what is due ([`Due`]); somebody
//! outside cuts, and the result comes back as the event [`crate::state::EventKind::Pruned`]. Then a run that trains what is left
//! waits to be handed out, like any other.
//!
//! What is pruned is the run that would be exported: the refit where there is one, otherwise the best fold's. Its split is theirs,
//! too, so no clip that once validated trains, and the scores before and after are of the same clips.

use earshot_common::{
    ids::{BlobId, FoldId, TrialId},
    job::{Recipe, Teacher},
    model::AudioCnn,
    sweep::{Prune, prune::Importance},
};

use super::SweepState;
use crate::state::{
    event::{Cut, Refusal},
    trial::{PrunedStep, Run, Trial},
};

/// A step of pruning that somebody has to cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// The champion.
    pub trial: TrialId,
    /// From 1.
    pub step: u32,
    /// What is wanted.
    pub prune: Prune,
    /// The champion's model before the first step.
    pub whole: AudioCnn,
    /// The model that is to become smaller.
    pub model: AudioCnn,
    /// Blob: its trained weights.
    pub checkpoint: BlobId,
    /// Blob: the logits of its teacher, once they are known.
    pub teacher: Option<BlobId>,
    /// Blobs: the features of all rows.
    pub shards: Vec<BlobId>,
    /// Blob: which of them train.
    pub split: BlobId,
}

impl SweepState {
    /// The step of pruning that is to be cut now, if any.
    pub fn pruning_due(&self) -> Option<Due> {
        let prune = self.sweep.prune.filter(|_| self.pruning_refused.is_none())?;
        if self.is_unfinished() || !self.leased.is_empty() {
            return None;
        }
        let (id, trial) = self.ranking().map(|(id, trial, _)| (id, trial)).next()?;
        let (model, source) = match trial.pruned.last() {
            Some(last) => (&last.model, last.run.completed()?.0),
            None if self.sweep.schedule.refit && trial.refit.is_none() => return None,
            None => (&trial.model, trial.exported(self.sweep.objective)?.1),
        };
        let step = trial.pruned.len() as u32 + 1;
        let (whole, model) = (trial.model.clone(), model.clone());
        let (base, ..) = trial.exported(self.sweep.objective)?;
        let split = *self.dataset.splits.get(&base)?;
        (step <= prune.steps).then(|| Due {
            trial: id,
            step,
            prune,
            whole,
            model,
            checkpoint: source.checkpoint,
            teacher: trial.pruned.first().and_then(|first| first.teacher),
            shards: self.dataset.shards.clone(),
            split,
        })
    }

    /// Why pruning ended before its last step without a run that failed, in words.
    pub fn pruning_refused(&self) -> Option<&str> {
        self.pruning_refused.as_deref()
    }

    /// Takes what was cut: a run waits to train it, or nothing more is pruned.
    pub(in crate::state) fn prune(&mut self, id: TrialId, step: u32, cut: &Cut) -> Result<(), Refusal> {
        let refusal = Refusal::NotDue { trial: id, step };
        if self.pruning_due().is_none_or(|due| (due.trial, due.step) != (id, step)) {
            return Err(refusal);
        }
        match cut {
            Cut::Refused { why } => self.pruning_refused = Some(why.clone()),
            Cut::Made { model, weights, teacher, why } => {
                let (Ok(cost), Some(trial)) = (model.cost(), self.trials.get_mut(id.0 as usize)) else {
                    return Err(refusal);
                };
                trial.pruned.push(PrunedStep {
                    model: model.clone(),
                    cost,
                    weights: *weights,
                    teacher: *teacher,
                    why: why.clone(),
                    run: Run::default(),
                });
                self.waiting.insert((id, FoldId::pruned(step)));
            }
        }
        Ok(())
    }

    /// The fold whose clips a run sees: of what is made of another run, that run's.
    pub(super) fn fold_of_split(&self, trial: &Trial, fold: FoldId) -> Option<FoldId> {
        if fold.is_fold() || fold == FoldId::REFIT {
            return Some(fold);
        }
        trial.exported(self.sweep.objective).map(|(fold, ..)| fold)
    }

    /// How to train what a step has left: as the trial was trained, its schedule of rates included, over fewer epochs. Going
    /// through all rates again recovers more than a small constant one (Renda et al. 2020, arXiv:2003.02389).
    pub(super) fn retrain(&self, trial: &Trial, fold: FoldId, recipe: Recipe) -> Recipe {
        let Some(prune) = self.sweep.prune.filter(|_| fold.pruning_step().is_some()) else { return recipe };
        let keep = self.keep_of_split(trial, fold);
        Recipe { epochs: prune.epochs, patience: None, keep, ..recipe }
    }

    /// Who teaches what a step has left.
    pub(super) fn teacher(&self, pruned: &PrunedStep) -> Option<Teacher> {
        Some(Teacher { logits: pruned.teacher?, distil: self.sweep.prune?.distil? })
    }

    /// Whether checkpoints have to say what filters are worth to the loss.
    pub(super) fn wants_taylor(&self) -> bool {
        self.sweep.prune.is_some_and(|prune| prune.importance == Importance::Taylor)
    }
}

impl Trial {
    /// What a step of pruning, from 1, has left.
    pub fn pruned_step(&self, step: u32) -> Option<&PrunedStep> {
        self.pruned.get((step as usize).checked_sub(1)?)
    }
}
