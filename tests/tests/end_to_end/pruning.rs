//! From a sweep with `[prune]` to a smaller bundle, with real processes.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    export::check_rebuild,
    harness::{Site, binary, run, until},
};

fn site(prune: &str) -> Site {
    let space = "filters = [8, 16]\nbatch_norm = true\nhead = \"mean\"\nfc_units = 32\nbatch_size = 8\n\
                 learning_rate = { choice = [2e-3, 1e-3] }\n";
    let site = Site::with(space, 6);
    let sweep = fs::read_to_string(site.path("four.toml")).unwrap();
    fs::write(site.path("four.toml"), sweep + prune).unwrap();
    site
}

fn export(site: &Site, name: &str, more: &[&str]) -> (Value, Value) {
    let out = site.path(name);
    run(Command::new(binary("coordinator"))
        .arg("export")
        .arg("--out")
        .arg(&out)
        .arg("--db")
        .arg(site.path("sweep.redb"))
        .args(more));
    let read = |file| serde_json::from_slice(&fs::read(out.join(file)).unwrap()).unwrap();
    (read("report.json"), read("provenance.json"))
}

fn coordinator(verb: &[&str], site: &Site) -> String {
    run(Command::new(binary("coordinator")).args(verb).current_dir(site.path("")))
}

#[test]
fn the_champion_is_pruned_in_leased_runs_and_exported_smaller() {
    let site = site(
        "[prune]\nimportance = \"taylor\"\nint8_kib = 1.2\nsteps = 2\nmultiple_of = 2\nepochs = 4\n\
         distil = { weight = 0.5, temperature = 4.0 }\n\
         [export]\nmax_drop = 1.0\n",
    );
    let coordinator_process = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator_process), site.worker("second", &coordinator_process)];
    site.completes(coordinator_process, workers);

    let best = &site.offline(&["leaderboard"])["rows"][0];
    let trial = site.offline(&["trial", "show", &best["trial"].to_string()]);
    let runs: Vec<(u64, &str, usize)> = trial["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            let epochs = run["epochs"].as_array().unwrap().len();
            (run["pruned"].as_u64().unwrap(), run["state"].as_str().unwrap(), epochs)
        })
        .collect();
    assert_eq!(runs, [(0, "completed", 6), (1, "completed", 4), (2, "completed", 4)]);

    let (report, provenance) = export(&site, "champion", &[]);
    let (whole, _) = export(&site, "whole", &["--unpruned"]);
    assert_eq!((&report["pruning"]["exported"], &whole["pruning"]["exported"]), (&2.into(), &Value::Null));
    let kib = |report: &Value| report["cost"]["int8_bytes"].as_f64().unwrap() / 1024.0;
    assert!(kib(&report) <= 1.2 && kib(&whole) > 1.8, "{} {}", kib(&report), kib(&whole));
    assert_eq!(report["pruning"]["whole"]["cost"], whole["cost"]);
    for file in ["float", "int8"] {
        assert!(report[file]["bytes"].as_u64() < whole[file]["bytes"].as_u64(), "{file}");
    }
    let model = &provenance["job"]["model"];
    assert!(model["blocks"][1]["filters"].as_u64().unwrap() < 16, "{model}");
    assert_eq!(whole["float"]["test"]["accuracy"], report["pruning"]["whole"]["test"]["accuracy"]);
    let scan = report["pruning"]["sensitivity"].as_array().unwrap();
    assert_eq!(scan.len(), 3, "both blocks and the hidden layer: {scan:?}");
    assert!(scan.iter().all(|layer| layer["points"].as_array().unwrap().len() == 9));
    let page = fs::read_to_string(site.path("champion/report.html")).unwrap();
    assert!(page.contains("<h2>Pruning</h2>") && page.contains("step 2, exported"));

    // What was cut is no garbage, the log is sound, and it leads to the same decisions again.
    let found: Value =
        serde_json::from_str(&coordinator(&["db", "check", "--format", "json", "--db", "sweep.redb"], &site))
            .unwrap();
    assert_eq!(found["problems"], Value::Array(vec![]), "{found}");
    coordinator(&["replay", "sweep.redb"], &site);
    coordinator(&["db", "gc", "--db", "sweep.redb"], &site);
    export(&site, "again", &[]);
    for file in ["model.onnx", "model.int8.onnx"] {
        let [one, other] = ["champion", "again"].map(|name| fs::read(site.path(name).join(file)).unwrap());
        assert_eq!(one, other, "{file}");
    }
    check_rebuild(&site.path("champion"));
}

#[test]
fn what_cannot_be_pruned_is_exported_whole_and_says_why() {
    let site = site("[prune]\nimportance = \"magnitude\"\nmacs = 10\nsteps = 1\nepochs = 1\n");
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator)];
    site.completes(coordinator, workers);
    let (report, _) = export(&site, "champion", &[]);
    assert_eq!(report["pruning"]["exported"], Value::Null);
    let reason = report["pruning"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("no step of pruning was trained; no further step: the target 10 cannot be met"),
        "{reason}"
    );
}

#[test]
fn a_coordinator_that_is_killed_amid_pruning_cuts_and_trains_nothing_twice() {
    let site =
        site("[prune]\nimportance = \"magnitude\"\nratio = 0.6\nsteps = 3\nmultiple_of = 1\nepochs = 8\n");
    let first = site.coordinator("127.0.0.1:0");
    let address = first.address.clone();
    let worker = site.worker("first", &first);
    until("the first cut", || site.log("coordinator.log").contains("step 1 of pruning").then_some(()));
    first.process.kill();
    let second = site.coordinator(&address);
    site.completes(second, [worker]);
    assert!(site.log("coordinator.log").contains("continuing the sweep"), "it was killed before its end");

    let lines = coordinator(&["db", "export", "--decisions", "--db", "sweep.redb"], &site);
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cuts: Vec<u64> =
        entries.iter().filter_map(|entry| entry["event"]["pruned"]["step"].as_u64()).collect();
    assert_eq!(cuts, [1, 2, 3]);
    let best = &site.offline(&["leaderboard"])["rows"][0];
    let trial = site.offline(&["trial", "show", &best["trial"].to_string()]);
    let steps: Vec<(u64, &str)> = trial["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["pruned"].as_u64().unwrap(), run["state"].as_str().unwrap()))
        .collect();
    assert_eq!(steps, [(0, "completed"), (1, "completed"), (2, "completed"), (3, "completed")]);
    let completed =
        entries.iter().filter(|entry| entry["event"]["finished"]["outcome"].get("completed").is_some());
    assert_eq!(completed.count(), 2 + 3, "each run once");
}
