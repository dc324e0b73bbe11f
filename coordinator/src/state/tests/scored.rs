//! Trials that are scored by what they come to in int8.

use super::*;

const METRIC: &str = "[objective]\nmetric = \"int8_accuracy\"\n";

fn measured(number: u32, accuracy: f64, int8_accuracy: Option<f64>) -> Epoch {
    Epoch { int8_accuracy, ..epoch(number, accuracy) }
}

#[test]
fn the_last_measurement_of_every_run_ranks_its_trial() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", METRIC));
    let mut trained = 0_u32;
    while let Some(grant) = cluster.ask(worker) {
        assert!(grant.job.int8_accuracy && grant.job.shape().is_none(), "such runs are trained alone");
        // The better in floats, the worse in int8; the best epoch is the first one.
        let float = 0.9 + f64::from(trained) / 100.0;
        let int8 = 0.8 - f64::from(trained) / 100.0;
        for number in 1..=EPOCHS {
            let int8 = (number == EPOCHS).then_some(int8);
            let worse = f64::from(number) / 1000.0;
            cluster.report(worker, grant.token, measured(number, float - worse, int8)).unwrap();
        }
        cluster.finish(worker, grant.token, Outcome::Completed(result(1))).unwrap();
        trained += 1;
    }
    let order: Vec<u32> = cluster.only().ranking().map(|(id, ..)| id.0).collect();
    assert_eq!(order, (0..trained).collect::<Vec<_>>());
    let (_, trial, mean) = cluster.only().ranking().next().unwrap();
    assert!((mean.int8_accuracy.unwrap() - 0.8).abs() < 1e-12 && mean.accuracy > 0.89);
    let (fold, _, epoch) = trial.exported(cluster.only().sweep().objective).unwrap();
    assert_eq!((fold, epoch.epoch, epoch.int8_accuracy), (FoldId(1), 1, mean.int8_accuracy));
}

#[test]
fn a_rung_goes_by_what_was_measured_there() {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n\
                dropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 4\n";
    let text = format!("{text}{METRIC}[stop]\nmethod = \"asha\"\nreduction = 2\n");
    let (mut cluster, worker) = Cluster::new(Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap());
    let first = cluster.ask(worker).unwrap();
    let rung = |cluster: &mut Cluster, token, accuracy, int8| {
        let epoch = measured(1, accuracy, Some(int8));
        let midway = Some(BlobId::of(b"midway"));
        cluster.says(EventKind::Reported { worker, token, epoch, midway }).unwrap()
    };
    assert_eq!(rung(&mut cluster, first.token, 0.9, 0.2), Decision::Verdict(Verdict::Pause));
    let second = cluster.ask(worker).unwrap();
    // Worse in floats, better in int8: it goes on.
    assert_eq!(rung(&mut cluster, second.token, 0.5, 0.4), Decision::Verdict(Verdict::Continue));
}

#[test]
fn what_was_not_measured_ranks_last() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", METRIC));
    let first = cluster.ask(worker).unwrap();
    cluster.train(worker, first.token, 0.99);
    let second = cluster.ask(worker).unwrap();
    for number in 1..=EPOCHS {
        cluster.report(worker, second.token, measured(number, 0.3, Some(0.1))).unwrap();
    }
    cluster.finish(worker, second.token, Outcome::Completed(result(EPOCHS))).unwrap();
    let order: Vec<TrialId> = cluster.only().ranking().map(|(id, ..)| id).collect();
    assert_eq!(order, [second.run.trial, first.run.trial]);
}
