//! Export: from the champion's checkpoint to a folder that can be trusted on a device.
//!
//! In reading order:
//! - `features`: the rows that calibrate and verify.
//! - `network`: the model spec with its weights.
//! - `onnx`, `graph`: the schema's forms, and the float graph in them.
//! - `session`: tract, running a file's bytes over rows.
//! - `calibrate`, `quantise`, `qdq`: ranges of activations, the network in whole numbers, the int8 graph.
//! - `arithmetic`: what the int8 graph means, computed apart from it.
//! - `verify`: both files as they lie on the disk, against checkpoint, recorded logits and arithmetic.
//! - `score`, `report`, `picture`, `provenance`: what is said about them.
//! - `bundle`: the folder, moved into place as a whole.
//!
//! Everything the export needs is in its arguments: it reads no database, no blob store, no clock and draws no randomness,
//! so that the same champion gives the same bytes.

mod arithmetic;
mod bundle;
mod calibrate;
mod error;
mod features;
mod graph;
mod network;
mod onnx;
mod picture;
mod provenance;
mod qdq;
mod quantise;
mod report;
mod score;
mod session;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};

use earshot_common::{
    ids::{FoldId, TrialId},
    job::{Epoch, Job},
    metrics::Confusion,
    model::Cost,
    sweep::{Point, Sweep},
    tensors::{self, TensorsError},
};
use earshot_data::{manifest::Manifest, split::Split};
use prost::Message;
use serde::Serialize;

use self::{
    bundle::Draft,
    network::Network,
    provenance::{PROVENANCE_FILE, Provenance},
    quantise::Quantised,
    report::{Measured, Report},
    score::Scored,
    session::Session,
};
pub use self::{error::ExportError, features::Features, score::Scores};

/// Names of the two models in the bundle.
const FLOAT_FILE: &str = "model.onnx";
const INT8_FILE: &str = "model.int8.onnx";

/// Difference allowed between the accuracy the worker reported and that of its logits: rounding, and less than one clip of
/// any dataset this can hold.
const ACCURACY_TOLERANCE: f64 = 1e-6;

/// The best feasible trial, with everything the export needs, fetched and verified by its hash.
#[derive(Debug, Clone)]
pub struct Champion {
    /// The sweep that found it.
    pub sweep: Sweep,
    /// Its number.
    pub trial: TrialId,
    /// Fold of the run that is exported.
    pub fold: FoldId,
    /// Its hyperparameters.
    pub point: Point,
    /// That run's job.
    pub job: Job,
    /// The epoch whose weights the checkpoint holds.
    pub best: Epoch,
    /// Blob: weights.
    pub checkpoint: Vec<u8>,
    /// Blob: the worker's logits of the validation rows by those weights.
    pub logits: Vec<u8>,
    /// The data it was trained on.
    pub manifest: Manifest,
    /// Rows that trained, validated and test.
    pub split: Split,
    /// Trials it was chosen from.
    pub trials_completed: u32,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The bundle.
    pub folder: PathBuf,
    /// The trial it is.
    pub trial: TrialId,
    /// `model.onnx`.
    pub float: ModelSummary,
    /// `model.int8.onnx`.
    pub int8: ModelSummary,
    /// Largest difference of a validation logit between the float file and the worker.
    pub logit_difference_max: f32,
    /// Part of the validation and test clips for which both files give the same class.
    pub top1_agreement: f64,
}

/// One of the two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// Name in the bundle.
    pub file: &'static str,
    /// Size.
    pub bytes: u64,
    /// On the validation part.
    pub validation: Scores,
    /// On the test part; none when the split has none.
    pub test: Option<Scores>,
}

