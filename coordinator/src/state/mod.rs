//! The coordinator's mind: one state machine, `(state, event) → (state, decision)`.
//!
//! - [`event`]: everything that can happen, every answer, every refusal.
//! - [`dataset`]: the features of a sweep, as its jobs name them.
//! - [`trial`]: trials, runs and attempts, with the run's life as a picture; `worker`: who trains them.
//! - `sweep`: one sweep's trials, its queue, and its search; `thinning`: the rules by which trials are stopped;
//!   `judgement`: what they made of each; `progress`: what completed when; `spread`: how far scores can be trusted.
//! - `sharing`: which of several sweeps is served next.
//! - `ending`: how attempts are reported on and end.
//! - [`replay`]: completed trials that are trained again, to be compared.
//!
//! Deliberately absent: clocks, randomness, sockets, disks. Every event carries its time, the search draws from the sweep's
//! seed, and maps are ordered, so that the same log always gives the same state and the same decisions. A refused event
//! changes nothing and is not logged. Heartbeats are no events: a lease's deadline lives in [`crate::leases`], outside, and
//! only its passing ([`EventKind::Expired`], [`EventKind::Unclaimed`]) is one.

pub mod dataset;
mod ending;
pub mod event;
mod judgement;
mod progress;
mod ranking;
pub mod replay;
mod sharing;
mod spread;
mod sweep;
#[cfg(test)]
mod tests;
mod thinning;
pub mod trial;
mod worker;

use std::collections::BTreeMap;

use earshot_common::{
    ids::{BlobId, ReplayId, RunId, SweepId, Token, TrialId, WorkerId},
    job::Job,
};
use serde::Serialize;

pub use self::{
    dataset::{Dataset, DatasetView},
    event::{Cut, Decision, Digest, Event, EventKind, Grant, Quantisation, Refusal},
    judgement::{Basis, Judged, Judgement},
    progress::Completion,
    ranking::MeanMetrics,
    replay::{Difference, Finding, Replay, ReplayedRun},
    spread::Estimate,
    sweep::{Candidate, Due, Phase, SweepState},
    trial::{Attempt, AttemptEnd, AwareRun, Midway, PrunedStep, Run, RunStatus, Trial, TrialStatus},
    worker::Worker,
};

use self::{replay::Replays, sharing::Share, worker::SLOTS_MAX};
use crate::search::Proposal;

/// Everything the coordinator knows: the fold of its log.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct State {
    sweeps: BTreeMap<SweepId, SweepState>,
    workers: BTreeMap<WorkerId, Worker>,
    /// Every attempt ever granted.
    attempts: BTreeMap<Token, Task>,
    replays: Replays,
    /// What the sweep that was served last had had of the workers' time, by its weight.
    level: Share,
    /// Log entries folded so far; the next entry's position.
    position: u64,
    /// Time of the newest entry.
    at_ms: u64,
    /// Epochs accepted.
    epochs: u64,
    /// Leases that ended in silence.
    expiries: u64,
}

/// What an attempt is at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
enum Task {
    /// A run of a sweep.
    Run(RunId),
    /// One that has completed, once more.
    Replay(ReplayId, RunId),
}

