//! Everything at once: from a dataset's folder to cleaned clips, features, shards and a manifest.
//!
//! In reading order: `plan` tells which clips go into one shard, `folder` is the prepared folder and remembers which of
//! these are done, [`prepare`] does the others, on all threads of the rayon pool it is called in, and `views` renders the
//! augmented views of the same clips. What comes out depends on the recordings, the front end and the bank only, never on
//! the number of threads or on what was there before.
//!
//! Memory holds the features of a few groups, however many clips there are: each thread is at one, a few more are being
//! stored. A group is 14 MB at most at the default front end, and a third of that on average.

use std::{
    collections::VecDeque,
    io, panic,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread::{self, ScopedJoinHandle},
};

use earshot_common::{blob::BlobError, frontend::FrontEnd, ids::BlobId, views::Bank};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    chain::{Chain, ChainError},
    dataset::{Clip, Dataset, DatasetError},
    decode::{self, DecodeError},
    manifest::{ClipEntry, Manifest, ManifestError, Problem, ProblemKind, ShardEntry},
    mfcc::FrontEndError,
    shard::{Shard, ShardError, View},
    views::PitchError,
};

mod folder;
mod plan;
mod views;

pub use folder::BLOBS;
use folder::{Folder, LeftOut, Record};
use plan::Group;

/// Groups that wait for the disk at a time.
const STORED_AT_ONCE: usize = 4;

/// What to prepare, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The dataset's folder, or its list; see [`crate::dataset::Layout::detect`].
    pub data: PathBuf,
    /// The prepared folder, made if need be. It holds one front end at a time: another one redoes everything in it.
    pub out: PathBuf,
    /// How waveforms become features.
    pub front_end: FrontEnd,
    /// Augmented views to render besides; none by default.
    pub bank: Bank,
    /// What to write beside the shards; none to go on as in the folder's last preparation, with everything in a new folder.
    pub exports: Option<Exports>,
    /// Set to stop at the next clip; the shards that are done are kept for the next run.
    pub cancel: Arc<AtomicBool>,
}

/// What is written beside the shards, for people and for other tools: training needs none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exports {
    /// The cleaned clip, its MFCCs and its spectrogram: 2.6 MB for a clip of five seconds at the default front end.
    #[default]
    All,
    /// Nothing more. What is there from before stays for clips that are not made again, and goes for those that are.
    Nothing,
}

/// What became of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClipOutcome {
    /// Made in this run.
    Made,
    /// Already there from an earlier run.
    Kept,
    /// Left out: it is among the manifest's problems.
    LeftOut,
}

/// Hears how far a preparation has got, from many threads.
pub trait Progress: Sync {
    /// Called once, with the number of clips that are listed and there.
    fn start(&self, clips: u64);
    /// Called once for every one of them.
    fn clip_done(&self, name: &str, outcome: ClipOutcome);
    /// Called once if there are augmented views, after the last clip, with the number of views of all clips.
    fn start_views(&self, views: u64);
    /// So many more of them are there.
    fn views_done(&self, views: u64);
}

/// Nobody listens.
impl Progress for () {
    fn start(&self, _clips: u64) {}
    fn clip_done(&self, _name: &str, _outcome: ClipOutcome) {}
    fn start_views(&self, _views: u64) {}
    fn views_done(&self, _views: u64) {}
}

/// Why a dataset was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The list of clips cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The front end is out of range.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// A view cannot be rendered.
    #[error("cannot render a view of {clip}")]
    View {
        /// The clip.
        clip: String,
        /// Why.
        #[source]
        source: PitchError,
    },
    /// Another preparation works on the same folder.
    #[error("another preparation is at work in {0}: wait for it, or choose another folder")]
    Busy(PathBuf),
    /// The cancel flag was set.
    #[error("stopped before the end: run again to continue")]
    Cancelled,
    /// Every clip has a problem.
    #[error("none of the dataset's clips can be used; the first problem of {count} is {first}")]
    NothingLeft {
        /// Number of problems.
        count: usize,
        /// The first one.
        first: String,
    },
    /// A recording changed between two looks at it.
    #[error("{0} changed while it was being prepared: run again")]
    Changed(PathBuf),
    /// The file system refused.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob store refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Features that do not make a shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Prepares a dataset: does what is not done yet, and writes the manifest.
