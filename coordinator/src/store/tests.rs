mod damage;

use std::fs;

use redb::ReadableTableMetadata;

use super::*;
use crate::state::{EventKind, TrialStatus};

fn joined(at_ms: u64) -> Event {
    Event { at_ms, kind: EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into(), by: None } }
}

fn digest(number: u8) -> Digest {
    Digest([number; Digest::BYTES])
}

#[test]
fn entries_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let log = EventLog::open(&path).unwrap();
    log.append(0, &[joined(1), joined(2)], &[digest(1), digest(2)]).unwrap();
    log.append(2, &[joined(3)], &[digest(3)]).unwrap();
    let before = log.replay().unwrap();
    drop(log);
    let log = EventLog::open_existing(&path).unwrap();
    assert_eq!(
        log.decided().unwrap(),
        [1, 2, 3].map(|number| (u64::from(number) - 1, digest(number))).into()
    );
    let after = log.replay().unwrap();
    assert_eq!((after.position(), after.workers().count()), (3, 3));
    assert_eq!(before, after);
}

#[test]
fn a_second_opener_is_told_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let _log = EventLog::open(&path).unwrap();
    assert!(matches!(EventLog::open(&path), Err(StoreError::InUse(_))));
}

#[test]
fn what_is_no_log_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    assert!(matches!(EventLog::open_existing(&path), Err(StoreError::Missing(_))));
    fs::write(&path, b"these are somebody's notes").unwrap();
    assert!(matches!(EventLog::open(&path), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"these are somebody's notes");
}

#[test]
fn a_gap_or_an_impossible_entry_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let gap = EventLog::open(&folder.path().join("gap.redb")).unwrap();
    gap.append(0, &[joined(1)], &[]).unwrap();
    gap.append(2, &[joined(2)], &[]).unwrap();
    assert!(matches!(gap.replay(), Err(StoreError::Entry { position: 1, .. })));

    let impossible = EventLog::open(&folder.path().join("impossible.redb")).unwrap();
    let worker = earshot_common::ids::WorkerId(7);
    impossible.append(0, &[Event { at_ms: 1, kind: EventKind::Left { worker } }], &[]).unwrap();
    let error = impossible.replay().unwrap_err();
    assert!(error.to_string().contains("worker 7 is unknown"), "{error}");
}

/// Writes a database as an older version would have.
fn write(path: &Path, format: u64, entries: &str) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", format).unwrap();
    let mut table = transaction.open_table(EVENTS).unwrap();
    for (position, json) in (0..).zip(entries.lines()) {
        table.insert(position, json.as_bytes()).unwrap();
    }
    drop(table);
    transaction.commit().unwrap();
}

/// A sweep of two trials on two folds, written by format 1: one trial completed, one with an attempt that diverged, and
/// between them an expiry, a failure and a worker that left.
const FORMAT_1: &str = include_str!("golden/format_1.jsonl");

/// The entries that format 2 added, to follow the sweep and the worker of format 1.
const FORMAT_2: &str = include_str!("golden/format_2.jsonl");

/// The entries that format 3 added, to follow those of format 1.
const FORMAT_3: &str = include_str!("golden/format_3.jsonl");

/// A sweep over ranges, with a condition and a forbidden combination, and with what its search proposed: format 5.
const FORMAT_5: &str = include_str!("golden/format_5.jsonl");

/// The entries that format 6 added, to follow the sweep and the worker of format 1.
const FORMAT_6: &str = include_str!("golden/format_6.jsonl");

/// What format 7 added: a weight, in the sweep of format 1, to be followed by the rest of that.
const FORMAT_7: &str = include_str!("golden/format_7.jsonl");

/// That of format 5, with why its points were proposed: format 8.
const FORMAT_8: &str = include_str!("golden/format_8.jsonl");

/// A sweep of one run whose model is pruned once, and then no further: format 8.
const FORMAT_8_PRUNED: &str = include_str!("golden/format_8_pruned.jsonl");

/// A sweep of one run whose model is trained to bear quantisation: format 8.
const FORMAT_8_QUANTISED: &str = include_str!("golden/format_8_quantised.jsonl");

