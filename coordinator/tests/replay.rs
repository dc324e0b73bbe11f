//! `coordinator replay` and `db check`: on a database that a mind has written, and on ones that somebody has changed since.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use coordinator::{
    mind::{Asked, Mind},
    state::{Dataset, Decision, EventKind, Grant, State},
    store::EventLog,
};
use earshot_common::{
    blob::BlobStore,
    ids::{BlobId, FoldId, WorkerId},
    job::{Epoch, Outcome, RunResult, Verdict},
    sweep::Sweep,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::{Value, json};
use tempfile::TempDir;

const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// Everything that is decided at once: a search that learns, rungs with promotions, a refit.
const SWEEP: &str = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[search]\nmethod = \"tpe\"\nstartup = 4\n\
                     [space]\ndropout = { float = [0.1, 0.5] }\n[schedule]\nepochs = 4\nrefit = true\n\
                     [stop]\nmethod = \"asha\"\nreduction = 2\n[budget]\ntrials = 12\n";

/// A database in a folder, written entry by entry as a coordinator does.
struct Site {
    folder: TempDir,
    mind: Mind,
    log: EventLog,
    now_ms: u64,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = EventLog::open(&folder.path().join("t.redb")).unwrap();
        let mind = Mind::wake(State::default(), 60_000, 0);
        let mut site = Self { folder, mind, log, now_ms: 0 };
        let processed = site.folder.path().join("processed");
        let [own, shards] = [site.folder.path().join("t.blobs"), processed.join("blobs")]
            .map(|path| BlobStore::open(path).unwrap());
        let mut sweep = Sweep::parse(SWEEP, Path::new("t.toml"), &[]).unwrap();
        sweep.data.processed = processed;
        let dataset = Dataset {
            labels: vec!["dog".into(), "rain".into()],
            frames: 40,
            shards: vec![shards.put(b"shard").unwrap()],
            views: vec![],
            splits: [FoldId(1), FoldId::REFIT].map(|fold| (fold, own.put(b"split").unwrap())).into(),
            manifest: own.put(b"manifest").unwrap(),
        };
        for result in [b"weights".as_slice(), b"logits", b"midway"] {
            own.put(result).unwrap();
        }
        site.does(EventKind::Submitted { sweep: Box::new(sweep), dataset });
        site.does(EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into(), by: None });
        site
    }

    fn commit(&mut self) {
        let (first, events) = self.mind.uncommitted();
        self.log.append(first, events, self.mind.decided()).unwrap();
        self.mind.committed();
    }

    fn does(&mut self, kind: EventKind) -> Decision {
        self.now_ms += 7;
        let decision = self.mind.apply(kind, self.now_ms).unwrap();
        self.commit();
        decision
    }

    /// Trains to the end of the sweep; what a run gives follows from its trial and its epoch.
    fn trained() -> (TempDir, PathBuf) {
        let mut site = Self::new();
        let worker = WorkerId(0);
        loop {
            let asked = site.mind.ask(worker, 1, site.now_ms).unwrap();
            site.commit();
            match asked {
                Asked::Granted(grants) => site.train(&grants[0]),
                Asked::Done => break,
                Asked::NoWork => panic!("nothing to do before the end"),
            }
        }
        let db = site.folder.path().join("t.redb");
        (site.folder, db)
    }

    fn train(&mut self, grant: &Grant) {
        let (worker, token) = (WorkerId(0), grant.token);
        let kept = BlobId::of(b"midway");
        let done =
            self.mind.state().sweep(grant.run.sweep).unwrap().run(grant.run).unwrap().epochs.len() as u32;
        for number in done + 1..=grant.job.recipe.epochs {
            let accuracy = f64::from((grant.run.trial.0 * 7 + number * 3) % 10) / 10.0;
            let epoch = Epoch {
                epoch: number,
                train_loss: 0.5,
                loss: 1.0 - accuracy,
                accuracy,
                macro_f1: accuracy,
                int8_accuracy: None,
            };
            let reported = EventKind::Reported { worker, token, epoch, midway: Some(kept) };
            match self.does(reported) {
                Decision::Verdict(Verdict::Pause) => return,
                Decision::Verdict(Verdict::Continue | Verdict::Stop) => {}
                other => panic!("{other:?}"),
            }
        }
        let [checkpoint, logits] = [b"weights".as_slice(), b"logits"].map(BlobId::of);
        let best_epoch = grant.job.recipe.epochs;
        let outcome = Outcome::Completed(RunResult { best_epoch, checkpoint, logits });
        self.does(EventKind::Finished { worker, token, outcome });
    }
}

