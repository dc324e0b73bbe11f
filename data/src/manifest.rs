//! The manifest: what was prepared, in the order of the rows.
//!
//! Row *i* of a dataset is the *i*-th of [`Manifest::clips`], and also the *i*-th clip of [`Manifest::shards`] laid end to
//! end. Splits speak of rows only.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use earshot_common::{frontend::FrontEnd, ids::BlobId, views::Level};
use serde::{Deserialize, Serialize};

use crate::{file, shard::View};

/// Version of the manifest's JSON and of the folder around it; a reader refuses any other.
pub const MANIFEST_VERSION: u32 = 1;

/// Name of the manifest in the prepared folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// One shard, and how many rows it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name of its bytes in the blob store.
    pub blob: BlobId,
    /// Clips in it, so rows.
    pub clips: u32,
    /// What was done to the recordings.
    pub view: View,
}

/// One level of the bank of views, rendered for every row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewEntry {
    /// Augmentation, number and stratum.
    #[serde(flatten)]
    pub level: Level,
    /// One for each of [`Manifest::shards`], with the same rows.
    pub shards: Vec<ViewShard>,
}

/// A shard of an augmented view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewShard {
    /// Name of its bytes in the blob store.
    pub blob: BlobId,
    /// Strength of each row's augmentation, in its unit.
    pub draws: Vec<f32>,
}

/// One clip, and so one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipEntry {
    /// File name without extension, unique in the dataset.
    pub name: String,
    /// Index into [`Manifest::classes`].
    pub class: u16,
    /// The dataset's own fold; none where it has no folds.
    pub fold: Option<u32>,
    /// The recording it was cut from.
    pub source: String,
    /// BLAKE3 of the source file's bytes.
    pub content: BlobId,
}

/// What kind of thing is wrong with a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Listed, but there is no such file.
    Missing,
    /// There is such a file, but it is not listed.
    Unlisted,
    /// Not audio in a format that is read, or damaged.
    Unreadable,
    /// The file ends before its audio does.
    Truncated,
    /// Longer, larger or of more channels than this crate takes.
    TooLarge,
    /// No sample differs from zero.
    Silent,
    /// Its name says another class or fold than its row.
    Mislabelled,
    /// The file's name is not text.
    Misnamed,
}

/// Something wrong with a clip, which was left out because of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The clip's name, or the file's.
    pub clip: String,
    /// What kind of thing.
    pub kind: ProblemKind,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// What was prepared from a dataset by a front end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] when it was written.
    pub format_version: u32,
    /// The front end that made the features.
    pub front_end: FrontEnd,
    /// Its hash.
    pub front_end_hash: BlobId,
    /// BLAKE3 over classes and every clip's name, class, fold, source and content, in row order: what the data is, whatever
    /// the front end.
    pub data_hash: BlobId,
    /// Names of the classes, by class index.
    pub classes: Vec<String>,
    /// Coefficients of each frame in the shards.
    pub n_mfcc: u32,
    /// Frames of each clip in the shards.
    pub frames: u32,
    /// Shards, in the order of the rows.
    pub shards: Vec<ShardEntry>,
    /// The same rows under augmentations; none where no sweep asked for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<ViewEntry>,
    /// Clips, in the order of the rows.
    pub clips: Vec<ClipEntry>,
    /// What was left out, and why.
    pub problems: Vec<Problem>,
    /// What is odd about the list and was yet followed.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read or written.
    #[error("cannot use the manifest {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not this JSON.
    #[error("{path} is not a manifest: prepare the data again")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Fields that contradict each other.
    #[error("{path} contradicts itself ({what}): prepare the data again")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        what: &'static str,
    },
}

