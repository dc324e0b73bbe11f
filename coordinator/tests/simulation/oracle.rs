//! The promises, kept as a small model of its own beside the state machine's. It sees every entry that reaches the disk, with
//! the decision that a second state machine made of the entry's bytes, and looks at the live one after every step.

mod conclusion;
mod pruned;
mod quantised;
mod sharing;
mod thinned;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use coordinator::{
    leases::Lost,
    mind::Mind,
    state::{Decision, Digest, Event, EventKind, Grant, Run, RunStatus, State, SweepState},
};
use earshot_common::{
    ids::{BlobId, FoldId, ReplayId, RunId, SweepId, Token, TrialId, WorkerId},
    int8::Range,
    job::{Epoch, Job, Outcome, Reason, RunResult, Verdict, derive_seed},
    sweep::{Search, Stop},
};

use self::sharing::{Sharing, Waiting};
use crate::{
    coverage::Coverage,
    dice::Dice,
    plan::LEASE_MS,
    replays::{self, Original, Replays},
};

/// Runs up to which every run is looked at after every step; beyond, after every so many.
const RUNS_SMALL: usize = 24;
const STEPS_BETWEEN: u64 = 32;

#[derive(Default)]
pub(crate) struct Oracle {
    /// Folds the entries as they are on disk.
    shadow: State,
    /// Of each entry.
    decisions: Vec<Decision>,
    at_ms: u64,
    alive: BTreeMap<Token, Alive>,
    ended: Vec<(WorkerId, Token)>,
    runs: BTreeMap<RunId, History>,
    completed: BTreeMap<RunId, Completed>,
    /// From where the next attempt has to go on, with the epochs until there.
    kept: BTreeMap<(RunId, Option<ReplayId>), (BlobId, Vec<Epoch>)>,
    replays: Replays,
    failed_trials: BTreeSet<(SweepId, TrialId)>,
    /// What was cut, by step.
    cuts: BTreeMap<RunId, pruned::Made>,
    /// Sweeps of which a step could not be cut.
    uncut: BTreeSet<SweepId>,
    /// Sweeps whose model was quantised, with the ranges that it is trained to bear, if it is.
    quantised: BTreeMap<SweepId, Option<Vec<Range>>>,
    /// Runs that wait for their trial to be promoted.
    held: BTreeSet<RunId>,
    paused: BTreeSet<SweepId>,
    cancelled: BTreeSet<SweepId>,
    sharing: Sharing,
    /// Results of replays.
    replayed: Vec<(Token, RunResult)>,
    /// What workers were told that it is kept.
    acknowledged: Vec<(Token, RunResult)>,
    /// When each attempt's worker last showed life, as far as this life of the coordinator knows.
    signs: BTreeMap<Token, Sign>,
    /// Steps that were looked at, and the position after the last of them.
    steps: u64,
    checked: u64,
    covered: Coverage,
}

struct Alive {
    worker: WorkerId,
    run: RunId,
    replay: Option<ReplayId>,
    epochs: Vec<Epoch>,
}

struct Completed {
    token: Token,
    result: RunResult,
    epochs: Vec<Epoch>,
}

impl Completed {
    fn original(&self) -> Original<'_> {
        Original { epochs: &self.epochs, result: self.result }
    }
}

#[derive(Default)]
struct History {
    attempts: u32,
    /// Attempts that speak against the run.
    spent: u32,
    newest: Option<Token>,
}

#[derive(Clone, Copy)]
struct Sign {
    at_ms: u64,
    was_named: bool,
}

impl Oracle {
    pub(crate) fn alive(&self) -> impl Iterator<Item = (Token, WorkerId)> {
        self.alive.iter().map(|(&token, alive)| (token, alive.worker))
    }

    /// An attempt that is over, for liars.
    pub(crate) fn some_ended(&self, dice: &mut Dice) -> Option<(WorkerId, Token)> {
        self.ended.get(dice.below(self.ended.len() as u64 + 1) as usize).copied()
    }

    pub(crate) fn starts(&mut self, now_ms: u64) {
        let sign = Sign { at_ms: now_ms, was_named: false };
        // What was never committed may be looked at again at the same position.
        self.checked = 0;
        self.signs = self.alive.keys().map(|&token| (token, sign)).collect();
    }

    pub(crate) fn granted(&mut self, token: Token, now_ms: u64) {
        self.signs.insert(token, Sign { at_ms: now_ms, was_named: false });
    }

