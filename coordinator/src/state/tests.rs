mod midway;
mod pruned;
mod quantised;
mod raced;
mod replay;
mod scored;
mod sharing;
mod stopped;

use std::path::Path;

use earshot_common::{
    ids::{BlobId, FoldId, TrialId},
    job::{Epoch, Failure, Job, Keep, Outcome, Reason, RunResult, Verdict},
    sweep::Sweep,
};
use proptest::prelude::*;

use super::*;

const EPOCHS: u32 = 2;

fn sweep(validation: &str, more: &str) -> Sweep {
    let text = format!(
        "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = {validation}\n[space]\n\
         filters = {{ choice = [[4, 8], [8, 16]] }}\ndropout = {{ choice = [0.1, 0.2, 0.3] }}\n\
         [schedule]\nepochs = {EPOCHS}\n{more}"
    );
    Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
}

fn dataset() -> Dataset {
    Dataset {
        labels: vec!["dog".into(), "rain".into()],
        frames: 40,
        shards: vec![BlobId::of(b"shard")],
        views: vec![],
        splits: [1, 2, 3, FoldId::REFIT.0].map(|fold| (FoldId(fold), BlobId::of(b"split"))).into(),
        manifest: BlobId::of(b"manifest"),
    }
}

fn epoch(number: u32, accuracy: f64) -> Epoch {
    Epoch {
        epoch: number,
        train_loss: 1.0,
        loss: 1.0 - accuracy,
        accuracy,
        macro_f1: accuracy,
        int8_accuracy: None,
    }
}

fn result(best_epoch: u32) -> RunResult {
    RunResult { best_epoch, checkpoint: BlobId::of(b"weights"), logits: BlobId::of(b"logits") }
}

/// A state with its log, as the engine would keep it.
#[derive(Default)]
struct Cluster {
    state: State,
    log: Vec<Event>,
}

impl Cluster {
    fn new(sweep: Sweep) -> (Self, WorkerId) {
        let mut cluster = Self::default();
        cluster.does(EventKind::Submitted { sweep: Box::new(sweep), dataset: dataset() });
        let worker = cluster.join();
        (cluster, worker)
    }

    /// Applies an event; a refusal must leave the state as it was.
    fn says(&mut self, kind: EventKind) -> Result<Decision, Refusal> {
        let event = Event { at_ms: self.log.len() as u64 * 10, kind };
        let before = self.state.clone();
        let decision = self.state.apply(&event);
        match &decision {
            Ok(_) => self.log.push(event),
            Err(_) => assert_eq!(self.state, before, "a refusal changed the state: {event:?}"),
        }
        decision
    }

    fn does(&mut self, kind: EventKind) -> Decision {
        self.says(kind).unwrap()
    }

