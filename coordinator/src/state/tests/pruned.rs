//! The champion made smaller once all else has ended.

use earshot_common::job::Recipe;

use super::*;
use crate::state::{Cut, Due};

const PRUNE: &str =
    "[prune]\nimportance = \"magnitude\"\nratio = 0.5\nsteps = 2\nepochs = 2\n[budget]\nattempts = 2\n";

fn pruning(more: &str) -> Sweep {
    sweep("[1, 2]", &format!("{more}{PRUNE}"))
}

fn due(cluster: &Cluster) -> Option<Due> {
    cluster.state.pruning_due().map(|(_, due)| due)
}

/// What somebody may have cut.
fn cut(due: &Due) -> EventKind {
    let mut model = due.model.clone();
    model.blocks[1].filters -= 2;
    let weights = BlobId::of(&[due.step as u8]);
    let cut = Cut::Made { model, weights, teacher: None, why: "by magnitude".into() };
    EventKind::Pruned { sweep: SweepId(0), trial: due.trial, step: due.step, cut }
}

#[test]
fn steps_follow_each_other_and_the_sweep_ends_after_the_last() {
    for (more, base) in [("", FoldId(2)), ("refit = true\n", FoldId::REFIT)] {
        let (mut cluster, worker) = Cluster::new(pruning(more));
        assert_eq!(due(&cluster), None, "while trials are to come");
        let last = cluster.train_all(worker);
        assert_eq!(last.run.fold, base);
        let mut models = vec![last.job.model.clone()];
        for step in 1..=2 {
            let wanted = due(&cluster).unwrap();
            assert_eq!(
                (wanted.trial, wanted.step, wanted.checkpoint),
                (last.run.trial, step, BlobId::of(b"weights"))
            );
            assert_eq!((&wanted.whole, &wanted.model), (&models[0], models.last().unwrap()));
            assert!(!cluster.state.is_done(), "a cut is due");
            assert!(cluster.ask(worker).is_none(), "nothing to train before it");
            cluster.does(cut(&wanted));
            assert_eq!(due(&cluster), None, "while it waits");
            let grant = cluster.ask(worker).unwrap();
            assert_eq!((grant.run.trial, grant.run.fold), (last.run.trial, FoldId::pruned(step)));
            assert_eq!(grant.job.initial_weights, Some(BlobId::of(&[step as u8])));
            let Recipe { epochs, keep, .. } = grant.job.recipe;
            assert_eq!((grant.job.split, epochs, keep), (last.job.split, 2, last.job.recipe.keep));
            assert_eq!(grant.job.model.blocks[1].filters, wanted.model.blocks[1].filters - 2);
            assert_eq!(due(&cluster), None, "while it trains");
            models.push(grant.job.model.clone());
            cluster.train(worker, grant.token, 0.5);
        }
        assert!(cluster.state.is_done());
        let (_, sweep) = cluster.state.newest_sweep().unwrap();
        assert_eq!(sweep.trial(last.run.trial).unwrap().pruned.len(), 2);
        let blobs = sweep.blobs();
        assert!([[1], [2]].iter().all(|bytes| blobs.contains(&BlobId::of(bytes))), "cuts are not garbage");
    }
}

#[test]
fn a_cut_counts_once_and_only_when_it_is_due() {
    let (mut cluster, worker) = Cluster::new(pruning(""));
    let early = EventKind::Pruned {
        sweep: SweepId(0),
        trial: TrialId(0),
        step: 1,
        cut: Cut::Refused { why: "too early".into() },
    };
    assert!(matches!(cluster.says(early), Err(Refusal::NotDue { .. })));
    cluster.train_all(worker);
    let made = cut(&due(&cluster).unwrap());
    cluster.does(made.clone());
    assert!(matches!(cluster.says(made), Err(Refusal::NotDue { step: 1, .. })));
}

#[test]
fn what_cannot_be_cut_or_trained_ends_pruning_and_nothing_else() {
    let (mut cluster, worker) = Cluster::new(pruning(""));
    let last = cluster.train_all(worker);
    let wanted = due(&cluster).unwrap();
    cluster.does(cut(&wanted));
    for _ in 0..2 {
        let grant = cluster.ask(worker).unwrap();
        assert_eq!(grant.run.fold, FoldId::pruned(1));
        cluster.does(EventKind::Expired { token: grant.token });
    }
    assert!(cluster.state.is_done(), "its attempts are used up");
    let (_, sweep) = cluster.state.newest_sweep().unwrap();
    assert_eq!(sweep.trial(last.run.trial).unwrap().status(), TrialStatus::Completed);

    let (mut cluster, worker) = Cluster::new(pruning(""));
    cluster.train_all(worker);
    let Due { trial, step, .. } = due(&cluster).unwrap();
    let cut = Cut::Refused { why: "no batch norm".into() };
    cluster.does(EventKind::Pruned { sweep: SweepId(0), trial, step, cut });
    assert!(cluster.state.is_done() && due(&cluster).is_none());
    assert_eq!(cluster.state.newest_sweep().unwrap().1.pruning_refused(), Some("no batch norm"));
}

#[test]
fn a_paused_sweep_waits_and_a_cancelled_one_is_not_pruned() {
    let (mut cluster, worker) = Cluster::new(pruning(""));
    cluster.train_all(worker);
    cluster.does(EventKind::Paused { sweep: SweepId(0) });
    assert!(due(&cluster).is_none() && !cluster.state.is_done());
    cluster.does(EventKind::Resumed { sweep: SweepId(0) });
    let wanted = due(&cluster).unwrap();
    cluster.does(EventKind::Cancelled { sweep: SweepId(0) });
    assert!(due(&cluster).is_none() && cluster.state.is_done());
    assert!(matches!(cluster.says(cut(&wanted)), Err(Refusal::SweepEnded(_))));
}

#[test]
fn without_a_completed_trial_there_is_nothing_to_prune() {
    let (mut cluster, worker) = Cluster::new(pruning(""));
    while let Some(grant) = cluster.ask(worker) {
        cluster.does(EventKind::Expired { token: grant.token });
    }
    assert!(cluster.state.is_done() && due(&cluster).is_none());
}
