//! One export: a champion whose parts belong together, written, verified and described, in that order.

use earshot_common::{
    int8::calibration,
    metrics::Confusion,
    model::{AudioCnn, Cost},
    tensors::{self, TensorsError},
};
use earshot_proto::onnx::ModelProto;
use prost::Message;
use serde::Serialize;

use super::{
    Champion, ExportError, FLOAT_FILE, Features,
    aware::{Attuned, Awareness},
    bundle::Draft,
    calibrate,
    choice::{self, Attempt, Choice, Trial, Way},
    deploy::{self, Candidate, Deployed, Timer},
    gates, graph,
    network::Network,
    page, picture,
    provenance::{self, Provenance},
    pruning,
    quantise::Profile,
    report::Report,
    robustness::{self, Recordings, Robustness},
    score::Scored,
    scored::Quantising,
    session::Session,
    verified::{Measured, Verified},
    verify,
};
use crate::bundle::{
    self, FRONT_END_FILE, INFER, INFER_FILE, INITIAL_WEIGHTS_FILE, Kind, LABELS_FILE, Model, PROVENANCE_FILE,
    TEACHER_FILE,
};

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
    /// What was trained to bear quantisation, if anything was.
    attuned: Option<Attuned>,
    /// How it was quantised when it was scored, if it was.
    quantising: Option<Quantising>,
}

/// The models as they were written.
pub(super) struct Models<'a> {
    float: ModelProto,
    int8: Choice<'a>,
    tensorrt: Choice<'a>,
}

