use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use crate::harness::{Site, binary, run};

/// Every trial of the four completed, its one run exactly once.
pub(crate) fn assert_each_trial_completed_once(site: &Site) {
    for number in 0..4 {
        let trial = site.offline(&["trial", "show", &number.to_string()]);
        assert_eq!(trial["state"], "completed", "{trial:#}");
        let runs = trial["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 1, "{trial:#}");
        assert_eq!(runs[0]["state"], "completed", "{trial:#}");
        let epochs: Vec<u64> = runs[0]["epochs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|epoch| epoch["epoch"].as_u64().unwrap())
            .collect();
        assert_eq!(epochs, (1..=epochs.len() as u64).collect::<Vec<_>>(), "{trial:#}");
    }
    let status = site.offline(&["status"]);
    assert_eq!((&status["trials_completed"], &status["trials_failed"]), (&Value::from(4), &Value::from(0)));
}

#[test]
fn two_workers_train_four_trials_and_the_leaderboard_ranks_them() {
    let site = Site::new(6);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    site.completes(coordinator, workers);
    assert_each_trial_completed_once(&site);

    let board = site.offline(&["leaderboard"]);
    let rows = board["rows"].as_array().unwrap();
    let trials: BTreeSet<u64> = rows.iter().map(|row| row["trial"].as_u64().unwrap()).collect();
    assert_eq!(trials, BTreeSet::from([0, 1, 2, 3]));
    let accuracies: Vec<f64> = rows.iter().map(|row| row["accuracy"].as_f64().unwrap()).collect();
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{accuracies:?}");
    assert!(accuracies[0] > 0.2, "the best of four does no better than chance: {accuracies:?}");
    let losses: BTreeSet<String> = rows.iter().map(|row| row["loss"].to_string()).collect();
    assert_eq!(losses.len(), 4, "four different trials gave the same loss: {losses:?}");
    assert_eq!(site.offline(&["leaderboard", "--top", "1"])["rows"].as_array().unwrap().len(), 1);

    let used: BTreeSet<String> = (0..4)
        .map(|n| site.offline(&["trial", "show", &n.to_string()])["runs"][0]["worker"].to_string())
        .collect();
    assert_eq!(used.len(), 2, "one of the two workers did everything: {used:?}");

    let csv = run(Command::new(binary("coordinator"))
        .args(["leaderboard", "--format", "csv", "--db"])
        .arg(site.path("sweep.redb")));
    assert_eq!(csv.lines().count(), 5, "{csv}");
}

#[test]
fn the_same_seed_gives_the_same_sweep() {
    let boards = [(); 2].map(|()| {
        let site = Site::new(3);
        let coordinator = site.coordinator("127.0.0.1:0");
        let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
        site.completes(coordinator, workers);
        site.offline(&["leaderboard"])
    });
    assert_eq!(boards[0], boards[1]);
}

#[test]
fn a_wrong_sweep_file_is_refused_before_anything_starts() {
    let site = Site::new(3);
    let wrong = std::fs::read_to_string(site.path("four.toml")).unwrap().replace("epochs", "epcohs");
    std::fs::write(site.path("four.toml"), wrong).unwrap();
    let output = Command::new(binary("coordinator"))
        .args(["start", "--listen", "127.0.0.1:0", "--db"])
        .arg(site.path("sweep.redb"))
        .arg("--sweep")
        .arg(site.path("four.toml"))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("four.toml:13") && message.contains("did you mean \"epochs\"?"), "{message}");
    assert!(!site.path("sweep.redb").exists());
}
