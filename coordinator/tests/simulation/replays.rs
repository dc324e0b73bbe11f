//! What is promised of replays, kept as a model of its own: which are open, and what each of their runs has to say.

use std::collections::BTreeMap;

use coordinator::state::{Finding, State};
use earshot_common::{
    ids::{FoldId, ReplayId, RunId, SweepId, TrialId},
    job::{Epoch, RunResult, Verdict},
};

use crate::coverage::Coverage;

/// What a trial's run gave, to be compared with.
pub(crate) struct Original<'a> {
    pub(crate) epochs: &'a [Epoch],
    pub(crate) result: RunResult,
}

#[derive(Default)]
pub(crate) struct Replays {
    replays: BTreeMap<ReplayId, Replay>,
    covered: Coverage,
}

struct Replay {
    sweep: SweepId,
    trial: TrialId,
    runs: BTreeMap<FoldId, Replayed>,
}

struct Replayed {
    attempts: u32,
    /// Attempts that speak against it.
    spent: u32,
    differs: bool,
    finding: Finding,
}

impl Replay {
    fn is_open(&self) -> bool {
        self.runs.values().any(Replayed::is_open)
    }
}

impl Replayed {
    fn is_open(&self) -> bool {
        matches!(self.finding, Finding::Waiting | Finding::Leased)
    }
}

impl Replays {
    /// One was asked for at this position of the log, and answered with `id`.
    pub(crate) fn asked(
        &mut self,
        position: u64,
        (sweep, trial): (SweepId, TrialId),
        folds: &[FoldId],
        id: ReplayId,
    ) {
        let is_same = |replay: &Replay| (replay.sweep, replay.trial) == (sweep, trial);
        let open = self.replays.iter().find(|(_, replay)| is_same(replay) && replay.is_open());
        if let Some((&open, _)) = open {
            self.covered.replays_joined += 1;
            assert_eq!(id, open, "trial {trial} is replayed twice at once");
            return;
        }
        self.covered.replays_asked += 1;
        assert_eq!(id.0, position, "a replay's number is the position at which it was asked for");
        let fresh = || Replayed { attempts: 0, spent: 0, differs: false, finding: Finding::Waiting };
        let runs = folds.iter().map(|&fold| (fold, fresh())).collect();
        self.replays.insert(id, Replay { sweep, trial, runs });
    }

    /// Sweeps whose replays have runs that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = SweepId> {
        let waits =
            |replay: &&Replay| replay.runs.values().any(|replayed| replayed.finding == Finding::Waiting);
        self.replays.values().filter(waits).map(|replay| replay.sweep)
    }

    pub(crate) fn granted(&mut self, id: ReplayId, run: RunId, attempt: u32) {
        let replay = &self.replays[&id];
        assert_eq!((replay.sweep, replay.trial), (run.sweep, run.trial), "replay {id} is of another trial");
        let replayed = self.run(id, run.fold);
        assert_eq!(replayed.finding, Finding::Waiting, "{run} is replayed twice");
        replayed.finding = Finding::Leased;
        replayed.attempts += 1;
        assert_eq!(attempt, replayed.attempts);
    }

    /// An epoch was taken; `last` is the schedule's.
    pub(crate) fn reported(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        epoch: &Epoch,
        original: &Original<'_>,
        last: u32,
        verdict: Verdict,
    ) {
        let replayed = self.run(id, fold);
        let bits =
            |epoch: &Epoch| [epoch.train_loss, epoch.loss, epoch.accuracy, epoch.macro_f1].map(f64::to_bits);
        let same =
            original.epochs.get(epoch.epoch as usize - 1).is_some_and(|ours| bits(ours) == bits(epoch));
        replayed.differs |= !same;
        let differs = replayed.differs;
        let expected = if differs || epoch.epoch == last { Verdict::Stop } else { Verdict::Continue };
        assert_eq!(verdict, expected, "replay {id} at epoch {}", epoch.epoch);
        self.covered.replays_stopped_at_a_difference += u64::from(differs && epoch.epoch < last);
    }

    pub(crate) fn completed(
        &mut self,
        id: ReplayId,
        fold: FoldId,
        epochs: &[Epoch],
        result: RunResult,
        original: &Original<'_>,
    ) {
        let replayed = self.run(id, fold);
        let is_same = !replayed.differs && epochs.len() == original.epochs.len() && result == original.result;
        replayed.finding = if is_same { Finding::Identical } else { Finding::Different };
    }

    /// An attempt ended without a result.
    pub(crate) fn lost(&mut self, id: ReplayId, fold: FoldId, end: Lost, attempts_max: u32) {
        let replayed = self.run(id, fold);
        replayed.spent += u32::from(end != Lost::Excused);
        replayed.finding = if replayed.differs {
            Finding::Different
        } else if end == Lost::ForGood || replayed.spent >= attempts_max {
            Finding::Failed
        } else {
            Finding::Waiting
        };
    }

    /// Their sweep was cancelled.
    pub(crate) fn cancelled(&mut self, sweep: SweepId) {
        for replay in self.replays.values_mut().filter(|replay| replay.sweep == sweep && replay.is_open()) {
            self.covered.replays_cancelled += 1;
            for replayed in replay.runs.values_mut().filter(|replayed| replayed.is_open()) {
                replayed.finding = if replayed.differs { Finding::Different } else { Finding::Failed };
            }
        }
    }

    /// At the end: what the state says of each is what came of it.
    pub(crate) fn conclude(&mut self, state: &State, covered: &mut Coverage) {
        assert!(state.replays().map(|(id, _)| id).eq(self.replays.keys().copied()), "other replays");
        for (id, replay) in state.replays() {
            let expected = &self.replays[&id];
            assert!(!expected.is_open(), "replay {id} never ended");
            let sweep = state.sweep(replay.sweep).unwrap();
            for (&fold, replayed) in &replay.runs {
                let run = RunId { sweep: replay.sweep, trial: replay.trial, fold };
                let finding = replayed.finding(sweep.run(run).unwrap());
                assert_eq!(finding, expected.runs[&fold].finding, "replay {id} of {run}");
                match finding {
                    Finding::Identical => self.covered.replayed_runs_identical += 1,
                    Finding::Different => self.covered.replayed_runs_different += 1,
                    _ => self.covered.replayed_runs_failed += 1,
                }
            }
        }
        covered.add(&self.covered);
    }

    fn run(&mut self, id: ReplayId, fold: FoldId) -> &mut Replayed {
        self.replays
            .get_mut(&id)
            .and_then(|replay| replay.runs.get_mut(&fold))
            .expect("a replay that was asked for")
    }
}

/// How an attempt ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It does not speak against the run.
    Excused,
    /// It does.
    Spent,
    /// It does, and another would fare no better.
    ForGood,
}
