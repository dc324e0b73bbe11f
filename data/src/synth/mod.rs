//! A made-up dataset in ESC-50's layout, for demonstrations and tests.
//!
//! Ten classes of sounds ([`CLASSES`]), made to be told apart by a good small network and confused by a bad one: classes overlap
//! (clicks, pulses and crackle; upward and downward chirps), and every clip has its own background, level, timing and padding.
//! Some clips are takes of one source, which share all that makes it recognisable and stay in one fold, as ESC-50's do.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    dataset::esc50,
    file,
    prepare::{ClipOutcome, Progress},
};

mod sound;

pub use sound::CLASSES;

/// Folds, as in ESC-50.
const FOLDS: u32 = 5;

/// Clips of a class at most; takes are told apart by letters, sources by numbers, neither of which runs out before.
const CLIPS_PER_CLASS_MAX: u32 = 10_000;

/// The first source's number: six digits, as freesound's.
const FIRST_SOURCE: u32 = 100_000;

/// Says whose folder this is, and what is in it.
const MARKER: &str = ".earshot-synth.json";

/// What to make up.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    /// The dataset's folder, made if need be.
    pub out: PathBuf,
    /// Clips of each of the ten classes, from 1 to 10,000.
    pub clips_per_class: u32,
    /// The same seed gives the same files, byte for byte, on the same kind of machine.
    pub seed: u64,
    /// Rate of the files in hertz, from 8,000 to 192,000.
    pub sample_rate_hz: u32,
    /// Length of every clip in seconds, from 0.5 to 60.
    pub duration_s: f64,
}

impl SynthOptions {
    /// ESC-10's size and ESC-50's format: 40 clips a class, 5 s at 44.1 kHz.
    pub fn new(out: PathBuf) -> Self {
        Self { out, clips_per_class: 40, seed: 42, sample_rate_hz: 44_100, duration_s: 5.0 }
    }
}

/// Why nothing was made up.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The folder holds something else.
    #[error("{0} holds files that are not of a made-up dataset: choose an empty folder")]
    NotOurs(PathBuf),
    /// The folder holds another made-up dataset.
    #[error("{0} holds a dataset made up with other options: remove it, or choose another folder")]
    OtherOptions(PathBuf),
    /// An option out of range.
    #[error("{name} must be from {least} to {most}, got {value}")]
    Option {
        /// The option.
        name: &'static str,
        /// Smallest value.
        least: f64,
        /// Largest value.
        most: f64,
        /// What it is.
        value: f64,
    },
    /// The file system refused.
    #[error("cannot write {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the marker remembers: all that decides the files.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    clips_per_class: u32,
    seed: u64,
    sample_rate_hz: u32,
    duration_s: f64,
}

/// One clip to make.
struct Clip {
    class: usize,
    source: u32,
    take: u32,
    fold: u32,
}

impl Clip {
    fn name(&self) -> String {
        format!("{}-{}-{}-{}", self.fold, self.source, self.letter(), self.class)
    }

    fn letter(&self) -> char {
        char::from_u32(u32::from('A') + self.take).unwrap_or('Z')
    }
}

/// Writes the dataset; clips that an interrupted run has made already are kept.
///
/// # Errors
/// An option is out of range, the folder holds something else, or the disk refuses.
pub fn synth(options: &SynthOptions, progress: &dyn Progress) -> Result<(), SynthError> {
    check(options)?;
    claim(options)?;
    let audio = options.out.join(esc50::AUDIO);
    let list = options.out.join(esc50::LIST);
    for folder in [Some(audio.as_path()), list.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(io_at(folder))?;
    }
    file::sweep(&audio).map_err(io_at(&audio))?;
    let clips = plan(options);
    progress.start(clips.len() as u64);
    clips.par_iter().try_for_each(|clip| {
        let path = audio.join(format!("{}.wav", clip.name()));
        let outcome = if path.exists() {
            ClipOutcome::Kept
        } else {
            let samples =
                sound::render(clip.class, rng(options, clip), options.sample_rate_hz, options.duration_s);
            file::write_whole(&path, |file| write_wav(file, &samples, options.sample_rate_hz))
                .map_err(io_at(&path))?;
            ClipOutcome::Made
        };
        progress.clip_done(&clip.name(), outcome);
        Ok(())
    })?;
    file::write_whole(&list, |file| write_list(file, &clips)).map_err(io_at(&list))
}

