use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use earshot_common::{
    blob::BlobStore,
    ids::BlobId,
    metrics::argmax,
    tensors::{self, Tensor},
};
use earshot_data::{shard::Shard, split::TrainSplit};
use ort::{environment::Environment, session::Session, value::TensorRef};
use serde_json::Value;

use crate::{
    harness::{Site, binary, clips, run},
    predict::check_bundle,
};

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

/// ONNX Runtime, of which a process has one.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| ort::init().build().unwrap())
}

fn onnx_runtime(file: &Path, features: &Tensor) -> Vec<f32> {
    let mut session = Session::builder(environment()).unwrap().commit_from_file(file).unwrap();
    let input = TensorRef::from_array_view((features.shape.clone(), features.values.as_slice())).unwrap();
    let outputs = session.run(ort::inputs!["features" => input]).unwrap();
    outputs["logits"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

/// A champion's bundle beside what its run recorded.
struct Exported {
    out: PathBuf,
    features: Tensor,
    /// Logits of the validation rows, `(rows, classes)`.
    recorded: Tensor,
}

impl Exported {
    /// Exports the champion of a site whose sweep is complete.
    fn of(site: &Site) -> Self {
        let out = site.path("champion");
        run(Command::new(binary("coordinator"))
            .arg("export")
            .arg("--out")
            .arg(&out)
            .arg("--db")
            .arg(site.path("sweep.redb")));
        let provenance: Value =
            serde_json::from_slice(&fs::read(out.join("provenance.json")).unwrap()).unwrap();
        assert_eq!(provenance["trial"], site.offline(&["leaderboard"])["rows"][0]["trial"]);
        let home = BlobStore::open(site.path("sweep.blobs")).unwrap();
        let recorded = tensors::decode(&home.read(blob(&provenance["logits"])).unwrap()).unwrap();
        let features = validation_features(site, &provenance["job"]);
        Self { out, features, recorded: recorded["logits"].clone() }
    }

    fn logits(&self, file: &str) -> Vec<f32> {
        onnx_runtime(&self.out.join(file), &self.features)
    }

    /// Holds ONNX Runtime's logits of the float file to those that libtorch gave in the worker.
    fn check_float(&self) {
        let float = self.logits("model.onnx");
        assert_eq!(float.len(), self.recorded.values.len());
        let difference =
            float.iter().zip(&self.recorded.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < LOGIT_TOLERANCE, "logits differ by up to {difference}");
    }

    fn size(&self, name: &str) -> f64 {
        fs::metadata(self.out.join(name)).unwrap().len() as f64
    }
}

/// Exports the champion of a site whose sweep is complete, and holds the float file to what the worker recorded.
pub(crate) fn check_export(site: &Site) {
    Exported::of(site).check_float();
}

#[test]
fn onnx_runtime_gives_what_the_worker_recorded() {
    // Small batches, so that sixteen epochs teach it something that noise can take away.
    let space =
        "filters = [16, 32]\nbatch_norm = true\nbatch_size = 8\nlearning_rate = { choice = [2e-3, 1e-3] }\n";
    let site = Site::with(space, 16);
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    site.completes(coordinator, workers);
    let exported = Exported::of(&site);
    exported.check_float();

    let int8 = exported.logits("model.int8.onnx");
    let classes = exported.recorded.shape[1];
    let same = int8
        .chunks_exact(classes)
        .zip(exported.recorded.values.chunks_exact(classes))
        .filter(|(a, b)| argmax(a) == argmax(b))
        .count();
    let rows = exported.features.shape[0];
    assert!(same * 10 >= rows * 8, "int8 agrees on {same} of {rows} clips only");

    let ratio = exported.size("model.int8.onnx") / exported.size("model.onnx");
    assert!((0.2..0.3).contains(&ratio), "the int8 file is {ratio} of the float one");
    let report: Value = serde_json::from_slice(&fs::read(exported.out.join("report.json")).unwrap()).unwrap();
    let curve = report["learning_curve"].as_array().unwrap();
    assert_eq!(curve.len(), 16);
    let robustness = report["robustness"].as_array().unwrap();
    let accuracy = |index: usize| robustness[index]["accuracy"].as_f64().unwrap();
    assert_eq!(
        (&robustness[0]["condition"]["kind"], &robustness[5]["condition"]["value"]),
        (&"clean".into(), &0.0.into())
    );
    // The recordings go through the front end once more, and come to the same predictions.
    let kind = report["shipped"]["kind"].as_str().unwrap();
    assert!(
        (accuracy(0) - report[kind]["test"]["accuracy"].as_f64().unwrap()).abs() < 0.051,
        "{robustness:?}"
    );
    assert!(accuracy(0) > 0.3, "it learnt nothing: {robustness:?}");
    // A little gain is taken back by the normalisation; noise as loud as the clip is not.
    assert!((accuracy(6) - accuracy(0)).abs() < 0.051 && accuracy(5) < accuracy(0), "{robustness:?}");
    for name in ["labels.txt", "front_end.json", "report.md", "report.json", "confusion.svg"] {
        assert!(exported.size(name) > 0.0, "{name}");
    }
    check_bundle(&exported.out);
    check_rebuild(&exported.out);
}

/// Trains the bundle's model once more, without its database, to the same weights.
pub(crate) fn check_rebuild(bundle: &Path) {
    let printed = run(Command::new(binary("coordinator"))
        .args(["rebuild", "--format", "json", "--bundle"])
        .arg(bundle)
        .env_remove("LD_LIBRARY_PATH"));
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["state"], "identical", "{answer}");
    // Another seed is noticed.
    let path = bundle.join("provenance.json");
    let original = fs::read_to_string(&path).unwrap();
    let mut provenance: Value = serde_json::from_str(&original).unwrap();
    let jobs = 1 + usize::from(provenance.get("aware").is_some());
    assert_eq!(answer["comparisons"].as_array().unwrap().len(), 7 * jobs);
    provenance["job"]["recipe"]["seed"] = 1.into();
    fs::write(&path, provenance.to_string()).unwrap();
    let output = Command::new(binary("coordinator"))
        .args(["rebuild", "--format", "csv", "--bundle"])
        .arg(bundle)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("checkpoint,") && told.contains(",no"), "{told}");
    fs::write(&path, original).unwrap();
}

