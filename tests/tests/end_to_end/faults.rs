use std::{process::Command, thread, time::Duration};

use serde_json::Value;

use crate::{
    harness::{Coordinator, Site, binary, run, until},
    sweep::assert_each_trial_completed_once,
};

/// Long enough that the middle of the sweep is seen.
const EPOCHS: u32 = 25;

fn assert_survives_a_coordinator_stopped_by(stop: impl FnOnce(Coordinator) -> String) {
    let site = Site::new(EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    let before = coordinator.mid_sweep();
    let address = stop(coordinator);
    let kept = site.offline(&["status"]);
    assert!(kept["epochs"].as_u64() >= before["epochs"].as_u64(), "{before:#} became {kept:#}");
    assert!(kept["trials_completed"].as_u64() < Some(4), "the fault came too late: {kept:#}");

    let coordinator = site.coordinator(&address);
    site.completes(coordinator, workers);
    assert_each_trial_completed_once(&site);
}

#[test]
fn a_coordinator_stopped_and_restarted_continues_the_sweep() {
    assert_survives_a_coordinator_stopped_by(|mut coordinator| {
        coordinator.process.signal("-TERM");
        coordinator.process.exit_code("the coordinator to stop");
        coordinator.address
    });
}

#[test]
fn a_coordinator_killed_and_restarted_continues_the_sweep() {
    assert_survives_a_coordinator_stopped_by(|coordinator| {
        coordinator.process.kill();
        coordinator.address
    });
}

/// Longer than a lease, which the workers could not renew meanwhile.
#[test]
fn a_suspended_coordinator_ends_no_lease_when_it_wakes() {
    let site = Site::new(EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    until("both at work", || (coordinator.ask(&["status"])?["runs_leased"] == 2).then_some(()));
    coordinator.process.signal("-STOP");
    thread::sleep(Duration::from_secs(2 * u64::from(site.lease_seconds)));
    coordinator.process.signal("-CONT");
    site.completes(coordinator, workers);
    assert_each_trial_completed_once(&site);
    assert_eq!(site.offline(&["status"])["expiries"], 0);
}

#[test]
fn a_killed_workers_run_is_trained_by_another() {
    let site = Site::new(EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let victim = site.worker("victim", &coordinator);
    until("the victim's first epoch", || {
        coordinator.ask(&["status"])?["epochs"].as_u64().filter(|&epochs| epochs > 0)
    });
    victim.kill();
    let rescuer = site.worker("rescuer", &coordinator);
    site.completes(coordinator, [rescuer]);
    assert_each_trial_completed_once(&site);

    let trials = (0..4).map(|number| site.offline(&["trial", "show", &number.to_string()]));
    let taken_over: Vec<_> = trials.filter(|trial| trial["runs"][0]["attempts"].as_u64() > Some(1)).collect();
    assert_eq!(taken_over.len(), 1, "the one run the victim held");
    assert_eq!(taken_over[0]["runs"][0]["worker"], "rescuer");
    assert_eq!(site.offline(&["status"])["expiries"], 1);
}

/// What the only run of a site's sweep left: its epochs, and the names of its blobs.
fn left(site: &Site) -> (Value, Value) {
    let entries =
        run(Command::new(binary("coordinator")).args(["db", "export", "--db"]).arg(site.path("sweep.redb")));
    let entries = entries.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut results =
        entries.filter_map(|entry| entry["event"]["finished"]["outcome"].get("completed").cloned());
    let epochs = site.offline(&["trial", "show", "0"])["runs"][0]["epochs"].clone();
    (epochs, results.next_back().unwrap())
}

#[test]
fn a_killed_workers_run_goes_on_from_where_it_was_and_ends_the_same() {
    let space = "learning_rate = 1e-3\nbatch_norm = true\nmixup_alpha = 0.2\n";
    let undisturbed = Site::with(space, EPOCHS);
    let coordinator = undisturbed.coordinator("127.0.0.1:0");
    let worker = undisturbed.worker("undisturbed", &coordinator);
    undisturbed.completes(coordinator, [worker]);

    let site = Site::with(space, EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let victim = site.keeping_worker("victim", &coordinator);
    let seen = until("the victim's epochs", || {
        coordinator.ask(&["status"])?["epochs"].as_u64().filter(|&epochs| epochs > 3)
    });
    victim.kill();
    let rescuer = site.worker("rescuer", &coordinator);
    site.completes(coordinator, [rescuer]);

    let status = site.offline(&["status"]);
    assert_eq!(status["expiries"], 1, "the fault came too late: {status:#}");
    assert!(status["epochs"].as_u64() < Some(u64::from(EPOCHS) + seen), "it began anew: {status:#}");
    assert_eq!(site.offline(&["trial", "show", "0"])["runs"][0]["attempts"], 2);
    assert_eq!(left(&site), left(&undisturbed));
}

#[test]
fn a_worker_told_to_leave_gives_its_run_back_at_once() {
    let site = Site::new(EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let mut leaver = site.worker("leaver", &coordinator);
    until("the leaver's first epoch", || {
        coordinator.ask(&["status"])?["epochs"].as_u64().filter(|&epochs| epochs > 0)
    });
    leaver.signal("-INT");
    assert_eq!(leaver.exit_code("the leaver to drain"), Some(0), "{}", site.log("leaver.log"));
    let status = coordinator.ask(&["status"]).unwrap();
    assert_eq!(
        (status["runs_leased"].as_u64(), status["expiries"].as_u64()),
        (Some(0), Some(0)),
        "{status:#}"
    );
    let rescuer = site.worker("rescuer", &coordinator);
    site.completes(coordinator, [rescuer]);
    assert_each_trial_completed_once(&site);
}
