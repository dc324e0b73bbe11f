use std::path::Path;

use earshot_common::{
    ids::{BlobId, Token},
    job::{Epoch, Failure, Outcome, RunResult},
    sweep::Sweep,
};

use super::*;
use crate::state::{Dataset, Decision, Event, EventKind};

/// A coordinator's state made by events.
struct Story {
    state: State,
    worker: WorkerId,
}

impl Story {
    fn new(more: &str) -> Self {
        Self::with("dropout = { choice = [0.1, 0.2, 0.3] }", more)
    }

    fn with(space: &str, more: &str) -> Self {
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1, 2]\n\
             [space]\n{space}\n[schedule]\nepochs = 2\n{more}"
        );
        let dataset = Dataset {
            labels: vec!["dog".into(), "rain".into()],
            frames: 40,
            shards: vec![BlobId::of(b"shard")],
            views: vec![],
            splits: [1, 2].map(|fold| (FoldId(fold), BlobId::of(&[fold as u8]))).into(),
            manifest: BlobId::of(b"manifest"),
        };
        let sweep = Box::new(Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap());
        let mut story = Self { state: State::default(), worker: WorkerId(0) };
        story.tell(EventKind::Submitted { sweep, dataset });
        story.tell(EventKind::Joined { name: "attic".into(), slots: 2, device: "cpu".into(), by: None });
        story
    }

    fn tell(&mut self, kind: EventKind) -> Decision {
        self.state.apply(&Event { at_ms: self.state.at_ms() + 1, kind }).unwrap()
    }

    fn ask(&mut self) -> Token {
        match self.tell(EventKind::Asked { worker: self.worker, proposed: vec![] }) {
            Decision::Granted(grant) => grant.token,
            other => panic!("{other:?}"),
        }
    }

    /// Trains the next run; the second of its two epochs is the best.
    fn complete(&mut self, accuracy: f64) {
        let (worker, token) = (self.worker, self.ask());
        for (epoch, accuracy) in [(1, accuracy / 2.0), (2, accuracy)] {
            let loss = 1.0 - accuracy;
            let epoch = Epoch {
                epoch,
                train_loss: 0.5,
                loss,
                accuracy,
                macro_f1: accuracy / 2.0,
                int8_accuracy: None,
            };
            self.tell(EventKind::Reported { worker, token, epoch, midway: None });
        }
        let [checkpoint, logits] =
            ["weights", "logits"].map(|part| BlobId::of(format!("{part} {token}").as_bytes()));
        let outcome = Outcome::Completed(RunResult { best_epoch: 2, checkpoint, logits });
        self.tell(EventKind::Finished { worker, token, outcome });
    }

    fn fail(&mut self, reason: Reason) {
        let (worker, token) = (self.worker, self.ask());
        let outcome = Outcome::Failed(Failure { reason, message: "because".into() });
        self.tell(EventKind::Finished { worker, token, outcome });
    }

    fn status(&self) -> proto::Status {
        status(&self.state, None, &BTreeSet::from([self.worker])).unwrap()
    }
}

#[test]
fn an_empty_database_shows_nothing() {
    let state = State::default();
    assert_eq!(status(&state, None, &BTreeSet::new()), Err(ViewError::NoSweep));
    assert_eq!(leaderboard(&state, None, 0), Err(ViewError::NoSweep));
    assert_eq!(champion(&state, None, None), Err(ViewError::NoSweep));
}

#[test]
fn the_status_counts_trials_runs_and_workers() {
    let mut story = Story::new("");
    let before = story.status();
    assert_eq!((before.trials_total, before.runs_waiting, before.runs_leased), (3, 6, 0));
    story.complete(0.5);
    story.complete(0.7);
    let token = story.ask();
    let status = story.status();
    assert_eq!((status.state.as_str(), status.trials_completed, status.trials_running), ("running", 1, 1));
    assert_eq!((status.runs_waiting, status.runs_leased, status.epochs), (3, 1, 4));
    assert_eq!((status.workers[0].busy, status.workers[0].state.as_str()), (1, "present"));
    story.tell(EventKind::Expired { token });
    assert_eq!(story.status().expiries, 1);
    story.tell(EventKind::Left { worker: story.worker });
    assert_eq!(story.status().workers[0].state, "gone");
}