    pub(crate) fn showed_life(&mut self, token: Token, now_ms: u64) {
        self.signs.insert(token, Sign { at_ms: now_ms, was_named: true });
    }

    pub(crate) fn check_lost(&self, lost: Lost, now_ms: u64) {
        let (Lost::Silent(token) | Lost::Unclaimed(token)) = lost;
        let sign = self.signs[&token];
        assert!(now_ms - sign.at_ms >= LEASE_MS, "lease {token} was ended in its time");
        let is_unclaimed = matches!(lost, Lost::Unclaimed(_));
        assert!(!(is_unclaimed && sign.was_named), "attempt {token} was claimed");
    }

    /// The answer that a worker has in its hands must be true for ever.
    pub(crate) fn acknowledged(&mut self, token: Token, outcome: &Outcome) {
        if let Outcome::Completed(result) = outcome {
            self.acknowledged.push((token, *result));
            assert!(self.is_kept(token, result), "the result of {token} was acknowledged and is not on disk");
        }
    }

    fn is_kept(&self, token: Token, result: &RunResult) -> bool {
        self.completed.values().any(|kept| (kept.token, kept.result) == (token, *result))
            || self.replayed.contains(&(token, *result))
    }

    /// A trial of which a run has completed, for users.
    pub(crate) fn some_completed(&self, dice: &mut Dice) -> Option<(SweepId, TrialId)> {
        let some = dice.below(self.completed.len() as u64 + 1) as usize;
        self.completed.keys().nth(some).map(|run| (run.sweep, run.trial))
    }

    /// An entry has reached the disk, with the digest of what was decided of it.
    pub(crate) fn entered(&mut self, event: &Event, digest: Digest) {
        let position = self.shadow.position();
        assert!(event.at_ms >= self.at_ms, "entry {position} is older than the one before");
        self.at_ms = event.at_ms;
        let before = self.is_of_replays(&event.kind).then(|| self.sweeps());
        let waiting = self.asks(&event.kind);
        let decision = self.shadow.apply(event).expect("what the mind took is taken again");
        assert_eq!(decision.digest(), digest, "entry {position} was decided otherwise than its bytes say");
        let is_of_run = matches!(&decision, Decision::Granted(grant) if grant.replay.is_none());
        if let Some(before) = before.filter(|_| !is_of_run) {
            assert!(self.sweeps() == before, "a replay changed its sweep: {event:?}");
        }
        if let (Some(waiting), Decision::Granted(grant)) = (waiting, &decision) {
            waiting.check(grant.run.sweep, &self.shadow);
            self.covered.sweeps_chosen_among += u64::from(waiting.is_choice());
        }
        self.observe(event, &decision);
        self.decisions.push(decision);
    }

    /// Whether an event can only be about a replay, or may be a grant of one; of small worlds, for the comparison takes time.
    fn is_of_replays(&self, kind: &EventKind) -> bool {
        let is_replayed = |token| self.alive.get(token).is_some_and(|alive| alive.replay.is_some());
        let is_of_replays = match kind {
            EventKind::ReplayAsked { .. } => true,
            EventKind::Asked { .. } => self.replays.waiting().next().is_some(),
            EventKind::Reported { token, .. }
            | EventKind::Finished { token, .. }
            | EventKind::Expired { token }
            | EventKind::Unclaimed { token } => is_replayed(token),
            _ => false,
        };
        is_of_replays && trials(&self.shadow) <= RUNS_SMALL
    }

    /// Who is to be served when somebody asks, unless that is a replay.
    fn asks(&mut self, kind: &EventKind) -> Option<Waiting> {
        let is_of_replay = self.replays.waiting().any(|sweep| !self.is_paused(sweep));
        let is_of_sweeps = matches!(kind, EventKind::Asked { .. }) && !is_of_replay;
        is_of_sweeps.then(|| self.sharing.asked(&self.shadow, self.at_ms))
    }

    fn sweeps(&self) -> Vec<SweepState> {
        self.shadow.sweeps().map(|(_, sweep)| sweep.clone()).collect()
    }

