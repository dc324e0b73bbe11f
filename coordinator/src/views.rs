//! What users are shown: pure functions from the state to the messages of the `Sweeps` service.
//!
//! A command prints the same message whether the running coordinator made it or the command itself, from the database.

use std::collections::BTreeSet;

use earshot_common::{
    ids::{FoldId, ReplayId, RunId, SweepId, TrialId, WorkerId},
    job::{self, Reason},
    model::Cost,
    sweep::Point,
    wire,
};
use earshot_proto::earshot::v1 as proto;

use crate::state::{Attempt, AttemptEnd, Phase, Run, RunStatus, State, SweepState, Trial, TrialStatus};

/// Why there is nothing to show.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ViewError {
    /// An empty database.
    #[error("no sweep was started yet; start one with `coordinator start --sweep FILE`")]
    NoSweep,
    /// A name without a sweep.
    #[error("there is no sweep {0:?}; `coordinator list` shows those there are")]
    NoSweepNamed(String),
    /// A number without a trial.
    #[error("there is no trial {trial}: {proposed} of {total} trials have been proposed, numbered from 0")]
    NoTrial {
        /// What was asked for.
        trial: TrialId,
        /// Trials there are.
        proposed: usize,
        /// Trials there will be.
        total: u64,
    },
    /// A number without a replay.
    #[error("there is no replay {0}")]
    NoReplay(ReplayId),
    /// A trial without a result.
    #[error("trial {0} has not completed; `coordinator leaderboard --top 0` shows those that have")]
    NotCompleted(TrialId),
    /// Nothing to export.
    #[error("no trial of sweep {0:?} has completed yet")]
    NoneCompleted(String),
}

/// Where a sweep stands; as everywhere here, the newest where none is named. `present` are the workers that were heard lately;
/// nobody is when no coordinator runs.
///
/// # Errors
/// As [`find`].
pub fn status(
    state: &State,
    name: Option<&str>,
    present: &BTreeSet<WorkerId>,
) -> Result<proto::Status, ViewError> {
    let (_, sweep) = find(state, name)?;
    Ok(proto::Status {
        sweep: sweep.sweep().name.clone(),
        state: sweep_state(sweep).to_owned(),
        trials_total: sweep.trials_total() as u32,
        trials_completed: sweep.count(TrialStatus::Completed),
        trials_failed: sweep.count(TrialStatus::Failed),
        trials_infeasible: sweep.count(TrialStatus::Infeasible),
        trials_stopped: sweep.count(TrialStatus::Stopped),
        trials_running: sweep.count(TrialStatus::Running),
        runs_waiting: runs_waiting(sweep) as u32,
        runs_leased: sweep.leased() as u32,
        epochs: state.epochs(),
        expiries: state.expiries(),
        workers: state
            .workers()
            .map(|(id, worker)| proto::Worker {
                worker: id.0,
                name: worker.name.clone(),
                device: worker.device.clone(),
                slots: worker.slots,
                busy: worker.held.len() as u32,
                state: if !worker.has_left && present.contains(&id) { "present" } else { "gone" }.to_owned(),
            })
            .collect(),
        replays: state.replays_open() as u32,
    })
}

/// Runs of a sweep that nobody trains yet, those of trials not proposed yet included.
pub fn runs_waiting(sweep: &SweepState) -> u64 {
    let not_proposed = sweep.trials_total().saturating_sub(sweep.trials().len() as u64);
    sweep.waiting() as u64 + not_proposed * sweep.sweep().split.folds().len() as u64
}

/// Every sweep, oldest first.
pub fn sweeps(state: &State) -> proto::SweepList {
    proto::SweepList { sweeps: state.sweeps().map(|(_, sweep)| sweep_view(sweep)).collect() }
}

/// The sweep of that name; without a name the newest.
///
/// # Errors
/// [`ViewError::NoSweep`], [`ViewError::NoSweepNamed`].
pub fn find<'a>(state: &'a State, name: Option<&str>) -> Result<(SweepId, &'a SweepState), ViewError> {
    match name {
        Some(name) => state.sweep_named(name).ok_or_else(|| ViewError::NoSweepNamed(name.to_owned())),
        None => newest(state),
    }
}

/// One sweep, as lists show it.
pub fn sweep_view(sweep: &SweepState) -> proto::Sweep {
    proto::Sweep {
        sweep: sweep.sweep().name.clone(),
        state: sweep_state(sweep).to_owned(),
        trials_total: sweep.trials_total() as u32,
        trials_completed: sweep.count(TrialStatus::Completed),
        trials_failed: sweep.count(TrialStatus::Failed),
        trials_infeasible: sweep.count(TrialStatus::Infeasible),
        trials_stopped: sweep.count(TrialStatus::Stopped),
        runs_leased: sweep.leased() as u32,
        weight: sweep.sweep().weight,
    }
}

