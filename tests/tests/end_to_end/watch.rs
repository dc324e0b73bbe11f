use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{Process, Site, binary, until};

/// Each line of a log, which must be an object with a time, a level and fields.
fn log_lines(site: &Site, name: &str) -> Vec<Value> {
    let text = site.log(name);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {name}: {line}")))
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    lines
}

fn message(line: &Value) -> &str {
    line["fields"]["message"].as_str().unwrap()
}

/// Asks for the numbers and reads them: by name with labels, as they stand in the text.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn a_sweep_is_watched_by_people_and_machines() {
    const EPOCHS: u32 = 6;
    let site = Site::new(EPOCHS);
    let mut coordinator = site.start("127.0.0.1:0", &["--metrics", "127.0.0.1:0", "--log-format", "json"]);
    let metrics = until("the address of the metrics", || {
        let lines = log_lines(&site, "coordinator.log");
        let line =
            lines.iter().find_map(|line| message(line).strip_prefix("metrics at http://").map(str::to_owned));
        line.map(|line| line.trim_end_matches("/metrics").to_owned())
    });
    let watched = site.path("watched.jsonl");
    let child = Command::new(binary("coordinator"))
        .args(["status", "--watch", "--format", "json", "--coordinator", &coordinator.url])
        .stdin(Stdio::null())
        .stdout(File::create(&watched).unwrap())
        .spawn()
        .unwrap();
    let mut watcher = Process::of(child);
    until("the first status", || fs::read_to_string(&watched).ok().filter(|text| text.contains('\n')));
    let mut worker = site.start_worker("worker", &coordinator, &["--log-format", "json"]);
    assert_eq!(worker.exit_code("the worker to end"), Some(0));
    assert_eq!(watcher.exit_code("the watching to end"), Some(0));

    let text = fs::read_to_string(&watched).unwrap();
    let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let epochs: Vec<u64> = told.iter().map(|status| status["epochs"].as_u64().unwrap()).collect();
    assert!(epochs.is_sorted() && told.windows(2).all(|pair| pair[0] != pair[1]), "{text}");
    assert_eq!((&told[0]["state"], epochs[0]), (&Value::from("running"), 0));
    let last = told.last().unwrap();
    assert_eq!((&last["state"], &last["trials_completed"]), (&"completed".into(), &4.into()));

    let numbers = scrape(&metrics);
    let number = |name: &str| numbers.get(name).copied().unwrap_or_else(|| panic!("{name}: {numbers:#?}"));
    let count = |name: &str| number(name) as u64;
    let epochs_total = u64::from(4 * EPOCHS);
    assert_eq!(count("earshot_trials{state=\"completed\"}"), 4);
    assert_eq!(last["epochs"].as_u64(), Some(epochs_total));
    assert_eq!(count("earshot_epochs_total"), epochs_total);
    for name in
        ["earshot_lease_expiries_total", "earshot_runs_waiting", "earshot_leases", "earshot_slots_busy"]
    {
        assert_eq!(count(name), 0, "{name}");
    }
    let reports = "earshot_calls_total{call=\"/earshot.v1.Cluster/Report\"}";
    assert!((1..epochs_total).contains(&count(reports)), "one stream for all of a worker's: {numbers:#?}");
    let commits = count("earshot_commit_seconds_count");
    assert!((1..=count("earshot_events_total")).contains(&commits), "{numbers:#?}");
    assert_eq!(count("earshot_commit_seconds_bucket{le=\"+Inf\"}"), commits);
    assert!(number("earshot_commit_seconds_sum") > 0.0);

    coordinator.process.signal("-TERM");
    assert_eq!(coordinator.process.exit_code("the coordinator to stop"), Some(0));
    let lines = log_lines(&site, "coordinator.log");
    assert!(lines.iter().any(|line| message(line).starts_with("the sweep is complete")), "{lines:#?}");
    let lines = log_lines(&site, "worker.log");
    let reported: Vec<_> = lines.iter().filter(|line| message(line) == "epoch").collect();
    assert_eq!(reported.len(), 4 * EPOCHS as usize);
    for line in &reported {
        let fields = &line["fields"];
        assert!(fields["loss"].is_f64() && fields["trial"].is_u64() && fields["epoch"].is_u64(), "{line}");
        let is_first = fields["epoch"] == 1;
        assert_eq!(fields["left_s"].is_u64(), !is_first, "{line}");
    }
}