    fn observe(&mut self, event: &Event, decision: &Decision) {
        match (&event.kind, decision) {
            (EventKind::Asked { worker, .. }, Decision::Granted(grant)) => {
                if grant.replay.is_none() {
                    let waits = self.replays.waiting().find(|&sweep| !self.is_paused(sweep));
                    assert_eq!(waits, None, "run {} was handed out where a replay waits", grant.run);
                }
                self.observe_grant(*worker, grant);
            }
            (EventKind::AskedAlike { worker, like, .. }, Decision::Granted(grant)) => {
                let first = self.alive.get(like).expect("like an attempt that is over");
                let of_first = (first.worker, first.run.sweep, first.replay);
                assert_eq!((*worker, grant.run.sweep, grant.replay), of_first, "like another's attempt");
                let shape = sweep(&self.shadow, first.run.sweep).job(first.run).and_then(|job| job.shape());
                assert!(shape.is_some() && grant.job.shape() == shape, "run {} has another shape", grant.run);
                self.observe_grant(*worker, grant);
            }
            (EventKind::Reported { worker, token, epoch, midway }, Decision::Verdict(verdict)) => {
                let alive = self.alive.get_mut(token).expect("a report of a dead attempt was taken");
                assert_eq!(alive.worker, *worker, "a report for another's attempt was taken");
                if alive.epochs.last() != Some(epoch) {
                    assert_eq!(epoch.epoch as usize, alive.epochs.len() + 1, "epochs out of order");
                    alive.epochs.push(*epoch);
                }
                if let Some(blob) = midway {
                    self.kept.insert((alive.run, alive.replay), (*blob, alive.epochs.clone()));
                }
                let run = alive.run;
                if *verdict == Verdict::Pause {
                    assert_eq!(alive.replay, None, "a replay was held");
                    self.observe_hold(*token, run, epoch);
                } else if let Some(replay) = alive.replay {
                    let original = self.completed[&alive.run].original();
                    let last = sweep(&self.shadow, alive.run.sweep).recipe(alive.run).unwrap().epochs;
                    self.replays.reported(replay, alive.run.fold, epoch, &original, last, *verdict);
                }
            }
            (EventKind::Finished { worker, token, outcome }, Decision::Noted) => {
                self.observe_end(*worker, *token, outcome);
            }
            (EventKind::Expired { token }, Decision::Noted) => {
                let alive = self.ends(*token).expect("a lease expired twice");
                self.loses(&alive, replays::Lost::Spent);
            }
            (EventKind::Unclaimed { token }, Decision::Noted) => {
                let alive = self.ends(*token).expect("a lease ended twice");
                self.loses(&alive, replays::Lost::Excused);
            }
            (EventKind::Left { worker }, Decision::Noted) => {
                let held = self.alive.iter().filter(|(_, alive)| alive.worker == *worker);
                for token in held.map(|(&token, _)| token).collect::<Vec<_>>() {
                    let alive = self.ends(token).unwrap();
                    self.loses(&alive, replays::Lost::Excused);
                }
            }
            (EventKind::ReplayAsked { sweep: id, trial }, Decision::Replaying(replay)) => {
                let mut folds: Vec<FoldId> =
                    sweep(&self.shadow, *id).sweep().split.folds().into_iter().map(FoldId).collect();
                let run = |fold| RunId { sweep: *id, trial: *trial, fold };
                let is_completed = folds.iter().all(|&fold| self.completed.contains_key(&run(fold)));
                assert!(is_completed, "trial {trial} is replayed and has not completed");
                let others =
                    [FoldId::REFIT].into_iter().chain((1..=8).map(FoldId::pruned)).chain([FoldId::AWARE]);
                folds.extend(others.filter(|&fold| self.completed.contains_key(&run(fold))));
                self.replays.asked(self.decisions.len() as u64, (*id, *trial), &folds, *replay);
            }
            (EventKind::Paused { sweep }, Decision::Noted) => {
                self.covered.paused_sweeps += u64::from(self.paused.insert(*sweep));
            }
            (EventKind::Resumed { sweep }, Decision::Noted) => {
                self.covered.resumed_sweeps += u64::from(self.paused.remove(sweep));
            }
            (EventKind::Cancelled { sweep }, Decision::Noted) => {
                self.covered.cancelled_sweeps += u64::from(self.cancelled.insert(*sweep));
                self.replays.cancelled(*sweep);
                let lost = self.alive.iter().filter(|(_, alive)| alive.run.sweep == *sweep);
                for token in lost.map(|(&token, _)| token).collect::<Vec<_>>() {
                    self.covered.cancelled_attempts += 1;
                    self.ends(token);
                }
            }
            (EventKind::Pruned { sweep, trial, step, cut }, Decision::Noted) => {
                self.observe_cut(*sweep, *trial, *step, cut);
            }
            (EventKind::Quantised { sweep, trial, quantisation }, Decision::Noted) => {
                self.observe_quantised(*sweep, *trial, quantisation);
            }
            (EventKind::Submitted { sweep, .. }, Decision::Submitted(id)) => {
                self.sharing.submitted(*id, sweep.weight, self.at_ms);
            }
            (EventKind::Joined { .. }, Decision::Joined(_))
            | (EventKind::Asked { .. }, Decision::NothingLeft) => {}
            (kind, decision) => panic!("{kind:?} was answered {decision:?}"),
        }
    }

