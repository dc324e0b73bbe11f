use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::{Coordinator, Site, until},
    sweep::assert_each_trial_completed_once,
};

const EPOCHS: u32 = 25;

/// So many that the log outgrows what the file already has.
const OUTGROWN: u32 = 120;

/// As the system says it.
const NO_SPACE: &str = "No space left on device";

/// A disk in memory, with room for all that a sweep of four leaves, and for what its runs have come to midway.
struct Disk {
    root: PathBuf,
}

impl Disk {
    /// None where nothing can be mounted, which is said.
    fn mount(root: &Path) -> Option<Self> {
        fs::create_dir(root).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=128m", "tmpfs"]).arg(root).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { root: root.to_owned() }),
            refused => {
                eprintln!("skipped: no disk can be mounted here: {refused:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        loop {
            match ballast.write(&[1; 4096]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.root).output();
    }
}

fn first_epoch(coordinator: &Coordinator) {
    until("the first epoch", || {
        coordinator.ask(&["status"])?["epochs"].as_u64().filter(|&epochs| epochs > 0)
    });
}

#[test]
fn a_sweep_waits_for_room_for_its_blobs() {
    let site = Site::new(EPOCHS);
    let Some(disk) = Disk::mount(&site.path("sweep.blobs")) else { return };
    let coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &coordinator);
    first_epoch(&coordinator);
    disk.fill();
    until("a blob without room", || site.log("coordinator.log").contains(NO_SPACE).then_some(()));
    let status = coordinator.ask(&["status"]).unwrap();
    assert!(status["trials_completed"].as_u64() < Some(4), "the fault came too late: {status:#}");
    disk.free();
    site.completes(coordinator, [worker]);
    assert_each_trial_completed_once(&site);
    let status = site.offline(&["status"]);
    assert_eq!(status["expiries"], 0, "waiting is no silence: {status:#}");
    assert_eq!(site.offline(&["db", "check"])["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_coordinator_without_room_for_its_log_ends_and_goes_on_later() {
    let site = Site::with("learning_rate = { choice = [1e-3, 3e-4] }\nfilters = [4, 8]\n", OUTGROWN);
    let Some(disk) = Disk::mount(&site.path("disk")) else { return };
    std::os::unix::fs::symlink(site.path("disk/sweep.redb"), site.path("sweep.redb")).unwrap();
    let mut coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &coordinator);
    first_epoch(&coordinator);
    disk.fill();
    assert_eq!(coordinator.process.exit_code("the coordinator to give up"), Some(1));
    let log = site.log("coordinator.log");
    for part in [NO_SPACE, "mend the disk and start again"] {
        assert!(log.contains(part), "{log}");
    }
    let full = Command::new(crate::harness::binary("coordinator"))
        .args(["status", "--db"])
        .arg(site.path("sweep.redb"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(full.status.success() || said.contains(NO_SPACE), "{said}");
    disk.free();
    let status = site.offline(&["status"]);
    assert_eq!(status["state"], "running", "the fault came too late: {status:#}");
    let coordinator = site.coordinator(&coordinator.address);
    site.completes(coordinator, [worker]);
    for number in ["0", "1"] {
        let trial = site.offline(&["trial", "show", number]);
        assert_eq!((&trial["state"], &trial["runs"][0]["attempts"]), (&"completed".into(), &1.into()));
        assert_eq!(trial["runs"][0]["epochs"].as_array().map(Vec::len), Some(OUTGROWN as usize));
    }
    assert_eq!(site.results().len(), 2);
}

#[test]
fn a_worker_without_room_for_its_cache_trains_all_the_same() {
    let site = Site::new(3);
    let Some(disk) = Disk::mount(&site.path("first.cache")) else { return };
    disk.fill();
    let coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &coordinator);
    site.completes(coordinator, [worker]);
    assert_each_trial_completed_once(&site);
    let log = site.log("first.log");
    assert!(log.contains(NO_SPACE) && log.contains("--cache"), "{log}");
    for number in 0..4 {
        let trial = site.offline(&["trial", "show", &number.to_string()]);
        assert_eq!(trial["runs"][0]["attempts"], 1, "{trial:#}");
    }
}
