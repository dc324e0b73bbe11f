//! Replays: completed trials that are trained again, epoch by epoch against what they gave.
//!
//! They stand beside the sweeps, not in them: a replay reads a trial's runs and never changes one, so it cannot touch a
//! sweep's budget, ranking or search. Its jobs are the trial's own, so workers see ordinary leases.
//!
//! Training is deterministic, so numbers are compared by their bits. The first difference says enough: the attempt is stopped
//! there. Whether somebody waits for the answer is not known here; a replay goes on until it has one.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::{
    ids::{BlobId, FoldId, ReplayId, RunId, SweepId, Token, TrialId, WorkerId},
    job::{Epoch, RunResult, Verdict},
};
use serde::Serialize;

use super::{
    event::Refusal,
    trial::{AttemptEnd, Run, RunStatus},
};

/// A trial that is, or was, trained again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// The trial's sweep.
    pub sweep: SweepId,
    /// The trial.
    pub trial: TrialId,
    /// Each of the trial's runs, once more.
    pub runs: BTreeMap<FoldId, ReplayedRun>,
    /// Whether its sweep was cancelled before it ended.
    pub is_cancelled: bool,
}

/// A run that is, or was, trained again.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ReplayedRun {
    /// Where it stands, its attempts, and the newest one's epochs.
    pub run: Run,
    /// The first thing that was not the same, of whichever attempt.
    pub difference: Option<Difference>,
}

/// A number that differs from the original's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Of which epoch, from 1.
    pub epoch: u32,
    /// Which of its fields; `epochs`: how many there are; `best_epoch`.
    pub field: &'static str,
    /// In the trial's run.
    pub original: f64,
    /// In the replay.
    pub replayed: f64,
}

/// What a replayed run says of its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// To be handed out.
    Waiting,
    /// Being trained.
    Leased,
    /// Every epoch, the weights and the logits are the same.
    Identical,
    /// Something is not.
    Different,
    /// It could not be trained to its end.
    Failed,
}

impl ReplayedRun {
    /// What it says of `original`, which has completed.
    pub fn finding(&self, original: &Run) -> Finding {
        match self.run.status {
            RunStatus::Leased(_) => Finding::Leased,
            // A replay is never held.
            RunStatus::Waiting | RunStatus::Held => Finding::Waiting,
            _ if self.difference.is_some() => Finding::Different,
            RunStatus::Failed => Finding::Failed,
            RunStatus::Completed(_) if self.run.status == original.status => Finding::Identical,
            RunStatus::Completed(_) => Finding::Different,
        }
    }

    fn note(&mut self, difference: Option<Difference>) {
        self.difference = self.difference.or(difference);
    }

    fn has_ended(&self) -> bool {
        matches!(self.run.status, RunStatus::Completed(_) | RunStatus::Failed)
    }
}

impl Difference {
    /// Between an epoch and the original run's of the same number.
    fn of_epoch(original: &Run, replayed: &Epoch) -> Option<Self> {
        let number = replayed.epoch;
        let Some(epoch) = original.epochs.iter().find(|epoch| epoch.epoch == number) else {
            return Some(Self::of_count(original, number));
        };
        let fields = [
            ("train_loss", epoch.train_loss, replayed.train_loss),
            ("loss", epoch.loss, replayed.loss),
            ("accuracy", epoch.accuracy, replayed.accuracy),
            ("macro_f1", epoch.macro_f1, replayed.macro_f1),
        ];
        let differs = fields.into_iter().find(|(_, ours, theirs)| ours.to_bits() != theirs.to_bits());
        differs.map(|(field, original, replayed)| Self { epoch: number, field, original, replayed })
    }

    /// Between a result, with the epochs before it, and the original run's.
    fn of_result(original: &Run, replayed: &Run, result: &RunResult) -> Option<Self> {
        let reported = replayed.epochs.len();
        if reported != original.epochs.len() {
            return Some(Self::of_count(original, reported as u32));
        }
        let (best, _) = original.completed()?;
        let [original, replayed] = [best.best_epoch, result.best_epoch].map(f64::from);
        let difference = Self { epoch: result.best_epoch, field: "best_epoch", original, replayed };
        (best.best_epoch != result.best_epoch).then_some(difference)
    }

    fn of_count(original: &Run, replayed: u32) -> Self {
        let count = original.epochs.len() as f64;
        Self { epoch: replayed, field: "epochs", original: count, replayed: f64::from(replayed) }
    }
}

/// Every replay ever asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Replays {
    asked: BTreeMap<ReplayId, Replay>,
    /// Runs to hand out, the oldest replay first.
    waiting: BTreeSet<(ReplayId, FoldId)>,
    /// Runs handed out.
    leased: usize,
    /// Replays that have not ended.
    open: BTreeSet<ReplayId>,
}

impl Replays {
    pub(super) fn get(&self, id: ReplayId) -> Option<&Replay> {
        self.asked.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ReplayId, &Replay)> {
        self.asked.iter().map(|(&id, replay)| (id, replay))
    }

    /// Those that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Runs handed out.
    pub(super) fn leased(&self) -> usize {
        self.leased
    }

