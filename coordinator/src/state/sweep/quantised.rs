//! A sweep whose exported model is trained to bear quantisation, once all else has ended, pruning included.
//!
//! Whether that is needed, and in which ranges int8 holds activations, depends on weights, which the mind does not read. So, as with
//! pruning, it says what is due ([`Candidate`]); somebody outside calibrates, and the result comes back as the event
//! [`crate::state::EventKind::Quantised`]. Then one run waits that begins with the candidate's weights, or nothing more is to come.
//!
//! The candidate is what would be exported: the last step of pruning that loses little, or else the run that was pruned.

use earshot_common::{
    ids::{BlobId, FoldId, TrialId},
    job::{Epoch, Keep, Recipe, RunResult},
    model::AudioCnn,
    sweep::{Gates, quantise::Aware},
};

use super::SweepState;
use crate::state::{
    event::{Quantisation, Refusal},
    trial::{AwareRun, Run, Trial},
};

/// A model that somebody has to quantise, to see what it loses.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The champion.
    pub trial: TrialId,
    /// The run of it whose weights these are: a fold, the refit or a step of pruning.
    pub base: FoldId,
    /// What is to be done about it.
    pub aware: Aware,
    /// How much may be lost.
    pub gates: Gates,
    /// Validation accuracy that losses are counted from: of the champion before it was pruned.
    pub reference: f64,
    /// Its spec.
    pub model: AudioCnn,
    /// Blob: its weights.
    pub checkpoint: BlobId,
    /// Blobs: the features of all rows.
    pub shards: Vec<BlobId>,
    /// Blob: which of them calibrate and validate.
    pub split: BlobId,
}

impl SweepState {
    /// The model that is to be quantised now, if any.
    pub fn quantisation_due(&self) -> Option<Candidate> {
        let aware = self.sweep.quantise.filter(|_| self.quantisation_kept.is_none())?.aware;
        if self.is_unfinished() || !self.leased.is_empty() || self.pruning_due().is_some() {
            return None;
        }
        let (id, trial) = self.ranking().map(|(id, trial, _)| (id, trial)).next()?;
        if trial.aware.is_some() || (self.sweep.schedule.refit && trial.refit.is_none()) {
            return None;
        }
        let (fold, _, whole) = trial.exported(self.sweep.objective)?;
        let (base, result) = self.candidate(trial)?;
        Some(Candidate {
            trial: id,
            base,
            aware,
            gates: self.sweep.export,
            reference: whole.accuracy,
            model: trial.model_of(base).clone(),
            checkpoint: result.checkpoint,
            shards: self.dataset.shards.clone(),
            split: *self.dataset.splits.get(&fold)?,
        })
    }

    /// The run whose weights are exported: as [`crate::export::choose`] has it.
    fn candidate<'a>(&self, trial: &'a Trial) -> Option<(FoldId, &'a RunResult)> {
        let (fold, result, whole) = trial.exported(self.sweep.objective)?;
        let is_allowed = |epoch: &Epoch| self.sweep.export.allows(whole.accuracy - epoch.accuracy);
        let steps = (1..).zip(&trial.pruned).filter_map(|(step, pruned)| {
            let (result, epoch) = pruned.run.completed()?;
            is_allowed(&epoch).then_some((FoldId::pruned(step), result))
        });
        Some(steps.last().unwrap_or((fold, result)))
    }

    /// Why no run was trained to bear quantisation, in words.
    pub fn quantisation_kept(&self) -> Option<&str> {
        self.quantisation_kept.as_deref()
    }

    /// Takes what came of quantising the candidate: a run waits that trains it on, or nothing more is done.
    pub(in crate::state) fn quantise(&mut self, id: TrialId, found: &Quantisation) -> Result<(), Refusal> {
        let refusal = Refusal::QuantisationNotDue(id);
        let due = self.quantisation_due().filter(|due| due.trial == id).ok_or(refusal.clone())?;
        match found {
            Quantisation::Kept { why } => self.quantisation_kept = Some(why.clone()),
            Quantisation::Aware { ranges, why } => {
                let trial = self.trials.get_mut(id.0 as usize).ok_or(refusal.clone())?;
                if due.model.scales() != Ok(ranges.len()) || !ranges.iter().all(|range| range.is_valid()) {
                    return Err(refusal);
                }
                trial.aware = Some(AwareRun {
                    base: due.base,
                    weights: due.checkpoint,
                    ranges: ranges.clone(),
                    why: why.clone(),
                    run: Run::default(),
                });
                self.waiting.insert((id, FoldId::AWARE));
            }
        }
        Ok(())
    }

    /// How the candidate is trained on: as the trial was, at another rate and over other epochs.
    pub(super) fn attune(&self, trial: &Trial, recipe: Recipe) -> Recipe {
        let Some(Aware { epochs, learning_rate, .. }) = self.sweep.quantise.map(|quantise| quantise.aware)
        else {
            return recipe;
        };
        let keep = self.keep_of_split(trial, FoldId::AWARE);
        Recipe { epochs, learning_rate, patience: None, keep, ..recipe }
    }

    /// A refit has too few validation clips to choose an epoch by, and so has what is trained on its split.
    pub(super) fn keep_of_split(&self, trial: &Trial, fold: FoldId) -> Keep {
        if self.fold_of_split(trial, fold) == Some(FoldId::REFIT) { Keep::Last } else { Keep::Best }
    }
}

impl Trial {
    /// The spec that a run of it trains.
    pub fn model_of(&self, fold: FoldId) -> &AudioCnn {
        let base = match (&self.aware, fold) {
            (Some(aware), FoldId::AWARE) => aware.base,
            _ => fold,
        };
        let pruned = base.pruning_step().and_then(|step| self.pruned_step(step));
        pruned.map_or(&self.model, |pruned| &pruned.model)
    }
}
