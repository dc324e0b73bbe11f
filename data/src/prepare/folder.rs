//! The prepared folder, and its memory of what is done.
//!
//! ```text
//! audio/{clip}.wav                     cleaned, at its own length
//! features/{clip}_mfcc.npy             of that
//! features/{clip}_spec.npy
//! blobs/                               shards
//! index/{front end}/{group}.json       a shard that is done: its blob, and who was left out
//! index/{front end}/views/{view}.json  a shard of an augmented view that is done: its blob and its draws
//! index/{front end}/sources.json       hashes of the recordings, by size and time of change
//! exports.json                         whether there are to be files in audio/ and features/
//! manifest.json
//! .lock                                held while a preparation is at work
//! ```
//!
//! The index is named by the front end and the version of this crate's output, and only one is kept: files in `audio/` and
//! `features/` carry a clip's name alone, so they can be trusted only as long as no other front end has been here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::UNIX_EPOCH,
};

use earshot_common::{blob::BlobStore, ids::BlobId};
use ndarray::Array2;
use ndarray_npy::WriteNpyExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Exports, Options, PrepareError, plan::Group};
use crate::{
    chain::{Chain, OwnLength},
    dataset::Clip,
    decode::{self, DecodeError},
    file,
    manifest::{MANIFEST_FILE, Manifest, Problem, ViewShard},
};

/// The blob store with the shards, relative to the prepared folder.
pub const BLOBS: &str = "blobs";

/// Version of everything this crate derives from a recording. Raised whenever a change makes other features from the same
/// recording and front end, so that old results are made again.
const OUTPUT_VERSION: u32 = 3;

/// Coefficients of the exported `{clip}_mfcc.npy`, librosa's and the reference network's number.
const EXPORTED_N_MFCC: usize = 13;

/// Samples that become bytes at a time: 64 KB, well within a core's own cache.
const WAV_CHUNK_SAMPLES: usize = 16 * 1024;

const AUDIO: &str = "audio";
const FEATURES: &str = "features";
const INDEX: &str = "index";
const VIEWS: &str = "views";
const SOURCES: &str = "sources.json";
const EXPORTS: &str = "exports.json";

/// A shard that is done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name; none when every clip was left out.
    pub(super) blob: Option<BlobId>,
    /// Clips of the group that are not rows.
    pub(super) left_out: Vec<LeftOut>,
}

/// A clip that is not a row.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LeftOut {
    /// Which of the group's.
    pub(super) position: usize,
    /// Why not.
    pub(super) problem: Problem,
}

/// What a recording looked like when it was hashed: as long as size and time are the same, the hash is taken to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    bytes: u64,
    modified_ns: u64,
    content: BlobId,
}

/// The prepared folder, locked.
pub(super) struct Folder {
    root: PathBuf,
    index: PathBuf,
    exports: Exports,
    pub(super) blobs: BlobStore,
    /// Unlocks when dropped.
    _lock: fs::File,
}

