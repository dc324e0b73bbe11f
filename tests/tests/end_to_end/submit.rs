//! Several sweeps on one coordinator, and what its log says of them.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{Coordinator, Site, binary, run, until};

const EPOCHS: u32 = 6;

/// A sweep file like the site's, under another name.
fn other(site: &Site, name: &str, change: impl Fn(String) -> String) -> String {
    let text = fs::read_to_string(site.path("four.toml")).unwrap();
    let text = text.replace("name = \"four\"", &format!("name = \"{name}\"\nweight = 3"));
    let path = site.path(&format!("{name}.toml"));
    fs::write(&path, change(text)).unwrap();
    path.display().to_string()
}

fn submit(coordinator: &Coordinator, file: &str) -> Output {
    let command = ["submit", file, "--format", "json", "--coordinator", &coordinator.url];
    Command::new(binary("coordinator")).args(command).output().unwrap()
}

fn check_refused(output: &Output, code: i32, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(part), "{errors}");
}

#[test]
fn a_second_sweep_is_trained_beside_the_first_and_the_log_reproduces_both() {
    let site = Site::new(EPOCHS);
    let coordinator = site.serving("127.0.0.1:0");
    let more = other(&site, "more", |text| text);
    let output = submit(&coordinator, &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["sweeps"][0]["sweep"], &answer["sweeps"][0]["weight"]), (&"more".into(), &3.into()));

    check_refused(&submit(&coordinator, &more), 2, "a sweep \"more\" already");
    let wrong = other(&site, "wrong", |text| text.replace("epochs", "epcohs"));
    check_refused(&submit(&coordinator, &wrong), 2, "did you mean \"epochs\"?");
    let unfit = other(&site, "unfit", |text| text.replace("validation = [1]", "validation = [77]"));
    check_refused(&submit(&coordinator, &unfit), 2, "no fold 77");
    let elsewhere = other(&site, "elsewhere", |text| text.replace("root = \"", "root = \"/etc"));
    check_refused(&submit(&coordinator, &elsewhere), 1, "data.root is /etc");

    let worker = site.worker("worker", &coordinator);
    let listed = until("both sweeps to end", || {
        let listed = coordinator.ask(&["list"])?;
        let is_done = |sweep: &Value| sweep["state"] == "completed";
        listed["sweeps"].as_array().unwrap().iter().all(is_done).then_some(listed)
    });
    let named = |name: &str, field: &str| {
        let sweeps = listed["sweeps"].as_array().unwrap();
        sweeps.iter().find(|sweep| sweep["sweep"] == name).unwrap()[field].as_u64()
    };
    for (name, weight) in [("four", 1), ("more", 3)] {
        assert_eq!((named(name, "weight"), named(name, "trials_completed")), (Some(weight), Some(4)));
        let board = coordinator.ask(&["leaderboard", "--sweep", name]).unwrap();
        assert_eq!((&board["sweep"], board["rows"].as_array().unwrap().len()), (&name.into(), 4));
    }
    drop(worker);
    let address = coordinator.address.clone();
    coordinator.process.kill();

    // Killed, and started again with the file that it was first started with.
    let coordinator = site.serving(&address);
    assert_eq!(coordinator.ask(&["list"]), Some(listed));
    coordinator.process.kill();
    let text = run(Command::new(binary("coordinator"))
        .args(["replay", "--format", "json"])
        .arg(site.path("sweep.redb")));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["state"], &report["compared"]), (&"reproduced".into(), &report["entries"]));
}
