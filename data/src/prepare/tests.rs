use std::{
    collections::BTreeMap,
    fs,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use earshot_common::blob::BlobStore;

use super::*;
use crate::manifest::MANIFEST_FILE;

const RATE_HZ: u32 = 8_000;

fn front_end() -> FrontEnd {
    FrontEnd {
        sample_rate_hz: RATE_HZ,
        duration_s: 0.25,
        n_fft: 256,
        hop_length: 128,
        n_mels: 32,
        n_mfcc: 16,
        ..FrontEnd::default()
    }
}

/// A dataset and a prepared folder.
pub(super) struct Set {
    root: tempfile::TempDir,
}

/// Counts outcomes, and cancels after some clips.
#[derive(Default)]
pub(super) struct Listener {
    outcomes: Mutex<Vec<(String, ClipOutcome)>>,
    cancel: Option<(usize, Arc<AtomicBool>)>,
}

impl Progress for Listener {
    fn start(&self, _clips: u64) {}

    fn clip_done(&self, name: &str, outcome: ClipOutcome) {
        let mut outcomes = self.outcomes.lock().unwrap();
        outcomes.push((name.to_owned(), outcome));
        if let Some((after, flag)) = &self.cancel {
            flag.store(outcomes.len() >= *after, Ordering::Relaxed);
        }
    }

    fn start_views(&self, _views: u64) {}

    fn views_done(&self, _views: u64) {}
}

impl Listener {
    fn count(&self, outcome: ClipOutcome) -> usize {
        self.outcomes.lock().unwrap().iter().filter(|(_, other)| *other == outcome).count()
    }
}

impl Set {
    /// `clips` tones of two classes.
    pub(super) fn new(clips: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["data/audio", "data/meta"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let set = Self { root };
        for clip in 0..clips {
            set.write(&name(clip), 200.0 + 17.0 * clip as f32);
        }
        set.list(&(0..clips).map(name).collect::<Vec<_>>());
        set
    }

    fn audio(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("data/audio/{name}.wav"))
    }

    pub(super) fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn write(&self, name: &str, hz: f32) {
        let samples: Vec<f32> = (0..RATE_HZ / 5)
            .map(|i| 0.5 * (i as f32 * hz * std::f32::consts::TAU / RATE_HZ as f32).sin())
            .collect();
        self.write_samples(name, &samples);
    }

    pub(super) fn write_samples(&self, name: &str, samples: &[f32]) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE_HZ,
            bits_per_sample: 32,
            sample_format: hound::SampleFormat::Float,
        };
        let mut writer = hound::WavWriter::create(self.audio(name), spec).unwrap();
        for sample in samples {
            writer.write_sample(*sample).unwrap();
        }
        writer.finalize().unwrap();
    }

    fn list(&self, names: &[String]) {
        let rows = names.iter().enumerate().map(|(i, name)| {
            let class = i % 2;
            format!("{name}.wav,{},{class},class{class},False,{name},A\n", i % 5 + 1)
        });
        let header = "filename,fold,target,category,esc10,src_file,take\n";
        fs::write(
            self.root.path().join("data/meta/esc50.csv"),
            header.to_owned() + &rows.collect::<String>(),
        )
        .unwrap();
    }

    pub(super) fn options(&self) -> Options {
        Options {
            data: self.root.path().join("data"),
            out: self.out(),
            front_end: front_end(),
            bank: Bank::default(),
            exports: None,
            cancel: Arc::default(),
        }
    }

    pub(super) fn prepare(&self) -> (Manifest, Listener) {
        let listener = Listener::default();
        (prepare(&self.options(), &listener).unwrap(), listener)
    }

    /// Every file of the prepared folder with its bytes and time of change.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.out()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let modified = path.metadata().unwrap().modified().unwrap();
                    files.insert(path.clone(), (fs::read(path).unwrap(), modified));
                }
            }
        }
        files.remove(&self.out().join(".lock"));
        files
    }
}

fn name(clip: usize) -> String {
    format!("clip{clip}")
}