#[test]
fn the_leaderboard_holds_means_and_points() {
    let mut story = Story::new("");
    for accuracy in [0.5, 0.7, 0.9, 0.8] {
        story.complete(accuracy);
    }
    let board = leaderboard(&story.state, None, 0).unwrap();
    assert_eq!(board.rows.iter().map(|row| (row.rank, row.trial)).collect::<Vec<_>>(), [(1, 1), (2, 0)]);
    let best = &board.rows[0];
    assert!((best.accuracy - 0.85).abs() < 1e-12 && (best.macro_f1 - 0.425).abs() < 1e-12);
    assert_eq!((best.epoch, best.runs), (2, 2));
    let dropout = best.point.iter().find(|assignment| assignment.name == "dropout").unwrap();
    assert_eq!((dropout.value.as_str(), best.point.len()), ("0.2", 1));
    assert_eq!(leaderboard(&story.state, None, 1).unwrap().rows, board.rows[..1]);
}

#[test]
fn the_champion_is_the_best_run_of_the_best_trial() {
    let mut story = Story::new("");
    assert_eq!(champion(&story.state, None, None), Err(ViewError::NoneCompleted("t".into())));
    for accuracy in [0.95, 0.1, 0.9, 0.8] {
        story.complete(accuracy);
    }
    let champion = champion(&story.state, None, None).unwrap();
    assert_eq!((champion.trial, champion.fold, champion.trials_completed), (1, 1, 2));
    assert_eq!(champion.job.unwrap().split, wire::blob_bytes(BlobId::of(&[1])));
    assert!((champion.best.unwrap().accuracy - 0.9).abs() < 1e-12);
    let sweep: Sweep = serde_json::from_str(&champion.sweep_json).unwrap();
    assert_eq!(&sweep, story.state.newest_sweep().unwrap().1.sweep());
}

#[test]
fn a_trial_shows_what_failed_and_where() {
    let mut story = Story::new("");
    story.fail(Reason::OutOfMemory);
    let shown = trial(&story.state, None, TrialId(0)).unwrap();
    assert_eq!((shown.state.as_str(), shown.reason.as_str()), ("running", ""));
    assert_eq!(shown.runs[0].failures, ["attempt 1 on attic: out of memory: because"]);
    story.fail(Reason::Diverged);
    let shown = trial(&story.state, None, TrialId(0)).unwrap();
    assert_eq!(
        (shown.state.as_str(), shown.reason.as_str()),
        ("failed", "attempt 2 on attic: diverged: because")
    );
    assert_eq!((shown.runs[0].attempts, shown.runs[0].worker.as_str()), (2, "attic"));
    let error = trial(&story.state, None, TrialId(7)).unwrap_err();
    assert_eq!(error.to_string(), "there is no trial 7: 1 of 3 trials have been proposed, numbered from 0");
}

/// Whatever it was that each worker met, the last straw takes the trial along, and all of it is told.
#[test]
fn a_run_that_is_given_up_lists_every_reason() {
    let mut story = Story::new("[budget]\nattempts = 5\n");
    for reason in [Reason::OutOfMemory, Reason::Data, Reason::Disk, Reason::Worker] {
        story.fail(reason);
    }
    let token = story.ask();
    story.tell(EventKind::Expired { token });
    let shown = trial(&story.state, None, TrialId(0)).unwrap();
    let expected = [
        "attempt 1 on attic: out of memory: because",
        "attempt 2 on attic: data: because",
        "attempt 3 on attic: disk: because",
        "attempt 4 on attic: worker: because",
        "attempt 5 on attic: the worker fell silent",
    ];
    assert_eq!((shown.state.as_str(), shown.reason.as_str()), ("failed", expected[4]));
    assert_eq!(shown.runs[0].failures, expected);
    assert_eq!(shown.runs[1].state, "failed", "nobody needs the other fold any more");
    // The sweep goes on.
    story.complete(0.5);
    story.complete(0.5);
    assert_eq!(trial(&story.state, None, TrialId(1)).unwrap().state, "completed");
}

