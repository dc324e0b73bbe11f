//! One export: a champion whose parts belong together, written, verified and described, in that order.

use std::path::Path;

use earshot_common::{
    ids::TrialId,
    metrics::Confusion,
    model::Cost,
    tensors::{self, TensorsError},
};
use earshot_proto::onnx::ModelProto;
use prost::Message;
use serde::Serialize;

use super::{
    Champion, ExportError, FLOAT_FILE, Features, INT8_FILE, ModelSummary, Summary,
    bundle::Draft,
    calibrate, graph,
    network::Network,
    picture,
    provenance::{self, Provenance},
    qdq,
    quantise::Quantised,
    report::Report,
    score::{Scored, Scores},
    session::Session,
    verify,
};
use crate::bundle::{self, FRONT_END_FILE, INFER, INFER_FILE, Kind, LABELS_FILE, Model, PROVENANCE_FILE};

/// Difference allowed between the accuracy the worker reported and that of its logits: rounding, and less than one clip of
/// any dataset this can hold.
const ACCURACY_TOLERANCE: f64 = 1e-6;

/// A champion whose parts belong together.
pub(super) struct Exporter<'a> {
    champion: &'a Champion,
    features: &'a Features,
    network: Network,
    cost: Cost,
    /// The worker's logits, one row for each validation row.
    recorded: Vec<f32>,
}

/// Both models as they were written.
pub(super) struct Models {
    float: ModelProto,
    quantised: Quantised,
    int8: ModelProto,
}

/// What verification found.
pub(super) struct Verified {
    pub(super) float: Measured,
    pub(super) int8: Measured,
    /// Largest difference of a validation logit between the float file and the worker.
    pub(super) float_difference: f32,
    /// Largest difference of a logit between the int8 file in tract and whole-number arithmetic.
    pub(super) int8_difference: f32,
    /// Part of the validation and test clips for which both files give the same class.
    pub(super) top1_agreement: f64,
}

/// What verification found of one file.
pub(super) struct Measured {
    pub(super) file: &'static str,
    pub(super) bytes: u64,
    pub(super) scored: Scored,
}

impl Verified {
    /// As the caller sees it, for a bundle in `folder`.
    pub(super) fn summary(&self, trial: TrialId, folder: &Path) -> Summary {
        let model = |measured: &Measured| ModelSummary {
            file: measured.file,
            bytes: measured.bytes,
            validation: Scores::of(&measured.scored.validation),
            test: measured.scored.test.as_ref().map(Scores::of),
        };
        Summary {
            folder: folder.to_owned(),
            trial,
            float: model(&self.float),
            int8: model(&self.int8),
            logit_difference_max: self.float_difference,
            int8_logit_difference_max: self.int8_difference,
            top1_agreement: self.top1_agreement,
        }
    }
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

impl<'a> Exporter<'a> {
    /// Decodes the champion's blobs and holds its parts against each other.
    ///
    /// # Errors
    /// The part that does not fit.
    pub(super) fn new(champion: &'a Champion, features: &'a Features) -> Result<Self, ExportError> {
        let model = &champion.job.model;
        let exporter = Self {
            champion,
            features,
            network: Network::new(model, &champion.checkpoint)?,
            cost: model.cost().map_err(ExportError::Model)?,
            recorded: recorded_logits(champion)?,
        };
        check_labels(&champion.manifest.classes)?;
        match exporter.contradiction() {
            Some(what) => Err(ExportError::Features { what }),
            None => Ok(exporter),
        }
    }

    /// Writes both models.
    ///
    /// # Errors
    /// tract cannot calibrate, or the disk refuses.
    pub(super) fn write(&self, draft: &mut Draft, progress: &dyn Fn(&str)) -> Result<Models, ExportError> {
        progress("writing the float model");
        let mut metadata = provenance::metadata(self.champion)
            .map_err(|source| ExportError::Json { file: FLOAT_FILE, source })?;
        let float = graph::float(&self.network, &metadata);
        let bytes = float.encode_to_vec();
        draft.write(FLOAT_FILE, &bytes)?;

        progress("calibrating on training clips");
        let sample = calibrate::sample(&self.champion.split.train);
        let activations = self.cost.peak_ram_bytes;
        let ranges = calibrate::ranges(&bytes, &self.network, activations, self.features, &sample)?;

        progress("writing the int8 model");
        let quantised = Quantised::new(&self.network, &ranges);
        let calibration = format!("MinMax on {} training clips", sample.len());
        metadata.push(("earshot.calibration", calibration));
        let int8 = qdq::int8(&self.network, &quantised, &metadata);
        draft.write(INT8_FILE, &int8.encode_to_vec())?;
        Ok(Models { float, quantised, int8 })
    }

