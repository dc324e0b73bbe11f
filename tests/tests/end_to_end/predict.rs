//! A bundle in use: the command line and the bundle's own Python script, on the same recordings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{binary, clips};

/// The interpreter of the environment that `make test` puts together.
pub(crate) fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap();
    let python = cache.join("earshot/test-venv/bin/python");
    assert!(python.exists(), "{} is missing: run `python3 deploy/peers.py` first", python.display());
    python
}

fn predict(bundle: &Path, arguments: &[&str], clips: &[PathBuf]) -> Output {
    Command::new(binary("coordinator"))
        .args(["predict", "--bundle"])
        .arg(bundle)
        .args(arguments)
        .args(clips)
        .output()
        .unwrap()
}

fn infer(bundle: &Path, arguments: &[&str], clips: &[PathBuf]) -> Output {
    Command::new(python()).arg(bundle.join("infer.py")).args(arguments).args(clips).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One recording of every class.
fn recordings() -> Vec<PathBuf> {
    let folder = clips().join("raw/audio");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().step_by(9).take(12).collect()
}

/// Holds a bundle's script against `coordinator predict`, and both against the golden files.
pub(crate) fn check_bundle(bundle: &Path) {
    let clips = recordings();
    for model in ["float", "int8", "tensorrt"] {
        let ours = predict(bundle, &["--model", model, "--top", "2", "--format", "json"], &clips);
        assert!(ours.status.success(), "{}", text(&ours.stderr));
        let ours: Value = serde_json::from_slice(&ours.stdout).unwrap();
        assert!(ours["front_end"]["p50_ms"].as_f64().unwrap() > 0.0, "{ours}");
        let file = ours["model"].as_str().unwrap();
        let theirs = infer(bundle, &["--model", file], &clips);
        assert!(theirs.status.success(), "{}", text(&theirs.stderr));
        let theirs = text(&theirs.stdout);
        assert_eq!(theirs.lines().count(), clips.len());
        for (clip, line) in ours["clips"].as_array().unwrap().iter().zip(theirs.lines()) {
            let [best, second] = [0, 1].map(|rank| &clip["predictions"][rank]);
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells[0], clip["clip"]);
            let margin = best["probability"].as_f64().unwrap() - second["probability"].as_f64().unwrap();
            // Rounding may decide between equals, in int8 above all.
            assert!(cells[1] == best["label"] || margin < 0.05, "{line} {clip}");
        }
    }
    for checked in [predict(bundle, &["--check"], &[]), infer(bundle, &["--check"], &[])] {
        assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    }
    check_bad_clips(bundle);
    check_onnx(bundle);
    check_verification(bundle);
    check_torchscript(bundle);
}

/// The worker writes what gives the golden logits, and nothing of weights that are not those that were exported.
fn check_torchscript(bundle: &Path) {
    let script = bundle.join("model.pt");
    let write = || {
        let mut worker = Command::new(binary("worker"));
        worker.args(["torchscript", "--format", "json", "--bundle"]).arg(bundle).output().unwrap()
    };
    let written = write();
    assert!(written.status.success(), "{}", text(&written.stderr));
    let told: Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!((&told["clips"], &told["bytes"]), (&2.into(), &fs::metadata(&script).unwrap().len().into()));
    assert!(told["difference"].as_f64().unwrap() < 1e-3, "{told}");
    fs::remove_file(&script).unwrap();

    let path = bundle.join("model.onnx");
    let original = fs::read(&path).unwrap();
    let mut bytes = original.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = write();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("model.onnx is not what was exported"),
        "{}",
        text(&refused.stderr)
    );
    assert!(!script.exists());
    fs::write(&path, &original).unwrap();
}

/// A sound bundle is verified, and a weight that is off by one bit is found.
fn check_verification(bundle: &Path) {
    let verify = || {
        Command::new(binary("coordinator"))
            .args(["verify", "--format", "csv", "--bundle"])
            .arg(bundle)
            .output()
            .unwrap()
    };
    let sound = verify();
    assert!(sound.status.success(), "{}{}", text(&sound.stdout), text(&sound.stderr));
    let path = bundle.join("model.int8.onnx");
    let original = fs::read(&path).unwrap();
    let mut bytes = original.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let rotten = verify();
    assert_eq!(rotten.status.code(), Some(1));
    let told = text(&rotten.stdout);
    assert!(told.contains("model.int8.onnx,bytes,") && told.contains("its hash is another"), "{told}");
    fs::write(&path, &original).unwrap();
}

/// ONNX's own checker, shape inference, and the rules of each model's profile.
fn check_onnx(bundle: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/check_onnx.py");
    let checked = Command::new(python()).arg(script).arg(bundle).output().unwrap();
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

/// What cannot be read is told, and the rest is printed.
fn check_bad_clips(bundle: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("notes.wav");
    fs::write(&bad, "no audio").unwrap();
    let good = recordings().swap_remove(0);
    let output =
        predict(bundle, &["--format", "csv", "--top", "1"], &[bad, folder.path().join("none"), good]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), 2, "{}", text(&output.stdout));
    let errors = text(&output.stderr);
    assert!(errors.contains("notes.wav: ") && errors.contains("none: cannot be read"), "{errors}");
}
