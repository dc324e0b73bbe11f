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
    for verb in [
        &["start"][..],
        &["leaderboard"],
        &["curve"],
        &["importance"],
        &["trial", "replay"],
        &["replay"],
        &["submit"],
        &["export"],
        &["data", "prepare"],
        &["data", "inspect"],
        &["sweep", "check"],
    ] {
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

/// A folder for each of two classes, with a good clip in each and a bad one.
fn recordings() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (clip, hz) in [("dog/1.wav", 300.0_f32), ("rain/1.wav", 800.0)] {
        let samples =
            (0..8_000).map(|i| (f32::sin(i as f32 * hz / 8_000.0 * std::f32::consts::TAU) * 20_000.0) as i16);
        let path = root.path().join(clip);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(path, spec).unwrap();
        samples.for_each(|sample| wav.write_sample(sample).unwrap());
        wav.finalize().unwrap();
    }
    std::fs::write(root.path().join("rain/2.wav"), "no audio").unwrap();
    root
}

#[test]
fn bad_clips_are_skipped_or_fatal_and_listed_either_way() {
    let (root, out) = (recordings(), tempfile::tempdir().unwrap());
    let [data, out] = [root.path(), out.path()].map(|path| path.to_str().unwrap().to_owned());
    for (on_bad, expected) in [("skip", Some(0)), ("fatal", Some(1))] {
        let (code, _, errors) =
            coordinator(&["data", "prepare", "--data", &data, "--out", &out, "--on-bad", on_bad]);
        assert_eq!(code, expected, "{errors}");
        assert!(errors.contains("left out rain__2: rain/2.wav: not a WAV, FLAC"), "{errors}");
    }
}

#[test]
fn inspecting_prints_every_format_and_writes_a_page() {
    let root = recordings();
    let [data, page] = [root.path().to_owned(), root.path().join("report.html")]
        .map(|path| path.to_str().unwrap().to_owned());
    let (code, json, errors) =
        coordinator(&["data", "inspect", "--data", &data, "--format", "json", "--html", &page]);
    assert_eq!(code, Some(0), "{errors}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["totals"]["clips"], 2, "{report:#}");
    assert_eq!(report["problems"][0]["kind"], "unreadable");
    assert_eq!(report["clips"][0]["clip"], "dog__1");
    assert!(std::fs::read_to_string(page).unwrap().contains("rain/2.wav"));

    let (code, csv, _) =
        coordinator(&["data", "inspect", "--data", &data, "--format", "csv", "--on-bad", "fatal"]);
    assert_eq!(code, Some(1));
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("clip,file,class,fold,source,bytes,"), "{csv}");
    let (_, table, _) = coordinator(&["data", "inspect", "--data", &data]);
    assert!(table.contains("unreadable") && table.contains("dog/1.wav"), "{table}");
}
