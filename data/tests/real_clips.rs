//! Against librosa on real clips, where they are: `golden/make.py DATASET > clips.json` makes the expected numbers, and
//! `EARSHOT_GOLDEN_CLIPS=clips.json` names them. The decoder alone is tested on every clip of `../shared/esc10`, relative to
//! the workspace. Both skip, and say so, where there is nothing to test on.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use earshot_common::frontend::FrontEnd;
use earshot_data::{chain::Chain, condition, dataset::Dataset, decode, resample};
use serde::Deserialize;

#[derive(Deserialize)]
struct Clip {
    path: PathBuf,
    samples: usize,
    start: usize,
    end: usize,
    mfcc: Vec<f32>,
    spectrogram_db: Vec<f32>,
    fixed_mfcc: Vec<f32>,
}

fn esc10() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/esc10")
}

fn largest_difference(found: impl ExactSizeIterator<Item = f32>, expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn the_chain_is_librosas_on_real_clips() {
    let Some(path) = env::var_os("EARSHOT_GOLDEN_CLIPS") else {
        eprintln!("skipped: EARSHOT_GOLDEN_CLIPS does not name a file made by tests/golden/make.py");
        return;
    };
    let clips: Vec<Clip> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let front_end = FrontEnd::default();
    let mut chain = Chain::new(&front_end).unwrap();
    let (mut mfcc, mut spectrogram, mut fixed) = (0.0_f32, 0.0_f32, 0.0_f32);
    for clip in &clips {
        let bytes = fs::read(&clip.path).unwrap();
        let audio = decode::decode(&bytes).unwrap();
        let samples = resample::to_mono(audio.samples, audio.channels);
        assert_eq!(samples.len(), clip.samples, "{}", clip.path.display());
        assert_eq!(condition::trim_range(&samples, 60.0), clip.start..clip.end, "{}", clip.path.display());
        let clean = chain.waveform(&bytes).unwrap();
        mfcc = mfcc.max(largest_difference(chain.extractor().mfcc(&clean, 13).into_iter(), &clip.mfcc));
        let found = chain.extractor().spectrogram_db(&clean);
        let found = found.slice(ndarray::s![..;7, ..;5]).to_owned();
        spectrogram = spectrogram.max(largest_difference(found.into_iter(), &clip.spectrogram_db));
        let found = chain.features(&clean).slice(ndarray::s![.., ..;3]).to_owned();
        fixed = fixed.max(largest_difference(found.into_iter(), &clip.fixed_mfcc));
    }
    println!("{} clips: MFCC {mfcc:.1e}, dB {spectrogram:.1e}, fixed-length MFCC {fixed:.1e}", clips.len());
    // Two Vorbis decoders differ by 5e-7 of full scale, which is heard in the quietest bins of a spectrogram.
    let lossy = clips.iter().any(|clip| clip.path.extension().is_some_and(|extension| extension == "ogg"));
    assert!(mfcc <= 1e-3 && fixed <= 1e-3 && spectrogram <= if lossy { 5e-3 } else { 1e-3 });
}

#[test]
fn every_real_clip_decodes_and_no_half_of_one_does() {
    let root = esc10();
    if !root.is_dir() {
        eprintln!("skipped: there are no real clips at {}", root.display());
        return;
    }
    let dataset = Dataset::read(&root).unwrap();
    assert!(dataset.problems.is_empty(), "{:?}", dataset.problems);
    for clip in dataset.clips {
        let bytes = fs::read(&clip.path).unwrap();
        let audio = decode::decode(&bytes).unwrap();
        assert_eq!((audio.sample_rate_hz, audio.channels), (44_100, 1), "{}", clip.name);
        let half = decode::decode(&bytes[..bytes.len() / 2]);
        assert!(matches!(half, Err(decode::DecodeError::Truncated { .. })), "{}: {half:?}", clip.name);
    }
}
