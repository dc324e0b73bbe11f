//! The quality report's numbers against numpy, soundfile and librosa: `golden/make_quality.py` made the expected ones.

use std::{fs, path::PathBuf};

use earshot_data::{
    decode,
    quality::{Levels, Measures},
    resample,
};
use serde::Deserialize;

/// Largest difference allowed between decibels and between means.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Expected {
    file: String,
    sample_rate_hz: u32,
    channels: u32,
    duration_s: f64,
    peak_dbfs: Option<f64>,
    rms_dbfs: Option<f64>,
    clipped_samples: u64,
    clipped_runs: u64,
    dc_offset: f64,
    leading_silence_s: f64,
    trailing_silence_s: f64,
    noise_floor_dbfs: Option<f64>,
}

#[test]
fn measures_are_numpys_and_librosas() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let signals: Vec<Expected> =
        serde_json::from_slice(&fs::read(golden.join("quality.json")).unwrap()).unwrap();
    assert!(signals.len() >= 17);
    for expected in signals {
        let audio = decode::decode(&fs::read(golden.join("signals").join(&expected.file)).unwrap()).unwrap();
        let (levels, rate) = (Levels::new(&audio), audio.sample_rate_hz);
        let found = Measures::new(levels, &resample::to_mono(audio.samples, audio.channels), rate, 60.0);
        check(&found, &expected);
    }
}

fn check(found: &Measures, expected: &Expected) {
    let file = &expected.file;
    assert_eq!(
        (found.sample_rate_hz, found.channels),
        (expected.sample_rate_hz, expected.channels),
        "{file}"
    );
    assert_eq!(found.clipped_samples, expected.clipped_samples, "{file}");
    assert_eq!(found.clipped_runs, expected.clipped_runs, "{file}");
    for (what, found, expected) in [
        ("duration", Some(found.duration_s), Some(expected.duration_s)),
        ("peak", found.peak_dbfs, expected.peak_dbfs),
        ("RMS", found.rms_dbfs, expected.rms_dbfs),
        ("offset", Some(found.dc_offset), Some(expected.dc_offset)),
        ("leading silence", Some(found.leading_silence_s), Some(expected.leading_silence_s)),
        ("trailing silence", Some(found.trailing_silence_s), Some(expected.trailing_silence_s)),
        ("noise floor", found.noise_floor_dbfs, expected.noise_floor_dbfs),
    ] {
        let is_near = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
            (found, expected) => found == expected,
        };
        assert!(is_near, "{what} of {file}: {found:?} instead of {expected:?}");
    }
}