    fn join(&mut self) -> WorkerId {
        match self.does(EventKind::Joined { name: "w".into(), slots: 2, device: "cpu".into(), by: None }) {
            Decision::Joined(worker) => worker,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, worker: WorkerId) -> Option<Grant> {
        match self
            .does(EventKind::Asked { worker, proposed: self.state.proposals(self.log.len() as u64 * 10) })
        {
            Decision::Granted(grant) => Some(*grant),
            Decision::NothingLeft => None,
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, worker: WorkerId, token: Token, epoch: Epoch) -> Result<Decision, Refusal> {
        self.says(EventKind::Reported { worker, token, epoch, midway: None })
    }

    fn finish(&mut self, worker: WorkerId, token: Token, outcome: Outcome) -> Result<Decision, Refusal> {
        self.says(EventKind::Finished { worker, token, outcome })
    }

    fn fail(&mut self, worker: WorkerId, token: Token, reason: Reason) {
        let failure = Failure { reason, message: "because".into() };
        self.finish(worker, token, Outcome::Failed(failure)).unwrap();
    }

    fn train(&mut self, worker: WorkerId, token: Token, accuracy: f64) {
        let done = self.state.run(token).unwrap().epochs.len() as u32;
        for number in done + 1..=EPOCHS {
            self.report(worker, token, epoch(number, accuracy)).unwrap();
        }
        self.finish(worker, token, Outcome::Completed(result(EPOCHS))).unwrap();
    }

    /// Trains every run that is handed out, each better than the one before, until something else is due: the last grant.
    fn train_all(&mut self, worker: WorkerId) -> Grant {
        let mut last = None;
        for nth in 0..100 {
            let Some(grant) = self.ask(worker) else { break };
            self.train(worker, grant.token, f64::from(nth) / 100.0);
            last = Some(grant);
        }
        last.unwrap()
    }

    fn only(&self) -> &SweepState {
        self.state.newest_sweep().unwrap().1
    }

    fn status(&self, trial: u32) -> TrialStatus {
        self.only().trial(TrialId(trial)).unwrap().status()
    }
}

#[test]
fn a_grid_is_trained_once_and_then_done() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let mut points = Vec::new();
    while cluster.state.has_work() {
        let grant = cluster.ask(worker).unwrap();
        points.push(format!("{:?}", grant.job.model));
        cluster.train(worker, grant.token, f64::from(grant.run.trial.0) / 10.0);
    }
    points.sort();
    points.dedup();
    assert_eq!((points.len(), cluster.state.is_done()), (6, true));
    let best = cluster.only().ranking().next().map(|(id, ..)| id);
    assert_eq!(best, Some(TrialId(5)));
}

/// Trains every trial, each better than the one before, and returns the grant of the refit.
fn train_up_to_the_refit(cluster: &mut Cluster, worker: WorkerId) -> Grant {
    loop {
        let grant = cluster.ask(worker).unwrap();
        if grant.run.fold == FoldId::REFIT {
            return grant;
        }
        assert!(!cluster.state.is_done());
        cluster.train(worker, grant.token, f64::from(grant.run.trial.0) / 10.0);
    }
}

#[test]
fn a_refit_trains_the_best_trial_once_more_and_ranks_nowhere() {
    let (mut cluster, worker) = Cluster::new(sweep("[1, 2]", "refit = true\n"));
    let grant = train_up_to_the_refit(&mut cluster, worker);
    assert_eq!(grant.run.trial, TrialId(5));
    let Job { recipe, .. } = &grant.job;
    assert_eq!((recipe.epochs, recipe.keep), (EPOCHS, Keep::Last));
    let before: Vec<_> = cluster.only().ranking().map(|(id, _, mean)| (id, mean)).collect();
    assert!(cluster.ask(worker).is_none() && !cluster.state.is_done());
    cluster.train(worker, grant.token, 0.0);
    assert_eq!(cluster.only().ranking().map(|(id, _, mean)| (id, mean)).collect::<Vec<_>>(), before);
    assert!(cluster.state.is_done() && cluster.ask(worker).is_none());
    assert!(cluster.only().run(grant.run).unwrap().completed().is_some());
}

#[test]
fn a_refit_that_fails_leaves_its_trial_the_best() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", "refit = true\n"));
    let mut grant = train_up_to_the_refit(&mut cluster, worker);
    cluster.does(EventKind::Expired { token: grant.token });
    assert!(!cluster.state.is_done());
    for _ in 0..2 {
        grant = cluster.ask(worker).unwrap();
        assert_eq!(grant.run.fold, FoldId::REFIT);
        cluster.fail(worker, grant.token, Reason::OutOfMemory);
    }
    assert!(cluster.state.is_done());
    assert_eq!(cluster.status(5), TrialStatus::Completed);
    assert_eq!(cluster.only().run(grant.run).unwrap().status, RunStatus::Failed);
}

#[test]
fn without_a_completed_trial_there_is_no_refit() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", "refit = true\n"));
    while let Some(grant) = cluster.ask(worker) {
        cluster.fail(worker, grant.token, Reason::Diverged);
    }
    assert!(cluster.state.is_done());
}

