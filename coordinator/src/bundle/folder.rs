//! The bundle's files, and whether they belong together.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use earshot_common::{frontend::FrontEnd, ids::BlobId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{BundleError, Model, Origin};

/// Where a bundle comes from; also the mark by which a folder is known to be one.
pub(crate) const PROVENANCE_FILE: &str = "provenance.json";
/// The front end that the models' features come from.
pub(crate) const FRONT_END_FILE: &str = "front_end.json";
/// Names of the classes, one a line.
pub(crate) const LABELS_FILE: &str = "labels.txt";

/// Value of `format` in [`PROVENANCE_FILE`].
pub(crate) const FORMAT: &str = "earshot bundle";
/// Raised when a file of the bundle changes its meaning.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Largest file that is read: a corrupt size must not take all memory. Models that fit a device are far below.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One of a bundle's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In floats
    Float,
    /// In int8, as ONNX Runtime runs it best
    Int8,
    /// In int8, as TensorRT wants it
    #[value(name = "tensorrt")]
    #[serde(rename = "tensorrt")]
    TensorRt,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Float, Self::Int8, Self::TensorRt];

    /// Name of its file.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Float => "model.onnx",
            Self::Int8 => "model.int8.onnx",
            Self::TensorRt => "model.tensorrt.onnx",
        }
    }

    /// Its `earshot.profile` in the metadata: whom it is quantised for.
    pub const fn profile(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Int8 => "onnxruntime",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// Size and hash of one of the bundle's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Size.
    pub bytes: u64,
    /// Of the contents.
    pub blake3: BlobId,
}

/// What [`PROVENANCE_FILE`] says whatever its version.
#[derive(Debug, Deserialize)]
struct Mark {
    format: String,
    format_version: u32,
}

/// What is read of it in this version.
#[derive(Debug, Deserialize)]
struct Record {
    front_end_hash: BlobId,
    files: BTreeMap<String, FileEntry>,
    shipped: Shipped,
}

#[derive(Debug, Deserialize)]
struct Shipped {
    kind: Kind,
}

/// A bundle whose files are those that were exported.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    front_end: FrontEnd,
    labels: Vec<String>,
    record: Record,
}

impl Bundle {
    /// Opens the bundle in `folder`: its front end and labels are read and held against its provenance. Models and golden files
    /// are when they are read.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn open(folder: &Path) -> Result<Self, BundleError> {
        let not_ours = || BundleError::NotABundle(folder.to_owned());
        let path = folder.join(PROVENANCE_FILE);
        let bytes = match read(&path) {
            Err(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(not_ours());
            }
            other => other?,
        };
        let mark: Mark = serde_json::from_slice(&bytes).map_err(|_| not_ours())?;
        if mark.format != FORMAT {
            return Err(not_ours());
        }
        if mark.format_version != FORMAT_VERSION {
            let (found, expected) = (mark.format_version, FORMAT_VERSION);
            return Err(BundleError::Version { folder: folder.to_owned(), found, expected });
        }
        let mut bundle = Self {
            folder: folder.to_owned(),
            front_end: FrontEnd::default(),
            labels: Vec::new(),
            record: parse(&path, &bytes)?,
        };
        bundle.front_end = parse(&folder.join(FRONT_END_FILE), &bundle.read(FRONT_END_FILE)?)?;
        let labels = String::from_utf8_lossy(&bundle.read(LABELS_FILE)?).into_owned();
        bundle.labels = labels.lines().map(str::to_owned).collect();
        let found = bundle.front_end.hash();
        if found != bundle.record.front_end_hash {
            let model = PROVENANCE_FILE.to_owned();
            return Err(BundleError::FrontEnd {
                model,
                found,
                expected: bundle.record.front_end_hash.to_string(),
            });
        }
        Ok(bundle)
    }

    /// How a waveform becomes features.
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// Names of the classes, by index.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model that is meant to be shipped.
    pub fn shipped(&self) -> Kind {
        self.record.shipped.kind
    }

    /// Models that it holds.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.record.files.contains_key(kind.file()))
    }

    /// One of the models, held against its hash, the front end and the labels.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn model(&self, kind: Kind) -> Result<Model, BundleError> {
        let model = Model::load(kind.file(), &self.read(kind.file())?)?;
        let found = self.front_end.hash();
        let expected = model.metadata("earshot.front_end_hash").unwrap_or("that it does not name").to_owned();
        if expected != found.to_string() {
            return Err(BundleError::FrontEnd { model: kind.file().to_owned(), found, expected });
        }
        let corrupt = |what| BundleError::Corrupt { path: self.folder.join(kind.file()), what };
        let labels = model.metadata("earshot.labels").unwrap_or_default();
        if !serde_json::from_str::<Vec<String>>(labels).is_ok_and(|labels| labels == self.labels) {
            return Err(corrupt(format!("its labels are not those of {LABELS_FILE}")));
        }
        let [n_mfcc, frames] = model.shape();
        if n_mfcc > usize::from(self.front_end.n_mfcc) || frames != self.front_end.frames() {
            let (most, given) = (self.front_end.n_mfcc, self.front_end.frames());
            return Err(corrupt(format!(
                "it reads {n_mfcc} × {frames} features, the front end gives {most} × {given}"
            )));
        }
        Ok(model)
    }

    /// One of the exported files, held against its hash.
    ///
    /// # Errors
    /// [`BundleError::Corrupt`] when it is not what was exported, [`BundleError::Io`] when it is not there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        let path = self.folder.join(name);
        let corrupt = |what: String| BundleError::Corrupt { path: path.clone(), what };
        let Some(entry) = self.record.files.get(name) else {
            return Err(corrupt(format!("{PROVENANCE_FILE} does not list it")));
        };
        let bytes = read(&path)?;
        if bytes.len() as u64 != entry.bytes {
            return Err(corrupt(format!("it has {} bytes instead of {}", bytes.len(), entry.bytes)));
        }
        if BlobId::of(&bytes) != entry.blake3 {
            return Err(corrupt("its hash is another".to_owned()));
        }
        Ok(bytes)
    }

    /// What trained it.
    ///
    /// # Errors
    /// The provenance cannot be read.
    pub fn origin(&self) -> Result<Origin, BundleError> {
        let path = self.folder.join(PROVENANCE_FILE);
        parse(&path, &read(&path)?)
    }

    /// Names of all exported files but the provenance itself.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.record.files.keys().map(String::as_str)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BundleError> {
    let io_at = |source| BundleError::Io { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(io_at)?.len();
    if bytes > FILE_BYTES_MAX {
        let what = format!("it has {bytes} bytes, more than any bundle's file");
        return Err(BundleError::Corrupt { path: path.to_owned(), what });
    }
    fs::read(path).map_err(io_at)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes)
        .map_err(|error| BundleError::Corrupt { path: path.to_owned(), what: error.to_string() })
}
