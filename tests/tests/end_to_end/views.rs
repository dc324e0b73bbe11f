use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use crate::harness::{Site, binary, run};

/// Trains the one trial of this space and returns its epochs.
fn trained(space: &str) -> Value {
    let site = Site::with(&format!("filters = [4, 8]\n{space}"), 3);
    let coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("worker", &coordinator);
    site.completes(coordinator, [worker]);
    let trial = site.offline(&["trial", "show", "0"]);
    assert_eq!(trial["state"], "completed", "{trial:#}");
    trial["runs"][0]["epochs"].clone()
}

fn check(view: &str) -> Value {
    trained(&format!("{view}[views]\nlevels = 2\n"))
}

#[test]
fn a_trial_trains_on_the_views_that_its_ranges_select() {
    let clean = trained("");
    let noisy = "noise_p = 0.8\n";
    // Trials of the same number have the same seed, so the same weights to begin with and the same order: what differs is
    // what was trained on.
    let all = check(noisy);
    let quiet = check(&format!("{noisy}noise_min_snr_db = 39.9\n"));
    let strong = check(&format!("{noisy}noise_max_snr_db = 8\n"));
    let stretched = check("stretch_p = 0.8\n");
    let shifted = check("pitch_p = 0.8\n");
    let different: BTreeSet<String> =
        [&clean, &all, &quiet, &strong, &stretched, &shifted].map(Value::to_string).into();
    assert_eq!(different.len(), 6, "{different:#?}");
    assert_eq!(check(noisy), all, "the same sweep again");
    assert_eq!(check("noise_p = 0.0\n"), clean, "no view comes up");
}

#[test]
fn a_check_counts_the_views_and_prepare_renders_them() {
    let site = Site::with("noise_p = 0.5\nnoise_min_snr_db = 20\n[views]\nlevels = 2\n", 1);
    let sweep = site.path("four.toml");
    let out =
        run(Command::new(binary("coordinator")).args(["sweep", "check", "--format", "json"]).arg(&sweep));
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["views"], 2);
    // 100 clips, 64 × 431 numbers of four bytes each.
    assert!((plan["views_mib"].as_f64().unwrap() - 21.0).abs() < 0.5, "{plan}");

    let processed = site.path("processed");
    let prepare = || {
        run(Command::new(binary("coordinator"))
            .args(["data", "prepare", "--sweep"])
            .arg(&sweep)
            .arg("--out")
            .arg(&processed));
        let manifest = std::fs::read(processed.join("manifest.json")).unwrap();
        serde_json::from_slice::<Value>(&manifest).unwrap()
    };
    let manifest = prepare();
    let views = manifest["views"].as_array().unwrap();
    assert_eq!(views.len(), 2);
    let drawn = |view: &Value| {
        view["shards"].as_array().unwrap().iter().map(|s| s["draws"].as_array().unwrap().len()).sum()
    };
    let draws: Vec<usize> = views.iter().map(drawn).collect();
    assert_eq!(draws, [100, 100]);
    assert_eq!(prepare(), manifest);
}
