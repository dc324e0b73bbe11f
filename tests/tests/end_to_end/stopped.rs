use serde_json::Value;

use crate::harness::Site;

/// Six trials, held after two epochs and after four; of each rung one in two goes on.
const SPACE: &str = "learning_rate = { choice = [3e-3, 1e-3, 1e-4] }\nfilters = { choice = [[4, 8], [8, 16]] }\n\
                     [stop]\nmethod = \"asha\"\nmin_epochs = 2\nreduction = 2\n";
const EPOCHS: u32 = 6;

#[test]
fn held_trials_go_on_from_their_checkpoints_and_end_as_if_they_had_never_been_held() {
    let site = Site::with(SPACE, EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    site.completes(coordinator, workers);

    let trials: Vec<Value> =
        (0..6).map(|trial| site.offline(&["trial", "show", &trial.to_string()])).collect();
    let run = |trial: &Value| trial["runs"][0].clone();
    let epochs = |trial: &Value| run(trial)["epochs"].as_array().unwrap().len();
    for trial in &trials {
        let is_stopped = trial["state"] == "stopped";
        assert_eq!(is_stopped, [2, 4].contains(&epochs(trial)), "{trial:#}");
        assert_eq!(trial["state"] == "completed", epochs(trial) == EPOCHS as usize, "{trial:#}");
    }
    let is_resumed = |trial: &&Value| trial["state"] == "completed" && run(trial)["attempts"] != 1;
    let Some(resumed) = trials.iter().find(is_resumed) else {
        panic!("none was held and promoted to its end: {trials:#?}");
    };
    let status = site.offline(&["status"]);
    assert_eq!((&status["state"], &status["trials_stopped"]), (&"completed".into(), &count(&trials).into()));

    let serving = site.serving("127.0.0.1:0");
    let replaying = serving.replay(&site, resumed["trial"].as_u64().unwrap() as u32);
    let _worker = site.worker("third", &serving);
    let (code, replay) = replaying.answer();
    assert_eq!((code, &replay["state"]), (Some(0), &"identical".into()), "{replay:#}");
    assert_eq!(replay["runs"][0]["epochs_compared"], EPOCHS);
}

fn count(trials: &[Value]) -> usize {
    trials.iter().filter(|trial| trial["state"] == "stopped").count()
}