/// Writes the champion's bundle to `out`, telling `progress` what it is about to do. A bundle that is there is replaced.
///
/// # Errors
/// [`ExportError`] says what is wrong and how to mend it; then `out` is as it was before.
pub fn export(
    champion: &Champion,
    features: &Features,
    out: &Path,
    progress: &dyn Fn(&str),
) -> Result<Summary, ExportError> {
    let mut draft = Draft::begin(out)?;
    let export = Export::new(champion, features)?;
    let json = |file| move |source| ExportError::Json { file, source };

    progress("writing the float model");
    let mut metadata = provenance::metadata(champion).map_err(json(FLOAT_FILE))?;
    let float = graph::float(&export.network, &metadata);
    let float_bytes = float.encode_to_vec();
    draft.write(FLOAT_FILE, &float_bytes)?;

    progress("calibrating on training clips");
    let sample = calibrate::sample(&champion.split.train);
    let activations = export.cost.peak_ram_bytes;
    let ranges = calibrate::ranges(&float_bytes, &export.network, activations, features, &sample)?;

    progress("writing the int8 model");
    let quantised = Quantised::new(&export.network, &ranges);
    let calibration = format!("MinMax on {} training clips", sample.len());
    metadata.push(("earshot.calibration", calibration));
    let int8 = qdq::int8(&export.network, &quantised, &metadata);
    draft.write(INT8_FILE, &int8.encode_to_vec())?;

    progress("verifying the float model");
    let bytes = draft.read(FLOAT_FILE)?;
    verify::file(FLOAT_FILE, &bytes, &float)?;
    let float_logits = export.run(FLOAT_FILE, &bytes)?;
    let rows = &champion.split.validation;
    let classes = export.network.classes;
    let difference = verify::float_logits(
        FLOAT_FILE,
        &float_logits.validation,
        &export.recorded,
        classes,
        rows,
    )?;

    progress("verifying the int8 model");
    let bytes = draft.read(INT8_FILE)?;
    let found = verify::file(INT8_FILE, &bytes, &int8)?;
    verify::weights(INT8_FILE, &found, &export.network)?;
    let int8_logits = export.run(INT8_FILE, &bytes)?;
    let numbers = (&export.network, &quantised);
    verify::int8_logits(
        INT8_FILE,
        &int8_logits.validation,
        numbers,
        export.cost.macs,
        features,
        rows,
    )?;

    progress("writing the report");
    let [float, int8] = [(FLOAT_FILE, &float_logits), (INT8_FILE, &int8_logits)].map(|(file, logits)| {
        let bytes = draft.files().get(file).map_or(0, |entry| entry.bytes);
        (file, bytes, export.score(logits))
    });
    let [float, int8] = [&float, &int8].map(|(file, bytes, scored)| Measured {
        file,
        bytes: *bytes,
        scored,
    });
    let agreement = verify::top1_agreement(classes, &float_logits.all(), &int8_logits.all());
    let report = Report::new(champion, [&float, &int8], agreement, difference);
    let labels = &champion.manifest.classes;
    let matrices = [&float, &int8].map(|measured| (measured.file, measured.scored.reported()));
    draft.write("labels.txt", (labels.join("\n") + "\n").as_bytes())?;
    draft.write(
        "front_end.json",
        &pretty("front_end.json", &champion.manifest.front_end)?,
    )?;
    draft.write("report.json", &pretty("report.json", &report)?)?;
    draft.write("report.md", report.markdown().as_bytes())?;
    draft.write("confusion.svg", picture::confusion(&matrices, labels).as_bytes())?;
    let provenance = pretty(
        PROVENANCE_FILE,
        &Provenance::new(champion, export.cost, draft.files()),
    )?;
    draft.write(PROVENANCE_FILE, &provenance)?;
    draft.commit()?;
    Ok(Summary {
        folder: out.to_owned(),
        trial: champion.trial,
        float: ModelSummary::new(&float),
        int8: ModelSummary::new(&int8),
        logit_difference_max: difference,
        top1_agreement: agreement,
    })
}

/// A champion whose parts belong together.
struct Export<'a> {
    champion: &'a Champion,
    features: &'a Features,
    network: Network,
    cost: Cost,
    /// The worker's logits, one row for each validation row.
    recorded: Vec<f32>,
}

/// One file's logits.
struct Logits {
    validation: Vec<f32>,
    test: Vec<f32>,
}

impl Logits {
    fn all(&self) -> Vec<f32> {
        [&self.validation[..], &self.test[..]].concat()
    }
}

