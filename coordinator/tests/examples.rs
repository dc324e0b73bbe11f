//! The examples of `sweeps/`, each served to its end with made-up results by a coordinator that forgets everything on the way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use coordinator::{
    prune,
    state::{
        Candidate, Cut, Dataset, Decision, Due, Event, EventKind, Grant, Phase, Quantisation, State,
        TrialStatus,
    },
};
use earshot_common::{
    ids::{BlobId, FoldId, SweepId, WorkerId},
    int8::Range,
    job::{Epoch, Outcome, RunResult, Verdict},
    sweep::{Hyperparameter, Point, Sweep, Value},
};

/// Runs under way at a time.
const SLOTS: usize = 4;
/// After so many runs the state is folded from the log once more.
const RESTART_AFTER: usize = 25;

/// The files that users are told to start from.
fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("sweeps");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.iter().all(|file| file.extension().is_some_and(|end| end == "toml")), "{files:?}");
    files
}

fn example(file: &Path) -> Sweep {
    Sweep::parse(&fs::read_to_string(file).unwrap(), file, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn dataset(sweep: &Sweep) -> Dataset {
    let folds = sweep.split.folds().into_iter().map(FoldId).chain([FoldId::REFIT]);
    Dataset {
        labels: (0..10).map(|class| format!("class {class}")).collect(),
        frames: 431,
        shards: vec![BlobId::of(b"shard")],
        views: vec![],
        splits: folds.map(|fold| (fold, BlobId::of(b"split"))).collect(),
        manifest: BlobId::of(b"manifest"),
    }
}

/// A made-up accuracy: best at a learning rate of 2e-3 and a dropout of 0.3, and the better the more filters there are.
fn accuracy(point: &Point) -> f64 {
    let float = |name| match point.get(name) {
        Value::Float(number) => number,
        other => panic!("{other:?}"),
    };
    let rate = float(Hyperparameter::LearningRate).log10() - 2e-3_f64.log10();
    let Value::List(filters) = point.get(Hyperparameter::Filters) else { panic!("filters are a list") };
    let small = 1.0 / filters.iter().sum::<i64>() as f64;
    0.9 - small - 0.1 * rate * rate - (float(Hyperparameter::Dropout) - 0.3).powi(2)
}

/// The coordinator's mind, and its log.
struct Mind {
    state: State,
    log: Vec<Event>,
}

impl Mind {
    fn does(&mut self, kind: EventKind) -> Decision {
        let event = Event { at_ms: 10 * self.log.len() as u64, kind };
        let decision = self.state.apply(&event).unwrap();
        self.log.push(event);
        decision
    }

    /// Forgets everything, and reads its log.
    fn restarts(&mut self) {
        let mut state = State::default();
        for event in &self.log {
            state.apply(event).unwrap();
        }
        assert_eq!(state, self.state);
        assert_eq!(state.proposals(0), self.state.proposals(0));
        self.state = state;
    }

    fn ask(&mut self, worker: WorkerId) -> Option<Grant> {
        let proposed = self.state.proposals(0);
        match self.does(EventKind::Asked { worker, proposed }) {
            Decision::Granted(grant) => Some(*grant),
            Decision::NothingLeft => None,
            other => panic!("{other:?}"),
        }
    }

    /// Every layer loses a multiple of groups, as long as it has another.
    fn cut(&mut self, sweep: SweepId, due: &Due) {
        let multiple = due.prune.multiple_of as usize;
        let groups = prune::group::groups(&due.model).unwrap();
        let left = |count: usize| if count > multiple { count - multiple } else { count };
        let kept = groups.into_iter().map(|(layer, count)| (layer, (0..left(count)).collect())).collect();
        let model = prune::slice::spec(&due.model, &kept).unwrap();
        let cut = Cut::Made { model, weights: BlobId::of(b"cut"), teacher: None, why: "made up".into() };
        self.does(EventKind::Pruned { sweep, trial: due.trial, step: due.step, cut });
        self.restarts();
    }

    /// Little or much is lost, as the sweep wants it.
    fn quantise(&mut self, sweep: SweepId, candidate: &Candidate) {
        let ranges = vec![Range { min: -1.0, max: 1.0 }; candidate.model.scales().unwrap()];
        let quantisation = Quantisation::Aware { ranges, why: "made up".into() };
        self.does(EventKind::Quantised { sweep, trial: candidate.trial, quantisation });
        self.restarts();
    }

    /// One epoch is enough for a result; where trials are stopped early, they train until they are told.
    fn train(&mut self, worker: WorkerId, grant: &Grant) {
        let sweep = self.state.newest_sweep().unwrap().1;
        let accuracy = accuracy(&sweep.trial(grant.run.trial).unwrap().point);
        let known = sweep.run(grant.run).unwrap().epochs.len() as u32;
        let last = if sweep.sweep().stop.is_some() { grant.job.recipe.epochs } else { 1 };
        for number in known + 1..=last {
            let epoch = Epoch {
                epoch: number,
                train_loss: 1.0,
                loss: 1.0 - accuracy,
                accuracy,
                macro_f1: accuracy,
                int8_accuracy: None,
            };
            let midway = grant.job.rungs.contains(&number).then(|| BlobId::of(b"midway"));
            let told = self.does(EventKind::Reported { worker, token: grant.token, epoch, midway });
            if told == Decision::Verdict(Verdict::Pause) {
                return;
            }
        }
        let blob = BlobId::of(b"weights");
        let outcome = Outcome::Completed(RunResult { best_epoch: 1, checkpoint: blob, logits: blob });
        self.does(EventKind::Finished { worker, token: grant.token, outcome });
    }
}

/// Serves a sweep until it is completed.
fn serve(sweep: &Sweep) -> Mind {
    let mut mind = Mind { state: State::default(), log: Vec::new() };
    mind.does(EventKind::Submitted { sweep: Box::new(sweep.clone()), dataset: dataset(sweep) });
    let joined = EventKind::Joined { name: "w".into(), slots: SLOTS as u32, device: "cpu".into(), by: None };
    let Decision::Joined(worker) = mind.does(joined) else { panic!("not let in") };
    let mut under_way: Vec<Grant> = Vec::new();
    let mut ended = 0;
    loop {
        while under_way.len() < SLOTS && mind.state.has_work() {
            match mind.ask(worker) {
                Some(grant) => under_way.push(grant),
                None => break,
            }
        }
        if under_way.is_empty() {
            match (mind.state.pruning_due(), mind.state.quantisation_due()) {
                (Some((sweep, due)), _) => mind.cut(sweep, &due),
                (None, Some((sweep, candidate))) => mind.quantise(sweep, &candidate),
                (None, None) => break,
            }
            continue;
        }
        let grant = under_way.remove(0);
        mind.train(worker, &grant);
        ended += 1;
        if ended % RESTART_AFTER == 0 {
            mind.restarts();
        }
    }
    mind
}

#[test]
fn every_example_comes_to_its_end() {
    for file in examples() {
        let sweep = example(&file);
        let mind = serve(&sweep);
        let (_, state) = mind.state.newest_sweep().unwrap();
        assert!(mind.state.is_done() && state.phase() == Phase::Running, "{file:?}");
        let points: BTreeSet<String> =
            state.trials().map(|(_, trial)| format!("{:?}", trial.point)).collect();
        assert_eq!(points.len() as u64, sweep.trials(), "{file:?}");
        let (_, best, _) = state.ranking().next().unwrap();
        assert!(accuracy(&best.point) > 0.8, "{file:?}: {:?}", best.point);
        let steps = sweep.prune.map_or(0, |prune| prune.steps as usize);
        assert_eq!(best.pruned.len(), steps, "{file:?}");
        assert_eq!(best.aware.is_some(), sweep.quantise.is_some(), "{file:?}");
        assert_eq!(state.count(TrialStatus::Stopped) > 0, sweep.stop.is_some(), "{file:?}");
    }
}

#[test]
fn the_example_with_a_front_has_one() {
    let file =
        examples().into_iter().find(|file| file.file_stem().is_some_and(|stem| stem == "pareto")).unwrap();
    let mind = serve(&example(&file));
    let (_, state) = mind.state.newest_sweep().unwrap();
    let front: Vec<(f64, f64)> = state
        .ranking()
        .filter(|(id, ..)| state.front().contains(id))
        .map(|(_, trial, mean)| (mean.accuracy, trial.cost.int8_kib()))
        .collect();
    assert!(front.len() > 1, "{front:?}");
    // The best first, so the smaller the further down.
    assert!(front.is_sorted_by(|one, other| one.0 > other.0 && one.1 > other.1), "{front:?}");
    let limit = state.sweep().constraints.max_int8_kib.unwrap();
    let late = state.trials().skip(20);
    assert!(late.into_iter().all(|(_, trial)| trial.cost.int8_kib() <= limit), "it was known beforehand");
}

#[test]
fn every_method_has_an_example_of_its_own_name() {
    for method in ["grid", "random", "sobol", "tpe", "bayes"] {
        let file = examples().into_iter().find(|file| file.file_stem().is_some_and(|stem| stem == method));
        assert_eq!(example(&file.unwrap()).search.name(), method);
    }
}