///
/// Writes, under `out`, as far as [`Exports`] says: `audio/{clip}.wav`, the cleaned waveform at its own length (32-bit
/// float); of that, `features/{clip}_mfcc.npy` (13, frames) and `features/{clip}_spec.npy` (1 + n_fft / 2, frames;
/// decibels), float32. Always: shards under [`BLOBS`]; the manifest at [`crate::manifest::MANIFEST_FILE`]. Everything
/// appears whole or not at all.
///
/// # Errors
/// The dataset cannot be read, no clip of it can be used, the disk refuses, or the cancel flag was set. A clip that cannot be
/// used is not an error as long as another can: it is listed in [`Manifest::problems`].
pub fn prepare(options: &Options, progress: &dyn Progress) -> Result<Manifest, PrepareError> {
    let chain = Chain::new(&options.front_end)?;
    let dataset = Dataset::read(&options.data)?;
    let folder = Folder::open(options)?;
    progress.start(dataset.clips.len() as u64);

    let hashes = folder.hash_sources(&dataset.clips, &options.cancel)?;
    let (groups, mut problems) = plan::groups(&dataset.clips, hashes);
    folder.forget_all_but(&groups)?;
    for problem in &problems {
        progress.clip_done(&problem.clip, ClipOutcome::LeftOut);
    }
    let work = Work { options, progress, folder: &folder, chains: Chains::new(chain) };
    let records = work.records(&groups)?;

    problems.extend(dataset.problems);
    let views = work.views(&groups, &records)?;
    let (mut shards, mut clips) = (Vec::new(), Vec::new());
    for (group, record) in groups.iter().zip(records) {
        let kept = group.kept(&record);
        if let Some(blob) = record.blob {
            shards.push(ShardEntry { blob, clips: kept.len() as u32, view: View::Clean });
        }
        clips.extend(kept.into_iter().map(|(clip, content)| entry(clip, content)));
        problems.extend(record.left_out.into_iter().map(|left_out| left_out.problem));
    }
    problems.sort_by(|a, b| (&a.clip, a.kind).cmp(&(&b.clip, b.kind)));
    if clips.is_empty() {
        let first = problems.first().map(|problem| format!("{}: {}", problem.clip, problem.message));
        return Err(PrepareError::NothingLeft { count: problems.len(), first: first.unwrap_or_default() });
    }
    let manifest = Manifest {
        warnings: dataset.warnings,
        views,
        ..Manifest::new(options.front_end.clone(), dataset.classes, shards, clips, problems)
    };
    folder.finish(&manifest)?;
    Ok(manifest)
}

/// What every step of a preparation needs.
struct Work<'a> {
    options: &'a Options,
    progress: &'a dyn Progress,
    folder: &'a Folder,
    chains: Chains,
}

/// A group without a record, where its record goes, and what its clips gave.
type Made<'g> = (&'g Group<'g>, &'g mut Option<Record>, Vec<Outcome>);

/// Chains to work with: as many as are at work at once, each with its buffers and its code books from clip to clip.
struct Chains {
    first: Chain,
    idle: Mutex<Vec<Chain>>,
}