fn sweep_state(sweep: &SweepState) -> &'static str {
    match sweep.phase() {
        Phase::Cancelled => "cancelled",
        _ if sweep.is_completed() => "completed",
        Phase::Paused => "paused",
        Phase::Running => "running",
    }
}

/// A sweep's completed trials, the best first, `top` at most; 0: all.
///
/// # Errors
/// As [`find`].
pub fn leaderboard(state: &State, name: Option<&str>, top: u32) -> Result<proto::Leaderboard, ViewError> {
    Ok(Board::read(state, name, top, Among::All)?.message())
}

/// One trial of a sweep, with all of its epochs.
///
/// # Errors
/// As [`find`], or [`ViewError::NoTrial`].
pub fn trial(state: &State, name: Option<&str>, id: TrialId) -> Result<proto::Trial, ViewError> {
    let (_, sweep) = find(state, name)?;
    let trial = find_trial(sweep, id)?;
    let runs: Vec<proto::Run> = trial.all_runs().map(|(fold, run)| run_view(state, fold, run)).collect();
    let failed = || trial.runs.values().zip(&runs).filter(|(run, _)| run.status == RunStatus::Failed);
    let last_failure = || failed().find_map(|(_, view)| view.failures.last()).cloned();
    let Cost { params, macs, .. } = trial.cost;
    let objective = sweep.sweep().objective;
    Ok(proto::Trial {
        trial: id.0,
        state: trial_state(trial).to_owned(),
        point: assignments(&trial.point),
        params,
        macs,
        int8_kib: trial.cost.int8_kib(),
        peak_ram_kib: trial.cost.peak_ram_kib(),
        reason: trial.infeasible.clone().or_else(last_failure).unwrap_or_default(),
        runs,
        why: trial.why.map(|why| reasons::why(why, objective)),
        judgements: trial.judgements.iter().map(|judged| reasons::judgement(judged, objective)).collect(),
    })
}

/// A sweep's completed trial, without a number the best, and of its runs the refit if it has completed, otherwise the best.
///
/// # Errors
/// As [`find`], or [`ViewError::NoneCompleted`], [`ViewError::NoTrial`], [`ViewError::NotCompleted`].
pub fn champion(
    state: &State,
    name: Option<&str>,
    chosen: Option<TrialId>,
) -> Result<proto::Champion, ViewError> {
    let (sweep_id, sweep) = find(state, name)?;
    let (id, trial) = match chosen {
        Some(id) => (id, find_trial(sweep, id)?),
        None => sweep
            .ranking()
            .map(|(id, trial, _)| (id, trial))
            .next()
            .ok_or_else(|| ViewError::NoneCompleted(sweep.sweep().name.clone()))?,
    };
    let best = best_run(sweep_id, sweep, id, trial).filter(|_| trial.status() == TrialStatus::Completed);
    let (run, result, epoch, job) = best.ok_or(ViewError::NotCompleted(id))?;
    Ok(proto::Champion {
        sweep: sweep.sweep().name.clone(),
        trial: run.trial.0,
        point: assignments(&trial.point),
        fold: fold_number(run.fold),
        refit: run.fold == FoldId::REFIT,
        job: Some((&job).into()),
        best: Some((&epoch).into()),
        checkpoint: wire::blob_bytes(result.checkpoint),
        logits: wire::blob_bytes(result.logits),
        // A sweep came out of JSON; an empty text would be refused by its reader.
        sweep_json: serde_json::to_string(sweep.sweep()).unwrap_or_default(),
        manifest: wire::blob_bytes(sweep.dataset().manifest),
        trials_completed: sweep.count(TrialStatus::Completed),
        pruned: pruned(sweep_id, sweep, id, trial),
        pruning_ended: sweep.pruning_refused().unwrap_or_default().to_owned(),
        aware: aware(sweep_id, sweep, id, trial),
        quantisation_kept: sweep.quantisation_kept().unwrap_or_default().to_owned(),
    })
}

/// What is left of a trial after each step of pruning whose run has completed.
fn pruned(sweep_id: SweepId, sweep: &SweepState, id: TrialId, trial: &Trial) -> Vec<proto::PrunedChampion> {
    let pruned = (1..).zip(&trial.pruned).filter_map(|(step, pruned)| {
        let (result, epoch) = pruned.run.completed()?;
        let job = sweep.job(RunId { sweep: sweep_id, trial: id, fold: FoldId::pruned(step) })?;
        Some(proto::PrunedChampion {
            step,
            job: Some((&job).into()),
            best: Some((&epoch).into()),
            checkpoint: wire::blob_bytes(result.checkpoint),
            logits: wire::blob_bytes(result.logits),
            why: pruned.why.clone(),
        })
    });
    pruned.collect()
}

