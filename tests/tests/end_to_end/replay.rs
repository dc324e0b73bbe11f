use std::process::Command;

use serde_json::Value;

use crate::{
    export::check_export,
    harness::{Coordinator, Site, binary, until},
};

/// Everything that the network and the recipe can do, at once.
const RICH: &str = "input = \"mel\"\nn_mfcc = 32\nfilters = [8, 16, 16]\nkernel_size = 5\nbatch_norm = true\n\
                    convolution = \"depthwise_separable\"\npooling = \"average\"\nhead = \"mean_max\"\n\
                    optimizer = \"adamw\"\nweight_decay = 1e-2\nlr_scheduler = \"one_cycle\"\nlabel_smoothing = 0.1\n\
                    gain_db = 3\nroll = 0.2\ntime_mask_param = 40\ntime_masks = 2\nfreq_mask_param = 6\n\
                    freq_masks = 2\nmixup_alpha = 0.2\n";

/// Long enough that the middle of a run is seen.
const EPOCHS: u32 = 25;

/// Trains a sweep of one trial, then serves it on.
fn trained(space: &str, epochs: u32) -> (Site, Coordinator) {
    let site = Site::with(space, epochs);
    let coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &coordinator);
    site.completes(coordinator, [worker]);
    let serving = site.serving("127.0.0.1:0");
    (site, serving)
}

fn check_identical(code: Option<i32>, replay: &Value, epochs: u32, attempts: u32) {
    assert_eq!((code, replay["state"].as_str()), (Some(0), Some("identical")), "{replay:#}");
    let run = &replay["runs"][0];
    for (field, expected) in [("epochs_compared", epochs), ("epochs_total", epochs), ("attempts", attempts)] {
        assert_eq!(run[field], expected, "{replay:#}");
    }
    assert_eq!((&run["checkpoint"], &run["logits"]), (&"equal".into(), &"equal".into()), "{replay:#}");
    assert_eq!(run["difference"], Value::Null);
}

#[test]
fn a_rich_variant_is_replayed_bit_for_bit_and_exports_right() {
    let epochs = 6;
    let (site, serving) = trained(RICH, epochs);
    let [board, trial] =
        [&["leaderboard"][..], &["trial", "show", "0"]].map(|verb| serving.ask(verb).unwrap());
    let replaying = serving.replay(&site, 0);
    let mut worker = site.worker("second", &serving);
    let (code, replay) = replaying.answer();
    check_identical(code, &replay, epochs, 1);
    let run = &replay["runs"][0];
    assert_eq!((&run["original"]["worker"], &run["replayed"]["worker"]), (&"first".into(), &"second".into()));

    assert_eq!(serving.ask(&["leaderboard"]), Some(board), "the sweep has not changed");
    assert_eq!(serving.ask(&["trial", "show", "0"]), Some(trial));
    assert_eq!(worker.exit_code("the worker to end"), Some(0));
    serving.process.kill();
    check_export(&site);
}

#[test]
fn a_replay_survives_a_killed_worker_and_a_killed_coordinator() {
    let (site, serving) = trained("learning_rate = 1e-3\n", EPOCHS);
    let epochs = |serving: &Coordinator| serving.ask(&["status"])?["epochs"].as_u64();
    let before = epochs(&serving).unwrap();
    let replaying = serving.replay(&site, 0);
    let victim = site.worker("victim", &serving);
    until("the replay's first epoch", || epochs(&serving).filter(|&epochs| epochs > before));
    victim.kill();
    let status = serving.ask(&["status"]).unwrap();
    assert_eq!(status["replays"], 1, "the fault came too late: {status:#}");
    let address = serving.address.clone();
    serving.process.kill();

    let serving = site.serving(&address);
    let _rescuer = site.worker("rescuer", &serving);
    let (code, replay) = replaying.answer();
    check_identical(code, &replay, EPOCHS, 2);
    assert_eq!(replay["runs"][0]["replayed"]["worker"], "rescuer");
    assert_eq!(replay["runs"][0]["failures"].as_array().unwrap().len(), 1);
}

#[test]
fn what_cannot_be_replayed_is_told_apart() {
    let (site, serving) = trained("filters = [4, 8]\n", 1);
    let check = |source: &[&str], trial: &str, code: i32, part: &str| {
        let output = Command::new(binary("coordinator"))
            .args(["trial", "replay", trial])
            .args(source)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(part), "{errors}");
    };
    let url = format!("http://{}", serving.address);
    check(&["--coordinator", &url], "7", 2, "there is no trial 7");
    serving.process.kill();
    let db = site.path("sweep.redb");
    check(&["--db", db.to_str().unwrap()], "0", 1, "needs a running coordinator, and a worker");
}