    fn observe_grant(&mut self, worker: WorkerId, grant: &Grant) {
        let Grant { token, run, attempt, replay, job } = grant;
        assert_eq!(token.0, self.decisions.len() as u64, "a token is the position of its grant");
        self.check_job(*run, job);
        let kept = self.kept.get(&(*run, *replay)).cloned();
        let (resume, epochs) = kept.map_or((None, Vec::new()), |(blob, epochs)| (Some(blob), epochs));
        assert_eq!(job.resume, resume, "run {run} goes on from elsewhere");
        let alive = Alive { worker, run: *run, replay: *replay, epochs };
        if let Some(replay) = replay {
            assert!(!self.is_paused(run.sweep), "a replay of a paused sweep was handed out");
            self.replays.granted(*replay, *run, *attempt);
            self.alive.insert(*token, alive);
            return;
        }
        self.sharing.granted(run.sweep, *token, self.at_ms);
        assert!(!self.completed.contains_key(run), "run {run} has completed and is trained again");
        assert!(!self.failed_trials.contains(&(run.sweep, run.trial)), "run {run} was given up");
        let is_wanted = !self.paused.contains(&run.sweep) && !self.cancelled.contains(&run.sweep);
        assert!(is_wanted, "run {run} of a paused or cancelled sweep was handed out");
        if run.fold == FoldId::REFIT {
            self.check_refit(*run);
        }
        self.covered.pruned_runs_granted += u64::from(run.fold.pruning_step().is_some());
        self.covered.aware_runs_granted += u64::from(run.fold == FoldId::AWARE);
        let is_alive = self.alive.values().any(|alive| alive.run == *run);
        assert!(!is_alive, "run {run} is trained twice at once");
        self.covered.promoted_runs += u64::from(self.held.remove(run));
        let history = self.runs.entry(*run).or_default();
        assert!(history.newest < Some(*token), "a newer attempt has a smaller token");
        history.newest = Some(*token);
        history.attempts += 1;
        assert_eq!(*attempt, history.attempts);
        self.alive.insert(*token, alive);
    }

    /// A refit is of the best trial, when nothing else of its sweep is to come.
    fn check_refit(&mut self, run: RunId) {
        let sweep = sweep(&self.shadow, run.sweep);
        assert!(sweep.sweep().schedule.refit, "nobody wants the refit of sweep {}", run.sweep);
        assert_eq!(sweep.trials().len() as u64, sweep.sweep().trials(), "a refit before the last trial");
        let runs = sweep.trials().flat_map(|(_, trial)| trial.runs.values());
        let has_ended =
            |run: &Run| matches!(run.status, RunStatus::Completed(_) | RunStatus::Held | RunStatus::Failed);
        assert!(runs.into_iter().all(has_ended), "a refit while runs of sweep {} are open", run.sweep);
        let best = sweep.ranking().next().map(|(id, ..)| id);
        assert_eq!(best, Some(run.trial), "the refit is not of the best trial");
        self.covered.refits_granted += 1;
    }

    fn check_job(&self, run: RunId, job: &Job) {
        let sweep = sweep(&self.shadow, run.sweep);
        let point = if let Search::Grid { .. } = sweep.sweep().search {
            sweep.sweep().space.point(u64::from(run.trial.0)).expect("trials beyond the grid")
        } else {
            // What it proposed is checked at the end.
            sweep.trial(run.trial).expect("a run without a trial").point.as_ref().clone()
        };
        let model = point.model(sweep.dataset().frames, sweep.dataset().labels.len() as u32);
        let seed = derive_seed(sweep.sweep().seed, run);
        if run.fold.pruning_step().is_some() {
            return self.check_pruned_job(run, job, seed);
        }
        if run.fold == FoldId::AWARE {
            return self.check_aware_job(run, job, seed, &model);
        }
        assert!(job.int8_ranges.is_empty(), "run {run} rounds");
        assert_eq!(job.split, sweep.dataset().splits[&run.fold], "run {run} sees other clips");
        assert_eq!((&job.model, job.recipe.seed), (&model, seed), "trial {} is another point", run.trial);
    }

