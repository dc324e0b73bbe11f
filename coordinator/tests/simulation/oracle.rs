//! The promises, kept as a small model of its own beside the state machine's. It sees every entry that reaches the disk, with
//! the decision that a second state machine made of the entry's bytes, and looks at the live one after every step.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use coordinator::{
    leases::Lost,
    mind::Mind,
    state::{Decision, Event, EventKind, Grant, RunStatus, State, SweepState, TrialStatus},
};
use earshot_common::{
    ids::{FoldId, RunId, SweepId, Token, TrialId, WorkerId},
    job::{Epoch, Outcome, Reason, RunResult, derive_seed},
};

use crate::{coverage::Coverage, dice::Dice, plan::LEASE_MS};

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
    completed: BTreeMap<RunId, (Token, RunResult)>,
    failed_trials: BTreeSet<(SweepId, TrialId)>,
    paused: BTreeSet<SweepId>,
    cancelled: BTreeSet<SweepId>,
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
    epochs: Vec<Epoch>,
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
        self.completed.values().any(|kept| *kept == (token, *result))
    }

    /// An entry has reached the disk.
    pub(crate) fn entered(&mut self, event: &Event) {
        let position = self.shadow.position();
        assert!(event.at_ms >= self.at_ms, "entry {position} is older than the one before");
        self.at_ms = event.at_ms;
        let decision = self.shadow.apply(event).expect("what the mind took is taken again");
        self.observe(event, &decision);
        self.decisions.push(decision);
    }

    fn observe(&mut self, event: &Event, decision: &Decision) {
        match (&event.kind, decision) {
            (EventKind::Asked { worker }, Decision::Granted(grant)) => self.observe_grant(*worker, grant),
            (EventKind::Reported { worker, token, epoch }, Decision::Verdict(_)) => {
                let alive = self.alive.get_mut(token).expect("a report of a dead attempt was taken");
                assert_eq!(alive.worker, *worker, "a report for another's attempt was taken");
                if alive.epochs.last() != Some(epoch) {
                    assert_eq!(epoch.epoch as usize, alive.epochs.len() + 1, "epochs out of order");
                    alive.epochs.push(*epoch);
                }
            }
            (EventKind::Finished { worker, token, outcome }, Decision::Noted) => {
                self.observe_end(*worker, *token, outcome);
            }
            (EventKind::Expired { token }, Decision::Noted) => {
                let run = self.ends(*token).expect("a lease expired twice");
                self.spend(run, false);
            }
            (EventKind::Unclaimed { token }, Decision::Noted) => {
                self.ends(*token).expect("a lease ended twice");
            }
            (EventKind::Left { worker }, Decision::Noted) => {
                let held = self.alive.iter().filter(|(_, alive)| alive.worker == *worker);
                for token in held.map(|(&token, _)| token).collect::<Vec<_>>() {
                    self.ends(token);
                }
            }
            (EventKind::Paused { sweep }, Decision::Noted) => {
                self.covered.paused_sweeps += u64::from(self.paused.insert(*sweep));
            }
            (EventKind::Resumed { sweep }, Decision::Noted) => {
                self.covered.resumed_sweeps += u64::from(self.paused.remove(sweep));
            }
            (EventKind::Cancelled { sweep }, Decision::Noted) => {
                self.covered.cancelled_sweeps += u64::from(self.cancelled.insert(*sweep));
                let lost = self.alive.iter().filter(|(_, alive)| alive.run.sweep == *sweep);
                for token in lost.map(|(&token, _)| token).collect::<Vec<_>>() {
                    self.covered.cancelled_attempts += 1;
                    self.ends(token);
                }
            }
            (EventKind::Joined { .. }, Decision::Joined(_))
            | (EventKind::Submitted { .. }, Decision::Submitted(_))
            | (EventKind::Asked { .. }, Decision::NothingLeft) => {}
            (kind, decision) => panic!("{kind:?} was answered {decision:?}"),
        }
    }

    fn observe_grant(&mut self, worker: WorkerId, grant: &Grant) {
        let Grant { token, run, attempt, job } = grant;
        assert_eq!(token.0, self.decisions.len() as u64, "a token is the position of its grant");
        assert!(!self.completed.contains_key(run), "run {run} has completed and is trained again");
        assert!(!self.failed_trials.contains(&(run.sweep, run.trial)), "run {run} was given up");
        let is_wanted = !self.paused.contains(&run.sweep) && !self.cancelled.contains(&run.sweep);
        assert!(is_wanted, "run {run} of a paused or cancelled sweep was handed out");
        self.check_share(run.sweep);
        let is_alive = self.alive.values().any(|alive| alive.run == *run);
        assert!(!is_alive, "run {run} is trained twice at once");
        let history = self.runs.entry(*run).or_default();
        assert!(history.newest < Some(*token), "a newer attempt has a smaller token");
        history.newest = Some(*token);
        history.attempts += 1;
        assert_eq!(*attempt, history.attempts);
        let sweep = sweep(&self.shadow, run.sweep);
        let point = sweep.sweep().space.point(u64::from(run.trial.0)).expect("trials beyond the grid");
        let model = point.model(sweep.dataset().frames, sweep.dataset().labels.len() as u32);
        let seed = derive_seed(sweep.sweep().seed, *run);
        assert_eq!((&job.model, job.recipe.seed), (&model, seed), "trial {} is another point", run.trial);
        let epochs = Vec::new();
        self.alive.insert(*token, Alive { worker, run: *run, epochs });
    }

    /// A sweep whose runs wait has no fewer at work than the one that just got another.
    fn check_share(&self, served: SweepId) {
        let share = |id: SweepId| self.alive.values().filter(|alive| alive.run.sweep == id).count();
        let waiting = self.shadow.sweeps().filter(|(_, sweep)| sweep.has_work() && sweep.waiting() > 0);
        for (id, _) in waiting {
            assert!(share(served) <= share(id), "sweep {served} was served where sweep {id} has less");
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
        let reported = alive.epochs.len() as u32;
        let run = self.ends(token).unwrap();
        match outcome {
            Outcome::Completed(result) => {
                assert!((1..=reported).contains(&result.best_epoch), "a best epoch that was never reported");
                let earlier = self.completed.insert(run, (token, *result));
                assert!(earlier.is_none(), "run {run} completed twice");
            }
            Outcome::Failed(failure) if failure.reason == Reason::Drained => {
                self.covered.drained_attempts += 1;
            }
            Outcome::Failed(failure) => self.spend(run, failure.reason == Reason::Diverged),
        }
    }

    fn ends(&mut self, token: Token) -> Option<RunId> {
        let alive = self.alive.remove(&token)?;
        self.ended.push((alive.worker, token));
        Some(alive.run)
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
        let trials: usize = state.sweeps().map(|(_, sweep)| sweep.trials().len()).sum();
        trials <= RUNS_SMALL || self.steps.is_multiple_of(STEPS_BETWEEN)
    }

    /// At the end of every sweep.
    pub(crate) fn conclude(&mut self, state: &State, covered: &mut Coverage) {
        self.check_replayed(state);
        assert!(self.alive.is_empty(), "attempts are alive at the end");
        for (token, result) in &self.acknowledged {
            assert!(self.is_kept(*token, result), "the acknowledged result of {token} was lost");
        }
        for (id, sweep) in state.sweeps() {
            self.conclude_sweep(id, sweep);
        }
        self.covered.completed_runs += self.completed.len() as u64;
        covered.add(&self.covered);
    }

    /// Exact budget, exact coverage of the grid, and each run with its one end.
    fn conclude_sweep(&mut self, id: SweepId, sweep: &SweepState) {
        let space = &sweep.sweep().space;
        if self.cancelled.contains(&id) {
            assert!(sweep.has_ended() && sweep.leased() == 0);
            return;
        }
        assert_eq!(sweep.trials().len() as u64, sweep.sweep().trials(), "the budget is exact");
        for (trial_id, trial) in sweep.trials() {
            assert_eq!(Some(&trial.point), space.point(u64::from(trial_id.0)).as_ref(), "another grid");
            let is_failed = self.failed_trials.contains(&(id, trial_id));
            match trial.status() {
                TrialStatus::Infeasible => {
                    self.covered.infeasible_trials += 1;
                    assert!(sweep.sweep().constraints.broken_by(&trial.cost).is_some());
                }
                TrialStatus::Failed => {
                    assert!(is_failed, "trial {trial_id} was given up without reason");
                    let failures = |run: &coordinator::state::Run| run.attempts_spent() > 0;
                    assert!(trial.runs.values().any(failures), "trial {trial_id} failed without a reason");
                }
                TrialStatus::Completed => {
                    assert!(!is_failed);
                    for (&fold, run) in &trial.runs {
                        let run_id = RunId { sweep: id, trial: trial_id, fold };
                        let (token, result) = self.completed[&run_id];
                        assert_eq!(run.status, RunStatus::Completed(result));
                        let ends = run.attempts.iter().filter(|attempt| attempt.token == token).count();
                        assert_eq!(ends, 1);
                    }
                }
                status => panic!("trial {trial_id} is {status:?} at the end"),
            }
        }
        let count = |status| sweep.trials().filter(|(_, trial)| trial.status() == status).count() as u32;
        for status in [TrialStatus::Completed, TrialStatus::Failed, TrialStatus::Infeasible] {
            assert_eq!(sweep.count(status), count(status), "miscounted {status:?} trials");
        }
        assert_eq!(sweep.ranking().count() as u32, count(TrialStatus::Completed));
    }
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
        for run in trial.runs.values() {
            let alive = run.attempts.iter().filter(|attempt| attempt.end.is_none());
            let alive: Vec<Token> = alive.map(|attempt| attempt.token).collect();
            waiting += usize::from(run.status == RunStatus::Waiting);
            match run.status {
                RunStatus::Leased(token) => {
                    assert_eq!(alive, [token], "sweep {id}: a leased run has one live attempt");
                    assert!(live.contains(&token), "sweep {id}: nobody holds attempt {token}");
                }
                RunStatus::Waiting | RunStatus::Completed(_) | RunStatus::Failed => {
                    assert_eq!(alive, [], "sweep {id}: only a leased run has a live attempt");
                }
            }
        }
    }
    assert_eq!(waiting, sweep.waiting(), "sweep {id}: a run is lost to the queue");
}