impl Chains {
    fn new(first: Chain) -> Self {
        Self { first, idle: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Chain) -> T) -> T {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut chain = taken.unwrap_or_else(|| self.first.clone());
        let made = work(&mut chain);
        idle().push(chain);
        made
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// What a clip gives.
enum Outcome {
    /// Its row in the shard, `(n_mfcc, frames)`.
    Features(Vec<f32>),
    /// Why it has none.
    Problem(Problem),
}

impl Work<'_> {
    /// The record of every group: the folder's where there is one, otherwise a new one.
    fn records(&self, groups: &[Group<'_>]) -> Result<Vec<Record>, PrepareError> {
        let mut records: Vec<Option<Record>> =
            groups.par_iter().map(|group| self.folder.record(group)).collect();
        let mut pending = Vec::new();
        for (group, record) in groups.iter().zip(&mut records) {
            match record {
                Some(record) => self.tell(group, record, ClipOutcome::Kept),
                None => pending.push((group, record)),
            }
        }
        thread::scope(|scope| {
            let (store, to_store) = mpsc::sync_channel(0);
            let stored = scope.spawn(move || self.store(to_store));
            let made = pending.into_par_iter().try_for_each_with(store, |store, (group, record)| {
                let outcomes = self.outcomes(group)?;
                // A closed channel means that storing has failed, which says why itself.
                store.send((group, record, outcomes)).map_err(|_| PrepareError::Cancelled)
            });
            join(stored).and(made)
        })?;
        Ok(records.into_iter().flatten().collect())
    }

    /// What the clips of a group give, made in parallel.
    fn outcomes(&self, group: &Group<'_>) -> Result<Vec<Outcome>, PrepareError> {
        let clips = group.clips.par_iter();
        clips.map(|(clip, content)| self.chains.with(|chain| self.clip(chain, clip, *content))).collect()
    }

    /// Stores groups as they are made, several at once, because each waits for the disk.
    fn store(&self, made: Receiver<Made<'_>>) -> Result<(), PrepareError> {
        thread::scope(|scope| {
            let mut storing = VecDeque::new();
            for (group, record, outcomes) in made {
                if storing.len() == STORED_AT_ONCE {
                    storing.pop_front().map_or(Ok(()), join)?;
                }
                storing.push_back(scope.spawn(move || {
                    *record = Some(self.shard(group, outcomes)?);
                    Ok(())
                }));
            }
            storing.into_iter().try_for_each(join)
        })
    }

    /// A recording's bytes, as long as it is wanted and did not change.
    fn recording(&self, clip: &Clip, content: BlobId) -> Result<Vec<u8>, PrepareError> {
        if self.options.cancel.load(Ordering::Relaxed) {
            return Err(PrepareError::Cancelled);
        }
        let bytes = decode::read_file(&clip.path).map_err(|_| PrepareError::Changed(clip.path.clone()))?;
        if BlobId::of(&bytes) == content { Ok(bytes) } else { Err(PrepareError::Changed(clip.path.clone())) }
    }

    /// Makes one clip: its exports on disk if wanted, its features in memory.
    fn clip(&self, chain: &mut Chain, clip: &Clip, content: BlobId) -> Result<Outcome, PrepareError> {
        let bytes = self.recording(clip, content)?;
        let waveform = match chain.waveform(&bytes) {
            Ok(waveform) => waveform,
            Err(error) => {
                self.progress.clip_done(&clip.name, ClipOutcome::LeftOut);
                return Ok(Outcome::Problem(problem(clip, &error)));
            }
        };
        let features = self.folder.features(&clip.name, &waveform, chain)?;
        self.progress.clip_done(&clip.name, ClipOutcome::Made);
        Ok(Outcome::Features(features.into_iter().collect()))
    }

    /// Stores a group's shard and remembers that it is done.
    fn shard(&self, group: &Group<'_>, outcomes: Vec<Outcome>) -> Result<Record, PrepareError> {
        let front_end = &self.options.front_end;
        let mut shard = Shard {
            n_mfcc: usize::from(front_end.n_mfcc),
            frames: front_end.frames(),
            labels: Vec::new(),
            features: Vec::new(),
            front_end: front_end.hash(),
            view: View::Clean,
            draws: Vec::new(),
        };
        let mut left_out = Vec::new();
        for (position, (outcome, (clip, _))) in outcomes.into_iter().zip(&group.clips).enumerate() {
            match outcome {
                Outcome::Features(features) => {
                    shard.labels.push(clip.class);
                    shard.features.extend(features);
                }
                Outcome::Problem(problem) => left_out.push(LeftOut { position, problem }),
            }
        }
        let blob = match shard.clips() {
            0 => None,
            _ => Some(self.folder.blobs.put(&shard.write()?)?),
        };
        let record = Record { blob, left_out };
        self.folder.remember(group, &record)?;
        Ok(record)
    }

    /// Tells the outcome of a group's clips; those left out were left out.
    fn tell(&self, group: &Group<'_>, record: &Record, outcome: ClipOutcome) {
        for (clip, _) in group.kept(record) {
            self.progress.clip_done(&clip.name, outcome);
        }
        for left_out in &record.left_out {
            self.progress.clip_done(&left_out.problem.clip, ClipOutcome::LeftOut);
        }
    }
}

fn entry(clip: &Clip, content: BlobId) -> ClipEntry {
    ClipEntry {
        name: clip.name.clone(),
        class: clip.class,
        fold: clip.fold,
        source: clip.source.clone(),
        content,
    }
}

/// Why a clip is left out.
pub(crate) fn problem(clip: &Clip, error: &ChainError) -> Problem {
    let kind = match error {
        ChainError::Silent => ProblemKind::Silent,
        ChainError::Decode(DecodeError::Truncated { .. }) => ProblemKind::Truncated,
        ChainError::Decode(DecodeError::TooLarge { .. }) => ProblemKind::TooLarge,
        ChainError::Decode(_) | ChainError::Resample(_) => ProblemKind::Unreadable,
    };
    Problem { clip: clip.name.clone(), kind, message: format!("{}: {}", clip.file, with_causes(error)) }
}

/// A message and those of its causes, for a problem is read without them.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
