//! Trials that are stopped before their last epoch, and those that go on after all.

use super::*;

const ASHA: &str = "[stop]\nmethod = \"asha\"\nreduction = 2\n";

/// Four epochs, rungs after one and two, so many trials.
fn halved(folds: &str, trials: u32, more: &str) -> Sweep {
    let text = format!(
        "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = {folds}\n[space]\n\
         dropout = {{ choice = [0.1, 0.2, 0.3, 0.4, 0.5] }}\n[schedule]\nepochs = 4\n[budget]\ntrials = {trials}\n{more}"
    );
    Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
}

/// Reports an epoch, with what the run has come to.
fn report(cluster: &mut Cluster, worker: WorkerId, grant: &Grant, number: u32, accuracy: f64) -> Verdict {
    let midway = Some(BlobId::of(format!("{} after {number}", grant.run).as_bytes()));
    let kind = EventKind::Reported { worker, token: grant.token, epoch: epoch(number, accuracy), midway };
    match cluster.says(kind) {
        Ok(Decision::Verdict(verdict)) => verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_two_the_better_one_goes_on_from_where_it_was_held() {
    let (mut cluster, worker) = Cluster::new(halved("[1]", 4, ASHA));
    let good = cluster.ask(worker).unwrap();
    assert_eq!(good.job.rungs, [1, 2]);
    assert_eq!(
        report(&mut cluster, worker, &good, 1, 0.8),
        Verdict::Pause,
        "there is nobody to be better than"
    );
    assert_eq!(cluster.status(0), TrialStatus::Stopped);
    assert!(!cluster.state.holds(worker, good.token));
    let late = Err(Refusal::LeaseEnded(good.token));
    assert_eq!(cluster.report(worker, good.token, epoch(2, 0.9)), late, "it was told so");

    let bad = cluster.ask(worker).unwrap();
    assert_eq!(bad.run.trial, TrialId(1));
    assert_eq!(report(&mut cluster, worker, &bad, 1, 0.3), Verdict::Pause);
    let again = cluster.ask(worker).unwrap();
    assert_eq!(
        (again.run, again.attempt),
        (good.run, 2),
        "one in two is promoted before anything new begins"
    );
    let kept = BlobId::of(format!("{} after 1", good.run).as_bytes());
    assert_eq!(again.job.resume, Some(kept));
    assert!(cluster.only().blobs().contains(&kept));
    assert_eq!(report(&mut cluster, worker, &again, 2, 0.8), Verdict::Pause);
    let third = cluster.ask(worker).unwrap();
    assert_eq!(report(&mut cluster, worker, &third, 1, 0.9), Verdict::Continue, "better than both at once");
    assert_eq!(report(&mut cluster, worker, &third, 2, 0.9), Verdict::Continue);
    assert_eq!(report(&mut cluster, worker, &third, 3, 0.9), Verdict::Continue);
    assert_eq!(report(&mut cluster, worker, &third, 4, 0.9), Verdict::Stop);
    cluster.finish(worker, third.token, Outcome::Completed(result(4))).unwrap();

    let fourth = cluster.ask(worker).unwrap();
    assert_eq!(report(&mut cluster, worker, &fourth, 1, 0.1), Verdict::Pause);
    assert!(!cluster.state.has_work() && cluster.state.is_done());
    let sweep = cluster.only();
    assert_eq!((sweep.count(TrialStatus::Stopped), sweep.count(TrialStatus::Completed)), (3, 1));
    let judged = |trial| {
        let judgements = &sweep.trial(TrialId(trial)).unwrap().judgements;
        judgements.iter().map(|judged| (judged.epoch, judged.verdict)).collect::<Vec<_>>()
    };
    assert_eq!(judged(0), [(1, Judged::Held), (1, Judged::Promoted), (2, Judged::Held)]);
    assert_eq!(judged(2), [(1, Judged::GoesOn), (2, Judged::GoesOn)]);
    let basis = Basis::Rung { came: 3, places: 1, promoted: 1, best: 0.9 };
    assert_eq!(sweep.trial(TrialId(2)).unwrap().judgements[0].basis, basis);
    assert!(!sweep.blobs().contains(&kept), "nobody goes on any more");
}

#[test]
fn a_trial_is_judged_when_all_its_folds_have_come() {
    let (mut cluster, worker) = Cluster::new(halved("[1, 2]", 2, ASHA));
    let grants: Vec<Grant> = (0..4).map(|_| cluster.ask(worker).unwrap()).collect();
    assert_eq!(report(&mut cluster, worker, &grants[0], 1, 0.2), Verdict::Pause);
    assert_eq!(cluster.status(0), TrialStatus::Running);
    assert_eq!(report(&mut cluster, worker, &grants[1], 1, 0.4), Verdict::Pause);
    assert_eq!(cluster.status(0), TrialStatus::Stopped);
    assert_eq!(report(&mut cluster, worker, &grants[2], 1, 0.3), Verdict::Pause);
    assert_eq!(
        report(&mut cluster, worker, &grants[3], 1, 0.5),
        Verdict::Continue,
        "0.4 on the mean is the best"
    );
    let sibling = cluster.ask(worker).unwrap();
    assert_eq!(sibling.run, grants[2].run, "and its other fold goes on, too");
    assert!(!cluster.state.has_work(), "the other trial is not among the best");
}

#[test]
fn out_of_patience_a_fold_is_at_every_rung_and_alone_a_trial_goes_on_in_the_end() {
    let (mut cluster, worker) = Cluster::new(halved("[1, 2]", 1, &format!("{ASHA}min_epochs = 2\n")));
    let (first, second) = (cluster.ask(worker).unwrap(), cluster.ask(worker).unwrap());
    assert_eq!(first.job.rungs, [2]);
    assert_eq!(report(&mut cluster, worker, &first, 1, 0.2), Verdict::Continue);
    assert_eq!(report(&mut cluster, worker, &first, 2, 0.2), Verdict::Pause);
    assert_eq!(report(&mut cluster, worker, &second, 1, 0.4), Verdict::Continue);
    assert_eq!(cluster.status(0), TrialStatus::Running);
    cluster.finish(worker, second.token, Outcome::Completed(result(1))).unwrap();
    assert_eq!(cluster.status(0), TrialStatus::Stopped);
    assert!(cluster.state.has_work(), "nothing else is left to do, so the best goes on, whoever it is");
    let again = cluster.ask(worker).unwrap();
    assert_eq!(again.run, first.run);
    assert_eq!(report(&mut cluster, worker, &again, 3, 0.4), Verdict::Continue);
    cluster.finish(worker, again.token, Outcome::Completed(result(3))).unwrap();
    assert_eq!(cluster.status(0), TrialStatus::Completed);
    assert!(cluster.state.is_done());
}

#[test]
fn a_failed_trial_leaves_its_place_to_the_next() {
    let (mut cluster, worker) = Cluster::new(halved("[1]", 2, ASHA));
    for accuracy in [0.9, 0.5] {
        let grant = cluster.ask(worker).unwrap();
        assert_eq!(report(&mut cluster, worker, &grant, 1, accuracy), Verdict::Pause);
    }
    let best = cluster.ask(worker).unwrap();
    assert_eq!(best.run.trial, TrialId(0));
    cluster.fail(worker, best.token, Reason::Diverged);
    let next = cluster.ask(worker).unwrap();
    assert_eq!(next.run.trial, TrialId(1), "somebody always comes through");
}

#[test]
fn below_the_median_a_trial_is_stopped_with_all_its_folds() {
    let median = "[stop]\nmethod = \"median\"\nmin_epochs = 2\nstartup = 2\n";
    let (mut cluster, worker) = Cluster::new(halved("[1, 2]", 3, median));
    for accuracy in [0.5, 0.7] {
        for grant in [cluster.ask(worker).unwrap(), cluster.ask(worker).unwrap()] {
            assert_eq!(grant.job.rungs, [] as [u32; 0]);
            (1..4).for_each(|number| {
                assert_eq!(report(&mut cluster, worker, &grant, number, accuracy), Verdict::Continue);
            });
            assert_eq!(report(&mut cluster, worker, &grant, 4, accuracy), Verdict::Stop);
            cluster.finish(worker, grant.token, Outcome::Completed(result(4))).unwrap();
        }
    }
    let (one, other) = (cluster.ask(worker).unwrap(), cluster.ask(worker).unwrap());
    assert_eq!(report(&mut cluster, worker, &one, 1, 0.1), Verdict::Continue, "too early to say");
    assert_eq!(report(&mut cluster, worker, &one, 2, 0.1), Verdict::Pause);
    assert!(!cluster.state.holds(worker, other.token), "its other fold is stopped, too");
    assert_eq!(cluster.status(2), TrialStatus::Stopped);
    assert!(cluster.state.is_done());
}
