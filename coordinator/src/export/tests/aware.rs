//! What was trained to bear quantisation: it computes as the int8 file does, and is exported where it scores better.

use std::collections::BTreeMap;

use earshot_common::{
    int8::Range,
    job::Epoch,
    metrics::Confusion,
    model::{AudioCnn, Input},
    tensors::{Tensor, Tensors},
};
use serde::Deserialize;
use serde_json::Value;

use super::*;

#[derive(Deserialize)]
struct Counted {
    spec: AudioCnn,
}

/// The worker is held to the same numbers, which PyTorch made.
#[test]
fn whole_numbers_are_what_a_rounding_network_computes() {
    let specs: BTreeMap<String, Counted> =
        serde_json::from_str(include_str!("../../../../worker/tests/golden/models.json")).unwrap();
    let golden =
        tensors::decode(include_bytes!("../../../../worker/tests/golden/aware.safetensors")).unwrap();
    for name in ["ordinary", "batch_norm", "separable", "average", "mean", "mean_max", "five"] {
        // The golden features stand for a standardised input.
        let spec = AudioCnn { input: Input::Mfcc, ..specs[name].spec.clone() };
        let of = |part: &str| golden[&format!("{name}/{part}")].clone();
        let rows = spec.n_mfcc as usize;
        let prefix = format!("{name}/initial.");
        let mut checkpoint: Tensors = golden
            .iter()
            .filter_map(|(key, tensor)| Some((key.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
            .collect();
        for (key, value) in [("input.mean", 0.0), ("input.std", 1.0)] {
            checkpoint.insert(key.to_owned(), Tensor { shape: vec![rows], values: vec![value; rows] });
        }
        let network = Network::new(&spec, &tensors::encode(&checkpoint).unwrap()).unwrap();
        let ranges: Vec<Range> =
            of("ranges").values.chunks(2).map(|ends| Range { min: ends[0], max: ends[1] }).collect();
        let quantised = Quantised::new(&network, &ranges, Profile::OnnxRuntime);
        let features = of("features");
        let size = rows * spec.frames as usize;
        let clips = features.values.chunks(size);
        let found: Vec<f32> = clips.flat_map(|clip| arithmetic::logits(&network, &quantised, clip)).collect();
        for (found, expected) in found.iter().zip(&of("logits").values) {
            assert!((found - expected).abs() < 1e-4, "{name}: {found} is not {expected}");
        }
        assert_eq!(found.len(), of("logits").values.len());
    }
}

/// A champion with something that was trained to bear quantisation: its network with the classes in another order, which the labels have
/// too, so that calibration alone does worse.
fn attuned() -> (Champion, Features) {
    let (mut champion, mut features) = champion(small(Some(7)), 80);
    let mut checkpoint = champion.checkpoint.clone();
    change_tensor(&mut checkpoint, "head.out.weight", |weights| weights.rotate_right(7));
    change_tensor(&mut checkpoint, "head.out.bias", |biases| biases.rotate_right(1));
    let network = Network::new(&champion.job.model, &checkpoint).unwrap();
    let scales = champion.job.model.scales().unwrap();
    let ranges = vec![Range { min: -3.0, max: 3.0 }; scales];
    let quantised = Quantised::new(&network, &ranges, Profile::OnnxRuntime);
    let logits: Vec<Vec<f32>> =
        (0..80).map(|row| arithmetic::logits(&network, &quantised, features.row(row))).collect();
    let labels: Vec<u16> =
        logits.iter().map(|logits| earshot_common::metrics::argmax(logits) as u16).collect();
    features.relabel(&labels);
    for (clip, &label) in champion.manifest.clips.iter_mut().zip(&labels) {
        clip.class = label;
    }
    let rows = champion.split.validation.clone();
    let float = tensors::decode(&champion.logits).unwrap();
    let accuracy = Confusion::from_logits(3, &float["logits"].values, &features.labels_of(&rows)).accuracy();
    champion.best = Epoch { accuracy, ..champion.best };
    let values = rows.iter().flat_map(|&row| logits[row as usize].clone()).collect();
    let recorded = Tensor { shape: vec![rows.len(), 3], values };
    let job = Job { int8_ranges: ranges, ..champion.job.clone() };
    let aware = Aware {
        job,
        best: Epoch {
            epoch: 2,
            train_loss: 0.1,
            loss: 0.1,
            accuracy: 1.0,
            macro_f1: 1.0,
            int8_accuracy: None,
        },
        checkpoint,
        logits: tensors::encode(&Tensors::from([("logits".to_owned(), recorded)])).unwrap(),
        why: "calibrated by MinMax alone, int8 loses much".to_owned(),
    };
    champion.awareness = Some(Awareness::Trained(Box::new(aware)));
    (champion, features)
}

fn read(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn it_is_exported_where_it_scores_better() {
    let (champion, features) = attuned();
    let aware = champion.awareness.as_ref().and_then(Awareness::trained).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("champion");
    let summary = export(&champion, &features, &out, &timer, &nowhere, &silent).unwrap();
    let report = read(&out, "report.json");
    let attempts = report["int8"]["calibrations"].as_array().unwrap();
    assert_eq!(attempts.len(), 4, "{attempts:?}");
    assert_eq!(
        (&attempts[3]["method"], &attempts[3]["chosen"]),
        (&"quantisation-aware training".into(), &true.into()),
        "{attempts:?}"
    );
    assert!((summary.int8.validation.accuracy - 1.0).abs() < 1e-9, "{summary:?}");
    let told = summary.quantisation.unwrap();
    assert!(told.contains("100.00 % there, which is exported"), "{told}");
    let provenance = read(&out, PROVENANCE_FILE);
    assert_eq!(provenance["aware"]["best_epoch"]["epoch"], 2);
    assert_eq!(provenance["aware"]["job"]["int8_ranges"].as_array().unwrap().len(), 4);
    let origin = crate::bundle::Bundle::open(&out).unwrap().origin().unwrap();
    assert_eq!(origin.aware.map(|origin| origin.checkpoint), Some(BlobId::of(&aware.checkpoint)));
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Quantisation-aware training"));
}

#[test]
fn another_network_than_the_one_that_rounded_is_refused() {
    let (mut champion, features) = attuned();
    let Some(Awareness::Trained(aware)) = &mut champion.awareness else { panic!() };
    change_tensor(&mut aware.logits, "logits", |logits| logits[4] += 10.0);
    let out = tempfile::tempdir().unwrap();
    let error = export(&champion, &features, &out.path().join("c"), &timer, &nowhere, &silent).unwrap_err();
    assert!(error.to_string().contains("disagrees with the worker's rounding network"), "{error}");
}

#[test]
fn what_was_left_alone_says_why() {
    let (mut champion, features) = champion(small(None), 40);
    champion.awareness = Some(Awareness::Kept { why: "int8 loses nothing".into() });
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("c");
    let summary = export(&champion, &features, &folder, &timer, &nowhere, &silent).unwrap();
    assert_eq!(summary.quantisation.as_deref(), Some("calibrated alone: int8 loses nothing"));
    assert_eq!(read(&folder, PROVENANCE_FILE).get("aware"), None);
}

#[test]
fn a_candidate_is_calibrated_as_an_export_would() {
    let (champion, features) = champion(small(Some(7)), 80);
    let Split { train, validation, .. } = &champion.split;
    let found = calibrate(&champion.job.model, &champion.checkpoint, &features, train, validation).unwrap();
    let (summary, _folder) = exported(small(Some(7)), 80);
    assert!((found.accuracy - summary.int8.validation.accuracy).abs() < 1e-12, "{found:?}");
    assert_eq!(found.ranges.len(), champion.job.model.scales().unwrap());
    let chosen = read(&summary.folder, "report.json")["int8"]["calibrations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|attempt| attempt["chosen"] == true)
        .unwrap()["method"]
        .clone();
    assert_eq!(chosen, found.method);
}
