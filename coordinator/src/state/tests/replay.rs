use super::*;

/// A sweep of two trials on these folds, all completed with different accuracies.
fn completed(validation: &str) -> (Cluster, WorkerId) {
    let (mut cluster, worker) = Cluster::new(sweep(validation, "[budget]\ntrials = 2\nattempts = 2\n"));
    while cluster.state.has_work() {
        let grant = cluster.ask(worker).unwrap();
        cluster.train(worker, grant.token, accuracy(&grant));
    }
    assert!(cluster.state.is_done());
    (cluster, worker)
}

fn accuracy(grant: &Grant) -> f64 {
    f64::from(grant.run.trial.0 + grant.run.fold.0) / 10.0
}

fn asked(trial: u32) -> EventKind {
    EventKind::ReplayAsked { sweep: SweepId(0), trial: TrialId(trial) }
}

impl Cluster {
    fn replay(&mut self, trial: u32) -> ReplayId {
        match self.does(asked(trial)) {
            Decision::Replaying(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn findings(&self, id: ReplayId) -> Vec<Finding> {
        let replay = self.state.replay(id).unwrap();
        let original = |fold| {
            let run = RunId { sweep: replay.sweep, trial: replay.trial, fold };
            self.only().run(run).unwrap()
        };
        replay.runs.iter().map(|(&fold, replayed)| replayed.finding(original(fold))).collect()
    }

    fn difference(&self, id: ReplayId) -> Option<Difference> {
        self.state.replay(id).unwrap().runs.values().next().unwrap().difference
    }
}

#[test]
fn a_replay_trains_the_same_jobs_and_leaves_the_sweep_as_it_was() {
    let (mut cluster, worker) = completed("[1, 2]");
    let before = cluster.only().clone();
    let id = cluster.replay(1);
    assert!(cluster.state.has_work() && !cluster.state.is_done());
    for fold in [1, 2] {
        let grant = cluster.ask(worker).unwrap();
        let run = RunId { sweep: SweepId(0), trial: TrialId(1), fold: FoldId(fold) };
        assert_eq!((grant.run, grant.attempt, grant.replay), (run, 1, Some(id)));
        assert_eq!(Some(grant.job.clone()), before.job(run));
        cluster.train(worker, grant.token, accuracy(&grant));
    }
    assert_eq!(cluster.findings(id), [Finding::Identical; 2]);
    assert!(!cluster.state.has_work() && cluster.state.is_done());
    assert_eq!(cluster.only(), &before);
}

#[test]
fn the_first_difference_stops_the_attempt_and_is_kept() {
    let (mut cluster, worker) = completed("[1]");
    let id = cluster.replay(0);
    let token = cluster.ask(worker).unwrap().token;
    let original = cluster.only().trial(TrialId(0)).unwrap().runs[&FoldId(1)].epochs[0];
    let off = Epoch { loss: original.loss.next_up(), macro_f1: 0.9, ..original };
    for _ in 0..2 {
        assert_eq!(cluster.report(worker, token, off), Ok(Decision::Verdict(Verdict::Stop)), "said twice");
    }
    let difference = Difference { epoch: 1, field: "loss", original: original.loss, replayed: off.loss };
    cluster.finish(worker, token, Outcome::Completed(result(1))).unwrap();
    assert_eq!((cluster.difference(id), cluster.findings(id)), (Some(difference), vec![Finding::Different]));
    assert!(cluster.state.is_done());
}

#[test]
fn other_weights_after_the_same_epochs_are_a_difference() {
    let (mut cluster, worker) = completed("[1]");
    let id = cluster.replay(0);
    let grant = cluster.ask(worker).unwrap();
    for number in 1..=EPOCHS {
        cluster.report(worker, grant.token, epoch(number, accuracy(&grant))).unwrap();
    }
    let other = RunResult { checkpoint: BlobId::of(b"other weights"), ..result(EPOCHS) };
    cluster.finish(worker, grant.token, Outcome::Completed(other)).unwrap();
    assert_eq!((cluster.difference(id), cluster.findings(id)), (None, vec![Finding::Different]));
}

#[test]
fn one_that_ends_sooner_has_fewer_epochs() {
    let (mut cluster, worker) = completed("[1]");
    let id = cluster.replay(0);
    let grant = cluster.ask(worker).unwrap();
    cluster.report(worker, grant.token, epoch(1, accuracy(&grant))).unwrap();
    cluster.finish(worker, grant.token, Outcome::Completed(result(1))).unwrap();
    let difference = Difference { epoch: 1, field: "epochs", original: 2.0, replayed: 1.0 };
    assert_eq!((cluster.difference(id), cluster.findings(id)), (Some(difference), vec![Finding::Different]));
}

#[test]
fn one_that_is_under_way_is_joined_and_one_that_has_ended_is_not() {
    let (mut cluster, worker) = completed("[1]");
    let first = cluster.replay(0);
    assert_eq!(cluster.replay(0), first);
    let other = cluster.replay(1);
    assert_ne!(other, first);
    for replay in [first, other] {
        let grant = cluster.ask(worker).unwrap();
        assert_eq!(grant.replay, Some(replay), "the older first");
        cluster.train(worker, grant.token, accuracy(&grant));
    }
    assert_ne!(cluster.replay(0), first);
    assert_eq!(cluster.state.replays().count(), 3);
}

#[test]
fn only_a_completed_trial_is_replayed() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    assert_eq!(cluster.says(asked(0)), Err(Refusal::UnknownTrial(TrialId(0))));
    cluster.ask(worker).unwrap();
    assert_eq!(cluster.says(asked(0)), Err(Refusal::NotCompleted(TrialId(0))));
    let unknown = EventKind::ReplayAsked { sweep: SweepId(3), trial: TrialId(0) };
    assert_eq!(cluster.says(unknown), Err(Refusal::UnknownSweep(SweepId(3))));
}

#[test]
fn a_lost_attempt_is_handed_out_again_until_they_are_used_up_or_the_answer_is_known() {
    let (mut cluster, worker) = completed("[1]");
    let id = cluster.replay(0);
    let lost = cluster.ask(worker).unwrap();
    cluster.does(EventKind::Expired { token: lost.token });
    assert_eq!(cluster.findings(id), [Finding::Waiting]);
    let again = cluster.ask(worker).unwrap();
    assert_eq!((again.run, again.attempt, again.replay), (lost.run, 2, Some(id)));
    cluster.fail(worker, again.token, Reason::OutOfMemory);
    assert_eq!((cluster.findings(id), cluster.state.is_done()), (vec![Finding::Failed], true));
    assert_eq!(cluster.status(0), TrialStatus::Completed);

    let id = cluster.replay(0);
    let token = cluster.ask(worker).unwrap().token;
    cluster.report(worker, token, epoch(1, 0.9)).unwrap();
    cluster.does(EventKind::Expired { token });
    assert_eq!((cluster.findings(id), cluster.state.is_done()), (vec![Finding::Different], true));
}

#[test]
fn a_paused_sweeps_replays_wait_and_a_cancelled_ones_end() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let id = SweepId(0);
    for _ in 0..2 {
        let grant = cluster.ask(worker).unwrap();
        cluster.train(worker, grant.token, accuracy(&grant));
    }
    let first = cluster.replay(0);
    cluster.does(EventKind::Paused { sweep: id });
    assert!(!cluster.state.has_work());
    assert_eq!(cluster.ask(worker), None);
    cluster.does(EventKind::Resumed { sweep: id });
    let grant = cluster.ask(worker).unwrap();
    assert_eq!(grant.replay, Some(first), "before the sweep's own runs");
    let second = cluster.replay(1);
    cluster.does(EventKind::Cancelled { sweep: id });
    assert!(cluster.state.is_done() && !cluster.state.has_work());
    for replay in [first, second] {
        assert!(cluster.state.replay(replay).unwrap().is_cancelled);
        assert_eq!(cluster.findings(replay), [Finding::Failed]);
    }
    assert_eq!(cluster.report(worker, grant.token, epoch(1, 0.1)), Err(Refusal::LeaseEnded(grant.token)));

    // What has completed is kept, and so can be proved.
    let third = cluster.replay(0);
    let grant = cluster.ask(worker).unwrap();
    cluster.train(worker, grant.token, accuracy(&grant));
    assert_eq!((cluster.findings(third), cluster.state.is_done()), (vec![Finding::Identical], true));
}

#[test]
fn a_sweep_that_completed_while_paused_can_be_replayed() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", "[budget]\ntrials = 1\n"));
    let grant = cluster.ask(worker).unwrap();
    cluster.does(EventKind::Paused { sweep: SweepId(0) });
    cluster.train(worker, grant.token, accuracy(&grant));
    cluster.replay(0);
    assert!(cluster.state.has_work() && cluster.ask(worker).unwrap().replay.is_some());
}
