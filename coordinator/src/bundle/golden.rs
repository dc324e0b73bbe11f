//! Golden files: made-up clips with the features and logits that they have, in `golden/` of every bundle.
//!
//! `golden/golden.json` lists them with the differences allowed. An implementation of the front end proves itself by the
//! features of the waveforms, a runtime by the logits of the features, each apart from the other.

use std::{collections::BTreeMap, io::Cursor};

use earshot_common::frontend::FrontEnd;
use earshot_data::chain::Chain;
use ndarray::{Array1, Array2};
use ndarray_npy::{ReadNpyExt, ReadableElement, WritableElement, WriteNpyExt};
use serde::{Deserialize, Serialize};

use super::{Bundle, BundleError, Kind, Model, waveform};

const GOLDEN_FILE: &str = "golden/golden.json";
const FORMAT_VERSION: u32 = 1;

/// Difference of a coefficient allowed, in librosa's units; a step of 1 dB in all bands moves the first by 11. Ours are within 1e-3
/// of librosa's; what is left is for other machines' transforms.
const FEATURES_TOLERANCE: f32 = 5e-3;

/// Differences of a logit allowed, as a part of the clip's largest. Floats differ by the order of sums; in int8, a sum on the
/// edge between two steps falls to either side, and so do all that follow from it.
const FLOAT_TOLERANCE: f32 = 1e-3;
const INT8_TOLERANCE: f32 = 6e-2;

/// The clips: silence at either end and sound between, as parts of the front end's fixed length. One is trimmed and filled up,
/// the other cut.
const CLIPS: [(&str, f64, f64); 2] = [("short", 0.1, 0.4), ("long", 0.0, 1.1)];

/// The contents of [`GOLDEN_FILE`].
#[derive(Debug, Serialize, Deserialize)]
struct Golden {
    format_version: u32,
    /// Largest difference of a coefficient.
    features_tolerance: f32,
    /// By model: largest difference of a logit, as a part of the clip's largest.
    logits_tolerance: BTreeMap<String, f32>,
    clips: Vec<GoldenClip>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GoldenClip {
    /// WAV at the front end's rate.
    waveform: String,
    /// `(n_mfcc, frames)`, as the models read them.
    features: String,
    /// By model: `(classes)` of these features.
    logits: BTreeMap<String, String>,
}

/// One of the files.
pub(crate) struct GoldenFile {
    /// Name in the bundle.
    pub(crate) name: String,
    /// Contents.
    pub(crate) bytes: Vec<u8>,
}

/// One thing that was held against its golden file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The golden file.
    pub file: String,
    /// Numbers compared.
    pub numbers: usize,
    /// Largest difference; infinite if there are not as many numbers.
    pub difference: f32,
    /// Largest one allowed.
    pub tolerance: f32,
}

impl Comparison {
    fn new(file: &str, found: &[f32], expected: &[f32], tolerance: f32) -> Self {
        let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
        // What is not a number is as far away as can be.
        let largest = differences.fold(0.0_f32, |largest, difference| {
            if difference.is_nan() { f32::INFINITY } else { largest.max(difference) }
        });
        let difference = if found.len() == expected.len() { largest } else { f32::INFINITY };
        Self { file: file.to_owned(), numbers: expected.len(), difference, tolerance }
    }

    /// Whether it is within the tolerance.
    pub fn holds(&self) -> bool {
        self.difference <= self.tolerance
    }
}

/// Makes the golden files of a front end and its models.
///
/// # Errors
/// The front end or a model fails.
pub(crate) fn golden_files(
    front_end: &FrontEnd,
    models: &[(Kind, Model)],
) -> Result<Vec<GoldenFile>, BundleError> {
    let mut chain = Chain::new(front_end)?;
    let mut golden = Golden {
        format_version: FORMAT_VERSION,
        features_tolerance: FEATURES_TOLERANCE,
        logits_tolerance: models.iter().map(|(kind, _)| (kind.file().to_owned(), tolerance(*kind))).collect(),
        clips: Vec::new(),
    };
    let mut files = Vec::new();
    for (clip, silence, sound) in CLIPS {
        let samples = |part: f64| (part * front_end.samples() as f64) as usize;
        let samples = waveform::samples(front_end.sample_rate_hz, samples(silence), samples(sound));
        let mut add = |name: String, bytes| {
            files.push(GoldenFile { name: name.clone(), bytes });
            name
        };
        let wav = waveform::wav(front_end.sample_rate_hz, &samples);
        let features = features(&mut chain, &wav)?;
        let shape = models.first().map_or([0, 0], |(_, model)| model.shape());
        let features: Vec<f32> = features.into_iter().take(shape.iter().product()).collect();
        let mut logits = BTreeMap::new();
        for (kind, model) in models {
            let name = format!("golden/{clip}.{}.npy", kind.file().trim_end_matches(".onnx"));
            let values = npy(&Array1::from(model.logits(&features)?), &name)?;
            logits.insert(kind.file().to_owned(), add(name, values));
        }
        let name = format!("golden/{clip}.features.npy");
        let matrix = Array2::from_shape_vec(shape, features).map_err(|error| corrupt(&name, &error))?;
        let features = npy(&matrix, &name)?;
        let features = add(name, features);
        golden.clips.push(GoldenClip { waveform: add(format!("golden/{clip}.wav"), wav), features, logits });
    }
    let bytes = serde_json::to_vec_pretty(&golden).map_err(|error| corrupt(GOLDEN_FILE, &error))?;
    files.push(GoldenFile { name: GOLDEN_FILE.to_owned(), bytes });
    Ok(files)
}

