//! The exported model trained to bear quantisation once all else has ended.

use earshot_common::{int8::Range, job::Recipe};

use super::*;
use crate::state::{Candidate, Cut, Quantisation};

const QUANTISE: &str = "[quantise]\naware = { epochs = 3, learning_rate = 1e-5 }\n[export]\nmax_drop = 0.1\n\
                        [budget]\nattempts = 2\n";
const PRUNE: &str = "[prune]\nimportance = \"magnitude\"\nratio = 0.5\nsteps = 2\nepochs = 2\n";

fn quantising(more: &str) -> Sweep {
    sweep("[1, 2]", &format!("{more}{QUANTISE}"))
}

fn due(cluster: &Cluster) -> Option<Candidate> {
    cluster.state.quantisation_due().map(|(_, candidate)| candidate)
}

fn ranges(candidate: &Candidate) -> Vec<Range> {
    vec![Range { min: -0.5, max: 2.0 }; candidate.model.scales().unwrap()]
}

fn aware(candidate: &Candidate) -> EventKind {
    told(candidate, Quantisation::Aware { ranges: ranges(candidate), why: "much is lost".into() })
}

fn told(candidate: &Candidate, quantisation: Quantisation) -> EventKind {
    EventKind::Quantised { sweep: SweepId(0), trial: candidate.trial, quantisation }
}

/// Cuts a step and trains it to this accuracy.
fn prune(cluster: &mut Cluster, worker: WorkerId, accuracy: f64) {
    let (sweep, due) = cluster.state.pruning_due().unwrap();
    let mut model = due.model.clone();
    model.blocks[1].filters -= 2;
    let cut = Cut::Made { model, weights: BlobId::of(b"cut"), teacher: None, why: "by magnitude".into() };
    cluster.does(EventKind::Pruned { sweep, trial: due.trial, step: due.step, cut });
    let grant = cluster.ask(worker).unwrap();
    cluster.train(worker, grant.token, accuracy);
}

#[test]
fn one_run_follows_from_the_weights_that_would_be_exported() {
    for (more, base) in [("", FoldId(2)), ("refit = true\n", FoldId::REFIT)] {
        let (mut cluster, worker) = Cluster::new(quantising(more));
        assert_eq!(due(&cluster), None, "while trials are to come");
        let last = cluster.train_all(worker);
        let wanted = due(&cluster).unwrap();
        assert_eq!((wanted.trial, wanted.base), (last.run.trial, base));
        assert_eq!((&wanted.model, wanted.checkpoint), (&last.job.model, BlobId::of(b"weights")));
        assert!(!cluster.state.is_done() && cluster.ask(worker).is_none(), "nothing to train before it");
        cluster.does(aware(&wanted));
        assert_eq!(due(&cluster), None, "it was told");
        let grant = cluster.ask(worker).unwrap();
        assert_eq!((grant.run.trial, grant.run.fold), (last.run.trial, FoldId::AWARE));
        assert_eq!(grant.job.initial_weights, Some(BlobId::of(b"weights")));
        assert_eq!((&grant.job.int8_ranges, grant.job.split), (&ranges(&wanted), last.job.split));
        let Recipe { epochs, keep, learning_rate, .. } = grant.job.recipe;
        assert_eq!((epochs, keep), (3, last.job.recipe.keep));
        assert!((learning_rate - 1e-5).abs() < f64::EPSILON);
        // A worker that dies leaves it to the next one.
        cluster.does(EventKind::Expired { token: grant.token });
        let again = cluster.ask(worker).unwrap();
        assert_eq!((again.run, again.attempt, &again.job), (grant.run, 2, &grant.job));
        for number in 1..=3 {
            cluster.report(worker, again.token, epoch(number, 0.5)).unwrap();
        }
        cluster.finish(worker, again.token, Outcome::Completed(result(3))).unwrap();
        assert!(cluster.state.is_done());
        let trial = cluster.only().trial(last.run.trial).unwrap();
        assert_eq!(trial.status(), TrialStatus::Completed);
        assert_eq!(trial.all_runs().last().map(|(fold, _)| fold), Some(FoldId::AWARE));
    }
}