#[test]
fn a_lease_that_expired_is_handed_out_again_and_its_holder_is_told() {
    let (mut cluster, first) = Cluster::new(sweep("[1]", ""));
    let second = cluster.join();
    let lost = cluster.ask(first).unwrap();
    cluster.report(first, lost.token, epoch(1, 0.5)).unwrap();
    cluster.does(EventKind::Expired { token: lost.token });
    let again = cluster.ask(second).unwrap();
    assert_eq!((again.run, again.attempt), (lost.run, 2));
    assert!(again.token > lost.token);

    let ended = Err(Refusal::LeaseEnded(lost.token));
    assert_eq!(cluster.report(first, lost.token, epoch(2, 0.9)), ended);
    assert_eq!(cluster.finish(first, lost.token, Outcome::Completed(result(1))), ended);
    assert_eq!(cluster.says(EventKind::Expired { token: lost.token }), ended);
    assert_eq!(cluster.report(first, again.token, epoch(1, 0.9)), Err(Refusal::LeaseEnded(again.token)));
    cluster.train(second, again.token, 0.7);
    assert_eq!(cluster.status(0), TrialStatus::Completed);
    assert_eq!(cluster.state.expiries(), 1);
}

#[test]
fn what_is_said_twice_counts_once() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let grant = cluster.ask(worker).unwrap();
    for _ in 0..2 {
        assert_eq!(
            cluster.report(worker, grant.token, epoch(1, 0.5)),
            Ok(Decision::Verdict(Verdict::Continue))
        );
    }
    cluster.report(worker, grant.token, epoch(2, 0.5)).unwrap();
    for _ in 0..2 {
        cluster.finish(worker, grant.token, Outcome::Completed(result(2))).unwrap();
    }
    let other = Outcome::Completed(result(1));
    assert_eq!(cluster.finish(worker, grant.token, other), Err(Refusal::LeaseEnded(grant.token)));
    assert_eq!(cluster.only().ranking().count(), 1);
}

#[test]
fn epochs_come_in_order_and_results_fit_them() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let token = cluster.ask(worker).unwrap().token;
    let check = |cluster: &mut Cluster, number, expected| {
        let refused = cluster.report(worker, token, epoch(number, 0.5));
        assert_eq!(refused, Err(Refusal::EpochOutOfOrder { expected, got: number }));
    };
    check(&mut cluster, 2, 1);
    cluster.report(worker, token, epoch(1, 0.5)).unwrap();
    assert_eq!(
        cluster.report(worker, token, epoch(1, 0.6)),
        Err(Refusal::EpochOutOfOrder { expected: 2, got: 1 }),
        "another epoch 1 than the one known"
    );
    assert_eq!(
        cluster.finish(worker, token, Outcome::Completed(result(2))),
        Err(Refusal::BestEpoch { best: 2, reported: 1 })
    );
    assert_eq!(cluster.report(worker, token, epoch(2, 0.5)), Ok(Decision::Verdict(Verdict::Stop)));
    check(&mut cluster, 3, 2);
}

#[test]
fn a_run_is_given_up_after_its_attempts_and_takes_its_trial_along() {
    let (mut cluster, worker) = Cluster::new(sweep("[1, 2]", "[budget]\nattempts = 2\n"));
    let first = cluster.ask(worker).unwrap();
    let sibling = cluster.ask(worker).unwrap();
    assert_eq!((first.run.trial, sibling.run.trial), (TrialId(0), TrialId(0)));
    cluster.fail(worker, first.token, Reason::OutOfMemory);
    let again = cluster.ask(worker).unwrap();
    assert_eq!(again.run, first.run);
    cluster.does(EventKind::Expired { token: again.token });
    assert_eq!(cluster.status(0), TrialStatus::Failed);
    assert!(!cluster.state.holds(worker, sibling.token), "nobody needs the other fold any more");
    assert_eq!(cluster.ask(worker).unwrap().run.trial, TrialId(1), "the sweep goes on");
}

#[test]
fn a_diverged_run_is_not_tried_again() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let grant = cluster.ask(worker).unwrap();
    cluster.fail(worker, grant.token, Reason::Diverged);
    assert_eq!(cluster.status(0), TrialStatus::Failed);
}

