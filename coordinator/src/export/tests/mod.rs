//! The whole export on small random champions, held against a plain forward pass.

mod aware;
mod forward;
mod limits;
mod tiny;
mod used;
mod variants;

use std::fs;

use earshot_common::{ids::BlobId, int8::calibration::Method, model::AudioCnn, tensors};
use prost::Message;

use self::tiny::{champion, small};
use super::{
    calibrate,
    network::Network,
    quantise::{Profile, Quantised},
    session::Session,
    *,
};
use crate::bundle::PROVENANCE_FILE;

const FILES: [&str; 22] = [
    "confusion.svg",
    "front_end.json",
    "golden/golden.json",
    "golden/long.features.npy",
    "golden/long.model.int8.npy",
    "golden/long.model.npy",
    "golden/long.model.tensorrt.npy",
    "golden/long.wav",
    "golden/short.features.npy",
    "golden/short.model.int8.npy",
    "golden/short.model.npy",
    "golden/short.model.tensorrt.npy",
    "golden/short.wav",
    "infer.py",
    "labels.txt",
    "model.int8.onnx",
    "model.onnx",
    "model.tensorrt.onnx",
    "provenance.json",
    "report.html",
    "report.json",
    "report.md",
];

const PROFILES: [Profile; 2] = [Profile::OnnxRuntime, Profile::TensorRt];

fn silent(_: &str) {}

/// No recording is at hand.
fn nowhere(_: u32) -> Option<Vec<u8>> {
    None
}

/// Runs a model and says that int8 is the faster one.
fn timer(kind: Kind, run: &mut dyn FnMut()) -> u64 {
    run();
    if kind == Kind::Float { 2_000_000 } else { 1_000_000 }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every file below a folder, by its path from there.
fn files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            files.extend(self::files(&path).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            files.push(name);
        }
    }
    files
}

/// Exports and gives the summary, with the folder that holds `champion/`.
fn exported(model: AudioCnn, clips: usize) -> (Summary, tempfile::TempDir) {
    let (champion, features) = champion(model, clips);
    let folder = tempfile::tempdir().unwrap();
    let summary =
        export(&champion, &features, &folder.path().join("champion"), &timer, &nowhere, &silent).unwrap();
    (summary, folder)
}

#[test]
fn small_champions_are_exported_whole() {
    for head in [Some(7), None] {
        let (summary, folder) = exported(small(head), 80);
        assert_eq!(names(folder.path()), ["champion"]);
        assert_eq!(files(&summary.folder), FILES);
        assert!(summary.logit_difference_max < 1e-4, "{summary:?}");
        // Every tenth label is wrong on purpose.
        assert!((summary.float.validation.accuracy - 0.9).abs() < 1e-9, "{summary:?}");
        let test = summary.int8.test.unwrap();
        assert!(test.clips == 20 && test.accuracy >= 0.8, "{summary:?}");
        assert!(summary.top1_agreement >= 0.9, "{summary:?}");
    }
}

#[test]
fn the_reference_models_int8_file_is_a_quarter() {
    let (summary, _folder) = exported(AudioCnn::reference(13, 431, 10), 48);
    let ratio = summary.int8.bytes as f64 / summary.float.bytes as f64;
    assert!(ratio < 0.27, "{ratio}");
    assert!(summary.top1_agreement >= 0.9, "{summary:?}");
}

#[test]
fn the_same_champion_gives_the_same_bytes() {
    let [one, other] = [(), ()].map(|()| exported(small(None), 40));
    for file in FILES {
        let [one, other] = [&one, &other].map(|(summary, _)| fs::read(summary.folder.join(file)).unwrap());
        assert_eq!(one, other, "{file}");
    }
}

