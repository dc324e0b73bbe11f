//! Whether the trials that were stopped were the right ones, counted out at the end by brute force.

use coordinator::state::{Basis, Run, SweepState, Trial, TrialStatus};
use earshot_common::{
    ids::TrialId,
    job::Epoch,
    sweep::{Halving, Objective, Stop},
};

/// In every rung that trials came to, those that are held there were not among the best of them; of equal ones any may be.
pub(super) fn check(sweep: &SweepState) {
    if let Some(Stop::Race { startup, confidence }) = sweep.sweep().stop {
        check_race(sweep, startup, confidence);
    }
    let Some(stop @ (Stop::Asha(Halving { reduction, .. }) | Stop::Hyperband(Halving { reduction, .. }))) =
        sweep.sweep().stop
    else {
        return;
    };
    let epochs = sweep.sweep().schedule.epochs;
    let bracket = |id: &TrialId| stop.bracket(*id, epochs);
    let sound = || {
        sweep
            .trials()
            .filter(|(_, trial)| !matches!(trial.status(), TrialStatus::Failed | TrialStatus::Infeasible))
    };
    for of in 0..=sound().map(|(id, _)| bracket(&id)).max().unwrap_or(0) {
        for rung in stop.rungs(of, epochs) {
            let came: Vec<(f64, bool)> = sound()
                .filter(|(id, _)| bracket(id) == of)
                .filter_map(|(_, trial)| Some((score(sweep, trial, rung)?, waits_at(trial, rung))))
                .collect();
            let places = came.len() / reduction as usize;
            for (score, _) in came.iter().filter(|(_, waits)| *waits) {
                let no_worse = came.iter().filter(|(other, _)| other >= score).count();
                assert!(
                    no_worse > places,
                    "one of the best {places} of {} waits at epoch {rung}",
                    came.len()
                );
            }
            assert!(came.is_empty() || came.iter().any(|(_, waits)| !waits), "nobody came past epoch {rung}");
        }
    }
    if sound().next().is_some() {
        assert!(sweep.ranking().next().is_some(), "no trial was trained to its end");
    }
}

/// Trials of a race have the first folds and no others, were stopped for being behind, and never before enough had all folds.
fn check_race(sweep: &SweepState, startup: u32, confidence: f64) {
    for (id, trial) in sweep.trials().filter(|(_, trial)| trial.status() == TrialStatus::Stopped) {
        let completed = trial.runs.values().take_while(|run| run.completed().is_some()).count();
        let rest = trial.runs.values().skip(completed);
        assert!(
            completed > 0 && rest.into_iter().all(|run| run.attempts.is_empty()),
            "trial {id} jumped a fold"
        );
        assert!(sweep.count(TrialStatus::Completed) >= startup, "trial {id} was stopped too early");
        let last = trial.judgements.last().map(|judged| judged.basis);
        assert!(
            matches!(last, Some(Basis::Race { behind, .. }) if behind > confidence),
            "trial {id} was stopped by {last:?}"
        );
    }
}

/// Mean accuracy over runs, each at its epoch of lowest loss until then, or what was last measured in int8 until then; none if the
/// trial never came so far.
fn score(sweep: &SweepState, trial: &Trial, rung: u32) -> Option<f64> {
    let is_int8 = sweep.sweep().objective == Objective::Int8Accuracy;
    let accuracy = |run: &Run| {
        let ended_before = run.completed().is_some() && run.epochs.len() < rung as usize;
        let until = if ended_before { run.epochs.len() } else { rung as usize };
        let epochs = run.epochs.get(..until)?;
        if is_int8 {
            return epochs.iter().rev().find_map(|epoch| epoch.int8_accuracy);
        }
        let best = run.completed().filter(|_| ended_before).map(|(_, best)| best);
        best.or_else(|| lowest(epochs)).map(|best| best.accuracy)
    };
    let accuracies: Vec<f64> = trial.runs.values().map(accuracy).collect::<Option<_>>()?;
    Some(accuracies.iter().sum::<f64>() / accuracies.len() as f64)
}

fn lowest(epochs: &[Epoch]) -> Option<Epoch> {
    epochs.iter().min_by(|one, other| one.loss.total_cmp(&other.loss)).copied()
}

fn waits_at(trial: &Trial, rung: u32) -> bool {
    let unfinished = trial.runs.values().filter(|run| run.completed().is_none());
    trial.status() == TrialStatus::Stopped
        && unfinished.map(|run| run.epochs.len()).min() == Some(rung as usize)
}