#[test]
fn an_infeasible_trial_says_which_constraint() {
    let mut story = Story::new("[constraints]\nmax_params = 10\n");
    assert_eq!(
        story.tell(EventKind::Asked { worker: story.worker, proposed: vec![] }),
        Decision::NothingLeft
    );
    let shown = trial(&story.state, None, TrialId(0)).unwrap();
    assert!(shown.state == "infeasible" && shown.reason.contains("constraints allow 10"), "{shown:?}");
    let status = story.status();
    assert_eq!((status.state.as_str(), status.trials_infeasible, status.runs_waiting), ("completed", 3, 0));
}

#[test]
fn a_replay_stands_beside_what_was_trained() {
    let mut story = Story::new("");
    for accuracy in [0.5, 0.7] {
        story.complete(accuracy);
    }
    let (sweep, trial) = (SweepId(0), TrialId(0));
    let Decision::Replaying(id) = story.tell(EventKind::ReplayAsked { sweep, trial }) else { panic!() };
    assert_eq!(replay(&story.state, id).unwrap().state, "waiting");
    assert_eq!(story.status().replays, 1);
    story.complete(0.5);
    let seen = replay(&story.state, id).unwrap();
    let states: Vec<&str> = seen.runs.iter().map(|run| run.state.as_str()).collect();
    // The weights of this story are told apart by their tokens.
    assert_eq!((seen.state.as_str(), states), ("running", vec!["different", "waiting"]));
    let first = &seen.runs[0];
    assert_eq!((first.checkpoint.as_str(), &first.difference), ("different", &None));
    assert_eq!((first.epochs_compared, first.epochs_total), (2, 2));
    assert_eq!(first.replayed.as_ref().unwrap().worker, "attic");

    story.complete(0.6);
    let seen = replay(&story.state, id).unwrap();
    let difference = seen.runs[1].difference.as_ref().unwrap();
    assert_eq!((seen.state.as_str(), difference.epoch, difference.field.as_str()), ("different", 1, "loss"));
    assert_eq!(seen.runs[1].checkpoint, "not_compared");
    assert_eq!(story.status().replays, 0);
    assert_eq!(replay(&story.state, ReplayId(0)), Err(ViewError::NoReplay(ReplayId(0))));
}

#[test]
fn a_curve_tells_what_was_best_when_and_what_it_took() {
    let mut story = Story::new("");
    for accuracy in [0.5, 0.7, 0.4, 0.4, 0.9, 0.9] {
        story.complete(accuracy);
    }
    let curve = curve(&story.state, None).unwrap();
    let points: Vec<(u32, u64, u32, f64, u32)> = curve
        .points
        .iter()
        .map(|point| (point.trials, point.epochs, point.trial, point.best, point.best_trial))
        .collect();
    assert_eq!(points, [(1, 4, 0, 0.6, 0), (2, 8, 1, 0.6, 0), (3, 12, 2, 0.9, 2)]);
    assert!(curve.points[0].at_ms > 0 && curve.points.is_sorted_by_key(|point| point.at_ms));
    assert!((curve.points[1].score - 0.4).abs() < 1e-12);
}

#[test]
fn importances_are_of_the_completed_trials() {
    let mut story = Story::new("");
    assert!(importance(&story.state, None).unwrap().rows[0].importance.abs() < 1e-12, "nothing is known yet");
    for accuracy in [0.5, 0.7, 0.4, 0.4, 0.9, 0.9] {
        story.complete(accuracy);
    }
    let found = importance(&story.state, None).unwrap();
    assert_eq!((found.trials, found.good, found.rows.len()), (3, 1, 1));
    assert_eq!((found.rows[0].name.as_str(), found.rows[0].importance), ("dropout", 1.0));
}