impl State {
    /// Applies one event: the only way to change the state.
    ///
    /// # Errors
    /// The refusal; then nothing has changed.
    pub fn apply(&mut self, event: &Event) -> Result<Decision, Refusal> {
        let at_ms = event.at_ms.max(self.at_ms);
        let decision = match &event.kind {
            EventKind::Submitted { sweep, dataset } => {
                if self.sweep_named(&sweep.name).is_some() {
                    return Err(Refusal::NameTaken(sweep.name.clone()));
                }
                let id = SweepId(self.sweeps.len() as u32);
                let mut entered = SweepState::new(id, (**sweep).clone(), dataset.clone(), at_ms);
                entered.catch_up(self.level, at_ms);
                self.sweeps.insert(id, entered);
                Decision::Submitted(id)
            }
            EventKind::Paused { sweep } => {
                self.running(*sweep)?.set_phase(Phase::Paused);
                Decision::Noted
            }
            EventKind::Resumed { sweep } => {
                self.running(*sweep)?.set_phase(Phase::Running);
                Decision::Noted
            }
            EventKind::Cancelled { sweep } => {
                let ended = self.running(*sweep)?.cancel();
                for token in ended.into_iter().chain(self.replays.cancel(*sweep)) {
                    self.release(token, at_ms);
                }
                Decision::Noted
            }
            EventKind::ReplayAsked { sweep, trial } => self.ask_replay(*sweep, *trial)?,
            EventKind::Pruned { sweep, trial, step, cut } => {
                self.running(*sweep)?.prune(*trial, *step, cut)?;
                Decision::Noted
            }
            EventKind::Quantised { sweep, trial, quantisation } => {
                self.running(*sweep)?.quantise(*trial, quantisation)?;
                Decision::Noted
            }
            EventKind::Joined { name, slots, device, by } => {
                self.join(name, *slots, device, by.as_deref())?
            }
            EventKind::Asked { worker, proposed } => self.grant(*worker, proposed, at_ms)?,
            EventKind::AskedAlike { worker, like, proposed } => {
                self.grant_alike(*worker, *like, proposed, at_ms)?
            }
            EventKind::Reported { worker, token, epoch, midway } => {
                let task = self.live(*worker, *token)?;
                let verdict = self.report(task, epoch, *midway, at_ms)?;
                self.epochs += 1;
                Decision::Verdict(verdict)
            }
            EventKind::Finished { worker, token, outcome } => self.finish(*worker, *token, outcome, at_ms)?,
            EventKind::Expired { token } => {
                self.lose(*token, AttemptEnd::Expired, at_ms)?;
                self.expiries += 1;
                Decision::Noted
            }
            EventKind::Unclaimed { token } => {
                self.lose(*token, AttemptEnd::Unclaimed, at_ms)?;
                Decision::Noted
            }
            EventKind::Left { worker } => self.leave(*worker, at_ms)?,
        };
        self.position += 1;
        self.at_ms = at_ms;
        Ok(decision)
    }

    /// Whether asking may give a run.
    pub fn has_work(&self) -> bool {
        self.next_replay().is_some() || self.sweeps.values().any(SweepState::has_work)
    }

    /// Whether there is a sweep, and nothing is to come of any, nor of a replay.
    pub fn is_done(&self) -> bool {
        let has_open = self.replays.open() > 0;
        !self.sweeps.is_empty() && !has_open && self.sweeps.values().all(SweepState::has_ended)
    }

    /// The step of pruning that is to be cut next, of the oldest sweep that has one and is not paused.
    pub fn pruning_due(&self) -> Option<(SweepId, Due)> {
        let sweeps = self.sweeps.iter().filter(|(_, sweep)| sweep.phase() == Phase::Running);
        sweeps.into_iter().find_map(|(&id, sweep)| Some((id, sweep.pruning_due()?)))
    }

    /// The model that is to be quantised next, of the oldest sweep that has one and is not paused.
    pub fn quantisation_due(&self) -> Option<(SweepId, Candidate)> {
        let sweeps = self.sweeps.iter().filter(|(_, sweep)| sweep.phase() == Phase::Running);
        sweeps.into_iter().find_map(|(&id, sweep)| Some((id, sweep.quantisation_due()?)))
    }

    /// Sweeps, oldest first.
    pub fn sweeps(&self) -> impl Iterator<Item = (SweepId, &SweepState)> {
        self.sweeps.iter().map(|(&id, sweep)| (id, sweep))
    }

    /// A sweep.
    pub fn sweep(&self, id: SweepId) -> Option<&SweepState> {
        self.sweeps.get(&id)
    }

    /// The newest sweep: the one commands speak of.
    pub fn newest_sweep(&self) -> Option<(SweepId, &SweepState)> {
        self.sweeps.last_key_value().map(|(&id, sweep)| (id, sweep))
    }

    /// The sweep of this name.
    pub fn sweep_named(&self, name: &str) -> Option<(SweepId, &SweepState)> {
        self.sweeps().find(|(_, sweep)| sweep.sweep().name == name)
    }