#[test]
fn what_is_quantised_is_the_smallest_step_that_loses_little() {
    for (accuracies, base) in
        [([0.5, 0.5], FoldId::pruned(2)), ([0.5, 0.0], FoldId::pruned(1)), ([0.0, 0.0], FoldId(2))]
    {
        let (mut cluster, worker) = Cluster::new(quantising(PRUNE));
        let last = cluster.train_all(worker);
        assert_eq!(last.run.fold, FoldId(2));
        // The last of twelve runs has 0.11.
        for (step, accuracy) in (1..).zip(accuracies) {
            assert_eq!((due(&cluster), cluster.state.pruning_due().unwrap().1.step), (None, step));
            prune(&mut cluster, worker, accuracy);
        }
        let wanted = due(&cluster).unwrap();
        assert_eq!(wanted.base, base, "{accuracies:?}");
        assert_eq!(
            wanted.model.blocks[1].filters + 2 * base.pruning_step().unwrap_or(0),
            last.job.model.blocks[1].filters
        );
        assert!((wanted.reference - 0.11).abs() < 1e-9, "{}", wanted.reference);
        cluster.does(aware(&wanted));
        let job = cluster.ask(worker).unwrap().job;
        assert_eq!((job.model, job.split), (wanted.model, last.job.split));
    }
}

#[test]
fn what_loses_little_is_left_alone() {
    let (mut cluster, worker) = Cluster::new(quantising(""));
    cluster.train_all(worker);
    let wanted = due(&cluster).unwrap();
    cluster.does(told(&wanted, Quantisation::Kept { why: "little is lost".into() }));
    assert!(cluster.state.is_done() && cluster.ask(worker).is_none());
    assert_eq!(cluster.only().quantisation_kept(), Some("little is lost"));
}

#[test]
fn it_counts_once_when_it_is_due_and_with_a_range_for_every_scale() {
    let (mut cluster, worker) = Cluster::new(quantising(""));
    let kept = Quantisation::Kept { why: "too early".into() };
    let early = EventKind::Quantised { sweep: SweepId(0), trial: TrialId(0), quantisation: kept };
    assert_eq!(cluster.says(early), Err(Refusal::QuantisationNotDue(TrialId(0))));
    cluster.train_all(worker);
    let wanted = due(&cluster).unwrap();
    let refused = Err(Refusal::QuantisationNotDue(wanted.trial));
    let [mut few, mut wrong] = [ranges(&wanted), ranges(&wanted)];
    few.pop();
    wrong[0].min = 1.0;
    for ranges in [few, wrong] {
        let quantisation = Quantisation::Aware { ranges, why: String::new() };
        assert_eq!(cluster.says(told(&wanted, quantisation)), refused);
    }
    cluster.does(aware(&wanted));
    assert_eq!(cluster.says(aware(&wanted)), refused);
}

#[test]
fn a_run_that_is_given_up_ends_the_sweep_and_its_trial_stays_the_best() {
    let (mut cluster, worker) = Cluster::new(quantising(""));
    let last = cluster.train_all(worker);
    cluster.does(aware(&due(&cluster).unwrap()));
    for _ in 0..2 {
        let grant = cluster.ask(worker).unwrap();
        cluster.does(EventKind::Expired { token: grant.token });
    }
    assert!(cluster.state.is_done(), "its attempts are used up");
    assert_eq!(cluster.only().ranking().next().map(|(id, ..)| id), Some(last.run.trial));

    let (mut cluster, worker) = Cluster::new(quantising(""));
    cluster.train_all(worker);
    let wanted = due(&cluster).unwrap();
    cluster.does(EventKind::Paused { sweep: SweepId(0) });
    assert!(due(&cluster).is_none() && !cluster.state.is_done());
    cluster.does(EventKind::Cancelled { sweep: SweepId(0) });
    assert!(cluster.state.is_done());
    assert!(matches!(cluster.says(aware(&wanted)), Err(Refusal::SweepEnded(_))));
}