fn coordinator(arguments: &[&str], db: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator")).args(arguments).arg(db).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{errors}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn replay(db: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = coordinator(&[&["replay", "--format", "json"], more].concat(), db);
    (code, serde_json::from_str(&text).unwrap())
}

/// Every entry of the log.
fn entries(db: &Path) -> BTreeMap<u64, Value> {
    let database = Database::open(db).unwrap();
    let table = database.begin_read().unwrap().open_table(EVENTS).unwrap();
    let entries = table.iter().unwrap().map(|entry| {
        let (position, json) = entry.unwrap();
        (position.value(), serde_json::from_slice(json.value()).unwrap())
    });
    entries.collect()
}

/// Changes the first entry that `change` says it has changed, and returns its position.
fn doctor(db: &Path, change: impl Fn(&mut Value) -> bool) -> u64 {
    let changed = entries(db)
        .into_iter()
        .find_map(|(position, mut entry)| change(&mut entry).then_some((position, entry)));
    let (position, entry) = changed.unwrap();
    let database = Database::open(db).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(EVENTS).unwrap().insert(position, entry.to_string().as_bytes()).unwrap();
    transaction.commit().unwrap();
    position
}

#[test]
fn a_log_reproduces_every_decision() {
    let (_folder, db) = Site::trained();
    let (code, report) = replay(&db, &[]);
    assert_eq!(
        (code, &report["state"], &report["difference"]),
        (Some(0), &json!("reproduced"), &Value::Null)
    );
    let total = entries(&db).len();
    assert_eq!((&report["entries"], &report["compared"]), (&json!(total), &json!(total)), "{report:#}");
    let decisions = report["decisions"].as_array().unwrap();
    let count = |event: &str, decision: &str| {
        let row = decisions.iter().find(|row| row["event"] == event && row["decision"] == decision);
        row.map_or(0, |row| row["entries"].as_u64().unwrap())
    };
    let happened = ["granted", "promoted", "refit"].map(|decision| count("asked", decision));
    assert!(happened[0] == 12 && happened[1] > 0 && happened[2] == 1, "{report:#}");
    let verdicts = ["continue", "pause", "stop"].map(|decision| count("reported", decision));
    assert!(verdicts.iter().all(|&count| count > 0), "{report:#}");
    assert_eq!(report["proposed"], 12, "{report:#}");

    let (code, believed) = replay(&db, &["--without-search"]);
    assert_eq!((code, &believed["proposed"], &believed["compared"]), (Some(0), &json!(0), &json!(total)));
    let (code, csv) = coordinator(&["replay", "--format", "csv"], &db);
    assert_eq!(code, Some(0));
    assert!(csv.starts_with("event,decision,entries,compared,proposed\nasked,"), "{csv}");
    let (code, table) = coordinator(&["replay"], &db);
    assert!(code == Some(0) && table.contains("reproduced"), "{table}");
    let (code, checked) = coordinator(&["db", "check", "--db"], &db);
    assert_eq!(code, Some(0), "{checked}");
}

/// Logs of before reasons were written down have points alone, and no version.
#[test]
fn a_log_without_reasons_is_reproduced() {
    let (_folder, db) = Site::trained();
    for _ in 0..12 {
        doctor(&db, |entry| match entry["event"]["asked"]["proposed"].get_mut(0) {
            Some(proposal) if proposal["why"].is_object() => {
                *proposal = proposal["point"].take();
                true
            }
            _ => false,
        });
    }
    let (code, report) = replay(&db, &[]);
    // So does what learns from results; the four trials before it does are proposed as ever.
    assert_eq!((code, &report["proposed"]), (Some(0), &json!(4)), "{report:#}");
}