fn check_older(format: u64, entries: &str, [completed, failed, expiries, epochs]: [u64; 4]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    write(&path, format, entries);
    for _ in 0..2 {
        let Folded { log, state } = EventLog::open_existing(&path).unwrap().fold().unwrap();
        let (_, sweep) = state.newest_sweep().unwrap();
        let counts =
            [TrialStatus::Completed, TrialStatus::Failed].map(|status| u64::from(sweep.count(status)));
        assert_eq!((counts, state.is_done()), ([completed, failed], true));
        assert_eq!((state.expiries(), state.epochs()), (expiries, epochs));
        let transaction = log.database.begin_read().unwrap();
        let meta = transaction.open_table(META).unwrap();
        assert_eq!(meta.get("format").unwrap().unwrap().value(), FORMAT_VERSION);
        assert_eq!(log.decided().unwrap(), [].into(), "nobody kept what was decided");
        let len = transaction.open_table(EVENTS).unwrap().len().unwrap();
        assert_eq!((len, state.position()), (entries.lines().count() as u64, len));
    }
}

#[test]
fn a_log_of_an_older_format_is_read_and_marked() {
    check_older(1, FORMAT_1, [1, 1, 1, 6]);
    let beginning: String = FORMAT_1.split_inclusive('\n').take(2).collect();
    check_older(2, &format!("{beginning}{FORMAT_2}"), [0, 0, 0, 0]);
    check_older(6, &format!("{beginning}{FORMAT_6}"), [0, 0, 0, 0]);
    check_older(
        7,
        &format!("{FORMAT_7}{}", FORMAT_1.split_inclusive('\n').skip(1).collect::<String>()),
        [1, 1, 1, 6],
    );
    check_older(3, &format!("{FORMAT_1}{FORMAT_3}"), [1, 1, 1, 7]);
    check_older(4, &format!("{FORMAT_1}{FORMAT_3}"), [1, 1, 1, 7]);
}

/// What a log leads to, each of whose entries is written as it was read.
fn folded(entries: &str) -> State {
    let mut state = State::default();
    for line in entries.lines() {
        let event: Event = serde_json::from_str(line).unwrap();
        state.apply(&event).unwrap();
        let written: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), written);
    }
    state
}

#[test]
fn proposals_are_read_as_they_were_written() {
    for (format, entries, reasons) in
        [(5, FORMAT_5, [None, None]), (8, FORMAT_8, [Some("startup"), Some("improvement")])]
    {
        check_older(format, entries, [0, 1, 0, 0]);
        let state = folded(entries);
        let (_, sweep) = state.newest_sweep().unwrap();
        let points: Vec<String> = sweep.trials().map(|(_, trial)| format!("{:?}", trial.point)).collect();
        assert!(
            points.len() == 2 && points[0].contains("0.0012") && points[1].contains("0.05"),
            "{points:?}"
        );
        let found: Vec<_> =
            sweep.trials().map(|(_, trial)| trial.why.map(crate::search::Why::name)).collect();
        assert_eq!(found, reasons);
    }
}

#[test]
fn cuts_are_read_as_they_were_written() {
    check_older(8, FORMAT_8_PRUNED, [1, 0, 0, 3]);
    let state = folded(FORMAT_8_PRUNED);
    let (_, sweep) = state.newest_sweep().unwrap();
    let (_, trial) = sweep.trials().next().unwrap();
    assert_eq!((trial.pruned.len(), trial.pruned[0].model.blocks[1].filters), (1, 6));
    assert!(sweep.pruning_refused().is_some_and(|why| why.contains("cannot be met")));
}

#[test]
fn quantisations_are_read_as_they_were_written() {
    check_older(8, FORMAT_8_QUANTISED, [1, 0, 0, 3]);
    let state = folded(FORMAT_8_QUANTISED);
    let (_, sweep) = state.newest_sweep().unwrap();
    let (_, trial) = sweep.trials().next().unwrap();
    let aware = trial.aware.as_ref().unwrap();
    assert_eq!(
        (aware.base, aware.ranges.len(), aware.ranges[1].max),
        (earshot_common::ids::FoldId(1), 3, 4.5)
    );
    assert!(aware.run.completed().is_some());
}

#[test]
fn a_log_of_a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    write(&path, FORMAT_VERSION + 1, "");
    for _ in 0..2 {
        let error = EventLog::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Format { found, .. } if found == FORMAT_VERSION + 1), "{error}");
    }
}