#[test]
fn files_say_what_they_are() {
    let (summary, _folder) = exported(small(Some(7)), 40);
    let read = |file: &str| fs::read_to_string(summary.folder.join(file)).unwrap();
    assert_eq!(read("labels.txt"), "class <0|&>\nclass <1|&>\nclass <2|&>\n");
    let provenance: serde_json::Value = serde_json::from_str(&read(PROVENANCE_FILE)).unwrap();
    let model = BlobId::of(&fs::read(summary.folder.join(INT8_FILE)).unwrap()).to_string();
    assert_eq!(provenance["files"][INT8_FILE]["blake3"], model);
    assert_eq!(provenance["job"]["recipe"]["seed"], 7);
    let report: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(report["part"], "test");
    assert_eq!(report["float"]["confusion"].as_array().unwrap().len(), 3);
    assert!(read("report.md").contains("| class <1\\|&> |"));
    assert!(read("confusion.svg").contains("class &lt;1|&amp;&gt;"));
}

#[test]
fn a_report_without_a_test_part_says_so() {
    let (mut champion, features) = champion(small(None), 40);
    champion.split.test.clear();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("champion");
    let summary = export(&champion, &features, &out, &timer, &nowhere, &silent).unwrap();
    assert_eq!(summary.float.test, None);
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains("**The split has no test part.**"));
}

/// Changes a champion, expects the export to fail with `expected` in its message and the old bundle to stay.
fn check(change: impl FnOnce(&mut Champion, &mut Features), expected: &str) {
    let (mut champion, mut features) = champion(small(Some(7)), 40);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("champion");
    export(&champion, &features, &out, &timer, &nowhere, &silent).unwrap();
    let before = fs::read(out.join(PROVENANCE_FILE)).unwrap();
    change(&mut champion, &mut features);
    let error = export(&champion, &features, &out, &timer, &nowhere, &silent).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(fs::read(out.join(PROVENANCE_FILE)).unwrap(), before);
    assert_eq!(names(folder.path()), ["champion"]);
}

fn change_tensor(bytes: &mut Vec<u8>, name: &str, change: impl FnOnce(&mut Vec<f32>)) {
    let mut tensors = tensors::decode(bytes).unwrap();
    change(&mut tensors.get_mut(name).unwrap().values);
    *bytes = tensors::encode(&tensors).unwrap();
}

#[test]
fn a_model_that_is_not_what_the_worker_recorded_is_refused() {
    let recorded = |champion: &mut Champion, _: &mut Features| {
        change_tensor(&mut champion.logits, "logits", |logits| logits[16] += 0.05);
    };
    check(recorded, "on row 25 the logit of class 1");
    let weights = |champion: &mut Champion, _: &mut Features| {
        change_tensor(&mut champion.checkpoint, "blocks.1.weight", |weights| {
            weights.swap(12, 13);
        });
    };
    check(weights, "model.onnx disagrees with the worker's recorded logits");
    check(|champion, _| champion.split.validation.swap(3, 4), "disagrees with the worker's");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    check(|champion, _| champion.best.accuracy = 0.1, "the worker reported an accuracy of 0.1");
    check(|champion, _| champion.split.test.push(40), "the split names row 40 of 40");
    check(|champion, _| champion.manifest.clips[0].class += 1, "labels are not the manifest's");
    check(
        |champion, _| champion.manifest.classes[1] = "two\nlines".into(),
        "class 1 is named \"two\\nlines\"",
    );
    check(|champion, _| champion.manifest.classes.truncate(2), "2 classes, the model gives 3 logits");
    check(|champion, _| champion.split.validation.truncate(9), "recorded logits cannot be used");
    check(|champion, _| champion.checkpoint.truncate(100), "checkpoint does not fit its model");
    check(|_, features| *features = Features::new(5, 12), "not of the model's shape");
    let zero = |champion: &mut Champion, _: &mut Features| {
        change_tensor(&mut champion.checkpoint, "input.std", |std| std[2] = 0.0);
    };
    check(zero, "input.std of row 2 is 0");
}

/// A small champion's two models, in numbers and in bytes.
struct Written {
    network: Network,
    quantised: Quantised,
    float: earshot_proto::onnx::ModelProto,
    int8: earshot_proto::onnx::ModelProto,
    features: Features,
    rows: Vec<u32>,
}