/// Sources of one to three takes, each in the fold that is shortest of its class; clips in the order of their names' numbers.
fn plan(options: &SynthOptions) -> Vec<Clip> {
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let (mut clips, mut source) = (Vec::new(), FIRST_SOURCE);
    for class in 0..CLASSES.len() {
        let mut in_fold = vec![0_u32; FOLDS as usize];
        let mut left = options.clips_per_class;
        while left > 0 {
            // As in ESC-50, about two clips in five share their source.
            let takes = [1, 1, 1, 1, 2, 3].get(random.random_range(0..6)).copied().unwrap_or(1).min(left);
            let Some((fold, count)) = (1..).zip(&mut in_fold).min_by_key(|(_, count)| **count) else {
                break;
            };
            *count += takes;
            clips.extend((0..takes).map(|take| Clip { class, source, take, fold }));
            left -= takes;
            source += 1;
        }
    }
    clips.sort_by_key(|clip| (clip.fold, clip.source, clip.take));
    clips
}

/// Two streams of numbers for a clip: its source's, the same for every take, and its own.
fn rng(options: &SynthOptions, clip: &Clip) -> [ChaCha8Rng; 2] {
    let stream = |take: u32| {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(u64::from(clip.source) << 8 | u64::from(take));
        random
    };
    [stream(0), stream(clip.take + 1)]
}

fn check(options: &SynthOptions) -> Result<(), SynthError> {
    let limits = [
        ("clips_per_class", 1.0, f64::from(CLIPS_PER_CLASS_MAX), f64::from(options.clips_per_class)),
        ("sample_rate_hz", 8_000.0, 192_000.0, f64::from(options.sample_rate_hz)),
        ("duration_s", 0.5, 60.0, options.duration_s),
    ];
    match limits.into_iter().find(|(_, least, most, value)| !(least..=most).contains(&value)) {
        Some((name, least, most, value)) => Err(SynthError::Option { name, least, most, value }),
        None => Ok(()),
    }
}

/// Takes the folder if it is empty or was taken for the same options before.
fn claim(options: &SynthOptions) -> Result<(), SynthError> {
    let out = &options.out;
    fs::create_dir_all(out).map_err(io_at(out))?;
    let marker = Marker {
        version: sound::VERSION,
        clips_per_class: options.clips_per_class,
        seed: options.seed,
        sample_rate_hz: options.sample_rate_hz,
        duration_s: options.duration_s,
    };
    let path = out.join(MARKER);
    match fs::read(&path) {
        Ok(bytes) if serde_json::from_slice(&bytes).is_ok_and(|found: Marker| found == marker) => Ok(()),
        Ok(_) => Err(SynthError::OtherOptions(out.clone())),
        Err(_) if fs::read_dir(out).map_err(io_at(out))?.next().is_some() => {
            Err(SynthError::NotOurs(out.clone()))
        }
        Err(_) => {
            file::write_whole(&path, |file| serde_json::to_writer(file, &marker).map_err(io::Error::from))
                .map_err(io_at(&path))
        }
    }
}

fn write_wav(file: &mut (impl Write + io::Seek), samples: &[f32], sample_rate: u32) -> io::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(file, spec).map_err(io::Error::other)?;
    for sample in samples {
        let level = (sample * f32::from(i16::MAX)).round() as i16;
        writer.write_sample(level).map_err(io::Error::other)?;
    }
    writer.finalize().map_err(io::Error::other)
}