    fn is_paused(&self, id: SweepId) -> bool {
        self.paused.contains(&id) && !sweep(&self.shadow, id).has_ended()
    }

    /// A run is held: by the median rule with its whole trial, else alone, at a rung.
    fn observe_hold(&mut self, token: Token, run: RunId, epoch: &Epoch) {
        let sweep = sweep(&self.shadow, run.sweep).sweep();
        let stop = sweep.stop.expect("a run was held, and nobody wanted that");
        assert!((stop.min_epochs()..sweep.schedule.epochs).contains(&epoch.epoch), "held out of time");
        let is_median = matches!(stop, Stop::Median { .. });
        let held = self.alive.iter().filter(|(_, alive)| {
            is_median
                && (alive.run.sweep, alive.run.trial) == (run.sweep, run.trial)
                && alive.replay.is_none()
        });
        let held: BTreeSet<Token> = held.map(|(&token, _)| token).chain([token]).collect();
        self.covered.held_runs += held.len() as u64;
        for token in held {
            let alive = self.ends(token).unwrap();
            self.held.insert(alive.run);
        }
    }

    fn observe_end(&mut self, worker: WorkerId, token: Token, outcome: &Outcome) {
        let Some(alive) = self.alive.get(&token) else {
            // Said twice: only what is known may be said again.
            self.covered.repeated_results_noted += 1;
            if let Outcome::Completed(result) = outcome {
                assert!(self.is_kept(token, result), "a second result of {token} was taken");
            }
            return;
        };
        assert_eq!(alive.worker, worker, "another's attempt was ended");
        let alive = self.ends(token).unwrap();
        match outcome {
            Outcome::Completed(result) => self.completes(token, alive, *result),
            Outcome::Failed(failure) => {
                self.covered.drained_attempts += u64::from(failure.reason == Reason::Drained);
                if failure.reason != Reason::Drained {
                    self.kept.remove(&(alive.run, alive.replay));
                }
                let lost = match failure.reason {
                    Reason::Drained => replays::Lost::Excused,
                    Reason::Diverged => replays::Lost::ForGood,
                    _ => replays::Lost::Spent,
                };
                self.loses(&alive, lost);
            }
        }
    }

    fn completes(&mut self, token: Token, alive: Alive, result: RunResult) {
        let Alive { run, replay, epochs, .. } = alive;
        let reported = epochs.len() as u32;
        assert!((1..=reported).contains(&result.best_epoch), "a best epoch that was never reported");
        if let Some(id) = replay {
            self.replays.completed(id, run.fold, &epochs, result, &self.completed[&run].original());
            self.replayed.push((token, result));
        } else {
            let earlier = self.completed.insert(run, Completed { token, result, epochs });
            assert!(earlier.is_none(), "run {run} completed twice");
        }
    }

    fn ends(&mut self, token: Token) -> Option<Alive> {
        let alive = self.alive.remove(&token)?;
        self.ended.push((alive.worker, token));
        if alive.replay.is_none() {
            self.sharing.ended(alive.run.sweep, token, self.at_ms);
        }
        Some(alive)
    }

    /// An attempt has ended without a result.
    fn loses(&mut self, alive: &Alive, lost: replays::Lost) {
        let run = alive.run;
        if let Some(replay) = alive.replay {
            let attempts_max = sweep(&self.shadow, run.sweep).sweep().budget.attempts;
            self.replays.lost(replay, run.fold, lost, attempts_max);
        } else if lost != replays::Lost::Excused {
            self.spend(run, lost == replays::Lost::ForGood);
        }
    }

    /// An attempt speaks against its run; the last straw takes the whole trial along.
    fn spend(&mut self, run: RunId, is_final: bool) {
        let attempts_max = sweep(&self.shadow, run.sweep).sweep().budget.attempts;
        let history = self.runs.get_mut(&run).unwrap();
        history.spent += 1;
        if !is_final && history.spent < attempts_max {
            return;
        }
        self.covered.failed_runs += 1;
        self.covered.quarantined_runs += u64::from(!is_final);
        self.covered.pruned_runs_failed += u64::from(run.fold.pruning_step().is_some());
        self.covered.aware_runs_failed += u64::from(run.fold == FoldId::AWARE);
        if !run.fold.is_fold() {
            return;
        }
        self.failed_trials.insert((run.sweep, run.trial));
        let trial = (run.sweep, run.trial);
        let siblings = self.alive.iter().filter(|(_, alive)| (alive.run.sweep, alive.run.trial) == trial);
        for token in siblings.map(|(&token, _)| token).collect::<Vec<_>>() {
            self.covered.abandoned_attempts += 1;
            self.ends(token);
        }
    }

