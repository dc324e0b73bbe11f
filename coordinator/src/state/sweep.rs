//! One sweep: its trials, the runs that wait, and its search.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::{
    ids::{FoldId, RunId, SweepId, Token, TrialId, WorkerId},
    job::{Epoch, Job, RunResult, Verdict, derive_seed},
    sweep::{Objective, Sweep},
};

use super::{
    event::{Dataset, Grant, Refusal},
    trial::{Attempt, AttemptEnd, Run, RunStatus, Trial, TrialStatus},
};
use crate::search;

/// A sweep under way.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepState {
    id: SweepId,
    sweep: Sweep,
    dataset: Dataset,
    /// By number, from 0 without gaps.
    trials: Vec<Trial>,
    /// Runs to hand out, the oldest trial first.
    waiting: BTreeSet<(TrialId, FoldId)>,
    /// Runs handed out.
    leased: BTreeSet<(TrialId, FoldId)>,
}

impl SweepState {
    pub(super) fn new(id: SweepId, sweep: Sweep, dataset: Dataset) -> Self {
        Self { id, sweep, dataset, trials: Vec::new(), waiting: BTreeSet::new(), leased: BTreeSet::new() }
    }

    /// What was handed in.
    pub fn sweep(&self) -> &Sweep {
        &self.sweep
    }

    /// The features it trains on.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Trials proposed so far, in order.
    pub fn trials(&self) -> impl ExactSizeIterator<Item = (TrialId, &Trial)> {
        self.trials.iter().enumerate().map(|(number, trial)| (TrialId(number as u32), trial))
    }

    /// A trial.
    pub fn trial(&self, id: TrialId) -> Option<&Trial> {
        self.trials.get(id.0 as usize)
    }

