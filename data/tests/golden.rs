//! Against librosa 0.11, soundfile and scikit-learn: `golden/make.py` made the expected numbers.

#![expect(clippy::unwrap_used, reason = "a golden file that cannot be read fails its test")]

use std::{
    f64::consts::TAU,
    fs,
    path::{Path, PathBuf},
};

use earshot_common::frontend::FrontEnd;
use earshot_data::{condition, decode, mfcc::Extractor, resample, split};
use ndarray::Array2;
use serde::{Deserialize, de::DeserializeOwned};

/// Largest difference allowed between decibels, and between coefficients.
const TOLERANCE_DB: f32 = 1e-3;

/// Largest difference allowed between samples of a lossless format: the JSON has seven digits.
const TOLERANCE: f32 = 1e-6;

/// −60 dB.
const RESAMPLED_TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Signal {
    file: String,
    sample_rate_hz: u32,
    load: Sampled,
    resampled: Resampled,
    trim: Vec<Trim>,
    normalize: Sampled,
    features: Vec<Features>,
}

#[derive(Deserialize)]
struct Sampled {
    length: usize,
    step: usize,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Resampled {
    to_hz: u32,
    #[serde(flatten)]
    samples: Sampled,
}

#[derive(Deserialize)]
struct Multitone {
    from_hz: u32,
    to_hz: u32,
    #[serde(flatten)]
    expected: Sampled,
}

#[derive(Deserialize)]
struct Trim {
    top_db: f32,
    start: usize,
    end: usize,
}

#[derive(Deserialize)]
struct Features {
    n_fft: u32,
    hop_length: u32,
    n_mels: u16,
    n_mfcc: u16,
    htk: bool,
    spectrogram_db: Columns,
    mel_db: Columns,
    mfcc: Columns,
}

#[derive(Deserialize)]
struct Columns {
    shape: [usize; 2],
    #[serde(rename = "columns")]
    at: Vec<usize>,
    row_step: usize,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Holdout {
    rows: u32,
    classes: u32,
    test_size: f64,
    seed: u32,
    train: Vec<u32>,
    test: Vec<u32>,
    then_train: Vec<u32>,
    then_validation: Vec<u32>,
}

fn golden<T: DeserializeOwned>(file: &str) -> T {
    serde_json::from_slice(&fs::read(folder().join(file)).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The signals, each with what this crate loads of it.
fn signals() -> Vec<(Signal, Vec<f32>)> {
    let load = |signal: Signal| {
        let audio = decode::decode(&fs::read(folder().join("signals").join(&signal.file)).unwrap()).unwrap();
        assert_eq!(audio.sample_rate_hz, signal.sample_rate_hz, "{}", signal.file);
        let mono = resample::to_mono(audio.samples, audio.channels);
        (signal, mono)
    };
    golden::<Vec<Signal>>("signals.json").into_iter().map(load).collect()
}

/// Whether a file's codec may differ between decoders in the last bits.
fn is_lossy(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "ogg" || extension == "mp3")
}

fn check_samples(name: &str, samples: &[f32], expected: &Sampled, tolerance: f32) {
    assert_eq!(samples.len(), expected.length, "{name}");
    for (at, (found, expected)) in samples.iter().step_by(expected.step).zip(&expected.values).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{name}, value {at}: {found} instead of {expected}");
    }
}

fn check_columns(name: &str, found: &Array2<f32>, expected: &Columns) {
    assert_eq!(found.dim(), expected.shape.into(), "{name}");
    let rows = (0..expected.shape[0]).step_by(expected.row_step);
    let places: Vec<_> = rows.flat_map(|row| expected.at.iter().map(move |column| (row, *column))).collect();
    assert_eq!(places.len(), expected.values.len(), "{name}");
    for (place, expected) in places.into_iter().zip(&expected.values) {
        let difference = (found[place] - expected).abs();
        assert!(difference <= TOLERANCE_DB, "{name} at {place:?}: {} instead of {expected}", found[place]);
    }
}

#[test]
fn loading_is_librosas() {
    for (signal, samples) in signals() {
        let tolerance = if is_lossy(&signal.file) { 2e-5 } else { TOLERANCE };
        check_samples(&signal.file, &samples, &signal.load, tolerance);
    }
}

#[test]
fn resampling_is_within_60_db_of_soxr() {
    // Signals with a step or noise up to the Nyquist frequency differ in how the filters ring, by design of either.
    let band_limited =
        |file: &str| ["chirp", "stereo", "float", "double"].iter().any(|name| file.starts_with(name));
    for (signal, samples) in signals() {
        let Resampled { to_hz, samples: expected } = &signal.resampled;
        let resampled = resample::Resampler::new(*to_hz).resample(samples, signal.sample_rate_hz).unwrap();
        let tolerance = if band_limited(&signal.file) { RESAMPLED_TOLERANCE } else { f32::INFINITY };
        check_samples(&signal.file, &resampled, expected, tolerance);
    }
}

/// `golden/make.py`'s multitone: eight tones up to 0.9 of the lower Nyquist frequency, fading in and out.
fn multitone(rate_hz: u32, to_hz: u32) -> Vec<f32> {
    let samples = (f64::from(rate_hz) * 0.25) as usize;
    let top_hz = 0.9 * f64::from(rate_hz.min(to_hz)) / 2.0;
    let tones = |i: usize| -> f64 {
        let t = i as f64 / f64::from(rate_hz);
        (1..=8).map(|k| 0.1 * (TAU * top_hz * f64::from(k) / 8.0 * t + f64::from(k)).sin()).sum()
    };
    let ramp = |i: usize| (i as f64 / (0.1 * samples as f64)).min(1.0);
    (0..samples).map(|i| (tones(i) * ramp(i) * ramp(samples - 1 - i)) as f32).collect()
}

#[test]
fn resampling_passes_the_passband_as_soxr_does() {
    for Multitone { from_hz, to_hz, expected } in golden::<Vec<Multitone>>("resampled.json") {
        let resampled = resample::Resampler::new(to_hz).resample(multitone(from_hz, to_hz), from_hz).unwrap();
        let peak = condition::peak(&resampled);
        assert!(peak > 0.4, "{from_hz} to {to_hz} Hz is too quiet a test: {peak}");
        check_samples(&format!("{from_hz} to {to_hz} Hz"), &resampled, &expected, RESAMPLED_TOLERANCE * peak);
    }
}

#[test]
fn trimming_is_librosas_to_the_sample() {
    for (signal, samples) in signals() {
        for Trim { top_db, start, end } in signal.trim {
            assert_eq!(condition::trim_range(&samples, top_db), start..end, "{} at {top_db} dB", signal.file);
        }
    }
}

#[test]
fn normalising_is_librosas() {
    for (signal, mut samples) in signals() {
        condition::normalise(&mut samples);
        let tolerance = if is_lossy(&signal.file) { 2e-5 } else { TOLERANCE };
        check_samples(&signal.file, &samples, &signal.normalize, tolerance);
    }
}

#[test]
fn features_are_librosas() {
    for (signal, samples) in signals() {
        for expected in &signal.features {
            let front_end = FrontEnd {
                sample_rate_hz: signal.sample_rate_hz,
                n_fft: expected.n_fft,
                hop_length: expected.hop_length,
                n_mels: expected.n_mels,
                n_mfcc: expected.n_mfcc,
                htk: expected.htk,
                ..FrontEnd::default()
            };
            let mut extractor = Extractor::new(&front_end).unwrap();
            let (n_fft, htk) = (expected.n_fft, expected.htk);
            let name = |what: &str| format!("{what} of {} at n_fft {n_fft}, htk {htk}", signal.file);
            check_columns(
                &name("spectrogram"),
                &extractor.spectrogram_db(&samples),
                &expected.spectrogram_db,
            );
            check_columns(&name("mel"), &extractor.mel_db(&samples), &expected.mel_db);
            let mfcc = extractor.mfcc(&samples, usize::from(expected.n_mfcc));
            check_columns(&name("mfcc"), &mfcc, &expected.mfcc);
        }
    }
}

#[test]
fn holdout_is_scikit_learns_index_for_index() {
    for case in golden::<Vec<Holdout>>("splits.json") {
        let labels: Vec<u16> = (0..case.rows).map(|i| ((i * i + i / 3) % case.classes) as u16).collect();
        let (train, test) = split::train_test_split(&labels, case.test_size, case.seed).unwrap();
        assert_eq!((train, test.clone()), (case.train, case.test), "{} rows", case.rows);
        let split = split::Split::holdout(&labels, 0.25, case.test_size, case.seed).unwrap();
        let found = (split.train, split.validation, split.test);
        assert_eq!(found, (case.then_train, case.then_validation, test), "{} rows", case.rows);
    }
}
