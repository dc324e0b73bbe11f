use std::{fs, path::Path, process::Command};

use crate::{
    dice::Dice,
    harness::{Site, binary},
    sweep::assert_each_trial_completed_once,
};

/// Runs a command on a database, which it must refuse: what it says.
fn refused(verb: &[&str], db: &Path) -> String {
    let output = Command::new(binary("coordinator")).args(verb).arg("--db").arg(db).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
    assert!(!said.contains("panicked"), "{verb:?}: {said}");
    said
}

#[test]
fn a_damaged_database_is_refused_and_damaged_blobs_are_named() {
    let site = Site::new(2);
    let coordinator = site.coordinator("127.0.0.1:0");
    let worker = site.worker("first", &coordinator);
    site.completes(coordinator, [worker]);
    assert_each_trial_completed_once(&site);

    let whole = fs::read(site.path("sweep.redb")).unwrap();
    let copy = site.path("copy.redb");
    let sweep = site.path("four.toml");
    let start = ["start", "--listen", "127.0.0.1:0", "--sweep", sweep.to_str().unwrap()];
    let check = |bytes: &[u8]| {
        for verb in [&start[..], &["db", "check"], &["db", "export"], &["status"]] {
            fs::write(&copy, bytes).unwrap();
            let said = refused(verb, &copy);
            assert!(said.contains("copy.redb") && said.contains("restore it from a copy"), "{said}");
        }
    };
    check(&[]);
    check(&whole[..whole.len() / 2]);
    // One digit of a result: still JSON, and still a plausible number.
    let place = whole.windows(10).position(|bytes| bytes == b"train_loss").unwrap() + 14;
    let mut flipped = whole;
    flipped[place] ^= 1;
    check(&flipped);

    let mut dice = Dice::new(1);
    let results = site.results();
    let blob = results[&0]["checkpoint"].as_str().unwrap();
    let path = site.path("sweep.blobs").join(&blob[..2]).join(blob);
    let mut bytes = fs::read(&path).unwrap();
    let at = dice.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = Command::new(binary("coordinator"))
        .args(["db", "check", "--format", "json", "--db"])
        .arg(site.path("sweep.redb"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(blob) && said.contains("is corrupt"), "byte {at} flipped: {said}");
}
