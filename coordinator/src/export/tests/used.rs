//! A bundle as its user has it: whole, changed, and mixed with another.

use std::{fs, path::Path};

use earshot_proto::onnx::ModelProto;
use prost::Message;
use serde_json::Value;

use super::{exported, tiny::small};
use crate::bundle::{
    self, Bundle, BundleError, Classifier, Comparison, FRONT_END_FILE, Kind, PROVENANCE_FILE,
};

fn provenance(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join(PROVENANCE_FILE)).unwrap()).unwrap()
}

/// Changes a file and tells the provenance, as somebody would who puts two bundles together.
fn replace(folder: &Path, file: &str, bytes: &[u8]) {
    fs::write(folder.join(file), bytes).unwrap();
    let mut provenance = provenance(folder);
    provenance["files"][file]["bytes"] = bytes.len().into();
    provenance["files"][file]["blake3"] = blake3::hash(bytes).to_string().into();
    fs::write(folder.join(PROVENANCE_FILE), serde_json::to_vec(&provenance).unwrap()).unwrap();
}

#[test]
fn this_build_gives_the_golden_numbers() {
    let (summary, _folder) = exported(small(Some(7)), 40);
    let bundle = Bundle::open(&summary.folder).unwrap();
    let comparisons = bundle::check(&bundle).unwrap();
    assert_eq!(comparisons.len(), 2 * (1 + Kind::ALL.len()));
    assert!(comparisons.iter().all(Comparison::holds), "{comparisons:?}");
    assert!(comparisons.iter().all(|comparison| comparison.numbers > 0), "{comparisons:?}");
}

#[test]
fn other_numbers_are_told_from_the_golden_ones() {
    let (summary, _folder) = exported(small(Some(7)), 40);
    for (file, byte) in [("golden/short.features.npy", 130), ("golden/long.model.npy", 131)] {
        let original = fs::read(summary.folder.join(file)).unwrap();
        let mut bytes = original.clone();
        // In the exponent of a number: the header has 128 bytes.
        bytes[byte] ^= 0x40;
        replace(&summary.folder, file, &bytes);
        let comparisons = bundle::check(&Bundle::open(&summary.folder).unwrap()).unwrap();
        let missed: Vec<&str> =
            comparisons.iter().filter(|found| !found.holds()).map(|found| found.file.as_str()).collect();
        assert!(missed.contains(&file), "{file}: {missed:?}");
        replace(&summary.folder, file, &original);
    }
}