/// The run that has trained a trial's exported model to bear quantisation, if it has completed.
fn aware(sweep_id: SweepId, sweep: &SweepState, id: TrialId, trial: &Trial) -> Option<proto::AwareChampion> {
    let aware = trial.aware.as_ref()?;
    let (result, epoch) = aware.run.completed()?;
    let job = sweep.job(RunId { sweep: sweep_id, trial: id, fold: FoldId::AWARE })?;
    Some(proto::AwareChampion {
        job: Some((&job).into()),
        best: Some((&epoch).into()),
        checkpoint: wire::blob_bytes(result.checkpoint),
        logits: wire::blob_bytes(result.logits),
        why: aware.why.clone(),
    })
}

type BestRun<'a> = (RunId, &'a job::RunResult, job::Epoch, job::Job);

fn best_run<'a>(
    sweep_id: SweepId,
    sweep: &SweepState,
    trial_id: TrialId,
    trial: &'a Trial,
) -> Option<BestRun<'a>> {
    let (fold, result, epoch) = trial.exported(sweep.sweep().objective)?;
    let run = RunId { sweep: sweep_id, trial: trial_id, fold };
    Some((run, result, epoch, sweep.job(run)?))
}

fn find_trial(sweep: &SweepState, id: TrialId) -> Result<&Trial, ViewError> {
    sweep.trial(id).ok_or_else(|| ViewError::NoTrial {
        trial: id,
        proposed: sweep.trials().len(),
        total: sweep.trials_total(),
    })
}

/// As messages say it; what is no fold has none.
fn fold_number(fold: FoldId) -> u32 {
    if fold.is_fold() { fold.0 } else { 0 }
}

fn newest(state: &State) -> Result<(SweepId, &SweepState), ViewError> {
    state.newest_sweep().ok_or(ViewError::NoSweep)
}

fn assignments(point: &Point) -> Vec<proto::Assignment> {
    let values = point.iter();
    values
        .map(|(name, value)| proto::Assignment { name: name.name().to_owned(), value: value.to_string() })
        .collect()
}

fn trial_state(trial: &Trial) -> &'static str {
    match trial.status() {
        TrialStatus::Waiting => "waiting",
        TrialStatus::Running => "running",
        TrialStatus::Stopped => "stopped",
        TrialStatus::Completed => "completed",
        TrialStatus::Failed => "failed",
        TrialStatus::Infeasible => "infeasible",
    }
}

fn run_view(state: &State, fold: FoldId, run: &Run) -> proto::Run {
    proto::Run {
        fold: fold_number(fold),
        refit: fold == FoldId::REFIT,
        pruned: fold.pruning_step().unwrap_or(0),
        aware: fold == FoldId::AWARE,
        state: match run.status {
            RunStatus::Waiting => "waiting",
            RunStatus::Leased(_) => "leased",
            RunStatus::Completed(_) => "completed",
            RunStatus::Held => "held",
            RunStatus::Failed => "failed",
        }
        .to_owned(),
        attempts: run.attempts.len() as u32,
        worker: run.attempts.last().and_then(|attempt| worker_name(state, attempt)).unwrap_or_default(),
        best_epoch: run.completed().map_or(0, |(result, _)| result.best_epoch),
        epochs: run.epochs.iter().map(Into::into).collect(),
        failures: failures(state, run),
    }
}

fn worker_name(state: &State, attempt: &Attempt) -> Option<String> {
    state.worker(attempt.worker).map(|worker| worker.name.clone())
}

/// Why which attempts failed, oldest first.
fn failures(state: &State, run: &Run) -> Vec<String> {
    let numbered = (1..).zip(&run.attempts);
    let failures = numbered.filter_map(|(number, attempt)| {
        let why = failure(attempt.end.as_ref()?)?;
        Some(format!("attempt {number} on {}: {why}", worker_name(state, attempt).unwrap_or_default()))
    });
    failures.collect()
}

/// Why an attempt failed; none for one that did not.
fn failure(end: &AttemptEnd) -> Option<String> {
    match end {
        AttemptEnd::Failed(failure) => Some(format!("{}: {}", reason(failure.reason), failure.message)),
        AttemptEnd::Expired => Some("the worker fell silent".to_owned()),
        AttemptEnd::Completed
        | AttemptEnd::Held
        | AttemptEnd::Unclaimed
        | AttemptEnd::Left
        | AttemptEnd::Abandoned => None,
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Diverged => "diverged",
        Reason::OutOfMemory => "out of memory",
        Reason::Data => "data",
        Reason::Worker => "worker",
        Reason::Disk => "disk",
        Reason::Drained => "drained",
    }
}

mod board;
mod insight;
mod reasons;
mod replay;
#[cfg(test)]
mod tests;

pub use self::{
    board::{Among, Board},
    insight::{curve, importance},
    replay::replay,
};