impl Folder {
    /// Makes the folder if need be, locks it, and forgets what another front end did in it.
    pub(super) fn open(options: &Options) -> Result<Self, PrepareError> {
        let root = options.out.as_path();
        make(root)?;
        let lock_path = root.join(".lock");
        let lock = fs::File::create(&lock_path).map_err(io_at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(PrepareError::Busy(root.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(io_at(&lock_path)(source)),
        }
        let name = format!("v{OUTPUT_VERSION}-{}", options.front_end.hash());
        let indices = root.join(INDEX);
        for folder in [AUDIO, FEATURES, INDEX] {
            make(&root.join(folder))?;
        }
        for entry in fs::read_dir(&indices).map_err(io_at(&indices))? {
            let entry = entry.map_err(io_at(&indices))?;
            if entry.file_name().to_str() != Some(&name) {
                fs::remove_dir_all(entry.path()).map_err(io_at(&entry.path()))?;
            }
        }
        let index = indices.join(name);
        make(&index.join(VIEWS))?;
        for folder in
            [root.join(AUDIO), root.join(FEATURES), index.clone(), index.join(VIEWS), root.to_owned()]
        {
            file::sweep(&folder).map_err(io_at(&folder))?;
        }
        let exports = remembered_exports(&root.join(EXPORTS), options.exports)?;
        let blobs = BlobStore::open(root.join(BLOBS))?;
        Ok(Self { root: root.to_owned(), index, exports, blobs, _lock: lock })
    }

    /// BLAKE3 of every clip's file, in order; a file that did not change since the last run is not read.
    pub(super) fn hash_sources(
        &self,
        clips: &[Clip],
        cancel: &AtomicBool,
    ) -> Result<Vec<Result<BlobId, DecodeError>>, PrepareError> {
        let path = self.index.join(SOURCES);
        let known: BTreeMap<String, Source> = read_json(&path).unwrap_or_default();
        let look = |clip: &Clip| {
            if cancel.load(Ordering::Relaxed) {
                return Err(PrepareError::Cancelled);
            }
            Ok(look_at(&clip.path, known.get(&clip.name)))
        };
        let looks: Vec<Result<Source, DecodeError>> = clips.par_iter().map(look).collect::<Result<_, _>>()?;
        let seen = clips.iter().zip(&looks);
        let sources: BTreeMap<String, Source> =
            seen.filter_map(|(clip, look)| Some((clip.name.clone(), look.as_ref().ok()?.clone()))).collect();
        if sources != known {
            write_json(&path, &sources)?;
        }
        Ok(looks.into_iter().map(|look| look.map(|source| source.content)).collect())
    }

    /// Forgets every group but these: files in `audio/` and `features/` are about to become those of these groups, so another
    /// group's record would vouch for exports that are no longer its own.
    pub(super) fn forget_all_but(&self, groups: &[Group<'_>]) -> Result<(), PrepareError> {
        let current: BTreeSet<PathBuf> = groups.iter().map(|group| self.record_path(group)).collect();
        let sources = self.index.join(SOURCES);
        for entry in fs::read_dir(&self.index).map_err(io_at(&self.index))? {
            let path = entry.map_err(io_at(&self.index))?.path();
            if path.is_file() && path != sources && !current.contains(&path) {
                file::remove_if_there(&path).map_err(io_at(&path))?;
            }
        }
        Ok(())
    }

    /// The record of a group whose shard is there, with the exports that are wanted.
    pub(super) fn record(&self, group: &Group<'_>) -> Option<Record> {
        let record: Record = read_json(&self.record_path(group))?;
        let stored = record.blob.is_none_or(|blob| self.blobs.contains(blob));
        let kept = group.kept(&record);
        let exported =
            |(clip, _): &(&Clip, BlobId)| self.export_paths(&clip.name).iter().all(|path| path.is_file());
        let is_whole = match self.exports {
            Exports::All => kept.iter().all(exported),
            Exports::Nothing => true,
        };
        (stored && is_whole).then_some(record)
    }

    /// Remembers that a group is done.
    pub(super) fn remember(&self, group: &Group<'_>, record: &Record) -> Result<(), PrepareError> {
        write_json(&self.record_path(group), record)
    }

    /// The record of an augmented view's shard, by its key, if the shard is there.
    pub(super) fn view(&self, key: BlobId) -> Option<ViewShard> {
        let record: ViewShard = read_json(&self.view_path(key))?;
        self.blobs.contains(record.blob).then_some(record)
    }

    /// Remembers that the shard of an augmented view is done.
    pub(super) fn remember_view(&self, key: BlobId, record: &ViewShard) -> Result<(), PrepareError> {
        write_json(&self.view_path(key), record)
    }

    /// Makes a clip's features and writes beside them what is wanted; where that is nothing, older exports of the clip go, for
    /// they may be of another recording or front end.
    pub(super) fn features(
        &self,
        clip: &str,
        waveform: &[f32],
        chain: &mut Chain,
    ) -> Result<Array2<f32>, PrepareError> {
        match self.exports {
            Exports::Nothing => {
                self.remove_exports(clip)?;
                Ok(chain.features(waveform))
            }
            Exports::All => {
                let (features, own_length) = chain.features_and_own_length(waveform, EXPORTED_N_MFCC);
                let rate_hz = chain.extractor().sample_rate_hz();
                self.export(clip, waveform, rate_hz, &own_length)?;
                Ok(features)
            }
        }
    }

    /// Writes a clip's cleaned waveform, and its features at that length.
    fn export(
        &self,
        clip: &str,
        waveform: &[f32],
        rate_hz: u32,
        OwnLength { mfcc, spectrogram_db }: &OwnLength,
    ) -> Result<(), PrepareError> {
        let [audio, mfcc_path, spectrogram_path] = self.export_paths(clip);
        file::write_whole(&audio, |file| write_wav(file, waveform, rate_hz)).map_err(io_at(&audio))?;
        for (path, features) in [(mfcc_path, mfcc), (spectrogram_path, spectrogram_db)] {
            file::write_whole(&path, |file| features.write_npy(file).map_err(io::Error::other))
                .map_err(io_at(&path))?;
        }
        Ok(())
    }

    /// Writes the manifest if it is another than last time, then removes what belongs to clips that are gone.
    pub(super) fn finish(&self, manifest: &Manifest) -> Result<(), PrepareError> {
        let path = self.root.join(MANIFEST_FILE);
        let last = Manifest::load(&path).ok();
        if last.as_ref() == Some(manifest) {
            return Ok(());
        }
        manifest.save(&path)?;
        let now: BTreeSet<&str> = manifest.clips.iter().map(|clip| clip.name.as_str()).collect();
        let before = last.iter().flat_map(|manifest| &manifest.clips);
        for clip in before.filter(|clip| !now.contains(clip.name.as_str())) {
            self.remove_exports(&clip.name)?;
        }
        Ok(())
    }

    fn remove_exports(&self, clip: &str) -> Result<(), PrepareError> {
        for path in self.export_paths(clip) {
            file::remove_if_there(&path).map_err(io_at(&path))?;
        }
        Ok(())
    }

    fn export_paths(&self, clip: &str) -> [PathBuf; 3] {
        let features = self.root.join(FEATURES);
        [
            self.root.join(AUDIO).join(format!("{clip}.wav")),
            features.join(format!("{clip}_mfcc.npy")),
            features.join(format!("{clip}_spec.npy")),
        ]
    }

    fn record_path(&self, group: &Group<'_>) -> PathBuf {
        self.index.join(format!("{}.json", group.key))
    }

    fn view_path(&self, key: BlobId) -> PathBuf {
        self.index.join(VIEWS).join(format!("{key}.json"))
    }
}

/// What is wanted, or what was wanted last time; remembered for the next.
fn remembered_exports(path: &Path, wanted: Option<Exports>) -> Result<Exports, PrepareError> {
    let last: Option<Exports> = read_json(path);
    let exports = wanted.or(last).unwrap_or_default();
    if last != Some(exports) {
        write_json(path, &exports)?;
    }
    Ok(exports)
}

/// The hash of a file, from memory if the file did not change.
fn look_at(path: &Path, known: Option<&Source>) -> Result<Source, DecodeError> {
    let metadata = fs::metadata(path).map_err(DecodeError::Io)?;
    let modified = metadata.modified().map_err(DecodeError::Io)?;
    let modified_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    match known {
        Some(known) if (known.bytes, known.modified_ns) == (metadata.len(), modified_ns) => Ok(known.clone()),
        _ => {
            let content = BlobId::of(&decode::read_file(path)?);
            Ok(Source { bytes: metadata.len(), modified_ns, content })
        }
    }
}

/// One channel of 32-bit floats. hound writes one sample at a time, which takes as long as trimming does.
fn write_wav(file: &mut impl Write, waveform: &[f32], sample_rate_hz: u32) -> io::Result<()> {
    // What can be decoded is far below the four gigabytes that a WAV file's sizes can say.
    let samples = waveform.len() as u32;
    let data_bytes = samples * 4;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((data_bytes + 48).to_le_bytes());
    // Format 3, IEEE floats, one channel; then bytes a second, bytes a frame, bits a sample.
    bytes.extend(b"WAVEfmt \x10\0\0\0\x03\0\x01\0");
    bytes.extend(sample_rate_hz.to_le_bytes());
    bytes.extend((sample_rate_hz * 4).to_le_bytes());
    bytes.extend(b"\x04\0\x20\0fact\x04\0\0\0");
    bytes.extend(samples.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data_bytes.to_le_bytes());
    file.write_all(&bytes)?;
    for samples in waveform.chunks(WAV_CHUNK_SAMPLES) {
        bytes.resize(samples.len() * 4, 0);
        for (bytes, sample) in bytes.as_chunks_mut().0.iter_mut().zip(samples) {
            *bytes = sample.to_le_bytes();
        }
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// What can be read and understood; anything else is as good as absent, and made again.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), PrepareError> {
    file::write_whole(path, |file| serde_json::to_writer(file, value).map_err(io::Error::from))
        .map_err(io_at(path))
}

fn make(folder: &Path) -> Result<(), PrepareError> {
    fs::create_dir_all(folder).map_err(io_at(folder))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    move |source| PrepareError::Io { path, source }
}