    /// A run.
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.trial(id.trial)?.runs.get(&id.fold)
    }

    /// Runs to hand out.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Runs handed out.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    /// Whether asking may give a run.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.is_exhausted()
    }

    /// Whether every run has ended and the search has no more to propose.
    pub fn is_completed(&self) -> bool {
        !self.has_work() && self.leased.is_empty()
    }

    fn is_exhausted(&self) -> bool {
        self.trials.len() as u64 >= self.sweep.trials()
    }

    /// What to do for a run.
    pub fn job(&self, run: RunId) -> Option<Job> {
        let trial = self.trial(run.trial)?;
        Some(Job {
            model: trial.model.clone(),
            recipe: trial.point.recipe(&self.sweep.schedule, derive_seed(self.sweep.seed, run)),
            shards: self.dataset.shards.clone(),
            split: *self.dataset.splits.get(&run.fold)?,
            initial_weights: None,
        })
    }

    /// Completed trials, the best first: by the objective's mean over runs, then by lower loss, then by lower number.
    pub fn ranking(&self) -> Vec<(TrialId, &Trial, MeanMetrics)> {
        let mut ranked: Vec<_> = self
            .trials()
            .filter(|(_, trial)| trial.status() == TrialStatus::Completed)
            .filter_map(|(id, trial)| MeanMetrics::of(trial).map(|mean| (id, trial, mean)))
            .collect();
        ranked.sort_by(|(a_id, _, a), (b_id, _, b)| {
            let by_score = b.score(self.sweep.objective).total_cmp(&a.score(self.sweep.objective));
            by_score.then(a.loss.total_cmp(&b.loss)).then(a_id.cmp(b_id))
        });
        ranked
    }

    pub(super) fn grant(&mut self, worker: WorkerId, token: Token, at_ms: u64) -> Option<Grant> {
        while self.waiting.is_empty() && !self.is_exhausted() {
            self.propose()?;
        }
        let (trial, fold) = self.waiting.pop_first()?;
        self.leased.insert((trial, fold));
        let run_id = RunId { sweep: self.id, trial, fold };
        let job = self.job(run_id)?;
        let run = self.run_mut(run_id)?;
        run.status = RunStatus::Leased(token);
        run.epochs.clear();
        run.attempts.push(Attempt { token, worker, granted_at_ms: at_ms, end: None });
        Some(Grant { token, run: run_id, attempt: run.attempts.len() as u32, job })
    }

    /// Adds the search's next trial, and its runs to the queue unless the constraints rule it out.
    fn propose(&mut self) -> Option<()> {
        let point = search::propose(self.sweep.search, &self.sweep.space, &self.trials)?;
        let model = point.model(self.dataset.frames, self.dataset.labels.len() as u32);
        let cost = model.cost().ok()?;
        let infeasible = self.sweep.constraints.broken_by(&cost);
        let folds = if infeasible.is_some() { Vec::new() } else { self.sweep.split.folds() };
        let id = TrialId(self.trials.len() as u32);
        self.waiting.extend(folds.iter().map(|&fold| (id, FoldId(fold))));
        let runs: BTreeMap<_, _> = folds.into_iter().map(|fold| (FoldId(fold), Run::default())).collect();
        self.trials.push(Trial { point, model, cost, runs, infeasible });
        Some(())
    }

    pub(super) fn report(&mut self, run_id: RunId, epoch: &Epoch) -> Result<Verdict, Refusal> {
        let last = self.sweep.schedule.epochs;
        let Some(run) = self.run_mut(run_id) else { return Ok(Verdict::Stop) };
        let expected = (run.epochs.len() as u32 + 1).min(last);
        if run.epochs.last() != Some(epoch) {
            if epoch.epoch != expected || run.epochs.len() as u32 == last {
                return Err(Refusal::EpochOutOfOrder { expected, got: epoch.epoch });
            }
            run.epochs.push(*epoch);
        }
        Ok(if epoch.epoch < last { Verdict::Continue } else { Verdict::Stop })
    }

    pub(super) fn complete(&mut self, run_id: RunId, result: RunResult) -> Result<(), Refusal> {
        let Some(run) = self.run_mut(run_id) else { return Ok(()) };
        let reported = run.epochs.len() as u32;
        if !(1..=reported).contains(&result.best_epoch) {
            return Err(Refusal::BestEpoch { best: result.best_epoch, reported });
        }
        run.status = RunStatus::Completed(result);
        Ok(())
    }

    /// Ends an attempt: the run is done, waits again, or is given up, and then so are the trial's other runs, whose live
    /// attempts are returned.
    pub(super) fn end(&mut self, run_id: RunId, token: Token, end: AttemptEnd) -> Vec<Token> {
        let attempts_max = self.sweep.budget.attempts as usize;
        let key = (run_id.trial, run_id.fold);
        self.leased.remove(&key);
        let Some(run) = self.run_mut(run_id) else { return Vec::new() };
        let is_final = matches!(&end, AttemptEnd::Failed(failure) if !failure.reason.is_retryable());
        if let Some(attempt) = run.attempts.iter_mut().find(|attempt| attempt.token == token) {
            attempt.end = Some(end);
        }
        if matches!(run.status, RunStatus::Completed(_)) {
            return Vec::new();
        }
        if is_final || run.attempts_spent() >= attempts_max {
            run.status = RunStatus::Failed;
            return self.abandon(run_id.trial);
        }
        run.status = RunStatus::Waiting;
        self.waiting.insert(key);
        Vec::new()
    }

    /// Takes a failed trial's other runs out of the queue and ends their attempts.
    fn abandon(&mut self, trial: TrialId) -> Vec<Token> {
        self.waiting.retain(|(waiting, _)| *waiting != trial);
        self.leased.retain(|(leased, _)| *leased != trial);
        let mut ended = Vec::new();
        for run in self.trials.get_mut(trial.0 as usize).into_iter().flat_map(|trial| trial.runs.values_mut())
        {
            match run.status {
                RunStatus::Leased(token) => {
                    ended.push(token);
                    if let Some(attempt) = run.attempts.iter_mut().find(|attempt| attempt.token == token) {
                        attempt.end = Some(AttemptEnd::Abandoned);
                    }
                    run.status = RunStatus::Failed;
                }
                RunStatus::Waiting => run.status = RunStatus::Failed,
                RunStatus::Completed(_) | RunStatus::Failed => {}
            }
        }
        ended
    }

    fn run_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.trials.get_mut(id.trial.0 as usize)?.runs.get_mut(&id.fold)
    }
}

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
}

impl MeanMetrics {
    /// Of a trial whose runs have all completed.
    fn of(trial: &Trial) -> Option<Self> {
        let epochs: Vec<&Epoch> =
            trial.runs.values().map(|run| run.completed().map(|(_, epoch)| epoch)).collect::<Option<_>>()?;
        let mean = |metric: fn(&Epoch) -> f64| {
            epochs.iter().map(|epoch| metric(epoch)).sum::<f64>() / epochs.len() as f64
        };
        (!epochs.is_empty()).then(|| Self {
            accuracy: mean(|epoch| epoch.accuracy),
            macro_f1: mean(|epoch| epoch.macro_f1),
            loss: mean(|epoch| epoch.loss),
            epoch: mean(|epoch| f64::from(epoch.epoch)),
        })
    }

    /// What the objective makes of them: the larger the better.
    pub fn score(&self, objective: Objective) -> f64 {
        match objective {
            Objective::Accuracy => self.accuracy,
            Objective::MacroF1 => self.macro_f1,
            Objective::Loss => -self.loss,
        }
    }
}