impl<'a> Export<'a> {
    fn new(champion: &'a Champion, features: &'a Features) -> Result<Self, ExportError> {
        let model = &champion.job.model;
        let export = Self {
            champion,
            features,
            network: Network::new(model, &champion.checkpoint)?,
            cost: model.cost().map_err(ExportError::Model)?,
            recorded: recorded_logits(champion)?,
        };
        check_labels(&champion.manifest.classes)?;
        match export.contradiction() {
            Some(what) => Err(ExportError::Features { what }),
            None => Ok(export),
        }
    }

    /// What does not belong together, if anything.
    fn contradiction(&self) -> Option<String> {
        let (manifest, split) = (&self.champion.manifest, &self.champion.split);
        let rows = self.features.rows();
        let beyond = [&split.train, &split.validation, &split.test]
            .into_iter()
            .flatten()
            .find(|row| **row as usize >= rows);
        let recorded = Confusion::from_logits(
            self.network.classes,
            &self.recorded,
            &self.features.labels_of(&split.validation),
        );
        let reported = self.champion.best.accuracy;
        if self.features.shape() != [self.network.n_mfcc, self.network.frames] {
            Some("the features are not of the model's shape".to_owned())
        } else if manifest.classes.len() != self.network.classes {
            let classes = manifest.classes.len();
            Some(format!(
                "{classes} classes, the model gives {} logits",
                self.network.classes
            ))
        } else if manifest.labels() != self.features.labels() {
            Some("the shards' labels are not the manifest's".to_owned())
        } else if let Some(row) = beyond {
            Some(format!("the split names row {row} of {rows}"))
        } else if (recorded.accuracy() - reported).abs() > ACCURACY_TOLERANCE {
            let found = recorded.accuracy();
            Some(format!(
                "the worker reported an accuracy of {reported}, its logits have {found}"
            ))
        } else {
            None
        }
    }

    /// Runs a file over the validation and the test part.
    fn run(&self, file: &'static str, bytes: &[u8]) -> Result<Logits, ExportError> {
        let session = Session::load(file, bytes, self.cost.peak_ram_bytes, &[])?;
        let split = &self.champion.split;
        Ok(Logits {
            validation: session.logits(self.features, &split.validation)?,
            test: session.logits(self.features, &split.test)?,
        })
    }

    fn score(&self, logits: &Logits) -> Scored {
        let split = &self.champion.split;
        let count = |logits: &[f32], rows: &[u32]| {
            Confusion::from_logits(self.network.classes, logits, &self.features.labels_of(rows))
        };
        Scored {
            validation: count(&logits.validation, &split.validation),
            test: (!split.test.is_empty()).then(|| count(&logits.test, &split.test)),
        }
    }
}

impl ModelSummary {
    fn new(measured: &Measured<'_>) -> Self {
        Self {
            file: measured.file,
            bytes: measured.bytes,
            validation: Scores::of(&measured.scored.validation),
            test: measured.scored.test.as_ref().map(Scores::of),
        }
    }
}

fn recorded_logits(champion: &Champion) -> Result<Vec<f32>, ExportError> {
    const NAME: &str = "logits";
    let mut tensors = tensors::decode(&champion.logits).map_err(ExportError::Recorded)?;
    let logits = tensors
        .remove(NAME)
        .ok_or_else(|| ExportError::Recorded(TensorsError::Missing(NAME.to_owned())))?;
    let expected = vec![
        champion.split.validation.len(),
        champion.job.model.classes as usize,
    ];
    if logits.shape == expected {
        Ok(logits.values)
    } else {
        Err(ExportError::Recorded(TensorsError::Shape {
            name: NAME.to_owned(),
            expected,
            found: logits.shape,
        }))
    }
}

fn check_labels(classes: &[String]) -> Result<(), ExportError> {
    let broken = classes
        .iter()
        .position(|name| name.is_empty() || name.chars().any(char::is_control));
    match broken.and_then(|class| Some((class, classes.get(class)?))) {
        Some((class, name)) => Err(ExportError::Label {
            class,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

fn pretty(file: &'static str, value: &impl Serialize) -> Result<Vec<u8>, ExportError> {
    serde_json::to_vec_pretty(value).map_err(|source| ExportError::Json { file, source })
}