    /// Replays, oldest first, those that have ended included.
    pub fn replays(&self) -> impl Iterator<Item = (ReplayId, &Replay)> {
        self.replays.iter()
    }

    /// A replay.
    pub fn replay(&self, id: ReplayId) -> Option<&Replay> {
        self.replays.get(id)
    }

    /// Blobs from which runs of replays go on.
    pub fn blobs_of_replays(&self) -> impl Iterator<Item = BlobId> {
        self.replays.blobs()
    }

    /// Replays that have not ended.
    pub fn replays_open(&self) -> usize {
        self.replays.open()
    }

    /// Runs of replays handed out.
    pub fn replays_leased(&self) -> usize {
        self.replays.leased()
    }

    /// Workers, oldest first, those that left included.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(&id, worker)| (id, worker))
    }

    /// A worker.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Tokens of the attempts that are alive.
    pub fn live_tokens(&self) -> impl Iterator<Item = Token> {
        self.workers.values().flat_map(|worker| worker.held.iter().copied())
    }

    /// Which run an attempt is, or was, at.
    pub fn run_of(&self, token: Token) -> Option<RunId> {
        self.attempts.get(&token).map(|&(Task::Run(run) | Task::Replay(_, run))| run)
    }

    /// Whether this attempt is alive.
    pub fn is_live(&self, token: Token) -> bool {
        self.attempt(token).is_some_and(|attempt| attempt.end.is_none())
    }

    /// Whether this worker holds this attempt now.
    pub fn holds(&self, worker: WorkerId, token: Token) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.held.contains(&token))
    }

    /// Whether a worker that this token let in holds an attempt now.
    pub fn is_at_work(&self, by: &str) -> bool {
        self.held_by(by).next().is_some()
    }

    /// Whether an attempt that a worker of this token holds now needs this blob.
    pub fn needs(&self, by: &str, blob: BlobId) -> bool {
        self.held_by(by).any(|token| {
            let Some(&(Task::Run(run) | Task::Replay(_, run))) = self.attempts.get(&token) else {
                return false;
            };
            let resume = self.run(token).and_then(Run::kept);
            let job = self.sweeps.get(&run.sweep).and_then(|sweep| sweep.job(run));
            resume == Some(blob) || job.is_some_and(|job| job.blobs().any(|named| named == blob))
        })
    }

    fn held_by(&self, by: &str) -> impl Iterator<Item = Token> {
        let workers = self.workers.values().filter(move |worker| worker.by.as_deref() == Some(by));
        workers.flat_map(|worker| worker.held.iter().copied())
    }

    /// A worker that has joined and not left.
    ///
    /// # Errors
    /// [`Refusal::UnknownWorker`].
    pub fn present(&self, id: WorkerId) -> Result<&Worker, Refusal> {
        self.workers.get(&id).filter(|worker| !worker.has_left).ok_or(Refusal::UnknownWorker(id))
    }

    /// Log entries folded so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Time of the newest entry, milliseconds since the Unix epoch.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Epochs accepted so far.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Leases that ended in silence so far.
    pub fn expiries(&self) -> u64 {
        self.expiries
    }

    fn join(&mut self, name: &str, slots: u32, device: &str, by: Option<&str>) -> Result<Decision, Refusal> {
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(Refusal::Slots { got: slots, most: SLOTS_MAX });
        }
        let id = WorkerId(self.workers.len() as u32);
        let worker = Worker {
            name: name.to_owned(),
            slots,
            device: device.to_owned(),
            by: by.map(str::to_owned),
            held: Vec::new(),
            has_left: false,
        };
        self.workers.insert(id, worker);
        Ok(Decision::Joined(id))
    }

    fn grant(&mut self, id: WorkerId, proposed: &[Proposal], at_ms: u64) -> Result<Decision, Refusal> {
        let token = Token(self.position);
        self.present(id)?;
        // Somebody waits for a replay, and it is a trial long at most.
        let grant = self.grant_replay(id, token, at_ms);
        let grant = grant.or_else(|| self.grant_fairly(id, proposed, token, at_ms));
        Ok(grant.map_or(Decision::NothingLeft, |grant| self.hold(id, grant, at_ms)))
    }

    /// Hands out a further run of the shape of the one that a worker holds. A replay is trained as its original was.
    fn grant_alike(
        &mut self,
        id: WorkerId,
        like: Token,
        proposed: &[Proposal],
        at_ms: u64,
    ) -> Result<Decision, Refusal> {
        let token = Token(self.position);
        let Task::Run(run) = self.live(id, like)? else { return Ok(Decision::NothingLeft) };
        let sweep = self.running(run.sweep)?;
        let grant = sweep.grant_alike(run, id, proposed, token, at_ms);
        Ok(grant.map_or(Decision::NothingLeft, |grant| self.hold(id, grant, at_ms)))
    }

    /// Enters what a worker was granted.
    fn hold(&mut self, id: WorkerId, grant: Grant, at_ms: u64) -> Decision {
        let token = grant.token;
        if let Some(sweep) = self.sweeps.get_mut(&grant.run.sweep).filter(|_| grant.replay.is_none()) {
            sweep.account_mut().open(at_ms);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.held.push(token);
        }
        let task = grant.replay.map_or(Task::Run(grant.run), |replay| Task::Replay(replay, grant.run));
        self.attempts.insert(token, task);
        Decision::Granted(Box::new(grant))
    }

    fn grant_replay(&mut self, worker: WorkerId, token: Token, at_ms: u64) -> Option<Grant> {
        let (id, run) = self.next_replay()?;
        let resume = self.replays.run(id, run.fold).and_then(Run::kept);
        let job = Job { resume, rungs: Vec::new(), ..self.sweeps.get(&run.sweep)?.job(run)? };
        let attempt = self.replays.lease(id, run.fold, token, worker, at_ms)?;
        Some(Grant { token, run, attempt, replay: Some(id), job })
    }

    /// The run of a replay to hand out next. A paused sweep's replays wait as its runs do.
    fn next_replay(&self) -> Option<(ReplayId, RunId)> {
        let is_paused = |id| self.sweep(id).is_none_or(SweepState::is_paused);
        self.replays.next(|sweep| !is_paused(sweep))
    }

    /// What the search would propose if a worker asked for a further run of the shape of this one, to be written into
    /// [`EventKind::AskedAlike`]; none if there is no such run.
    pub fn proposals_alike(&self, run: RunId) -> Option<Vec<Proposal>> {
        self.sweeps.get(&run.sweep)?.proposals_alike(run)
    }

    fn running(&mut self, id: SweepId) -> Result<&mut SweepState, Refusal> {
        let sweep = self.sweeps.get_mut(&id).ok_or(Refusal::UnknownSweep(id))?;
        if sweep.has_ended() { Err(Refusal::SweepEnded(sweep.sweep().name.clone())) } else { Ok(sweep) }
    }

    fn ask_replay(&mut self, sweep: SweepId, id: TrialId) -> Result<Decision, Refusal> {
        let found = self.sweeps.get(&sweep).ok_or(Refusal::UnknownSweep(sweep))?;
        let trial = found.trial(id).ok_or(Refusal::UnknownTrial(id))?;
        if trial.status() != TrialStatus::Completed {
            return Err(Refusal::NotCompleted(id));
        }
        let completed = trial.all_runs().filter(|(_, run)| run.completed().is_some());
        let folds = completed.map(|(fold, _)| fold);
        Ok(Decision::Replaying(self.replays.ask(ReplayId(self.position), sweep, id, folds)))
    }

    /// What an attempt is at that this worker holds.
    fn live(&self, worker: WorkerId, token: Token) -> Result<Task, Refusal> {
        let holds = self.present(worker)?.held.contains(&token);
        let task = self.attempts.get(&token).copied().filter(|_| holds);
        task.ok_or(Refusal::LeaseEnded(token))
    }

    fn run(&self, token: Token) -> Option<&Run> {
        match *self.attempts.get(&token)? {
            Task::Run(run) => self.sweeps.get(&run.sweep)?.run(run),
            Task::Replay(id, run) => self.replays.run(id, run.fold),
        }
    }

    fn attempt(&self, token: Token) -> Option<&Attempt> {
        self.run(token)?.attempts.iter().rev().find(|attempt| attempt.token == token)
    }
}