impl Manifest {
    /// Puts a manifest together; hashes and shapes follow from the arguments.
    pub fn new(
        front_end: FrontEnd,
        classes: Vec<String>,
        shards: Vec<ShardEntry>,
        clips: Vec<ClipEntry>,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            format_version: MANIFEST_VERSION,
            front_end_hash: front_end.hash(),
            data_hash: data_hash(&classes, &clips),
            n_mfcc: u32::from(front_end.n_mfcc),
            frames: front_end.frames() as u32,
            front_end,
            classes,
            shards,
            views: Vec::new(),
            clips,
            problems,
            warnings: Vec::new(),
        }
    }

    /// Class index of every row.
    pub fn labels(&self) -> Vec<u16> {
        self.clips.iter().map(|clip| clip.class).collect()
    }

    /// Every shard, of the clips as they are and of their views.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        let views = self.views.iter().flat_map(|view| &view.shards).map(|shard| shard.blob);
        self.shards.iter().map(|shard| shard.blob).chain(views)
    }

    /// The dataset's folds that have rows, ascending.
    pub fn folds(&self) -> Vec<u32> {
        let mut folds: Vec<u32> = self.clips.iter().filter_map(|clip| clip.fold).collect();
        folds.sort_unstable();
        folds.dedup();
        folds
    }

    /// Reads a manifest and checks that it agrees with itself.
    ///
    /// # Errors
    /// The file cannot be read, is not a manifest of this version, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let bytes = fs::read(path).map_err(|source| ManifestError::Io { path: path.to_owned(), source })?;
        Self::read(path, &bytes)
    }

    /// Reads a manifest's bytes and checks that it agrees with itself; `path` is its name in messages.
    ///
    /// # Errors
    /// They are not a manifest of this version, or contradict themselves.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { path: path.to_owned(), source })?;
        match manifest.contradiction() {
            Some(what) => Err(ManifestError::Inconsistent { path: path.to_owned(), what }),
            None => Ok(manifest),
        }
    }

    /// Writes the manifest, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ManifestError> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|source| ManifestError::Json { path: path.to_owned(), source })?;
        file::write_whole(path, |file| file.write_all(&json))
            .map_err(|source| ManifestError::Io { path: path.to_owned(), source })
    }

    fn contradiction(&self) -> Option<&'static str> {
        let rows: u64 = self.shards.iter().map(|shard| u64::from(shard.clips)).sum();
        let checks = [
            (self.format_version == MANIFEST_VERSION, "another format version"),
            (self.front_end.validate().is_ok(), "a front end out of range"),
            (self.front_end_hash == self.front_end.hash(), "front end and its hash"),
            (self.n_mfcc == u32::from(self.front_end.n_mfcc), "n_mfcc and front end"),
            (self.frames as usize == self.front_end.frames(), "frames and front end"),
            (rows == self.clips.len() as u64, "rows of the shards and clips"),
            (self.views.iter().all(|view| self.has_rows_of(view)), "rows of the shards and of their views"),
            (
                self.clips.iter().all(|clip| usize::from(clip.class) < self.classes.len()),
                "a class without a name",
            ),
            (self.data_hash == data_hash(&self.classes, &self.clips), "clips and data hash"),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what)
    }

    fn has_rows_of(&self, view: &ViewEntry) -> bool {
        let drawn = view.shards.iter().map(|shard| shard.draws.len());
        drawn.eq(self.shards.iter().map(|shard| shard.clips as usize))
    }
}

fn data_hash(classes: &[String], clips: &[ClipEntry]) -> BlobId {
    let mut hasher = blake3::Hasher::new();
    // Canonical JSON: the lengths of texts are delimited, whatever they contain. A list of texts always serialises.
    hasher.update(&serde_json::to_vec(classes).unwrap_or_default());
    for clip in clips {
        hasher.update(&serde_json::to_vec(clip).unwrap_or_default());
    }
    BlobId::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let clip = |name: &str, class| ClipEntry {
            name: name.to_owned(),
            class,
            fold: Some(1 + u32::from(class)),
            source: "s".to_owned(),
            content: BlobId::of(name.as_bytes()),
        };
        let shard = ShardEntry { blob: BlobId::of(b"shard"), clips: 2, view: View::Clean };
        let classes = vec!["dog".to_owned(), "rain".to_owned()];
        Manifest::new(FrontEnd::default(), classes, vec![shard], vec![clip("a", 0), clip("b", 1)], vec![])
    }

    fn check(change: impl FnOnce(&mut Manifest), expected: Option<&'static str>) {
        let mut manifest = manifest();
        change(&mut manifest);
        assert_eq!(manifest.contradiction(), expected);
    }

    #[test]
    fn contradictions_are_found() {
        check(|_| (), None);
        check(|manifest| manifest.format_version = 0, Some("another format version"));
        check(|manifest| manifest.front_end.n_fft = 1024, Some("front end and its hash"));
        check(|manifest| manifest.frames = 1, Some("frames and front end"));
        check(|manifest| manifest.shards.clear(), Some("rows of the shards and clips"));
        check(|manifest| drop(manifest.classes.pop()), Some("a class without a name"));
        check(|manifest| manifest.clips[0].fold = Some(7), Some("clips and data hash"));
    }

    #[test]
    fn a_manifest_comes_back_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MANIFEST_FILE);
        let manifest = manifest();
        manifest.save(&path).unwrap();
        assert_eq!(Manifest::load(&path).unwrap(), manifest);
        assert_eq!((manifest.folds(), manifest.labels()), (vec![1, 2], vec![0, 1]));
    }
}
