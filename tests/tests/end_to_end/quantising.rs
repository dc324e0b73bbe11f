//! From a sweep with `[quantise]` to an int8 file that was trained to be one, with real processes.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    export::check_rebuild,
    harness::{Site, binary, run, until},
};

/// Trials of few epochs, so that what is trained on is better for that alone.
fn site(quantise: &str) -> Site {
    let space = "filters = [8, 16]\nconvolution = \"depthwise_separable\"\nbatch_norm = true\nhead = \"mean_max\"\n\
                 batch_size = 8\nlearning_rate = { choice = [1e-3, 5e-4] }\n";
    let site = Site::with(space, 3);
    let sweep = fs::read_to_string(site.path("four.toml")).unwrap();
    fs::write(site.path("four.toml"), sweep + quantise).unwrap();
    site
}

fn export(site: &Site, name: &str) -> (Value, Value) {
    let out = site.path(name);
    run(Command::new(binary("coordinator"))
        .arg("export")
        .arg("--out")
        .arg(&out)
        .arg("--db")
        .arg(site.path("sweep.redb")));
    let read = |file| serde_json::from_slice(&fs::read(out.join(file)).unwrap()).unwrap();
    (read("report.json"), read("provenance.json"))
}

fn coordinator(verb: &[&str], site: &Site) -> String {
    run(Command::new(binary("coordinator")).args(verb).current_dir(site.path("")))
}

/// The best trial's runs: whether each trains to bear quantisation, its state and its epochs.
fn runs(trial: &Value) -> Vec<(bool, String, usize)> {
    let run = |run: &Value| {
        let state = run["state"].as_str().unwrap().to_owned();
        (run["aware"].as_bool().unwrap(), state, run["epochs"].as_array().unwrap().len())
    };
    trial["runs"].as_array().unwrap().iter().map(run).collect()
}

/// Events of the log, with what was decided of each.
fn entries(site: &Site) -> Vec<Value> {
    let lines = coordinator(&["db", "export", "--decisions", "--db", "sweep.redb"], site);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is exported of a sweep whose aware run is better than calibration alone.
fn check_export(site: &Site, epochs: u32) {
    let best = &site.offline(&["leaderboard"])["rows"][0];
    let trial = site.offline(&["trial", "show", &best["trial"].to_string()]);
    let completed = |is_aware, epochs| (is_aware, "completed".to_owned(), epochs);
    assert_eq!(runs(&trial), [completed(false, 3), completed(true, epochs as usize)]);

    let (report, provenance) = export(site, "champion");
    let attempts = report["int8"]["calibrations"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[3]["chosen"]), (4, &Value::Bool(true)), "{attempts:#?}");
    // What the worker measured while it rounded is what the file has, in tract.
    let aware = &provenance["aware"];
    assert_eq!(aware["best_epoch"]["accuracy"], attempts[3]["accuracy"]);
    assert_eq!(attempts[3]["accuracy"], report["int8"]["validation"]["accuracy"]);
    // The float file is the champion's own.
    assert_eq!(
        report["float"]["validation"]["accuracy"],
        trial["runs"][0]["epochs"][best_of(&trial)]["accuracy"]
    );
    assert_eq!(aware["job"]["initial_weights"], provenance["checkpoint"]);
    let told = report["quantisation"].as_str().unwrap();
    assert!(told.contains("which is exported"), "{told}");
    let page = fs::read_to_string(site.path("champion/report.html")).unwrap();
    assert!(page.contains("Quantisation-aware training"));
    check_rebuild(&site.path("champion"));
}

/// Where the first run's best epoch stands.
fn best_of(trial: &Value) -> usize {
    trial["runs"][0]["best_epoch"].as_u64().unwrap() as usize - 1
}