fn written(profile: Profile) -> Written {
    let (champion, features) = champion(small(Some(7)), 40);
    let network = Network::new(&champion.job.model, &champion.checkpoint).unwrap();
    let float = graph::float(&network, &vec![]);
    let rows = champion.split.train;
    let seen = calibrate::collect(&float.encode_to_vec(), &network, 1000, &features, &rows).unwrap();
    let quantised = Quantised::new(&network, &seen.ranges(Method::MinMax), profile);
    let int8 = qdq::int8(&network, &quantised, &vec![]);
    Written { network, quantised, float, int8, features, rows }
}

#[test]
fn every_flipped_bit_of_either_file_is_noticed() {
    let written = written(Profile::OnnxRuntime);
    for (name, model) in [(FLOAT_FILE, &written.float), (INT8_FILE, &written.int8)] {
        let mut bytes = model.encode_to_vec();
        verify::file(name, &bytes, model).unwrap();
        for position in 0..bytes.len() {
            let bit = 1 << (position % 8);
            bytes[position] ^= bit;
            assert!(verify::file(name, &bytes, model).is_err(), "{name} at byte {position}");
            bytes[position] ^= bit;
        }
    }
}

/// Changes one initialiser of the int8 model and expects both independent checks to notice or not.
fn check_int8(
    profile: Profile,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>),
    by_weights: bool,
    by_logits: bool,
) {
    let mut written = written(profile);
    let initializers = &mut written.int8.graph.as_mut().unwrap().initializer;
    let tensor = initializers.iter_mut().find(|found| found.name == name).unwrap();
    change(&mut tensor.raw_data);
    let session = Session::load(INT8_FILE, &written.int8.encode_to_vec(), 1000, &[]).unwrap();
    let logits = session.logits(&written.features, &written.rows).unwrap();
    let numbers = (&written.network, &written.quantised);
    let result = verify::int8_logits(INT8_FILE, &logits, numbers, 1, &written.features, &written.rows);
    assert_eq!(result.is_err(), by_logits, "{name}: {result:?}");
    let result = verify::weights(INT8_FILE, &written.int8, &written.network);
    assert_eq!(result.is_err(), by_weights, "{name}: {result:?}");
}

#[test]
fn wrong_int8_numbers_are_noticed_without_the_written_model() {
    for profile in PROFILES {
        check_int8(profile, "blocks.1.weight.quantised", |_| (), false, false);
        check_int8(profile, "blocks.1.weight.quantised", |bytes| bytes[12] ^= 0x40, true, true);
        check_int8(profile, "blocks.1.weight.scale", |bytes| bytes[3] ^= 1, true, true);
        check_int8(profile, "blocks.0.activation.scale", |bytes| bytes[3] ^= 2, false, true);
    }
    check_int8(Profile::OnnxRuntime, "head.out.bias.quantised", |bytes| bytes[2] ^= 1, false, true);
    check_int8(Profile::OnnxRuntime, "blocks.1.activation.zero_point", |bytes| bytes[0] ^= 0x80, false, true);
    check_int8(Profile::TensorRt, "head.out.bias", |bytes| bytes[3] ^= 0x40, false, true);
}

#[test]
fn whole_numbers_give_what_tract_gives() {
    PROFILES.into_iter().for_each(check_whole_numbers);
}

fn check_whole_numbers(profile: Profile) {
    let written = written(profile);
    let session = Session::load(INT8_FILE, &written.int8.encode_to_vec(), 1000, &[]).unwrap();
    let found = session.logits(&written.features, &written.rows).unwrap();
    let expected: Vec<f32> = written
        .rows
        .iter()
        .flat_map(|&row| arithmetic::logits(&written.network, &written.quantised, written.features.row(row)))
        .collect();
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let scale = expected.iter().fold(0.0_f32, |scale, logit| scale.max(logit.abs()));
    assert!(worst <= 0.01 * scale, "{worst} of {scale}");
    let float = Session::load(FLOAT_FILE, &written.float.encode_to_vec(), 1000, &[]).unwrap();
    let float = float.logits(&written.features, &written.rows).unwrap();
    let error = found.iter().zip(&float).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error <= 0.1 * scale, "quantisation moves logits by {error} of {scale}");
}