#[test]
fn a_clip_is_classified_and_silence_is_told() {
    let (summary, _folder) = exported(small(None), 40);
    let bundle = Bundle::open(&summary.folder).unwrap();
    let clip = fs::read(summary.folder.join("golden/short.wav")).unwrap();
    for kind in Kind::ALL {
        let mut classifier = Classifier::new(&bundle, kind).unwrap();
        let heard = classifier.classify(&clip).unwrap();
        assert_eq!(heard.probabilities.len(), bundle.labels().len());
        assert!((heard.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{heard:?}");
        assert_eq!(classifier.classify(&clip).unwrap().probabilities, heard.probabilities);
        let mut silent = clip.clone();
        silent[44..].fill(0);
        for (wrong, expected) in [(&silent[..], "every sample is zero"), (b"no audio", "not")] {
            let message = classifier.classify(wrong).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

fn check_refused(folder: &Path, expected: &str) {
    let refused = Bundle::open(folder).and_then(|bundle| bundle.model(Kind::Int8).map(|_| ()));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn files_of_another_bundle_are_refused() {
    let (summary, _folder) = exported(small(None), 40);
    let folder = &summary.folder;
    let original = fs::read_to_string(folder.join(FRONT_END_FILE)).unwrap();
    let changed = original.replace("\"hop_length\": 100", "\"hop_length\": 50");
    assert_ne!(original, changed);

    fs::write(folder.join(FRONT_END_FILE), &changed).unwrap();
    check_refused(folder, "front_end.json is not what was exported");

    replace(folder, FRONT_END_FILE, changed.as_bytes());
    check_refused(folder, "provenance.json reads features of the front end");

    let mut provenance = provenance(folder);
    let spec: earshot_common::frontend::FrontEnd = serde_json::from_str(&changed).unwrap();
    provenance["front_end_hash"] = spec.hash().to_string().into();
    fs::write(folder.join(PROVENANCE_FILE), serde_json::to_vec(&provenance).unwrap()).unwrap();
    check_refused(folder, "model.int8.onnx reads features of the front end");
}

#[test]
fn a_folder_that_is_no_bundle_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::NotABundle(_))));
    let path = folder.path().join(PROVENANCE_FILE);
    fs::write(&path, br#"{"format":"another","format_version":2}"#).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::NotABundle(_))));
    fs::write(&path, br#"{"format":"earshot bundle","format_version":1}"#).unwrap();
    assert!(matches!(Bundle::open(folder.path()), Err(BundleError::Version { found: 1, .. })));
}

#[test]
fn every_changed_byte_of_a_weight_is_noticed() {
    let (summary, _folder) = exported(small(None), 40);
    let bundle = Bundle::open(&summary.folder).unwrap();
    let findings = bundle::verify(&bundle).unwrap();
    assert!(findings.iter().all(|finding| finding.problem.is_none()), "{findings:?}");
    for check in ["bytes", "tract", "onnxruntime"] {
        assert!(findings.iter().any(|finding| finding.check == check), "{check}");
    }
    for (kind, step) in [(Kind::Int8, 1), (Kind::Float, 23), (Kind::TensorRt, 23)] {
        let path = summary.folder.join(kind.file());
        let original = fs::read(&path).unwrap();
        for position in (0..original.len()).step_by(step) {
            let mut bytes = original.clone();
            bytes[position] ^= 1 << (position % 8);
            fs::write(&path, &bytes).unwrap();
            assert!(bundle.model(kind).is_err(), "{} at byte {position}", kind.file());
            if position % (23 * 40) == 0 {
                let findings = bundle::verify(&bundle).unwrap();
                let wrong: Vec<&str> = findings
                    .iter()
                    .filter(|finding| finding.problem.is_some())
                    .map(|finding| finding.file.as_str())
                    .collect();
                assert_eq!(wrong, [kind.file()]);
            }
        }
        fs::write(&path, &original).unwrap();
    }
}

#[test]
fn wrong_numbers_are_noticed_even_where_the_hash_was_changed_with_them() {
    let (summary, _folder) = exported(small(None), 40);
    let bytes = fs::read(summary.folder.join(Kind::Float.file())).unwrap();
    let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
    let tensors = &mut model.graph.as_mut().unwrap().initializer;
    let bias = tensors.iter_mut().find(|tensor| tensor.name == "head.out.bias").unwrap();
    // The top of its exponent.
    bias.raw_data[3] ^= 0x40;
    let bytes = model.encode_to_vec();
    replace(&summary.folder, Kind::Float.file(), &bytes);
    let bundle = Bundle::open(&summary.folder).unwrap();
    let findings = bundle::verify(&bundle).unwrap();
    for check in ["tract", "onnxruntime"] {
        let is_noticed = |finding: &bundle::Finding| finding.check == check && finding.problem.is_some();
        assert!(findings.iter().any(is_noticed), "{check}: {findings:?}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let (summary, _folder) = exported(small(Some(7)), 40);
    let page = fs::read_to_string(summary.folder.join("report.html")).unwrap();
    for section in [
        "Accuracy",
        "Size, time and quantisation",
        "Classes, on the test part",
        "What is taken for what",
        "Under worse conditions",
        "Learning curve",
        "How it was found",
        "How to check it and build it again",
    ] {
        assert!(page.contains(&format!("<h2>{section}</h2>")), "{section}");
    }
    assert!(page.contains("width=device-width") && page.contains("class &lt;1|&amp;&gt;"), "{page}");
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        let without_namespace = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!without_namespace.contains(foreign), "{foreign}");
    }
    // A loss that is not a number leaves a gap, not a broken drawing.
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}