#[test]
fn a_worker_that_leaves_gives_back_what_it_holds_and_it_does_not_count() {
    let (mut cluster, first) = Cluster::new(sweep("[1]", "[budget]\nattempts = 1\n"));
    let grant = cluster.ask(first).unwrap();
    cluster.does(EventKind::Left { worker: first });
    assert_eq!(
        cluster.says(EventKind::Asked { worker: first, proposed: vec![] }),
        Err(Refusal::UnknownWorker(first))
    );
    let second = cluster.join();
    let again = cluster.ask(second).unwrap();
    assert_eq!(again.run, grant.run);
    cluster.fail(second, again.token, Reason::Drained);
    assert_eq!(cluster.ask(second).unwrap().run, grant.run);
}

/// Of the 18 points of the grid, six cannot be built: four blocks need more than 13 coefficients.
#[test]
fn points_that_cannot_be_built_are_infeasible() {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[search]\nmethod = \"random\"\n[space]\n\
                filters = { choice = [[4, 8], [4, 4, 4, 4]] }\nn_mfcc = { choice = [13, 32] }\n\
                dropout = { choice = [0.1, 0.2, 0.3] }\nlr_scheduler = { choice = [\"cosine\", \"constant\"] }\n\
                [[forbid]]\nn_mfcc = 32\nlr_scheduler = \"cosine\"\n[schedule]\nepochs = 2\n";
    let (mut cluster, worker) = Cluster::new(Sweep::parse(text, Path::new("t.toml"), &[]).unwrap());
    let mut trained = 0;
    while cluster.state.has_work() {
        if let Some(grant) = cluster.ask(worker) {
            cluster.train(worker, grant.token, 0.5);
            trained += 1;
        }
    }
    assert!(cluster.state.is_done());
    let sweep = cluster.only();
    assert_eq!((sweep.trials().len(), trained, sweep.count(TrialStatus::Infeasible)), (18, 12, 6));
    let reasons = sweep.trials().filter_map(|(_, trial)| trial.infeasible.clone());
    assert!(reasons.into_iter().all(|reason| reason.contains("pools 1×5 features to nothing")));
}

/// A search is asked before the event is applied, so that the log keeps what it said; asked by the event, it says the same.
#[test]
fn what_a_search_proposed_stands_in_the_log() {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[search]\nmethod = \"random\"\n[space]\n\
                filters = { choice = [[4, 8], [8, 16]] }\ndropout = { float = [0.1, 0.5] }\n\
                [schedule]\nepochs = 2\n[budget]\ntrials = 12\n[constraints]\nmax_params = 20000\n";
    let (mut cluster, worker) = Cluster::new(Sweep::parse(text, Path::new("t.toml"), &[]).unwrap());
    while cluster.state.has_work() {
        if let Some(grant) = cluster.ask(worker) {
            cluster.train(worker, grant.token, 0.5);
        }
    }
    let sweep = cluster.only();
    assert!(sweep.count(TrialStatus::Infeasible) > 0 && sweep.count(TrialStatus::Completed) > 0);
    let proposed = cluster.log.iter().map(|event| match &event.kind {
        EventKind::Asked { proposed, .. } => proposed.len(),
        _ => 0,
    });
    assert_eq!(proposed.sum::<usize>(), 12);
    let mut without = State::default();
    for event in &mut cluster.log {
        if let EventKind::Asked { proposed, .. } = &mut event.kind {
            proposed.clear();
        }
        without.apply(event).unwrap();
    }
    assert_eq!(without, cluster.state);
}

/// The forbidden pairs leave two points of what would be far too many to count.
#[test]
fn a_search_that_runs_out_of_points_ends_the_sweep() {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[search]\nmethod = \"random\"\n[space]\n\
                optimizer = { choice = [\"adam\", \"adamw\"] }\n\
                weight_decay = { float = [0.1, 0.2], when = { optimizer = \"adamw\" } }\n\
                pooling = { choice = [\"max\", \"average\"] }\n\
                [[forbid]]\noptimizer = \"adamw\"\n[schedule]\nepochs = 2\n[budget]\ntrials = 10\n";
    let (mut cluster, worker) = Cluster::new(Sweep::parse(text, Path::new("t.toml"), &[]).unwrap());
    for _ in 0..2 {
        let grant = cluster.ask(worker).unwrap();
        cluster.train(worker, grant.token, 0.5);
    }
    assert!(cluster.state.has_work() && !cluster.state.is_done());
    assert!(cluster.ask(worker).is_none());
    assert!(!cluster.state.has_work() && cluster.state.is_done());
    assert_eq!(cluster.only().trials_total(), 2);
}

