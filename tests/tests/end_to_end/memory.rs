use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Coordinator, Host, Process, Site, run_of, until};

/// A small model, and one that trains in almost a gigabyte.
const SPACE: &str =
    "filters = { choice = [[4, 8], [128, 256]] }\nbatch_size = 64\n[budget]\nattempts = 100\n";
const EPOCHS: u32 = 2;

/// What the small worker may take: enough for the small model with all that a process needs.
const MEMORY_MIB: u64 = 400;

/// A group of processes whose memory is limited, within this test's own.
struct Group(PathBuf);

impl Group {
    /// None where no such group can be made, which is said.
    fn new() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = |line: &str| Some(line.rsplit_once(':')?.1.trim_start_matches('/').to_owned());
        let first = own.lines().find(|line| line.contains(":memory:")).and_then(path);
        let (root, limit, own) = match first {
            Some(own) => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", own),
            None => ("/sys/fs/cgroup", "memory.max", own.lines().find_map(path)?),
        };
        let folder = Path::new(root).join(own).join(format!("earshot-{}", std::process::id()));
        let made = fs::create_dir(&folder).map(|()| Self(folder.clone())).and_then(|group| {
            fs::write(folder.join(limit), (MEMORY_MIB * 1024 * 1024).to_string())?;
            Ok(group)
        });
        match made {
            Ok(group) => Some(group),
            Err(error) => {
                eprintln!("skipped: no group with a memory of its own can be made here: {error}");
                None
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A worker with little memory says of one run that it has not enough, trains the other, and goes on while another worker
/// trains the first.
fn check(start: impl Fn(&Site, &Coordinator) -> Process) {
    let site = Site::with(SPACE, EPOCHS);
    let coordinator = site.coordinator("127.0.0.1:0");
    let mut small = start(&site, &coordinator);
    let trial = |number: &str| coordinator.ask(&["trial", "show", number]);
    let message = until("a run to fail for want of memory", || {
        assert!(small.is_running(), "{}", site.log("small.log"));
        let large = trial("1")?;
        Some(run_of(&large)["failures"][0].as_str()?.to_owned())
    });
    for part in ["out of memory", "training the model would take", "MiB are left for runs", "--slots"] {
        assert!(message.contains(part), "{message}");
    }
    until("the small model to be trained", || (trial("0")?["state"] == "completed").then_some(()));
    let large = site.worker("large", &coordinator);
    site.completes(coordinator, [small, large]);
    let status = site.offline(&["status"]);
    assert_eq!((&status["trials_completed"], &status["expiries"]), (&2.into(), &0.into()), "{status:#}");
}

#[test]
fn a_run_that_needs_more_than_the_worker_may_take_is_left_to_another() {
    let memory = MEMORY_MIB.to_string();
    check(|site, coordinator| site.start_worker("small", coordinator, &["--memory-mib", &memory]));
}

#[test]
fn a_run_that_needs_more_than_there_is_kills_no_worker() {
    let Some(group) = Group::new() else { return };
    check(|site, coordinator| site.start_worker_at(Host::Group(&group.0), "small", &coordinator.url, &[]));
}
