use std::{fs, path::Path, process::Command};

use earshot_common::{
    blob::BlobStore,
    ids::BlobId,
    metrics::argmax,
    tensors::{self, Tensor},
};
use earshot_data::{shard::Shard, split::TrainSplit};
use ort::{environment::Environment, session::Session, value::TensorRef};
use serde_json::Value;

use crate::harness::{Site, binary, clips, run};

/// Largest difference of a logit between libtorch in the worker and ONNX Runtime.
const LOGIT_TOLERANCE: f32 = 1e-3;

fn blob(id: &Value) -> BlobId {
    id.as_str().unwrap().parse().unwrap()
}

/// Validation rows of the champion's run, `(rows, 1, n_mfcc, frames)`, as its job's blobs say.
fn validation_features(site: &Site, job: &Value) -> Tensor {
    let shards = BlobStore::open(clips().join("processed").join("blobs")).unwrap();
    let home = BlobStore::open(site.path("sweep.blobs")).unwrap();
    let split = TrainSplit::read(&home.read(blob(&job["split"])).unwrap()).unwrap();
    let n_mfcc = job["model"]["n_mfcc"].as_u64().unwrap() as usize;
    let mut rows = Vec::new();
    let mut frames = 0;
    for id in job["shards"].as_array().unwrap() {
        let shard = Shard::read(&shards.read(blob(id)).unwrap()).unwrap();
        frames = shard.frames;
        let clip = shard.n_mfcc * frames;
        rows.extend(shard.features.chunks_exact(clip).map(|features| features[..n_mfcc * frames].to_vec()));
    }
    let values: Vec<f32> = split.validation.iter().flat_map(|&row| rows[row as usize].clone()).collect();
    Tensor { shape: vec![split.validation.len(), 1, n_mfcc, frames], values }
}

fn onnx_runtime(environment: &Environment, file: &Path, features: &Tensor) -> Vec<f32> {
    let mut session = Session::builder(environment).unwrap().commit_from_file(file).unwrap();
    let input = TensorRef::from_array_view((features.shape.clone(), features.values.as_slice())).unwrap();
    let outputs = session.run(ort::inputs!["features" => input]).unwrap();
    outputs["logits"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

#[test]
fn onnx_runtime_gives_what_the_worker_recorded() {
    let site = Site::new(8);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    site.completes(coordinator, workers);
    let out = site.path("champion");
    run(Command::new(binary("coordinator"))
        .arg("export")
        .arg("--out")
        .arg(&out)
        .arg("--db")
        .arg(site.path("sweep.redb")));

    let provenance: Value = serde_json::from_slice(&fs::read(out.join("provenance.json")).unwrap()).unwrap();
    assert_eq!(provenance["trial"], site.offline(&["leaderboard"])["rows"][0]["trial"]);
    let home = BlobStore::open(site.path("sweep.blobs")).unwrap();
    let recorded = tensors::decode(&home.read(blob(&provenance["logits"])).unwrap()).unwrap();
    let recorded = &recorded["logits"];
    let classes = recorded.shape[1];

    let features = validation_features(&site, &provenance["job"]);
    let environment = ort::init().build().unwrap();
    let float = onnx_runtime(&environment, &out.join("model.onnx"), &features);
    assert_eq!(float.len(), recorded.values.len());
    let difference = float.iter().zip(&recorded.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < LOGIT_TOLERANCE, "logits differ by up to {difference}");

    let int8 = onnx_runtime(&environment, &out.join("model.int8.onnx"), &features);
    let same = int8
        .chunks_exact(classes)
        .zip(recorded.values.chunks_exact(classes))
        .filter(|(a, b)| argmax(a) == argmax(b))
        .count();
    let rows = features.shape[0];
    assert!(same * 10 >= rows * 8, "int8 agrees on {same} of {rows} clips only");

    let size = |name: &str| fs::metadata(out.join(name)).unwrap().len() as f64;
    let ratio = size("model.int8.onnx") / size("model.onnx");
    assert!((0.2..0.3).contains(&ratio), "the int8 file is {ratio} of the float one");
    for name in ["labels.txt", "front_end.json", "report.md", "report.json", "confusion.svg"] {
        assert!(size(name) > 0.0, "{name}");
    }
}