#[test]
fn infeasible_trials_are_counted_and_never_trained() {
    let small = sweep("[1]", "").space.point(0).unwrap().model(40, 2).cost().unwrap();
    let limit = format!("[constraints]\nmax_params = {}\n", small.params);
    let (mut cluster, worker) = Cluster::new(sweep("[1]", &limit));
    let mut trained = 0;
    while cluster.state.has_work() {
        if let Some(grant) = cluster.ask(worker) {
            assert!(grant.job.model.cost().unwrap().params <= small.params);
            cluster.train(worker, grant.token, 0.5);
            trained += 1;
        }
    }
    let infeasible = (0..6).filter(|&trial| cluster.status(trial) == TrialStatus::Infeasible).count();
    assert_eq!((trained, infeasible, cluster.state.is_done()), (3, 3, true));
}

#[test]
fn a_paused_sweep_hands_out_nothing_and_a_cancelled_one_ends_what_is_at_work() {
    let (mut cluster, worker) = Cluster::new(sweep("[1, 2]", ""));
    let id = SweepId(0);
    let grant = cluster.ask(worker).unwrap();
    cluster.does(EventKind::Paused { sweep: id });
    assert!(!cluster.state.has_work() && !cluster.state.is_done());
    assert_eq!(cluster.ask(worker), None);
    cluster.train(worker, grant.token, 0.5);
    cluster.does(EventKind::Resumed { sweep: id });
    let grant = cluster.ask(worker).unwrap();
    cluster.does(EventKind::Cancelled { sweep: id });
    assert!(cluster.state.is_done() && !cluster.only().is_completed());
    assert_eq!(cluster.report(worker, grant.token, epoch(1, 0.5)), Err(Refusal::LeaseEnded(grant.token)));
    assert_eq!(cluster.says(EventKind::Resumed { sweep: id }), Err(Refusal::SweepEnded("t".into())));
    assert_eq!(cluster.says(EventKind::Paused { sweep: SweepId(7) }), Err(Refusal::UnknownSweep(SweepId(7))));
}

#[test]
fn sweeps_share_the_workers() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let other = Sweep { name: "u".into(), ..sweep("[1]", "") };
    cluster.does(EventKind::Submitted { sweep: Box::new(other.clone()), dataset: dataset() });
    let again = cluster.says(EventKind::Submitted { sweep: Box::new(other), dataset: dataset() });
    assert_eq!(again, Err(Refusal::NameTaken("u".into())));
    let served = [(); 4].map(|()| cluster.ask(worker).unwrap().run.sweep.0);
    // The first to be granted has had more time since.
    assert_eq!(served, [0, 1, 1, 0]);
}