    /// Verifies both models as they lie on the disk, and scores them.
    ///
    /// # Errors
    /// A file is not what was written, tract refuses it, or it disagrees with what it is held against.
    pub(super) fn verify(
        &self,
        draft: &Draft,
        models: &Models,
        progress: &dyn Fn(&str),
    ) -> Result<Verified, ExportError> {
        let rows = &self.champion.split.validation;
        let classes = self.network.classes;

        progress("verifying the float model");
        let bytes = draft.read(FLOAT_FILE)?;
        verify::file(FLOAT_FILE, &bytes, &models.float)?;
        let float = self.run(FLOAT_FILE, &bytes)?;
        let float_difference =
            verify::float_logits(FLOAT_FILE, &float.validation, &self.recorded, classes, rows)?;
        let float_bytes = bytes.len() as u64;

        progress("verifying the int8 model");
        let bytes = draft.read(INT8_FILE)?;
        let found = verify::file(INT8_FILE, &bytes, &models.int8)?;
        verify::weights(INT8_FILE, &found, &self.network)?;
        let int8 = self.run(INT8_FILE, &bytes)?;
        let numbers = (&self.network, &models.quantised);
        let macs = self.cost.macs;
        let int8_difference =
            verify::int8_logits(INT8_FILE, &int8.validation, numbers, macs, self.features, rows)?;
        Ok(Verified {
            float: self.measured(FLOAT_FILE, float_bytes, &float),
            int8: self.measured(INT8_FILE, bytes.len() as u64, &int8),
            float_difference,
            int8_difference,
            top1_agreement: verify::top1_agreement(classes, &float.all(), &int8.all()),
        })
    }

    /// Writes everything that is said about the models.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn describe(&self, draft: &mut Draft, verified: &Verified) -> Result<(), ExportError> {
        let manifest = &self.champion.manifest;
        let report = Report::new(self.champion, verified);
        let matrices =
            [&verified.float, &verified.int8].map(|measured| (measured.file, measured.scored.reported()));
        let picture = picture::confusion(&matrices, &manifest.classes);
        let front_end = pretty(FRONT_END_FILE, &manifest.front_end)?;
        draft.write(LABELS_FILE, (manifest.classes.join("\n") + "\n").as_bytes())?;
        draft.write(FRONT_END_FILE, &front_end)?;
        draft.write(INFER_FILE, INFER.as_bytes())?;
        self.golden(draft)?;
        draft.write("report.json", &pretty("report.json", &report)?)?;
        draft.write("report.md", report.markdown().as_bytes())?;
        draft.write("confusion.svg", picture.as_bytes())?;
        let provenance = Provenance::new(self.champion, self.cost, draft.files());
        let provenance = pretty(PROVENANCE_FILE, &provenance)?;
        draft.write(PROVENANCE_FILE, &provenance)
    }

    /// Writes the golden files: what this build's front end and both files as they lie on the disk make of made-up clips.
    fn golden(&self, draft: &mut Draft) -> Result<(), ExportError> {
        let model = |kind: Kind| Ok((kind, Model::load(kind.file(), &draft.read(kind.file())?)?));
        let models = Kind::ALL.into_iter().map(model).collect::<Result<Vec<_>, ExportError>>()?;
        for file in bundle::golden_files(&self.champion.manifest.front_end, &models)? {
            draft.write(&file.name, &file.bytes)?;
        }
        Ok(())
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
        } else if manifest.frames as usize != self.network.frames {
            let frames = manifest.frames;
            Some(format!("the front end gives {frames} frames, the model reads {}", self.network.frames))
        } else if manifest.classes.len() != self.network.classes {
            let classes = manifest.classes.len();
            Some(format!("{classes} classes, the model gives {} logits", self.network.classes))
        } else if manifest.labels() != self.features.labels() {
            Some("the shards' labels are not the manifest's".to_owned())
        } else if let Some(row) = beyond {
            Some(format!("the split names row {row} of {rows}"))
        } else if (recorded.accuracy() - reported).abs() > ACCURACY_TOLERANCE {
            let found = recorded.accuracy();
            Some(format!("the worker reported an accuracy of {reported}, its logits have {found}"))
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

    fn measured(&self, file: &'static str, bytes: u64, logits: &Logits) -> Measured {
        let split = &self.champion.split;
        let count = |logits: &[f32], rows: &[u32]| {
            Confusion::from_logits(self.network.classes, logits, &self.features.labels_of(rows))
        };
        let scored = Scored {
            validation: count(&logits.validation, &split.validation),
            test: (!split.test.is_empty()).then(|| count(&logits.test, &split.test)),
        };
        Measured { file, bytes, scored }
    }
}

fn recorded_logits(champion: &Champion) -> Result<Vec<f32>, ExportError> {
    const NAME: &str = "logits";
    let mut tensors = tensors::decode(&champion.logits).map_err(ExportError::Recorded)?;
    let logits =
        tensors.remove(NAME).ok_or_else(|| ExportError::Recorded(TensorsError::Missing(NAME.to_owned())))?;
    let expected = vec![champion.split.validation.len(), champion.job.model.classes as usize];
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
    let broken = classes.iter().position(|name| name.is_empty() || name.chars().any(char::is_control));
    match broken.and_then(|class| Some((class, classes.get(class)?))) {
        Some((class, name)) => Err(ExportError::Label { class, name: name.clone() }),
        None => Ok(()),
    }
}

fn pretty(file: &'static str, value: &impl Serialize) -> Result<Vec<u8>, ExportError> {
    serde_json::to_vec_pretty(value).map_err(|source| ExportError::Json { file, source })
}