/// One file in tract.
struct InTract {
    kind: Kind,
    bytes: Vec<u8>,
    logits: Logits,
    /// Largest difference of a logit from its reference.
    difference: f32,
    calibrations: Vec<Attempt>,
    /// Whether its weights were trained to bear quantisation.
    is_aware: bool,
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
        let rows = champion.split.validation.len();
        let aware = champion.awareness.as_ref().and_then(Awareness::trained);
        let exporter = Self {
            champion,
            features,
            network: Network::new(model, &champion.checkpoint)?,
            cost: model.cost().map_err(ExportError::Model)?,
            recorded: recorded_logits(&champion.logits, rows, model)?,
            quantising: Quantising::recorded(&champion.logits, rows, model)?,
            attuned: aware.map(|aware| Attuned::new(aware, rows)).transpose()?,
        };
        check_labels(&champion.manifest.classes)?;
        match exporter.contradiction() {
            Some(what) => Err(ExportError::Features { what }),
            None => Ok(exporter),
        }
    }

    /// Writes the models.
    ///
    /// # Errors
    /// tract cannot calibrate, or the disk refuses.
    pub(super) fn write(
        &self,
        draft: &mut Draft,
        progress: &dyn Fn(&str),
    ) -> Result<Models<'_>, ExportError> {
        progress("writing the float model");
        let metadata = provenance::metadata(self.champion)
            .map_err(|source| ExportError::Json { file: FLOAT_FILE, source })?;
        let mut float_metadata = metadata.clone();
        float_metadata.push(("earshot.profile", Kind::Float.profile().to_owned()));
        let float = graph::float(&self.network, &float_metadata);
        let bytes = float.encode_to_vec();
        draft.write(FLOAT_FILE, &bytes)?;

        progress("calibrating on training clips");
        let sample = calibration::sample(&self.champion.split.train);
        let activations = self.cost.peak_ram_bytes;
        let seen = calibrate::collect(&bytes, &self.network, activations, self.features, &sample)?;

        progress("choosing calibrations on validation clips");
        let calibrations = choice::calibrations(&self.network, &seen, sample.len());
        let attuned = || self.attuned.iter().map(Attuned::way);
        // What scored the trial is kept to, in the profile that workers round in.
        let own = self.quantising.as_ref().map(|own| vec![own.way(&self.network)]);
        let of_int8: Vec<Way<'_>> =
            own.unwrap_or_else(|| calibrations.clone()).into_iter().chain(attuned()).collect();
        let of_tensorrt: Vec<Way<'_>> = calibrations.into_iter().chain(attuned()).collect();
        let trial = Trial {
            classes: self.network.classes,
            activations,
            features: self.features,
            rows: &self.champion.split.validation,
            float: &self.recorded,
        };
        let int8 = trial.choose(Profile::OnnxRuntime, &of_int8, &metadata)?;
        let tensorrt = trial.choose(Profile::TensorRt, &of_tensorrt, &metadata)?;
        for (kind, choice) in [(Kind::Int8, &int8), (Kind::TensorRt, &tensorrt)] {
            draft.write(kind.file(), &choice.model.encode_to_vec())?;
        }
        Ok(Models { float, int8, tensorrt })
    }

    /// Verifies the models as they lie on the disk, and scores them.
    ///
    /// # Errors
    /// A file is not what was written, tract refuses it, or it disagrees with what it is held against.
    pub(super) fn verify(
        &self,
        draft: &Draft,
        models: &Models<'_>,
        timer: Timer<'_>,
        progress: &dyn Fn(&str),
    ) -> Result<Verified, ExportError> {
        let rows = &self.champion.split.validation;
        let classes = self.network.classes;

        progress("verifying the float model");
        let bytes = draft.read(FLOAT_FILE)?;
        verify::file(FLOAT_FILE, &bytes, &models.float)?;
        let logits = self.run(FLOAT_FILE, &bytes)?;
        let worker = "the worker's recorded logits";
        let difference =
            verify::float_logits(FLOAT_FILE, worker, &logits.validation, &self.recorded, classes, rows)?;
        let float = InTract {
            kind: Kind::Float,
            bytes,
            logits,
            difference,
            calibrations: Vec::new(),
            is_aware: false,
        };

        progress("verifying the int8 models");
        let int8 = self.verify_int8(draft, Kind::Int8, &models.int8)?;
        let tensorrt = self.verify_int8(draft, Kind::TensorRt, &models.tensorrt)?;

        progress("running the models in ONNX Runtime");
        let deployed = deploy::deploy(
            &[&float, &int8, &tensorrt].map(|found| Candidate {
                kind: found.kind,
                bytes: &found.bytes,
                validation: &found.logits.validation,
                test: &found.logits.test,
            }),
            self.features,
            [rows, &self.champion.split.test],
            classes,
            timer,
        )?;
        let all = float.logits.all();
        let [in_float, in_int8, in_tensorrt] = deployed;
        let float = self.measured(float, in_float, &all);
        let int8 = self.measured(int8, in_int8, &all);
        let tensorrt = self.measured(tensorrt, in_tensorrt, &all);

        progress("scoring the unpruned champion");
        let whole = pruning::Measured::new(self.champion, self.features)?;
        let gates = &self.champion.sweep.export;
        // What is lost is lost to the champion, whatever took it.
        let reference = match &whole {
            Some(whole) => float.figures().scoring_as(&whole.scored),
            None => float.figures(),
        };
        let shipped = gates::ship(reference, int8.figures(), gates);
        let figures = if shipped.kind == Kind::Float { float.figures() } else { int8.figures() };
        let missed = gates::missed(figures, reference, gates);
        if missed.is_empty() {
            Ok(Verified { float, int8, tensorrt, shipped, whole })
        } else {
            Err(ExportError::Gates(missed))
        }
    }

    fn verify_int8(&self, draft: &Draft, kind: Kind, choice: &Choice<'_>) -> Result<InTract, ExportError> {
        let (file, rows) = (kind.file(), &self.champion.split.validation);
        let bytes = draft.read(file)?;
        let found = verify::file(file, &bytes, &choice.model)?;
        let network = choice.way.network;
        verify::weights(file, &found, network)?;
        let logits = self.run(file, &bytes)?;
        let numbers = (network, &choice.quantised);
        let macs = self.cost.macs;
        let difference = verify::int8_logits(file, &logits.validation, numbers, macs, self.features, rows)?;
        let recorded = choice.way.recorded;
        // Workers round as ONNX Runtime's profile does.
        if let Some(recorded) = recorded.filter(|_| kind == Kind::Int8) {
            verify::rounded_logits(file, &logits.validation, recorded, network.classes, rows)?;
        }
        let (calibrations, is_aware) = (choice.attempts.clone(), choice.way.is_aware);
        Ok(InTract { kind, bytes, logits, difference, calibrations, is_aware })
    }

    fn measured(&self, found: InTract, deployed: Deployed, float: &[f32]) -> Measured {
        Measured {
            file: found.kind.file(),
            bytes: found.bytes.len() as u64,
            scored: self.scored(&found.logits),
            difference: found.difference,
            top1_agreement: verify::top1_agreement(self.network.classes, float, &found.logits.all()),
            calibrations: found.calibrations,
            is_aware: found.is_aware,
            deployed,
        }
    }

    /// Runs the shipped model as it lies on the disk under worse conditions.
    ///
    /// # Errors
    /// The front end or the model fails.
    pub(super) fn robustness(
        &self,
        draft: &Draft,
        verified: &Verified,
        recordings: Recordings<'_>,
    ) -> Result<Vec<Robustness>, ExportError> {
        let file = verified.shipped.file;
        let model = Model::load(file, &draft.read(file)?)?;
        let split = &self.champion.split;
        let rows = if split.test.is_empty() { &split.validation } else { &split.test };
        robustness::measure(self.champion, &model, rows, recordings)
    }

    /// Writes everything that is said about the models.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn describe(
        &self,
        draft: &mut Draft,
        verified: &Verified,
        robustness: &[Robustness],
    ) -> Result<(), ExportError> {
        let manifest = &self.champion.manifest;
        let report = Report::new(self.champion, verified, self.cost, robustness);
        let matrices =
            [&verified.float, &verified.int8].map(|measured| (measured.file, measured.scored.reported()));
        let picture = picture::confusion(&matrices, &manifest.classes);
        let front_end = pretty(FRONT_END_FILE, &manifest.front_end)?;
        draft.write(LABELS_FILE, (manifest.classes.join("\n") + "\n").as_bytes())?;
        draft.write(FRONT_END_FILE, &front_end)?;
        draft.write(INFER_FILE, INFER.as_bytes())?;
        if let Some(weights) = &self.champion.initial_weights {
            draft.write(INITIAL_WEIGHTS_FILE, weights)?;
        }
        if let Some(logits) = &self.champion.teacher {
            draft.write(TEACHER_FILE, logits)?;
        }
        self.golden(draft)?;
        draft.write("report.json", &pretty("report.json", &report)?)?;
        draft.write("report.md", report.markdown().as_bytes())?;
        draft.write("confusion.svg", picture.as_bytes())?;
        draft.write("report.html", page::page(&report, &matrices).as_bytes())?;
        let provenance =
            Provenance::new(self.champion, self.cost, draft.files(), verified, bundle::runtime_version()?);
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

    fn scored(&self, logits: &Logits) -> Scored {
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

/// A worker's logits of so many validation rows.
pub(super) fn recorded_logits(blob: &[u8], rows: usize, model: &AudioCnn) -> Result<Vec<f32>, ExportError> {
    const NAME: &str = "logits";
    let mut tensors = tensors::decode(blob).map_err(ExportError::Recorded)?;
    let logits =
        tensors.remove(NAME).ok_or_else(|| ExportError::Recorded(TensorsError::Missing(NAME.to_owned())))?;
    let expected = vec![rows, model.classes as usize];
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