/// What may happen next, with numbers that pick among what is there.
#[derive(Debug, Clone)]
enum Step {
    Join,
    Ask(u32),
    Report(u32, u64, u32),
    Complete(u32, u64, u32),
    Fail(u32, u64, bool),
    Expire(u64),
    Leave(u32),
    Replay(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let (worker, token) = (0..4u32, 0..60u64);
    prop_oneof![
        2 => Just(Step::Join),
        8 => worker.clone().prop_map(Step::Ask),
        12 => (worker.clone(), token.clone(), 1..4u32).prop_map(|(w, t, e)| Step::Report(w, t, e)),
        6 => (worker.clone(), token.clone(), 0..4u32).prop_map(|(w, t, e)| Step::Complete(w, t, e)),
        2 => (worker.clone(), token.clone(), any::<bool>()).prop_map(|(w, t, d)| Step::Fail(w, t, d)),
        2 => token.prop_map(Step::Expire),
        1 => worker.clone().prop_map(Step::Leave),
        2 => worker.prop_map(Step::Replay),
    ]
}

fn event(step: &Step, state: &State) -> EventKind {
    // Tokens are drawn from those alive more often than not, so that runs do come to an end.
    let live: Vec<Token> = state.live_tokens().collect();
    let pick = |number: u64| live.get(number as usize % (live.len() + 1)).copied().unwrap_or(Token(number));
    match *step {
        Step::Join => EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into(), by: None },
        Step::Ask(worker) => EventKind::Asked { worker: WorkerId(worker), proposed: vec![] },
        Step::Report(worker, token, number) => EventKind::Reported {
            worker: WorkerId(worker),
            token: pick(token),
            epoch: epoch(number, 0.5),
            midway: (token % 2 == 0).then(|| BlobId::of(b"midway")),
        },
        Step::Complete(worker, token, best) => EventKind::Finished {
            worker: WorkerId(worker),
            token: pick(token),
            outcome: Outcome::Completed(result(best)),
        },
        Step::Fail(worker, token, diverged) => {
            let reason = if diverged { Reason::Diverged } else { Reason::Worker };
            let failure = Failure { reason, message: String::new() };
            EventKind::Finished {
                worker: WorkerId(worker),
                token: pick(token),
                outcome: Outcome::Failed(failure),
            }
        }
        Step::Expire(token) => EventKind::Expired { token: pick(token) },
        Step::Leave(worker) => EventKind::Left { worker: WorkerId(worker) },
        Step::Replay(trial) => EventKind::ReplayAsked { sweep: SweepId(0), trial: TrialId(trial) },
    }
}

proptest! {
    #[test]
    fn no_order_of_events_loses_or_repeats_a_run(steps in prop::collection::vec(step(), 1..300)) {
        let (mut cluster, _) = Cluster::new(sweep("[1, 2]", "[budget]\ntrials = 4\n"));
        let mut completed: BTreeMap<RunId, RunResult> = BTreeMap::new();
        for step in &steps {
            let kind = event(step, &cluster.state);
            let _ = cluster.says(kind);
            let sweep = cluster.only();
            let live: Vec<Token> = cluster.state.live_tokens().collect();
            let leased = sweep.leased() + cluster.state.replays_leased();
            prop_assert_eq!(live.len(), leased, "as many live attempts as leases");
            prop_assert!(sweep.trials().len() <= 4, "the budget is exact");
            for (trial, state) in sweep.trials() {
                for (&fold, run) in &state.runs {
                    let alive = run.attempts.iter().filter(|attempt| attempt.end.is_none()).count();
                    let is_leased = matches!(run.status, RunStatus::Leased(token) if live.contains(&token));
                    prop_assert_eq!(alive, usize::from(is_leased), "one live attempt for a leased run, none else");
                    let id = RunId { sweep: SweepId(0), trial, fold };
                    if let RunStatus::Completed(result) = run.status {
                        prop_assert_eq!(*completed.entry(id).or_insert(result), result, "completed once");
                    } else {
                        prop_assert!(!completed.contains_key(&id), "a completed run stays so");
                    }
                }
            }
        }
        let mut replayed = State::default();
        for event in &cluster.log {
            prop_assert!(replayed.apply(event).is_ok());
            let json = serde_json::to_string(event).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Event>(&json).unwrap(), event);
        }
        prop_assert_eq!(&replayed, &cluster.state, "state is the fold of the log");

        let rescuer = cluster.join();
        // One that expires may take its trial's others along.
        loop {
            let next = cluster.state.live_tokens().next();
            let Some(token) = next else { break };
            cluster.does(EventKind::Expired { token });
        }
        while cluster.state.has_work() {
            if let Some(grant) = cluster.ask(rescuer) {
                cluster.train(rescuer, grant.token, 0.5);
            }
        }
        prop_assert!(cluster.state.is_done(), "whatever happened, a healthy worker can end the sweep");
        prop_assert_eq!(cluster.only().trials().len(), 4);
    }
}