#[test]
fn shards_hold_the_rows_of_the_manifest() {
    let set = Set::new(150);
    let (manifest, listener) = set.prepare();
    assert_eq!((listener.count(ClipOutcome::Made), listener.count(ClipOutcome::Kept)), (150, 0));
    assert_eq!(Manifest::load(&set.out().join(MANIFEST_FILE)).unwrap(), manifest);
    assert!(manifest.shards.len() > 1);
    assert_eq!(
        manifest.clips.iter().map(|clip| clip.name.clone()).collect::<Vec<_>>(),
        (0..150).map(name).collect::<Vec<_>>()
    );

    let blobs = BlobStore::open(set.out().join(BLOBS)).unwrap();
    let shards: Vec<Shard> =
        manifest.shards.iter().map(|entry| Shard::read(&blobs.read(entry.blob).unwrap()).unwrap()).collect();
    assert_eq!(shards.iter().flat_map(|shard| shard.labels.clone()).collect::<Vec<_>>(), manifest.labels());
    let mut chain = Chain::new(&front_end()).unwrap();
    let rows = shards.iter().flat_map(|shard| shard.features.chunks_exact(shard.n_mfcc * shard.frames));
    for (clip, row) in manifest.clips.iter().zip(rows) {
        let waveform = chain.waveform(&fs::read(set.audio(&clip.name)).unwrap()).unwrap();
        assert!(chain.features(&waveform).into_iter().eq(row.iter().copied()), "{}", clip.name);
    }
}

#[test]
fn exports_are_the_cleaned_clip_and_its_features() {
    let set = Set::new(1);
    set.write_samples(
        "clip0",
        &[vec![0.0; 4096], vec![0.25; 1000], vec![-0.5; 1000], vec![0.0; 4096]].concat(),
    );
    set.prepare();
    let mut wav = hound::WavReader::open(set.out().join("audio/clip0.wav")).unwrap();
    assert_eq!((wav.spec().sample_rate, wav.spec().bits_per_sample), (RATE_HZ, 32));
    let samples: Vec<f32> = wav.samples::<f32>().map(Result::unwrap).collect();
    assert!((crate::condition::peak(&samples) - 1.0).abs() < f32::EPSILON);
    assert!(samples.len() < 8_000, "trimmed to {}", samples.len());
    let frames = samples.len() / 128 + 1;
    for (file, rows) in [("clip0_mfcc.npy", 13), ("clip0_spec.npy", 129)] {
        let matrix: ndarray::Array2<f32> =
            ndarray_npy::read_npy(set.out().join("features").join(file)).unwrap();
        assert_eq!(matrix.dim(), (rows, frames));
    }
}

fn prepare_with(set: &Set, exports: Option<Exports>) -> (Manifest, Listener) {
    let listener = Listener::default();
    let manifest = prepare(&Options { exports, ..set.options() }, &listener).unwrap();
    (manifest, listener)
}

fn exports_of(set: &Set, clip: &str) -> usize {
    let names = [format!("{clip}.wav"), format!("{clip}_mfcc.npy"), format!("{clip}_spec.npy")];
    set.files().keys().filter(|path| names.iter().any(|name| path.ends_with(name))).count()
}

#[test]
fn shards_are_the_same_without_exports_and_exports_come_when_asked_for() {
    let (bare, full) = (Set::new(20), Set::new(20));
    let (manifest, _) = prepare_with(&bare, Some(Exports::Nothing));
    assert_eq!(manifest, prepare_with(&full, Some(Exports::All)).0);
    assert_eq!((exports_of(&bare, "clip3"), exports_of(&full, "clip3")), (0, 3));
    // Whoever does not say goes on as before, and redoes nothing.
    let (_, listener) = prepare_with(&bare, None);
    assert_eq!((listener.count(ClipOutcome::Kept), exports_of(&bare, "clip3")), (20, 0));
    let (_, listener) = prepare_with(&bare, Some(Exports::All));
    assert_eq!((listener.count(ClipOutcome::Made), exports_of(&bare, "clip3")), (20, 3));
}

