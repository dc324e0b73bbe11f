//! Trials that begin on one fold and earn the others.

use super::*;

/// Three folds, so many trials, the first two on all folds.
fn raced(trials: u32, schedule: &str) -> Sweep {
    let text = format!(
        "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1, 2, 3]\n[space]\n\
         dropout = {{ choice = [0.1, 0.2, 0.3, 0.4, 0.5] }}\n[schedule]\nepochs = 1\n{schedule}\n[budget]\ntrials = {trials}\n\
         [stop]\nmethod = \"race\"\nstartup = 2\n"
    );
    Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
}

/// Trains the next run to its end, on a fold that is so much harder than the first one.
fn train(cluster: &mut Cluster, worker: WorkerId, accuracy: f64) -> RunId {
    let grant = cluster.ask(worker).unwrap();
    cluster.report(worker, grant.token, epoch(1, accuracy)).unwrap();
    cluster.finish(worker, grant.token, Outcome::Completed(result(1))).unwrap();
    grant.run
}

#[test]
fn a_trial_that_is_behind_is_spared_the_other_folds() {
    let (mut cluster, worker) = Cluster::new(raced(4, ""));
    // Two trials on all folds show how hard folds are, and how much is chance.
    let order: Vec<(u32, u32)> = [0.80, 0.60, 0.70, 0.71, 0.50, 0.61]
        .into_iter()
        .map(|accuracy| train(&mut cluster, worker, accuracy))
        .map(|run| (run.trial.0, run.fold.0))
        .collect();
    assert_eq!(order, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]);
    // The third is far behind on the first fold, and earns no other.
    assert_eq!(train(&mut cluster, worker, 0.30).trial, TrialId(2));
    assert_eq!(cluster.status(2), TrialStatus::Stopped);
    let judged = cluster.only().trial(TrialId(2)).unwrap().judgements.clone();
    let [
        Judgement {
            verdict: Judged::Stopped, basis: Basis::Race { best, folds, difference, behind }, ..
        },
    ] = judged.as_slice()
    else {
        panic!("{judged:?}")
    };
    assert_eq!((*best, *folds), (TrialId(0), 1));
    assert!((difference + 0.5).abs() < 1e-12 && *behind > 0.99, "{judged:?}");
    // The fourth keeps up, and runs all folds.
    for (fold, accuracy) in [(1, 0.795), (2, 0.61), (3, 0.72)] {
        let run = train(&mut cluster, worker, accuracy);
        assert_eq!((run.trial.0, run.fold.0), (3, fold));
    }
    assert!(cluster.state.is_done());
    let sweep = cluster.only();
    assert_eq!((sweep.count(TrialStatus::Completed), sweep.count(TrialStatus::Stopped)), (3, 1));
    assert_eq!(sweep.ranking().next().unwrap().0, TrialId(3), "stopped ones do not rank");
}

#[test]
fn a_failed_fold_ends_its_trial_and_a_refit_follows_the_race() {
    let (mut cluster, worker) = Cluster::new(raced(3, "refit = true"));
    let first = cluster.ask(worker).unwrap();
    let failure = Failure { reason: Reason::Diverged, message: "because".into() };
    cluster.finish(worker, first.token, Outcome::Failed(failure)).unwrap();
    assert_eq!(cluster.status(0), TrialStatus::Failed);
    for accuracy in [0.7, 0.6, 0.5, 0.8, 0.7, 0.65] {
        train(&mut cluster, worker, accuracy);
    }
    let refit = cluster.ask(worker).unwrap();
    assert_eq!((refit.run.trial, refit.run.fold), (TrialId(2), FoldId::REFIT));
}