    pub(super) fn run(&self, id: ReplayId, fold: FoldId) -> Option<&Run> {
        Some(&self.get(id)?.runs.get(&fold)?.run)
    }

    /// Blobs from which runs go on.
    pub(super) fn blobs(&self) -> impl Iterator<Item = BlobId> {
        let open = self.open.iter().filter_map(|&id| self.get(id));
        open.flat_map(|replay| replay.runs.values()).filter_map(|replayed| replayed.run.kept())
    }

    /// Begins a replay of a trial of these folds, or joins the one that has not ended.
    pub(super) fn ask(
        &mut self,
        id: ReplayId,
        sweep: SweepId,
        trial: TrialId,
        folds: impl Iterator<Item = FoldId>,
    ) -> ReplayId {
        let is_same = |replay: &Replay| (replay.sweep, replay.trial) == (sweep, trial);
        if let Some(&open) = self.open.iter().find(|&&id| self.get(id).is_some_and(is_same)) {
            return open;
        }
        let runs: BTreeMap<_, _> = folds.map(|fold| (fold, ReplayedRun::default())).collect();
        self.waiting.extend(runs.keys().map(|&fold| (id, fold)));
        self.open.insert(id);
        self.asked.insert(id, Replay { sweep, trial, runs, is_cancelled: false });
        id
    }

    /// The run to hand out next, of sweeps that `serves` says may be served.
    pub(super) fn next(&self, serves: impl Fn(SweepId) -> bool) -> Option<(ReplayId, RunId)> {
        self.waiting.iter().find_map(|&(id, fold)| {
            let &Replay { sweep, trial, .. } = self.get(id).filter(|replay| serves(replay.sweep))?;
            Some((id, RunId { sweep, trial, fold }))
        })
    }

    /// Hands out a run that waits: the number of the attempt.
    pub(super) fn lease(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        token: Token,
        worker: WorkerId,
        at_ms: u64,
    ) -> Option<u32> {
        let attempt = self.run_mut(id, fold)?.run.lease(token, worker, at_ms);
        self.waiting.remove(&(id, fold));
        self.leased += 1;
        Some(attempt)
    }

    /// Takes an epoch and compares it.
    pub(super) fn report(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        (epoch, midway): (&Epoch, Option<BlobId>),
        original: &Run,
        last: u32,
    ) -> Result<Verdict, Refusal> {
        let Some(replayed) = self.run_mut(id, fold) else { return Ok(Verdict::Stop) };
        replayed.run.take(epoch, midway, last)?;
        replayed.note(Difference::of_epoch(original, epoch));
        let is_over = replayed.difference.is_some() || epoch.epoch >= last;
        Ok(if is_over { Verdict::Stop } else { Verdict::Continue })
    }

    /// Takes a result and compares it.
    pub(super) fn complete(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        result: RunResult,
        original: &Run,
    ) -> Result<(), Refusal> {
        let Some(replayed) = self.run_mut(id, fold) else { return Ok(()) };
        replayed.run.check(&result)?;
        replayed.note(Difference::of_result(original, &replayed.run, &result));
        replayed.run.status = RunStatus::Completed(result);
        Ok(())
    }

    /// Ends an attempt: the run is done, waits again, or is given up. Once a difference is known nobody needs another.
    pub(super) fn end(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        token: Token,
        end: AttemptEnd,
        attempts_max: usize,
    ) {
        let Some(replayed) = self.run_mut(id, fold) else { return };
        match replayed.run.status {
            RunStatus::Completed(_) => replayed.run.end(token, end),
            _ => replayed.run.fall_back(token, end, attempts_max),
        }
        if replayed.run.status == RunStatus::Waiting && replayed.difference.is_some() {
            replayed.run.status = RunStatus::Failed;
        }
        let waits = replayed.run.status == RunStatus::Waiting;
        self.leased -= 1;
        if waits {
            self.waiting.insert((id, fold));
        }
        self.close(id);
    }

    /// Gives up the replays of a sweep that have not ended, and returns the tokens of their attempts.
    pub(super) fn cancel(&mut self, sweep: SweepId) -> Vec<Token> {
        let mut ended = Vec::new();
        for id in self.open.clone() {
            let Some(replay) = self.asked.get_mut(&id).filter(|replay| replay.sweep == sweep) else {
                continue;
            };
            replay.is_cancelled = true;
            for replayed in replay.runs.values_mut().filter(|replayed| !replayed.has_ended()) {
                if let RunStatus::Leased(token) = replayed.run.status {
                    replayed.run.end(token, AttemptEnd::Abandoned);
                    ended.push(token);
                }
                replayed.run.status = RunStatus::Failed;
            }
            self.open.remove(&id);
        }
        self.leased -= ended.len();
        let Self { open, waiting, .. } = self;
        waiting.retain(|(id, _)| open.contains(id));
        ended
    }

    fn close(&mut self, id: ReplayId) {
        if self.get(id).is_some_and(|replay| replay.runs.values().all(ReplayedRun::has_ended)) {
            self.open.remove(&id);
        }
    }

    fn run_mut(&mut self, id: ReplayId, fold: FoldId) -> Option<&mut ReplayedRun> {
        self.asked.get_mut(&id)?.runs.get_mut(&fold)
    }
}