#[test]
fn the_exported_model_is_trained_to_bear_quantisation_in_a_leased_run() {
    let site = site("[quantise]\naware = { epochs = 12, learning_rate = 2e-3, always = true }\n");
    let process = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &process), site.worker("second", &process)];
    site.completes(process, workers);
    check_export(&site, 12);

    // Its weights are no garbage, the log is sound, and it leads to the same decisions again.
    let found = coordinator(&["db", "check", "--format", "json", "--db", "sweep.redb"], &site);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["problems"], Value::Array(vec![]), "{found}");
    coordinator(&["replay", "sweep.redb"], &site);
    coordinator(&["db", "gc", "--db", "sweep.redb"], &site);
    export(&site, "again");
    for file in ["model.onnx", "model.int8.onnx"] {
        let [one, other] = ["champion", "again"].map(|name| fs::read(site.path(name).join(file)).unwrap());
        assert_eq!(one, other, "{file}");
    }
}

#[test]
fn whoever_dies_amid_it_changes_nothing() {
    let site = site("[quantise]\naware = { epochs = 60, learning_rate = 1e-3, always = true }\n");
    let first = site.coordinator("127.0.0.1:0");
    let address = first.address.clone();
    let worker = site.keeping_worker("first", &first);
    until("some epochs of it", || {
        let best = first.ask(&["leaderboard"])?["rows"][0]["trial"].clone();
        let trial = first.ask(&["trial", "show", &best.to_string()])?;
        let is_amid = runs(&trial).iter().any(|(is_aware, _, epochs)| *is_aware && *epochs > 1);
        is_amid.then_some(())
    });
    worker.kill();
    first.process.kill();
    let second = site.coordinator(&address);
    let worker = site.keeping_worker("second", &second);
    site.completes(second, [worker]);

    let entries = entries(&site);
    let count = |event: &str| entries.iter().filter(|entry| entry["event"].get(event).is_some()).count();
    assert_eq!((count("quantised"), count("expired")), (1, 1));
    let granted = entries.iter().filter_map(|entry| entry["decision"].get("granted"));
    let aware: Vec<&Value> = granted.filter(|grant| grant["job"].get("int8_ranges").is_some()).collect();
    assert_eq!(aware.len(), 2, "once before, once after");
    assert!(aware[0]["job"]["resume"].is_null() && aware[1]["job"]["resume"].is_string(), "{aware:?}");
    // A rebuild is not disturbed, and gives the same bits.
    check_export(&site, 60);
}

#[test]
fn what_loses_little_is_exported_as_it_is_and_says_why() {
    let site = site("[quantise]\naware = { epochs = 2, learning_rate = 1e-3 }\n[export]\nmax_drop = 1.0\n");
    let process = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &process);
    site.completes(process, [worker]);
    let (report, provenance) = export(&site, "champion");
    assert_eq!(report["int8"]["calibrations"].as_array().unwrap().len(), 3);
    let told = report["quantisation"].as_str().unwrap();
    assert!(told.contains("points of validation accuracy, which max_drop allows"), "{told}");
    assert_eq!(provenance.get("aware"), None);
}

/// Selection sees what ships.
#[test]
fn the_leaderboards_score_is_the_exported_int8_files_accuracy() {
    let site = site("[objective]\nmetric = \"int8_accuracy\"\n");
    let process = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &process), site.worker("second", &process)];
    site.completes(process, workers);
    let board = site.offline(&["leaderboard"]);
    let rows = board["rows"].as_array().unwrap();
    let score = |row: &Value| row["int8_accuracy"].as_f64().unwrap();
    assert_eq!((board["objective"].as_str(), rows.len()), (Some("int8_accuracy"), 2));
    assert!(score(&rows[0]) >= score(&rows[1]), "{rows:?}");
    let (report, provenance) = export(&site, "champion");
    assert_eq!(provenance["trial"], rows[0]["trial"]);
    assert_eq!(report["int8"]["validation"]["accuracy"], rows[0]["int8_accuracy"]);
    let attempts = report["int8"]["calibrations"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["chosen"]), (1, &Value::Bool(true)), "{attempts:?}");
    check_rebuild(&site.path("champion"));
}
