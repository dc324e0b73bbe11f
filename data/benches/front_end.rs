//! How long the front end takes on one thread, stage by stage, on real clips.
//!
//! ```text
//! cargo bench -p earshot-data --bench front_end
//! cargo bench -p earshot-data --bench front_end -- --data path/to/ESC-50 --rounds 5 --format json
//! ```
//!
//! Stages are those that librosa has a call for, so that `benches/librosa.py` can time the same ones on the same clips.

#![expect(clippy::unwrap_used, reason = "a clip that cannot be read ends the benchmark")]

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use earshot_common::frontend::FrontEnd;
use earshot_data::{chain::Chain, condition, dataset::Dataset, decode::Decoder, mfcc::Extractor, resample};

/// Coefficients of the timed MFCC.
const N_MFCC: u16 = 13;

/// Time of each stage, summed over the clips.
type Stages = BTreeMap<&'static str, Duration>;

/// What the command line asks for.
struct Arguments {
    data: PathBuf,
    clips: usize,
    rounds: usize,
    format: Format,
}

#[derive(PartialEq)]
enum Format {
    Table,
    Json,
}

impl Arguments {
    /// Flags are pairs of name and value; `--bench` is cargo's own and has none.
    fn parse() -> Self {
        let mut arguments = Self { data: esc10(), clips: 100, rounds: 5, format: Format::Table };
        let mut given = env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(flag) = given.next() {
            let value = given.next().unwrap_or_default();
            match flag.as_str() {
                "--data" => arguments.data = value.into(),
                "--clips" => arguments.clips = value.parse().unwrap(),
                "--rounds" => arguments.rounds = value.parse().unwrap(),
                "--format" if value == "json" => arguments.format = Format::Json,
                _ => eprintln!("ignored: {flag} {value}"),
            }
        }
        arguments
    }
}

/// The real clips, where they are: beside the workspace.
fn esc10() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/esc10")
}

/// Times a stage, and hands on what it made.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn time<T>(stages: &mut Stages, stage: &'static str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let made = black_box(work());
    *stages.entry(stage).or_default() += started.elapsed();
    made
}

/// Every stage once on every clip.
fn round(files: &[Vec<u8>], front_end: &FrontEnd) -> Stages {
    let mut chain = Chain::new(front_end).unwrap();
    let mut decoder = Decoder::default();
    let mut extractor = Extractor::new(front_end).unwrap();
    let mut stages = Stages::new();
    for bytes in files {
        let audio = time(&mut stages, "load", || decoder.decode(bytes)).unwrap();
        let mono = resample::to_mono(audio.samples, audio.channels);
        let clean = time(&mut stages, "trim", || condition::clean(mono, front_end)).unwrap();
        let fixed = condition::fixed_length(&clean, front_end);
        time(&mut stages, "mfcc", || extractor.mfcc(&fixed, usize::from(N_MFCC)));
        time(&mut stages, "spectrogram", || extractor.spectrogram_db(&fixed));
        time(&mut stages, "chain", || {
            let waveform = chain.waveform(bytes).unwrap();
            chain.features(&waveform)
        });
    }
    stages
}

fn main() {
    let arguments = Arguments::parse();
    let Ok(dataset) = Dataset::read(&arguments.data) else {
        eprintln!("skipped: no recordings in {}; name some with --data DIR", arguments.data.display());
        return;
    };
    // Evenly spaced, so that every class is among them.
    let step = dataset.clips.len().div_ceil(arguments.clips.max(1)).max(1);
    let files: Vec<Vec<u8>> =
        dataset.clips.iter().step_by(step).map(|clip| fs::read(&clip.path).unwrap()).collect();
    let front_end = FrontEnd { n_mfcc: N_MFCC, ..FrontEnd::default() };
    let rounds: Vec<Stages> = (0..arguments.rounds).map(|_| round(&files, &front_end)).collect();

    // The fastest round: what else the machine does can only add.
    let mut fastest = Stages::new();
    for (stage, duration) in rounds.into_iter().flatten() {
        fastest.entry(stage).and_modify(|best| *best = duration.min(*best)).or_insert(duration);
    }
    let ms: BTreeMap<_, _> = fastest
        .into_iter()
        .map(|(stage, duration)| (stage, duration.as_secs_f64() * 1e3 / files.len() as f64))
        .collect();
    if arguments.format == Format::Json {
        println!("{}", serde_json::to_string(&ms).unwrap());
        return;
    }
    println!("{} clips, fastest of {} rounds, milliseconds a clip", files.len(), arguments.rounds);
    for (stage, ms) in ms {
        println!("{stage:12} {ms:8.3}");
    }
}
