//! One sweep: its trials, the runs that wait, and its search; `thinned`: which trials get more epochs; `raced`: which get more
//! folds; `pruned`: how the best is made smaller; `quantised`: how it is made to bear int8; `alike`: which runs can be trained together.

mod alike;
mod pruned;
mod quantised;
mod raced;
mod thinned;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, mem,
    sync::Arc,
};

pub use self::{pruned::Due, quantised::Candidate};

use earshot_common::{
    ids::{BlobId, FoldId, RunId, SweepId, Token, TrialId, WorkerId},
    job::{Epoch, Job, Recipe, RunResult, Verdict, derive_seed},
    model::{AudioCnn, Cost},
    sweep::{Objective, Point, Search, Stop, Sweep},
};
use serde::Serialize;

use super::{
    dataset::Dataset,
    event::{Grant, Refusal},
    progress::{Completion, Progress},
    ranking::{MeanMetrics, Ranking},
    sharing::Account,
    spread::{Estimate, Spread},
    thinning::Thinning,
    trial::{AttemptEnd, Run, RunStatus, Trial, TrialStatus},
};
use crate::search::{self, Costs, Outcome, Past, Proposal, Question, Stages, Standing};

/// What the user wants of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Phase {
    /// That it goes on.
    #[default]
    Running,
    /// That nothing more is handed out for now.
    Paused,
    /// Nothing any more.
    Cancelled,
}

/// A sweep under way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepState {
    id: SweepId,
    sweep: Sweep,
    dataset: Dataset,
    phase: Phase,
    /// Whether the search had nothing more to propose before the trials were as many as they may be.
    is_searched: bool,
    /// By number, from 0 without gaps.
    trials: Vec<Trial>,
    /// Runs to hand out, the oldest trial first.
    waiting: BTreeSet<(TrialId, FoldId)>,
    /// Runs handed out.
    leased: BTreeSet<(TrialId, FoldId)>,
    /// Trials of each status, so that counting them need not look at them all.
    tally: BTreeMap<TrialStatus, u32>,
    ranking: Ranking,
    thinning: Thinning,
    account: Account,
    progress: Progress,
    spread: Spread,
    /// Why a step of pruning could not be cut, in words; then none follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruning_refused: Option<String>,
    /// Why no run is trained to bear quantisation, in words; none while that is not known, or where one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    quantisation_kept: Option<String>,
}

impl SweepState {
    pub(super) fn new(id: SweepId, sweep: Sweep, dataset: Dataset, at_ms: u64) -> Self {
        Self {
            id,
            sweep,
            dataset,
            phase: Phase::default(),
            is_searched: false,
            trials: Vec::new(),
            waiting: BTreeSet::new(),
            leased: BTreeSet::new(),
            tally: BTreeMap::new(),
            ranking: Ranking::default(),
            thinning: Thinning::default(),
            account: Account::default(),
            progress: Progress::since(at_ms),
            spread: Spread::default(),
            pruning_refused: None,
            quantisation_kept: None,
        }
    }

    /// What was handed in.
    pub fn sweep(&self) -> &Sweep {
        &self.sweep
    }

    /// The features it trains on.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Every blob that its jobs and its results name; of what attempts left that came to nothing, what the next ones go on from,
    /// if there may be any.
    pub fn blobs(&self) -> BTreeSet<BlobId> {
        let Dataset { shards, views, splits, manifest, .. } = &self.dataset;
        let runs = || self.trials.iter().flat_map(Trial::all_runs).map(|(_, run)| run);
        let results = runs().filter_map(Run::completed);
        let results = results.flat_map(|(result, _)| [result.checkpoint, result.logits]);
        let views = views.iter().flat_map(|view| &view.shards);
        let inputs = shards.iter().chain(views).chain(splits.values()).chain([manifest]).copied();
        let kept = runs().filter(|_| !self.has_ended()).filter_map(Run::kept);
        let steps = self.trials.iter().flat_map(|trial| &trial.pruned);
        let cut = steps.flat_map(|step| iter::once(step.weights).chain(step.teacher));
        inputs.chain(results).chain(kept).chain(cut).collect()
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
        self.trial(id.trial)?.run(id.fold)
    }

