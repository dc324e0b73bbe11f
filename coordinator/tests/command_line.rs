//! The binary, as a user's shell meets it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

use std::{path::Path, process::Command};

/// Runs the coordinator at the workspace's root; its exit code, standard output and standard error.
fn coordinator(arguments: &[&str]) -> (Option<i32>, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_coordinator")).args(arguments).current_dir(root).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_teaches_with_examples() {
    for verb in [&["start"][..], &["leaderboard"], &["export"], &["data", "prepare"], &["sweep", "check"]] {
        let (code, help, _) = coordinator(&[verb, &["--help"]].concat());
        assert_eq!(code, Some(0), "{verb:?}");
        assert!(help.contains("Examples:"), "{verb:?}:\n{help}");
    }
}

#[test]
fn check_prints_the_size_of_the_grid() {
    let (code, json, errors) = coordinator(&["sweep", "check", "sweeps/grid.toml", "--format", "json"]);
    assert_eq!(code, Some(0), "{errors}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["trials"], 24, "{report:#}");
}

#[test]
fn wrong_usage_and_a_missing_database_have_codes_of_their_own() {
    assert_eq!(coordinator(&["leaderbord"]).0, Some(2));
    let (code, _, errors) = coordinator(&["sweep", "check", "sweeps/none.toml"]);
    assert_eq!(code, Some(2), "{errors}");
    let (code, _, errors) = coordinator(&["status", "--db", "no/such/file.redb"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("no/such/file.redb") && errors.contains("--db"), "{errors}");
}