/// What an earlier version of a search proposed is believed, and what it led to is held to its digest all the same.
#[test]
fn another_versions_proposals_are_believed() {
    let (_folder, db) = Site::trained();
    let is_learnt = |entry: &Value| entry["event"]["asked"]["proposed"][0]["version"] == json!(2);
    assert_eq!(entries(&db).values().filter(|entry| is_learnt(entry)).count(), 8);
    doctor(&db, |entry| {
        let is_it = is_learnt(entry);
        if is_it {
            let proposal = &mut entry["event"]["asked"]["proposed"][0];
            proposal["version"] = json!(1);
            proposal["why"]["log_ratio"] = json!(0.0);
        }
        is_it
    });
    let (code, report) = replay(&db, &[]);
    assert_eq!((code, &report["proposed"]), (Some(0), &json!(11)), "{report:#}");
    let total = entries(&db).len();
    assert_eq!(report["compared"], json!(total), "{report:#}");
}

/// A report that was better than it was would have let its run go on.
#[test]
fn a_changed_report_shows_at_the_verdict_that_it_would_have_changed() {
    let (_folder, db) = Site::trained();
    let paused = {
        let log = EventLog::open_existing(&db).unwrap();
        let (mut state, mut paused) = (State::default(), None);
        log.for_each(|position, event| {
            let decision = log.decide(&mut state, position, &event)?;
            if decision == Decision::Verdict(Verdict::Pause) && position > 20 {
                paused.get_or_insert(event.at_ms);
            }
            Ok(())
        })
        .unwrap();
        paused.unwrap()
    };
    let position = doctor(&db, |entry| {
        let epoch = &mut entry["event"]["reported"]["epoch"];
        let is_it = epoch.is_object();
        if is_it {
            epoch["loss"] = json!(0.0);
            epoch["accuracy"] = json!(1.0);
        }
        is_it && entry["at_ms"] == paused
    });
    let (code, report) = replay(&db, &[]);
    let difference = &report["difference"];
    assert_eq!((code, &report["state"]), (Some(1), &json!("different")));
    assert_eq!(
        (&difference["position"], &difference["event"], &difference["what"]),
        (&json!(position), &json!("reported"), &json!("decision")),
        "{report:#}"
    );
    assert!(difference["found"].as_str().unwrap().contains("continue"), "{report:#}");
}

#[test]
fn a_changed_proposal_shows_where_it_was_made() {
    let (_folder, db) = Site::trained();
    let position = doctor(&db, |entry| match entry["event"]["asked"]["proposed"].get_mut(0) {
        Some(point) => {
            *point = serde_json::from_str(&point.to_string().replacen("0.", "0.0", 1)).unwrap();
            true
        }
        None => false,
    });
    for (flags, what) in [(&[][..], "proposals"), (&["--without-search"], "decision")] {
        let (code, report) = replay(&db, flags);
        let difference = &report["difference"];
        assert_eq!(code, Some(1), "{report:#}");
        assert_eq!(
            (&difference["position"], &difference["event"], &difference["what"]),
            (&json!(position), &json!("asked"), &json!(what)),
            "{report:#}"
        );
    }
    let (_, table) = coordinator(&["replay"], &db);
    assert!(table.contains("another kind of processor"), "{table}");
    let (code, checked) = coordinator(&["db", "check", "--db"], &db);
    assert!(code == Some(1) && checked.contains(&format!("entry {position}, asked")), "{checked}");
}

#[test]
fn an_entry_that_could_not_be_ends_the_log_there() {
    let (_folder, db) = Site::trained();
    let position = doctor(&db, |entry| {
        let finished = &mut entry["event"]["finished"];
        let is_it = finished.is_object();
        if is_it {
            finished["token"] = json!(1_000_000);
        }
        is_it
    });
    let (code, report) = replay(&db, &[]);
    assert_eq!((code, &report["entries"]), (Some(1), &json!(position)), "{report:#}");
    let difference = &report["difference"];
    assert_eq!((&difference["position"], &difference["what"]), (&json!(position), &json!("acceptance")));
    assert!(difference["found"].as_str().unwrap().contains("lease 1000000 has ended"), "{report:#}");
}