#[test]
fn without_exports_those_there_stay_until_their_clip_is_made_again() {
    let set = Set::new(300);
    let (first, _) = prepare_with(&set, Some(Exports::All));
    let (_, listener) = prepare_with(&set, Some(Exports::Nothing));
    assert_eq!((listener.count(ClipOutcome::Kept), exports_of(&set, "clip7")), (300, 3));
    set.write_samples("clip7", &[0.25; 2_000]);
    let (second, _) = prepare_with(&set, None);
    assert_ne!(first.data_hash, second.data_hash);
    assert_eq!(exports_of(&set, "clip7"), 0);
    assert!((0..300).any(|clip| exports_of(&set, &name(clip)) == 3));
}

#[test]
fn another_front_end_without_exports_leaves_no_old_ones() {
    let set = Set::new(10);
    prepare_with(&set, Some(Exports::All));
    let front_end = FrontEnd { n_fft: 512, ..front_end() };
    prepare(&Options { front_end, exports: Some(Exports::Nothing), ..set.options() }, &()).unwrap();
    assert!((0..10).all(|clip| exports_of(&set, &name(clip)) == 0));
}

#[test]
fn a_second_run_writes_nothing() {
    let set = Set::new(100);
    let (first, _) = set.prepare();
    let before = set.files();
    let (second, listener) = set.prepare();
    assert_eq!((listener.count(ClipOutcome::Made), listener.count(ClipOutcome::Kept)), (0, 100));
    assert_eq!(first, second);
    assert!(before == set.files());
}

#[test]
fn a_changed_clip_changes_its_shard_alone() {
    let set = Set::new(300);
    let (first, _) = set.prepare();
    set.write("clip7", 3_000.0);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    fs::File::open(set.audio("clip7")).unwrap().set_modified(later).unwrap();
    let (second, listener) = set.prepare();
    let changed = first.shards.iter().zip(&second.shards).filter(|(a, b)| a != b).count();
    assert_eq!((changed, first.shards.len()), (1, second.shards.len()));
    assert!(listener.count(ClipOutcome::Made) <= 128 && listener.count(ClipOutcome::Kept) >= 172);
    assert_ne!(first.data_hash, second.data_hash);
}

#[test]
fn a_recording_that_comes_back_gets_its_exports_back() {
    let set = Set::new(10);
    let (first, _) = set.prepare();
    let exports = |clip: usize| {
        let files = set.files();
        files
            .into_iter()
            .filter(|(path, _)| path.to_string_lossy().contains(&name(clip)))
            .map(|(_, (bytes, _))| bytes)
            .collect::<Vec<_>>()
    };
    let (before, audio) = (exports(3), fs::read(set.audio("clip3")).unwrap());
    set.write_samples("clip3", &[0.5, -0.25].repeat(500));
    set.prepare();
    assert_ne!(exports(3), before);
    fs::write(set.audio("clip3"), audio).unwrap();
    let (again, _) = set.prepare();
    assert_eq!((again, exports(3)), (first, before));
}

#[test]
fn a_clip_that_is_gone_takes_its_files_along() {
    let set = Set::new(5);
    set.prepare();
    set.list(&(0..4).map(name).collect::<Vec<_>>());
    fs::remove_file(set.audio("clip4")).unwrap();
    let (manifest, _) = set.prepare();
    assert_eq!(manifest.clips.len(), 4);
    assert!(set.files().keys().all(|path| !path.to_string_lossy().contains("clip4")));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (one, many) = (Set::new(80), Set::new(80));
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let a = pool(1).install(|| one.prepare().0);
    let b = pool(7).install(|| many.prepare().0);
    assert_eq!(a, b);
}

