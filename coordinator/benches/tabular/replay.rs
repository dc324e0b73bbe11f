//! A sweep over the table's space in simulated time: the coordinator's own mind hands out trials to workers that look up in the
//! table what an epoch gives.

use std::{cmp::Reverse, collections::BinaryHeap, iter};

use coordinator::{
    mind::{Asked, Mind},
    state::{Dataset, Decision, EventKind, State},
};
use earshot_common::{
    ids::{BlobId, FoldId, Token, WorkerId},
    job::{Epoch, Failure, Outcome, Reason, RunResult, Verdict},
    sweep::Sweep,
};

use crate::table::{CLASSES, FRAMES, Row, Table};

/// An epoch that was reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Told {
    pub(crate) at_ms: u64,
    pub(crate) trial: u32,
    pub(crate) epoch: u32,
    /// Clips of the trial's weights of least loss so far: what it would score if it ended here.
    pub(crate) clips: u32,
}

/// What a worker is doing.
struct Training<'a> {
    token: Token,
    trial: u32,
    row: &'a Row,
    epochs: u32,
    /// Epochs that are over.
    done: usize,
}

/// A sweep under way. Workers are single slots; what happens at the same time happens in the workers' order.
struct Replay<'a> {
    table: &'a Table,
    mind: Mind,
    training: Vec<Option<Training<'a>>>,
    /// When each busy worker's epoch is over, and whose.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    told: Vec<Told>,
}

/// Everything that was reported until `is_enough`, or else until the sweep has ended.
pub(crate) fn replay(
    table: &Table,
    sweep: Sweep,
    workers: usize,
    is_enough: impl Fn(&Told) -> bool,
) -> Vec<Told> {
    let mut replay = Replay::new(table, sweep, workers);
    replay.ask(0);
    while let Some(Reverse((now_ms, worker))) = replay.ends.pop() {
        replay.end_epoch(worker, now_ms);
        if replay.told.last().is_some_and(&is_enough) {
            break;
        }
        replay.ask(now_ms);
    }
    replay.told
}

impl<'a> Replay<'a> {
    fn new(table: &'a Table, sweep: Sweep, workers: usize) -> Self {
        let mut mind = Mind::wake(State::default(), u64::MAX / 2, 0);
        let blob = BlobId::of(b"a table");
        let splits = sweep.split.folds().into_iter().map(|fold| (FoldId(fold), blob)).collect();
        let dataset = Dataset {
            labels: (0..CLASSES).map(|class| format!("class {class}")).collect(),
            frames: FRAMES,
            shards: vec![blob],
            views: vec![],
            splits,
            manifest: blob,
        };
        mind.apply(EventKind::Submitted { sweep: Box::new(sweep), dataset }, 0).unwrap();
        for number in 0..workers {
            let joined =
                EventKind::Joined { name: number.to_string(), slots: 1, device: "cpu".into(), by: None };
            assert_eq!(mind.apply(joined, 0), Ok(Decision::Joined(WorkerId(number as u32))));
        }
        let training = iter::repeat_with(|| None).take(workers).collect();
        Self { table, mind, training, ends: BinaryHeap::new(), told: Vec::new() }
    }

    /// Every idle worker asks for a run.
    fn ask(&mut self, now_ms: u64) {
        for worker in 0..self.training.len() {
            if self.training[worker].is_some() {
                continue;
            }
            // Nobody without work finds some where the one before found none.
            let Asked::Granted(grants) = self.mind.ask(WorkerId(worker as u32), 1, now_ms).unwrap() else {
                return;
            };
            self.mind.committed();
            let grant = &grants[0];
            let sweep = self.mind.state().sweep(grant.run.sweep).unwrap();
            let done = sweep.run(grant.run).unwrap().epochs.len();
            let row = self.table.row(&sweep.trial(grant.run.trial).unwrap().point);
            self.ends.push(Reverse((now_ms + row.epoch_ms, worker)));
            let (token, trial, epochs) = (grant.token, grant.run.trial.0, grant.job.recipe.epochs);
            self.training[worker] = Some(Training { token, trial, row, epochs, done });
        }
    }

    /// A worker's epoch is over: it reports, and trains on or is free.
    fn end_epoch(&mut self, worker: usize, now_ms: u64) {
        let Some(mut training) = self.training[worker].take() else { return };
        let id = WorkerId(worker as u32);
        let token = training.token;
        let blob = BlobId::of(b"weights");
        let Some(measured) = training.row.curve.get(training.done) else {
            let failure = Failure { reason: Reason::Diverged, message: "the loss is not finite".into() };
            return self
                .does(EventKind::Finished { worker: id, token, outcome: Outcome::Failed(failure) }, now_ms);
        };
        training.done += 1;
        let number = training.done as u32;
        let accuracy = f64::from(measured.clips) / f64::from(self.table.clips);
        let epoch = Epoch {
            epoch: number,
            train_loss: measured.loss,
            loss: measured.loss,
            accuracy,
            macro_f1: accuracy,
            int8_accuracy: None,
        };
        let reported = EventKind::Reported { worker: id, token, epoch, midway: Some(blob) };
        let decision = self.mind.apply(reported, now_ms).unwrap();
        self.mind.committed();
        let (best_epoch, clips) = training.row.best_by(training.done).unwrap();
        self.told.push(Told { at_ms: now_ms, trial: training.trial, epoch: number, clips });
        match decision {
            Decision::Verdict(Verdict::Pause) => {}
            Decision::Verdict(Verdict::Continue) if number < training.epochs => {
                self.ends.push(Reverse((now_ms + training.row.epoch_ms, worker)));
                self.training[worker] = Some(training);
            }
            Decision::Verdict(_) => {
                let result = RunResult { best_epoch, checkpoint: blob, logits: blob };
                self.does(
                    EventKind::Finished { worker: id, token, outcome: Outcome::Completed(result) },
                    now_ms,
                );
            }
            other => panic!("{other:?}"),
        }
    }

    fn does(&mut self, kind: EventKind, now_ms: u64) {
        self.mind.apply(kind, now_ms).unwrap();
        self.mind.committed();
    }
}