fn write_list(file: impl Write, clips: &[Clip]) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(["filename", "fold", "target", "category", "esc10", "src_file", "take"])?;
    for clip in clips {
        let row = [
            format!("{}.wav", clip.name()),
            clip.fold.to_string(),
            clip.class.to_string(),
            CLASSES.get(clip.class).copied().unwrap_or_default().to_owned(),
            "False".to_owned(),
            clip.source.to_string(),
            clip.letter().to_string(),
        ];
        writer.write_record(row)?;
    }
    writer.flush()
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> SynthError {
    let path = path.to_owned();
    move |source| SynthError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        dataset::Dataset,
        decode,
        manifest::ClipEntry,
        split::{Split, SplitPart},
    };

    fn options(out: &Path) -> SynthOptions {
        SynthOptions {
            clips_per_class: 10,
            sample_rate_hz: 8_000,
            duration_s: 1.0,
            ..SynthOptions::new(out.to_owned())
        }
    }

    fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
        let paths = fs::read_dir(out.join("audio")).unwrap().map(|entry| entry.unwrap().path());
        paths
            .map(|path| (path.file_name().unwrap().to_string_lossy().into(), fs::read(&path).unwrap()))
            .collect()
    }

    #[test]
    fn it_is_a_dataset_whose_folds_keep_sources_together() {
        let folder = tempfile::tempdir().unwrap();
        synth(&options(folder.path()), &()).unwrap();
        let dataset = Dataset::read(folder.path()).unwrap();
        assert!(dataset.problems.is_empty(), "{:?}", dataset.problems);
        assert_eq!((dataset.classes, dataset.clips.len()), (CLASSES.map(str::to_owned).to_vec(), 100));
        let entries: Vec<ClipEntry> = dataset
            .clips
            .iter()
            .map(|clip| ClipEntry {
                name: clip.name.clone(),
                class: clip.class,
                fold: clip.fold,
                source: clip.source.clone(),
                content: earshot_common::ids::BlobId::of(b""),
            })
            .collect();
        let split = Split::by_folds(&entries, 1, &[2]).unwrap();
        assert!(split.shared_sources(&entries).is_empty());
        let blind =
            Split::holdout(&entries.iter().map(|clip| clip.class).collect::<Vec<_>>(), 0.2, 0.0, 42).unwrap();
        assert!(blind.shared_sources(&entries).values().any(|parts| parts.contains(&SplitPart::Validation)));
        for clip in dataset.clips {
            let audio = decode::decode(&fs::read(&clip.path).unwrap()).unwrap();
            assert_eq!((audio.sample_rate_hz, audio.samples.len()), (8_000, 8_000));
            assert!(crate::condition::peak(&audio.samples) > 0.01, "{} is silent", clip.name);
        }
    }

    #[test]
    fn a_seed_decides_every_byte() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        for (folder, seed) in folders.iter().zip([1, 1, 2]) {
            synth(&SynthOptions { seed, clips_per_class: 2, ..options(folder.path()) }, &()).unwrap();
        }
        let [a, b, c] = [0, 1, 2].map(|i| files(folders[i].path()));
        assert!(a == b && a != c);
    }

    #[test]
    fn an_interrupted_run_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        synth(&options(folder.path()), &()).unwrap();
        let before = files(folder.path());
        let some = before.keys().nth(5).unwrap();
        fs::remove_file(folder.path().join("audio").join(some)).unwrap();
        synth(&options(folder.path()), &()).unwrap();
        assert!(before == files(folder.path()));
    }

    #[test]
    fn other_peoples_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), b"").unwrap();
        assert!(matches!(synth(&options(folder.path()), &()), Err(SynthError::NotOurs(_))));
        fs::remove_file(folder.path().join("thesis.txt")).unwrap();
        synth(&options(folder.path()), &()).unwrap();
        let other = SynthOptions { seed: 7, ..options(folder.path()) };
        assert!(matches!(synth(&other, &()), Err(SynthError::OtherOptions(_))));
        let wrong = SynthOptions { duration_s: 0.1, ..options(folder.path()) };
        let message = synth(&wrong, &()).unwrap_err().to_string();
        assert_eq!(message, "duration_s must be from 0.5 to 60, got 0.1");
    }
}
