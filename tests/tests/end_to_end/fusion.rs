use std::process::Command;

use serde_json::Value;

use crate::{
    harness::{Site, binary, run},
    sweep::assert_each_trial_completed_once,
};

/// Without dropout, whose masks libtorch lays out otherwise than our own kernels, which train what is not fused.
const SPACE: &str =
    "dropout = 0.0\nlearning_rate = { choice = [1e-3, 3e-4] }\nweight_decay = { choice = [0.0, 1e-2] }\n";

/// The loss of each trial's best epoch, by trial.
fn losses(site: &Site) -> Vec<f64> {
    let board = site.offline(&["leaderboard"]);
    let rows = board["rows"].as_array().unwrap();
    let mut losses: Vec<(u64, f64)> =
        rows.iter().map(|row| (row["trial"].as_u64().unwrap(), row["loss"].as_f64().unwrap())).collect();
    losses.sort_by_key(|(trial, _)| *trial);
    losses.into_iter().map(|(_, loss)| loss).collect()
}

#[test]
fn a_sweep_trained_fused_ends_as_one_trained_run_by_run() {
    let [fused, single] = [&["--fuse", "4"][..], &[]].map(|flags| {
        let site = Site::with(SPACE, 4);
        let coordinator = site.coordinator("127.0.0.1:0");
        let worker = site.start_worker("only", &coordinator, flags);
        site.completes(coordinator, [worker]);
        assert_each_trial_completed_once(&site);
        site
    });
    let entries =
        run(Command::new(binary("coordinator")).args(["db", "export", "--db"]).arg(fused.path("sweep.redb")));
    let entries: Vec<Value> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let together = entries.iter().filter(|entry| !entry["event"]["asked_alike"].is_null()).count();
    assert_eq!(together, 3, "the four runs were not granted together");

    let (fused, single) = (losses(&fused), losses(&single));
    assert_eq!(fused.len(), 4);
    for (fused, single) in fused.iter().zip(&single) {
        assert!((fused / single - 1.0).abs() < 0.02, "{fused} is not {single}");
    }
}