/// Holds this build's front end and runtime against a bundle's golden files.
///
/// # Errors
/// A file of the bundle is not what was exported, or cannot be used.
pub fn check(bundle: &Bundle) -> Result<Vec<Comparison>, BundleError> {
    let golden = golden(bundle)?;
    let mut chain = Chain::new(bundle.front_end())?;
    let mut comparisons = Vec::new();
    for clip in &golden.clips {
        let expected: Array2<f32> = array(bundle, &clip.features)?;
        let expected: Vec<f32> = expected.into_iter().collect();
        let wav = bundle.read(&clip.waveform)?;
        let found: Vec<f32> = features(&mut chain, &wav)?.into_iter().take(expected.len()).collect();
        comparisons.push(Comparison::new(&clip.features, &found, &expected, golden.features_tolerance));
    }
    for kind in bundle.kinds() {
        let model = bundle.model(kind)?;
        comparisons.extend(check_logits(bundle, kind, |features| model.logits(features))?);
    }
    Ok(comparisons)
}

/// Holds what `logits` makes of the golden features against one model's golden logits.
///
/// # Errors
/// As [`check`], and those of `logits`.
pub(super) fn check_logits(
    bundle: &Bundle,
    kind: Kind,
    mut logits: impl FnMut(&[f32]) -> Result<Vec<f32>, BundleError>,
) -> Result<Vec<Comparison>, BundleError> {
    let golden = golden(bundle)?;
    let relative = golden.logits_tolerance.get(kind.file()).copied().unwrap_or(0.0);
    let mut comparisons = Vec::new();
    for clip in &golden.clips {
        let features: Array2<f32> = array(bundle, &clip.features)?;
        let features: Vec<f32> = features.into_iter().collect();
        let file = clip.logits.get(kind.file());
        let file = file.ok_or_else(|| corrupt(GOLDEN_FILE, &format!("no logits of {}", kind.file())))?;
        let expected: Array1<f32> = array(bundle, file)?;
        let expected = expected.to_vec();
        let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
        comparisons.push(Comparison::new(file, &logits(&features)?, &expected, relative * largest));
    }
    Ok(comparisons)
}

fn golden(bundle: &Bundle) -> Result<Golden, BundleError> {
    serde_json::from_slice(&bundle.read(GOLDEN_FILE)?).map_err(|error| corrupt(GOLDEN_FILE, &error))
}

fn tolerance(kind: Kind) -> f32 {
    match kind {
        Kind::Float => FLOAT_TOLERANCE,
        Kind::Int8 | Kind::TensorRt => INT8_TOLERANCE,
    }
}

/// All of the front end's coefficients of a WAV file.
fn features(chain: &mut Chain, wav: &[u8]) -> Result<Vec<f32>, BundleError> {
    let waveform = chain.waveform(wav).map_err(|error| corrupt("golden", &error))?;
    Ok(chain.features(&waveform).iter().copied().collect())
}

fn npy<D: ndarray::Dimension>(
    array: &ndarray::Array<impl WritableElement, D>,
    name: &str,
) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).map_err(|error| corrupt(name, &error))?;
    Ok(bytes)
}

fn array<T: ReadableElement, D: ndarray::Dimension>(
    bundle: &Bundle,
    name: &str,
) -> Result<ndarray::Array<T, D>, BundleError> {
    ndarray::Array::read_npy(Cursor::new(bundle.read(name)?)).map_err(|error| corrupt(name, &error))
}

fn corrupt(name: &str, what: &impl ToString) -> BundleError {
    BundleError::Corrupt { path: name.into(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_decides() {
        let compare = |found: &[f32]| Comparison::new("x", found, &[1.0, 2.0], 0.1).holds();
        assert!(compare(&[1.05, 1.95]));
        for wrong in [&[1.0, 2.2][..], &[f32::NAN, 2.0], &[1.0], &[1.0, 2.0, 3.0]] {
            assert!(!compare(wrong), "{wrong:?}");
        }
    }
}
