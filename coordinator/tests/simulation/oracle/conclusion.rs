//! What has to be true at the end of every sweep.

use coordinator::state::{Run, RunStatus, State, SweepState, Trial, TrialStatus};
use earshot_common::{
    ids::{RunId, SweepId, TrialId},
    sweep::{Objective, Search, Stop},
};

use super::{Completed, Oracle, thinned};
use crate::coverage::Coverage;

impl Oracle {
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
        self.replays.conclude(state, covered);
        covered.add(&self.covered);
    }

    /// Trials that are scored in int8 stand where their runs' last measurements put them.
    fn check_scores(&mut self, sweep: &SweepState) {
        if sweep.sweep().objective != Objective::Int8Accuracy {
            return;
        }
        let last = |run: &Run| run.epochs.iter().rev().find_map(|epoch| epoch.int8_accuracy).unwrap();
        let scores = sweep.ranking().map(|(_, trial, mean)| {
            let expected = trial.runs.values().map(last).sum::<f64>() / trial.runs.len() as f64;
            assert!((mean.int8_accuracy.unwrap() - expected).abs() < 1e-12);
            expected
        });
        assert!(scores.collect::<Vec<_>>().is_sorted_by(|one, other| one >= other), "another order");
        self.covered.sweeps_scored_in_int8 += 1;
    }

    /// Exact budget, exact coverage of the grid, no point twice, and each run with its one end.
    fn conclude_sweep(&mut self, id: SweepId, sweep: &SweepState) {
        let space = &sweep.sweep().space;
        if self.cancelled.contains(&id) {
            assert!(sweep.has_ended() && sweep.leased() == 0);
            return;
        }
        assert_eq!(sweep.trials().len() as u64, sweep.sweep().trials(), "the budget is exact");
        for (trial_id, trial) in sweep.trials() {
            if let Search::Grid { .. } = sweep.sweep().search {
                assert_eq!(Some(&*trial.point), space.point(u64::from(trial_id.0)).as_ref(), "another grid");
            }
            let is_one = |(_, other): &(TrialId, &Trial)| other.point == trial.point;
            assert_eq!(sweep.trials().filter(is_one).count(), 1, "a point twice");
            let is_failed = self.failed_trials.contains(&(id, trial_id));
            match trial.status() {
                TrialStatus::Infeasible => {
                    self.covered.infeasible_trials += 1;
                    assert!(sweep.sweep().constraints.broken_by(&trial.cost).is_some());
                }
                TrialStatus::Failed => {
                    assert!(is_failed, "trial {trial_id} was given up without reason");
                    let failures = |run: &Run| run.attempts_spent() > 0;
                    assert!(trial.runs.values().any(failures), "trial {trial_id} failed without a reason");
                }
                TrialStatus::Stopped => {
                    assert!(!is_failed && sweep.sweep().stop.is_some());
                    // The median rule holds a whole trial, with runs of it that waited for another attempt.
                    let is_whole = matches!(sweep.sweep().stop, Some(Stop::Median { .. }))
                        && self.held.iter().any(|run| (run.sweep, run.trial) == (id, trial_id));
                    for (&fold, run) in trial.runs.iter().filter(|(_, run)| run.status == RunStatus::Held) {
                        let run_id = RunId { sweep: id, trial: trial_id, fold };
                        assert!(
                            run.attempts.is_empty() || is_whole || self.held.contains(&run_id),
                            "run {run_id} is idle"
                        );
                    }
                }
                TrialStatus::Completed => {
                    assert!(!is_failed);
                    for (&fold, run) in &trial.runs {
                        let run_id = RunId { sweep: id, trial: trial_id, fold };
                        let Completed { token, result, epochs } = &self.completed[&run_id];
                        assert_eq!(run.status, RunStatus::Completed(*result));
                        assert_eq!(&run.epochs, epochs);
                        let ends = run.attempts.iter().filter(|attempt| attempt.token == *token).count();
                        assert_eq!(ends, 1);
                    }
                }
                status => panic!("trial {trial_id} is {status:?} at the end"),
            }
        }
        thinned::check(sweep);
        self.check_scores(sweep);
        self.conclude_pruning(id, sweep);
        self.conclude_quantisation(id, sweep);
        let count = |status| sweep.trials().filter(|(_, trial)| trial.status() == status).count() as u32;
        for status in
            [TrialStatus::Completed, TrialStatus::Stopped, TrialStatus::Failed, TrialStatus::Infeasible]
        {
            assert_eq!(sweep.count(status), count(status), "miscounted {status:?} trials");
        }
        assert_eq!(sweep.ranking().count() as u32, count(TrialStatus::Completed));
    }
}