    /// Runs to hand out.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Runs handed out.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    /// What the user wants of it.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether nothing is to be handed out for now.
    pub fn is_paused(&self) -> bool {
        self.phase == Phase::Paused && !self.has_ended()
    }

    /// Whether asking may give a run.
    pub fn has_work(&self) -> bool {
        self.phase == Phase::Running && self.is_unfinished()
    }

    /// Whether every run has ended, the search has no more to propose, and nothing is to be pruned or quantised any more.
    pub fn is_completed(&self) -> bool {
        let is_idle = !self.is_unfinished() && self.leased.is_empty();
        let is_whole = self.pruning_due().is_none() && self.quantisation_due().is_none();
        self.phase != Phase::Cancelled && is_idle && is_whole
    }

    /// Whether nothing more is to come of it.
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Cancelled || self.is_completed()
    }

    /// Whether there are runs that were not handed out.
    fn is_unfinished(&self) -> bool {
        !self.waiting.is_empty() || !self.is_exhausted() || self.has_promotable()
    }

    fn is_exhausted(&self) -> bool {
        self.trials.len() as u64 >= self.trials_total()
    }

    /// Trials there will be, as far as is known.
    pub fn trials_total(&self) -> u64 {
        if self.is_searched { self.trials.len() as u64 } else { self.sweep.trials() }
    }

    /// What to do for a run.
    pub fn job(&self, run: RunId) -> Option<Job> {
        let trial = self.trial(run.trial)?;
        let pruned = run.fold.pruning_step().and_then(|step| trial.pruned_step(step));
        let aware = trial.aware.as_ref().filter(|_| run.fold == FoldId::AWARE);
        Some(Job {
            model: trial.model_of(run.fold).clone(),
            recipe: self.recipe(run)?,
            shards: self.dataset.shards.clone(),
            split: *self.dataset.splits.get(&self.fold_of_split(trial, run.fold)?)?,
            initial_weights: pruned.map(|pruned| pruned.weights).or(aware.map(|aware| aware.weights)),
            taylor: self.wants_taylor() && aware.is_none(),
            teacher: pruned.and_then(|pruned| self.teacher(pruned)),
            int8_accuracy: self.wants_int8_accuracy(run.fold),
            int8_ranges: aware.map(|aware| aware.ranges.clone()).unwrap_or_default(),
            resume: None,
            rungs: self.rungs(run),
            augment: self.dataset.augment(&trial.point),
        })
    }

    /// Whether what a run comes to is to be measured in int8: where trials are scored by that, and where it may be exported.
    fn wants_int8_accuracy(&self, fold: FoldId) -> bool {
        self.sweep.objective == Objective::Int8Accuracy && (fold.is_fold() || fold == FoldId::REFIT)
    }

    /// How to train a run.
    pub fn recipe(&self, run: RunId) -> Option<Recipe> {
        let trial = self.trial(run.trial)?;
        let seed = derive_seed(self.sweep.seed, run);
        let recipe = trial.point.recipe(&self.sweep.schedule, &self.sweep.front_end, seed);
        match run.fold {
            FoldId::REFIT => Some(recipe.refit(MeanMetrics::of(trial)?.epoch)),
            FoldId::AWARE => Some(self.attune(trial, recipe)),
            fold => Some(self.retrain(trial, fold, recipe)),
        }
    }

    /// Proposed trials of this status.
    pub fn count(&self, status: TrialStatus) -> u32 {
        self.tally.get(&status).copied().unwrap_or(0)
    }

    /// Completed trials, the best first: by the objective's mean over runs, then by lower loss, then by lower number.
    pub fn ranking(&self) -> impl Iterator<Item = (TrialId, &Trial, MeanMetrics)> {
        self.ranking.trials().filter_map(|(id, mean)| Some((id, self.trial(id)?, mean)))
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    pub(super) fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    /// What a completed trial's mean is worth; none where there are too few folds or trials to tell.
    pub fn estimate(&self, mean: MeanMetrics) -> Option<Estimate> {
        self.spread.estimate(mean.score(self.sweep.objective))
    }

    /// Trials in the order in which they completed.
    pub fn completions(&self) -> &[Completion] {
        self.progress.completions()
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Ends every attempt, and returns their tokens. Their runs wait again, for ever.
    pub(super) fn cancel(&mut self) -> Vec<Token> {
        self.phase = Phase::Cancelled;
        let mut ended = Vec::new();
        for (trial, fold) in mem::take(&mut self.leased) {
            self.change(RunId { sweep: self.id, trial, fold }, |run| {
                if let RunStatus::Leased(token) = run.status {
                    run.end(token, AttemptEnd::Abandoned);
                    run.status = RunStatus::Waiting;
                    ended.push(token);
                }
            });
            self.waiting.insert((trial, fold));
        }
        ended
    }

    pub(super) fn grant(
        &mut self,
        worker: WorkerId,
        proposed: &[Proposal],
        token: Token,
        at_ms: u64,
    ) -> Option<Grant> {
        let mut proposed = proposed.iter().cloned();
        if self.waiting.is_empty() {
            self.promote();
        }
        while self.waiting.is_empty() && !self.is_exhausted() {
            match proposed.next().or_else(|| self.propose(&[])) {
                Some(proposal) => self.admit(proposal),
                None => self.is_searched = true,
            }
        }
        if self.waiting.is_empty() {
            // The search has run out, which leaves the last word to the best of those that are held.
            self.promote();
        }
        self.plan_refit();
        let &next = self.waiting.first()?;
        self.lease(next, worker, token, at_ms)
    }

    /// Hands a run that waits out.
    fn lease(
        &mut self,
        (trial, fold): (TrialId, FoldId),
        worker: WorkerId,
        token: Token,
        at_ms: u64,
    ) -> Option<Grant> {
        self.waiting.remove(&(trial, fold));
        self.leased.insert((trial, fold));
        let run_id = RunId { sweep: self.id, trial, fold };
        let resume = self.run(run_id).and_then(Run::kept);
        let job = Job { resume, ..self.job(run_id)? };
        let attempt = self.change(run_id, |run| run.lease(token, worker, at_ms))?;
        Some(Grant { token, run: run_id, attempt, replay: None, job })
    }

    /// What the search proposes until a point is feasible, if it has to be asked at all. A grid's are not worth writing down.
    pub(super) fn proposals(&self) -> Vec<Proposal> {
        let mut proposed = Vec::new();
        let is_known = matches!(self.sweep.search, Search::Grid { .. })
            || !self.waiting.is_empty()
            || self.has_promotable();
        while !is_known && ((self.trials.len() + proposed.len()) as u64) < self.trials_total() {
            let Some(proposal) = self.propose(&proposed) else { break };
            let is_feasible = self.verdict(&proposal.point).2.is_none();
            proposed.push(proposal);
            if is_feasible {
                break;
            }
        }
        proposed
    }

    /// The search's next point after the trials and these that it has just proposed.
    fn propose(&self, proposed: &[Proposal]) -> Option<Proposal> {
        let Sweep { search, space, seed, .. } = &self.sweep;
        if let Search::Grid { shuffle } = *search {
            let number = (self.trials.len() + proposed.len()) as u64;
            return Some(Proposal::new(
                search::grid_point(space, *seed, shuffle, number)?,
                search::Why::Grid,
            ));
        }
        let past = |trial| {
            if search.heeds_results() {
                self.past(trial)
            } else {
                Past { point: &trial.point, standing: Standing::Pending, costs: Costs::default() }
            }
        };
        let trials = self.trials.iter().map(past);
        let admitted = proposed.iter().map(|Proposal { point, .. }| {
            let (_, cost, infeasible) = self.verdict(point);
            let standing = infeasible.map_or(Standing::Pending, |_| Standing::Infeasible);
            Past { point, standing, costs: self.costs(&cost) }
        });
        let history: Vec<Past<'_>> = trials.chain(admitted).collect();
        let costs = |point: &Point| {
            let (_, cost, infeasible) = self.verdict(point);
            infeasible.is_none().then(|| self.costs(&cost))
        };
        let has_costs = !self.sweep.minimise.is_empty();
        let stages = self.stages(proposed.len());
        let last = self.sweep.schedule.epochs;
        search::propose(&Question {
            search: *search,
            space,
            seed: *seed,
            history: &history,
            stages: stages.as_ref().map(|of| Stages { last, of }),
            has_costs,
            costs: &costs,
        })
    }

    /// Costs that are to be small.
    fn costs(&self, cost: &Cost) -> Costs {
        let mut costs = Costs::default();
        for (value, minimised) in costs.iter_mut().zip(&self.sweep.minimise) {
            *value = minimised.of(cost);
        }
        costs
    }

    /// The numbers of the completed trials on the front: no other scores as well and costs as little, and is better in something.
    /// Where no cost is to be small, these are the best.
    pub fn front(&self) -> BTreeSet<TrialId> {
        let scored = self.ranking.trials().filter_map(|(id, _)| {
            let trial = self.trial(id)?;
            let score = trial.score(self.sweep.objective)?;
            Some((id, Outcome { score, costs: self.costs(&trial.cost) }))
        });
        let (ids, outcomes): (Vec<TrialId>, Vec<Outcome>) = scored.unzip();
        search::front(&outcomes).into_iter().filter_map(|number| ids.get(number).copied()).collect()
    }

    /// A point's model and what it costs, and why it is not to be trained if it cannot be built or the constraints rule it out.
    fn verdict(&self, point: &Point) -> (AudioCnn, Cost, Option<String>) {
        let model = point.model(self.dataset.frames, self.dataset.labels.len() as u32);
        let (cost, infeasible) = match model.cost() {
            Ok(cost) => (cost, self.sweep.constraints.broken_by(&cost)),
            Err(error) => (Cost::default(), Some(error.to_string())),
        };
        (model, cost, infeasible)
    }

    /// Adds a trial, and its runs to the queue unless it is infeasible.
    fn admit(&mut self, Proposal { point, why, .. }: Proposal) {
        let (model, cost, infeasible) = self.verdict(&point);
        let folds = if infeasible.is_some() { Vec::new() } else { self.sweep.split.folds() };
        let id = TrialId(self.trials.len() as u32);
        let first = folds.iter().min().copied();
        let begun = |fold: u32| Run { status: self.first_status(Some(fold) == first), ..Run::default() };
        let runs: BTreeMap<_, _> = folds.into_iter().map(|fold| (FoldId(fold), begun(fold))).collect();
        let waiting = runs.iter().filter(|(_, run)| run.status == RunStatus::Waiting);
        self.waiting.extend(waiting.map(|(&fold, _)| (id, fold)));
        let judgements = Vec::new();
        let (point, refit, pruned, aware) = (Arc::new(point), None, Vec::new(), None);
        let trial = Trial { point, why, model, cost, runs, infeasible, judgements, refit, pruned, aware };
        *self.tally.entry(trial.status()).or_default() += 1;
        self.trials.push(trial);
    }

    /// A trial as the search sees it.
    fn past<'a>(&self, trial: &'a Trial) -> Past<'a> {
        let standing = match trial.status() {
            TrialStatus::Waiting | TrialStatus::Running => Standing::Pending,
            // A loss or an accuracy that is no number is no better than a failure.
            // A stopped one was worse than others at its epoch, which is what its score says.
            TrialStatus::Completed | TrialStatus::Stopped => self
                .score_so_far(trial)
                .filter(|score| score.is_finite())
                .map_or(Standing::Failed, Standing::Completed),
            TrialStatus::Failed => Standing::Failed,
            TrialStatus::Infeasible => Standing::Infeasible,
        };
        Past { point: &trial.point, standing, costs: self.costs(&trial.cost) }
    }

    /// What the objective makes of a trial that has ended or was stopped; in a race, as if it had every fold.
    fn score_so_far(&self, trial: &Trial) -> Option<f64> {
        match self.sweep.stop {
            Some(Stop::Race { .. }) => {
                let scores = self.scores(trial);
                let mean = scores.values().sum::<f64>() / scores.len() as f64;
                (!scores.is_empty()).then(|| self.spread.adjusted(&scores).unwrap_or(mean))
            }
            _ => MeanMetrics::so_far(trial).map(|mean| mean.score(self.sweep.objective)),
        }
    }

    pub(super) fn report(
        &mut self,
        run_id: RunId,
        epoch: &Epoch,
        midway: Option<BlobId>,
    ) -> Result<(Verdict, Vec<Token>), Refusal> {
        let last = self.recipe(run_id).map_or(0, |recipe| recipe.epochs);
        let Some(run) = self.run_mut(run_id) else { return Ok((Verdict::Stop, Vec::new())) };
        run.take(epoch, midway, last)?;
        self.progress.spend_epoch();
        Ok(if epoch.epoch < last { self.thin(run_id, epoch.epoch) } else { (Verdict::Stop, Vec::new()) })
    }

    pub(super) fn complete(&mut self, run_id: RunId, result: RunResult, at_ms: u64) -> Result<(), Refusal> {
        self.run(run_id).map_or(Ok(()), |run| run.check(&result))?;
        self.change(run_id, |run| run.status = RunStatus::Completed(result));
        let status = self.trial(run_id.trial).map(Trial::status);
        if run_id.fold.is_fold() && status == Some(TrialStatus::Completed) {
            self.progress.complete(run_id.trial, at_ms);
        }
        if run_id.fold.is_fold() || run_id.fold == FoldId::REFIT {
            self.come_through(run_id.trial);
        }
        Ok(())
    }

    /// Ends an attempt: the run is done, waits again, or is given up, and then so are the trial's other runs, whose live
    /// attempts are returned.
    pub(super) fn end(&mut self, run_id: RunId, token: Token, end: AttemptEnd) -> Vec<Token> {
        let attempts_max = self.sweep.budget.attempts as usize;
        let key = (run_id.trial, run_id.fold);
        self.leased.remove(&key);
        let status = self.change(run_id, |run| {
            match run.status {
                RunStatus::Completed(_) => run.end(token, end),
                _ => run.fall_back(token, end, attempts_max),
            }
            run.status
        });
        match status {
            // Whatever becomes of a refit, or of what was pruned or quantised, its trial stays the best.
            Some(RunStatus::Failed) if !run_id.fold.is_fold() => {}
            Some(RunStatus::Failed) => {
                let abandoned = self.abandon(run_id.trial);
                self.plan_refit();
                return abandoned;
            }
            Some(RunStatus::Waiting) => drop(self.waiting.insert(key)),
            Some(RunStatus::Completed(_) | RunStatus::Leased(_) | RunStatus::Held) | None => {}
        }
        self.plan_refit();
        Vec::new()
    }

    /// When every trial has ended, queues the refit of the best one, if the sweep wants that and some trial completed.
    fn plan_refit(&mut self) {
        if !self.sweep.schedule.refit || self.is_unfinished() || !self.leased.is_empty() {
            return;
        }
        let Some((best, _)) = self.ranking.trials().next() else { return };
        if let Some(trial) = self.trials.get_mut(best.0 as usize)
            && trial.refit.is_none()
        {
            trial.refit = Some(Run::default());
            self.waiting.insert((best, FoldId::REFIT));
        }
    }

    /// Takes a failed trial's other runs out of the queue and ends their attempts, whose tokens it returns.
    fn abandon(&mut self, id: TrialId) -> Vec<Token> {
        let Some(trial) = self.trials.get_mut(id.0 as usize) else { return Vec::new() };
        let mut ended = Vec::new();
        self.thinning.forget(id);
        for (&fold, run) in &mut trial.runs {
            self.waiting.remove(&(id, fold));
            self.leased.remove(&(id, fold));
            match run.status {
                RunStatus::Leased(token) => {
                    ended.push(token);
                    run.end(token, AttemptEnd::Abandoned);
                    run.status = RunStatus::Failed;
                }
                RunStatus::Waiting | RunStatus::Held => run.status = RunStatus::Failed,
                RunStatus::Completed(_) | RunStatus::Failed => {}
            }
        }
        ended
    }

    /// Changes a run, and with it what is known of its trial.
    fn change<T>(&mut self, id: RunId, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let trial = self.trials.get_mut(id.trial.0 as usize)?;
        let before = trial.status();
        let changed = change(trial.run_mut(id.fold)?);
        let after = trial.status();
        if before != after {
            self.tally.entry(before).and_modify(|count| *count -= 1);
            *self.tally.entry(after).or_default() += 1;
            if after == TrialStatus::Completed
                && let Some(mean) = MeanMetrics::of(trial)
            {
                self.ranking.enter(id.trial, mean, self.sweep.objective);
                let scores = self.trial(id.trial).map(|trial| self.scores(trial)).unwrap_or_default();
                self.spread.enter(&scores);
            }
        }
        Some(changed)
    }

    fn run_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.trials.get_mut(id.trial.0 as usize)?.run_mut(id.fold)
    }
}