#[test]
fn the_refit_is_what_is_exported() {
    let site = Site::new(4);
    let sweep = fs::read_to_string(site.path("four.toml")).unwrap();
    fs::write(site.path("four.toml"), sweep + "refit = true\n").unwrap();
    let coordinator = site.coordinator("127.0.0.1:0");
    let workers = [site.worker("first", &coordinator), site.worker("second", &coordinator)];
    site.completes(coordinator, workers);
    let best = &site.offline(&["leaderboard"])["rows"][0];
    let trial = site.offline(&["trial", "show", &best["trial"].to_string()]);
    let [run, refit] = [&trial["runs"][0], &trial["runs"][1]];
    assert_eq!((&run["fold"], &run["refit"], &refit["refit"]), (&1.into(), &false.into(), &true.into()));
    // The rate is constant, so as many epochs as were best, and the last one's weights.
    assert_eq!(refit["best_epoch"], run["best_epoch"]);
    assert_eq!(refit["epochs"].as_array().unwrap().len() as u64, refit["best_epoch"].as_u64().unwrap());

    let out = site.path("champion");
    run_export(&site, &out);
    let read = |name| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    let (provenance, report) = (read("provenance.json"), read("report.json"));
    assert_eq!((&provenance["fold"], &provenance["trial"]), (&Value::Null, &best["trial"]));
    assert_eq!(report["refit"], true);
    let clips = |part: &str| report["float"][part]["clips"].as_u64().unwrap();
    let classes = report["labels"].as_array().unwrap().len() as u64;
    assert!((classes..clips("test")).contains(&clips("validation")), "{}", clips("validation"));
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains("trained once more"));
}

fn run_export(site: &Site, out: &Path) {
    let db = site.path("sweep.redb");
    run(Command::new(binary("coordinator")).arg("export").arg("--out").arg(out).arg("--db").arg(db));
}
