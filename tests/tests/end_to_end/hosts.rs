use std::process::{self, Command};

use crate::{
    harness::{Host, Site, run, until},
    sweep::assert_each_trial_completed_once,
};

const EPOCHS: u32 = 25;

/// A coordinator's host and those of workers, each with a link of its own to the coordinator's.
struct Network {
    /// Names of the namespaces, the coordinator's first.
    hosts: Vec<String>,
}

impl Network {
    /// None where there can be no namespaces, which is said.
    fn new(workers: usize) -> Option<Self> {
        let mut network = Self { hosts: Vec::new() };
        for number in 0..=workers {
            let host = format!("earshot-{}-{number}", process::id());
            match Command::new("ip").args(["netns", "add", &host]).output() {
                Ok(output) if output.status.success() => network.hosts.push(host),
                refused => {
                    eprintln!("skipped: there can be no network namespaces here: {refused:?}");
                    return None;
                }
            }
        }
        network.ip(0, "link set lo up");
        for worker in 1..=workers {
            let host = network.hosts[worker].clone();
            network.ip(0, &format!("link add to{worker} type veth peer name eth0 netns {host}"));
            network.ip(0, &format!("address add {}/24 dev to{worker}", Self::address(worker)));
            network.ip(worker, &format!("address add 10.77.{worker}.2/24 dev eth0"));
            network.ip(worker, "link set eth0 up");
            network.heal(worker);
            network.delay(worker);
        }
        Some(network)
    }

    /// The coordinator's address, as that worker sees it.
    fn address(worker: usize) -> String {
        format!("10.77.{worker}.1")
    }

    fn host(&self, number: usize) -> Host<'_> {
        Host::Namespace(&self.hosts[number])
    }

    fn ip(&self, host: usize, words: &str) {
        run(Command::new("ip").args(["-n", &self.hosts[host]]).args(words.split(' ')));
    }

    fn cut(&self, worker: usize) {
        self.ip(0, &format!("link set to{worker} down"));
    }

    fn heal(&self, worker: usize) {
        self.ip(0, &format!("link set to{worker} up"));
    }

    /// A link as over a country, where the kernel can make one.
    fn delay(&self, worker: usize) {
        let delayed = Command::new("tc")
            .args(["-n", &self.hosts[0], "qdisc", "add", "dev", &format!("to{worker}"), "root", "netem"])
            .args(["delay", "20ms", "5ms"])
            .output();
        if !delayed.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("the links have no latency: {delayed:?}");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "delete", host]).output();
        }
    }
}

#[test]
fn a_link_cut_for_longer_than_a_lease_costs_an_attempt_and_no_trial() {
    let Some(network) = Network::new(2) else { return };
    let site = Site::new(EPOCHS);
    let mut coordinator = site.start_at(network.host(0), "0.0.0.0:0", &["--insecure"]);
    let (_, port) = coordinator.address.rsplit_once(':').unwrap();
    let here = network.hosts[0].clone();
    let status = || {
        let output = Command::new("ip")
            .args(["netns", "exec", &here])
            .arg(crate::harness::binary("coordinator"))
            .args(["status", "--format", "json", "--coordinator", &format!("http://127.0.0.1:{port}")])
            .output()
            .unwrap();
        output.status.success().then(|| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    let mut workers = [("cut", 1), ("reached", 2)].map(|(name, number)| {
        let url = format!("http://{}:{port}", Network::address(number));
        site.start_worker_at(network.host(number), name, &url, &[])
    });
    until("both at work", || (status()?["runs_leased"] == 2).then_some(()));
    until("the first epochs", || status()?["epochs"].as_u64().filter(|&epochs| epochs > 2));

    network.cut(1);
    until("the lease to end", || (status()?["expiries"] == 1).then_some(()));
    until("the worker to notice", || site.log("cut.log").contains("no answer from").then_some(()));
    network.heal(1);
    until("the worker to be told", || {
        let log = site.log("cut.log");
        ["the lease has ended", "the attempt is over"].iter().any(|words| log.contains(words)).then_some(())
    });
    for worker in &mut workers {
        assert_eq!(worker.exit_code("a worker to end"), Some(0));
    }
    coordinator.process.signal("-TERM");
    assert_eq!(coordinator.process.exit_code("the coordinator to stop"), Some(0));

    assert_each_trial_completed_once(&site);
    assert_eq!(site.results().len(), 4);
    assert_eq!(site.offline(&["status"])["expiries"], 1);
}