    /// What a replay decided against what was decided at the time.
    pub(crate) fn check_decision(&self, position: usize, decision: &Decision) {
        assert_eq!(&self.decisions[position], decision, "entry {position} was decided otherwise");
    }

    pub(crate) fn check_replayed(&self, state: &State) {
        assert!(*state == self.shadow, "the log gives another state");
    }

    /// After a commit, when the log says all that the mind knows.
    pub(crate) fn check_committed(&self, state: &State) {
        assert_eq!(state.position(), self.shadow.position());
        let live: Vec<Token> = live(state);
        let expected: Vec<Token> = self.alive.keys().copied().collect();
        assert_eq!(live, expected, "attempts are alive that should not be, or the other way round");
        if self.is_due(state) {
            assert!(*state == self.shadow, "the mind is not the fold of its log");
        }
    }

    /// After every step, on what is not committed yet as well. A step that added no entry has changed nothing that is
    /// looked at here.
    pub(crate) fn check_step(&mut self, mind: &Mind, now_ms: u64) {
        let state = mind.state();
        if mem::replace(&mut self.checked, state.position()) == state.position() {
            return;
        }
        self.steps += 1;
        let live = live(state);
        for &token in &live {
            let ends_ms = mind.leases().ends_ms(token).expect("an attempt lives without a lease");
            assert!(ends_ms <= now_ms + LEASE_MS, "the lease of attempt {token} is too long");
        }
        let leased: usize = state.sweeps().map(|(_, sweep)| sweep.leased()).sum();
        let leased = leased + state.replays_leased();
        assert_eq!(live.len(), leased, "as many live attempts as leases");
        for (id, worker) in state.workers() {
            assert!(worker.held.len() <= worker.slots as usize, "worker {id} holds more than its slots");
        }
        for (id, sweep) in state.sweeps() {
            assert!(sweep.trials().len() as u64 <= sweep.sweep().trials(), "sweep {id} overran its budget");
        }
        if self.is_due(state) {
            let live = live.into_iter().collect();
            state.sweeps().for_each(|(id, sweep)| check_runs(id, sweep, &live));
        }
    }

    fn is_due(&self, state: &State) -> bool {
        trials(state) <= RUNS_SMALL || self.steps.is_multiple_of(STEPS_BETWEEN)
    }
}

fn trials(state: &State) -> usize {
    state.sweeps().map(|(_, sweep)| sweep.trials().len()).sum()
}

fn live(state: &State) -> Vec<Token> {
    let mut live: Vec<Token> = state.live_tokens().collect();
    live.sort_unstable();
    live
}

fn sweep(state: &State, id: SweepId) -> &SweepState {
    state.sweeps().find_map(|(found, sweep)| (found == id).then_some(sweep)).unwrap()
}

fn check_runs(id: SweepId, sweep: &SweepState, live: &BTreeSet<Token>) {
    let mut waiting = 0;
    for (trial_id, trial) in sweep.trials() {
        let folds: Vec<FoldId> = sweep.sweep().split.folds().into_iter().map(FoldId).collect();
        let expected = if trial.infeasible.is_some() { Vec::new() } else { folds };
        assert!(trial.runs.keys().copied().eq(expected), "trial {trial_id} has not a run for each fold");
        for (_, run) in trial.all_runs() {
            let alive = run.attempts.iter().filter(|attempt| attempt.end.is_none());
            let alive: Vec<Token> = alive.map(|attempt| attempt.token).collect();
            waiting += usize::from(run.status == RunStatus::Waiting);
            match run.status {
                RunStatus::Leased(token) => {
                    assert_eq!(alive, [token], "sweep {id}: a leased run has one live attempt");
                    assert!(live.contains(&token), "sweep {id}: nobody holds attempt {token}");
                }
                RunStatus::Waiting | RunStatus::Completed(_) | RunStatus::Held | RunStatus::Failed => {
                    assert_eq!(alive, [], "sweep {id}: only a leased run has a live attempt");
                }
            }
        }
    }
    let refits = sweep.trials().filter(|(_, trial)| trial.refit.is_some()).count();
    assert!(refits <= usize::from(sweep.sweep().schedule.refit), "sweep {id} has {refits} refits");
    assert_eq!(waiting, sweep.waiting(), "sweep {id}: a run is lost to the queue");
}
