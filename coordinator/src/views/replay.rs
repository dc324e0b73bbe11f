//! A replay, as users see it: each run beside its original.

use earshot_common::{
    ids::{BlobId, FoldId, ReplayId, RunId},
    job::RunResult,
};
use earshot_proto::earshot::v1 as proto;

use super::{ViewError, failures};
use crate::state::{Finding, Replay, ReplayedRun, Run, RunStatus, State, SweepState};

/// One replay.
///
/// # Errors
/// [`ViewError::NoReplay`].
pub fn replay(state: &State, id: ReplayId) -> Result<proto::Replay, ViewError> {
    let found = state.replay(id).and_then(|replay| Some((replay, state.sweep(replay.sweep)?)));
    let (replay, sweep) = found.ok_or(ViewError::NoReplay(id))?;
    let runs = compared(replay, sweep);
    let findings: Vec<Finding> =
        runs.iter().map(|(_, replayed, original)| replayed.finding(original)).collect();
    let runs = runs.into_iter().zip(&findings).map(|((fold, replayed, original), finding)| {
        run_view(state, fold, replayed, original, name(*finding, replay))
    });
    Ok(proto::Replay {
        replay: id.0,
        sweep: sweep.sweep().name.clone(),
        trial: replay.trial.0,
        state: whole(replay, &findings).to_owned(),
        runs: runs.collect(),
    })
}

/// Each replayed run with its original.
fn compared<'a>(replay: &'a Replay, sweep: &'a SweepState) -> Vec<(FoldId, &'a ReplayedRun, &'a Run)> {
    let original = |fold| sweep.run(RunId { sweep: replay.sweep, trial: replay.trial, fold });
    let runs = replay.runs.iter();
    runs.filter_map(|(&fold, replayed)| Some((fold, replayed, original(fold)?))).collect()
}

/// What the runs together say.
fn whole(replay: &Replay, findings: &[Finding]) -> &'static str {
    let any = |finding| findings.contains(&finding);
    if any(Finding::Leased)
        || (any(Finding::Waiting) && findings.iter().any(|&finding| finding != Finding::Waiting))
    {
        "running"
    } else if any(Finding::Waiting) {
        "waiting"
    } else if any(Finding::Different) {
        "different"
    } else if any(Finding::Failed) {
        name(Finding::Failed, replay)
    } else {
        "identical"
    }
}

fn name(finding: Finding, replay: &Replay) -> &'static str {
    match finding {
        Finding::Waiting => "waiting",
        Finding::Leased => "leased",
        Finding::Identical => "identical",
        Finding::Different => "different",
        Finding::Failed if replay.is_cancelled => "cancelled",
        Finding::Failed => "failed",
    }
}

fn run_view(
    state: &State,
    fold: FoldId,
    replayed: &ReplayedRun,
    original: &Run,
    finding: &str,
) -> proto::ReplayedRun {
    let blob = |part: fn(&RunResult) -> BlobId| match (original.status, replayed.run.status) {
        // Weights of another number of epochs are other weights.
        _ if replayed.difference.is_some() => "not_compared",
        (RunStatus::Completed(ours), RunStatus::Completed(theirs)) if part(&ours) == part(&theirs) => "equal",
        (RunStatus::Completed(_), RunStatus::Completed(_)) => "different",
        _ => "not_compared",
    };
    proto::ReplayedRun {
        fold: fold.0,
        state: finding.to_owned(),
        attempts: replayed.run.attempts.len() as u32,
        epochs_compared: replayed.run.epochs.len() as u32,
        epochs_total: original.epochs.len() as u32,
        difference: replayed.difference.map(|difference| proto::Difference {
            epoch: difference.epoch,
            field: difference.field.to_owned(),
            original: difference.original,
            replayed: difference.replayed,
        }),
        checkpoint: blob(|result| result.checkpoint).to_owned(),
        logits: blob(|result| result.logits).to_owned(),
        original: trainer(state, original),
        replayed: trainer(state, &replayed.run),
        failures: failures(state, &replayed.run),
    }
}

/// Who trained a run, at its newest attempt.
fn trainer(state: &State, run: &Run) -> Option<proto::Trainer> {
    let worker = state.worker(run.attempts.last()?.worker)?;
    Some(proto::Trainer { worker: worker.name.clone(), device: worker.device.clone() })
}