#[test]
fn a_trial_says_why_it_was_proposed_and_why_it_was_held() {
    let mut story = Story::new("[objective]\nmetric = \"loss\"\n[stop]\nmethod = \"asha\"\n");
    let worker = story.worker;
    for loss in [0.5, 0.25] {
        let token = story.ask();
        let epoch =
            Epoch { epoch: 1, train_loss: 0.5, loss, accuracy: 0.5, macro_f1: 0.5, int8_accuracy: None };
        story.tell(EventKind::Reported { worker, token, epoch, midway: None });
    }
    let shown = trial(&story.state, None, TrialId(0)).unwrap();
    let why = shown.why.unwrap();
    assert_eq!((why.by.as_str(), why.words.as_str(), why.expected), ("grid", "its turn in the grid", None));
    let [judged] = shown.judgements.as_slice() else { panic!("{:?}", shown.judgements) };
    assert_eq!((judged.epoch, judged.verdict.as_str(), judged.score), (1, "held", 0.375));
    assert_eq!(
        judged.words,
        "of 1 that came to this rung 0 may go on and 0 did; of those that wait its loss of 0.3750 is the best"
    );
}

#[test]
fn the_front_is_what_is_best_at_its_costs() {
    let more = "[objective]\nminimise = [\"int8_kib\"]\n";
    let mut story = Story::with(
        "filters = { choice = [[4, 8], [8, 16], [16, 32]] }\ndropout = { choice = [0.1, 0.2] }",
        more,
    );
    // The smallest twice, then the middle one, then the largest.
    for accuracy in [0.5, 0.4, 0.6, 0.7, 0.65, 0.3] {
        story.complete(accuracy);
        story.complete(accuracy);
    }
    let front = Board::read(&story.state, None, 0, Among::Front).unwrap().message();
    assert_eq!(
        (front.objective.as_str(), front.minimise.as_slice()),
        ("accuracy", ["int8_kib".to_owned()].as_slice())
    );
    let rows: Vec<(u32, u32)> = front.rows.iter().map(|row| (row.rank, row.trial)).collect();
    assert_eq!(rows, [(1, 3), (4, 0)], "the largest are no better than the middle ones");
    assert_eq!(leaderboard(&story.state, None, 0).unwrap().rows.len(), 6);

    assert_eq!(champion(&story.state, None, None).unwrap().trial, 3);
    assert_eq!(champion(&story.state, None, Some(TrialId(0))).unwrap().trial, 0);
    assert!(matches!(champion(&story.state, None, Some(TrialId(9))), Err(ViewError::NoTrial { .. })));
    let mut unfinished = Story::new("");
    unfinished.ask();
    assert_eq!(champion(&unfinished.state, None, Some(TrialId(0))), Err(ViewError::NotCompleted(TrialId(0))));
}

#[test]
fn the_best_of_several_is_told_with_what_it_is_worth() {
    let mut story = Story::new("");
    for accuracy in [0.5, 0.75] {
        story.complete(accuracy);
    }
    assert_eq!(
        leaderboard(&story.state, None, 0).unwrap().rows[0].corrected,
        None,
        "one trial is beside no other"
    );
    for accuracy in [0.6, 0.8, 0.2, 0.5] {
        story.complete(accuracy);
    }
    let board = leaderboard(&story.state, None, 0).unwrap();
    let best = &board.rows[0];
    assert!(best.standard_error.unwrap() > 0.0);
    assert!((0.6..0.7).contains(&best.corrected.unwrap()) && (best.accuracy - 0.7).abs() < 1e-12, "{best:?}");
    // By the loss, which is to be small, the same is worth more than it seems.
    let mut story = Story::new("[objective]\nmetric = \"loss\"\n");
    for accuracy in [0.5, 0.75, 0.6, 0.8, 0.2, 0.5] {
        story.complete(accuracy);
    }
    let best = &leaderboard(&story.state, None, 0).unwrap().rows[0];
    assert!(best.corrected.unwrap() > best.loss && best.loss > 0.0, "{best:?}");
}