#[test]
fn a_stopped_run_is_continued() {
    let set = Set::new(300);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let options = set.options();
    let listener = Listener { cancel: Some((200, options.cancel.clone())), ..Listener::default() };
    let stopped = pool.install(|| prepare(&options, &listener));
    assert!(matches!(stopped, Err(PrepareError::Cancelled)));
    assert!(!set.out().join(MANIFEST_FILE).exists());
    let (manifest, listener) = set.prepare();
    assert!(listener.count(ClipOutcome::Kept) > 0, "nothing was kept");
    assert_eq!(manifest, Set::new(300).prepare().0);
}

#[test]
fn what_is_missing_is_made_again() {
    let set = Set::new(60);
    let (manifest, _) = set.prepare();
    let before = set.files();
    fs::remove_file(set.out().join("features/clip3_spec.npy")).unwrap();
    let blobs = BlobStore::open(set.out().join(BLOBS)).unwrap();
    fs::remove_file(blobs.path(manifest.shards[0].blob)).unwrap();
    fs::write(set.out().join("audio/.incoming-left"), b"half").unwrap();
    set.prepare();
    let bytes = |files: BTreeMap<PathBuf, (Vec<u8>, SystemTime)>| -> BTreeMap<_, _> {
        files.into_iter().map(|(path, (bytes, _))| (path, bytes)).collect()
    };
    assert!(bytes(before) == bytes(set.files()));
}

#[test]
fn another_front_end_starts_over() {
    let set = Set::new(10);
    let (first, _) = set.prepare();
    let spectrogram = set.out().join("features/clip0_spec.npy");
    let before = fs::read(&spectrogram).unwrap();
    let other = Options { front_end: FrontEnd { n_fft: 512, ..front_end() }, ..set.options() };
    prepare(&other, &()).unwrap();
    assert_ne!(fs::read(&spectrogram).unwrap(), before);
    let (again, listener) = set.prepare();
    assert_eq!((again, listener.count(ClipOutcome::Made)), (first, 10));
    assert_eq!(fs::read(&spectrogram).unwrap(), before);
}

#[test]
fn bad_clips_are_listed_and_left_out() {
    let set = Set::new(8);
    set.write_samples("clip1", &[0.0; 1000]);
    let whole = fs::read(set.audio("clip2")).unwrap();
    fs::write(set.audio("clip2"), &whole[..whole.len() / 2]).unwrap();
    fs::write(set.audio("clip3"), b"not audio").unwrap();
    fs::remove_file(set.audio("clip4")).unwrap();
    set.write_samples("clip5", &[f32::NAN; 100]);
    fs::write(set.audio("stray"), b"").unwrap();
    for _ in 0..2 {
        let (manifest, listener) = set.prepare();
        let problems: Vec<_> =
            manifest.problems.iter().map(|problem| (problem.clip.as_str(), problem.kind)).collect();
        let expected = [
            ("audio/stray.wav", ProblemKind::Unlisted),
            ("clip1", ProblemKind::Silent),
            ("clip2", ProblemKind::Truncated),
            ("clip3", ProblemKind::Unreadable),
            ("clip4", ProblemKind::Missing),
            ("clip5", ProblemKind::Unreadable),
        ];
        assert_eq!(problems, expected);
        assert_eq!(manifest.clips.len(), 3);
        assert_eq!(listener.count(ClipOutcome::LeftOut), 4);
    }
    let problems = set.prepare().0.problems;
    assert_eq!(problems[1].message, "audio/clip1.wav: every sample is zero: remove or replace the clip");
}

#[test]
fn nothing_left_is_an_error() {
    let set = Set::new(2);
    (0..2).for_each(|clip| set.write_samples(&name(clip), &[0.0; 10]));
    let message = prepare(&set.options(), &()).unwrap_err().to_string();
    assert!(
        message.starts_with("none of the dataset's clips can be used; the first problem of 2 is clip0:"),
        "{message}"
    );
}

#[test]
fn two_at_once_are_refused() {
    let set = Set::new(1);
    let held = Folder::open(&set.options()).unwrap();
    assert!(matches!(prepare(&set.options(), &()), Err(PrepareError::Busy(_))));
    drop(held);
    set.prepare();
}
