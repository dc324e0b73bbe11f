//! From shards to one standardised matrix in memory, shared by the slots that want the same.
//!
//! A matrix belongs to its shards, its split, its number of coefficients and what the model's input makes of them: each
//! coefficient or mel band is standardised by the mean and the standard deviation over all frames of the *training* rows, so
//! nothing of the validation rows leaks into what is trained on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use earshot_common::{
    ids::BlobId,
    job::Job,
    model::{Input, input::inverse_dct},
    tensors::Tensor as Values,
};
use earshot_data::{shard::Shard, split::TrainSplit};
use tch::{Device, TchError, Tensor};

use crate::network::copy_out;

/// Smallest standard deviation to divide by: a coefficient that never changes stays finite.
const STD_MIN: f64 = 1e-6;

/// Which matrix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    shards: Vec<BlobId>,
    split: BlobId,
    n_mfcc: u32,
    input: Input,
    /// GPU number; none: the CPU.
    gpu: Option<usize>,
}

impl Key {
    /// The matrix that this job trains on.
    pub fn of(job: &Job, device: Device) -> Self {
        Self {
            shards: job.shards.clone(),
            split: job.split,
            n_mfcc: job.model.n_mfcc,
            input: job.model.input,
            gpu: match device {
                Device::Cuda(gpu) => Some(gpu),
                _ => None,
            },
        }
    }
}

/// Why shards and a split do not give features for a job.
#[derive(Debug, thiserror::Error)]
pub enum FeaturesError {
    /// A shard's bytes.
    #[error("shard {0} cannot be read")]
    Shard(BlobId, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The split's bytes.
    #[error("split {0} cannot be read")]
    Split(BlobId, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A shard does not have what the model takes.
    #[error("shard {shard} has {found} {what}, the model takes {expected}")]
    Shape {
        /// The shard.
        shard: BlobId,
        /// "coefficients" or "frames".
        what: &'static str,
        /// The model's.
        expected: usize,
        /// The shard's.
        found: usize,
    },
    /// A row that no shard has.
    #[error("the split names row {row}, the shards have {rows} rows")]
    Row {
        /// The row.
        row: u32,
        /// Rows there are.
        rows: usize,
    },
    /// A part of the split without rows.
    #[error("the split has no {0} rows")]
    Empty(&'static str),
    /// A label that the model has no logit for.
    #[error("row {row} is of class {class}, the model has {classes} classes")]
    Class {
        /// The row.
        row: usize,
        /// Its label.
        class: u16,
        /// The model's classes.
        classes: u32,
    },
    /// libtorch could not hold the matrix.
    #[error("the features do not fit into memory")]
    Torch(#[from] TchError),
}

/// One input row's mean and standard deviation, each: of a coefficient, or of a mel band.
#[derive(Debug, Clone, PartialEq)]
pub struct InputStats {
    /// By row.
    pub mean: Vec<f32>,
    /// By row, floored.
    pub std: Vec<f32>,
}

impl InputStats {
    /// As a checkpoint holds them.
    pub fn tensors(&self) -> [(String, Values); 2] {
        [("input.mean", &self.mean), ("input.std", &self.std)].map(|(name, values)| {
            let tensor = Values { shape: vec![values.len()], values: values.clone() };
            (name.to_owned(), tensor)
        })
    }
}

/// Features and labels of all rows, as one slot holds them: on its device, sharing memory with slots of the same [`Key`].
#[derive(Debug)]
pub struct Features {
    /// `(rows, n_mfcc, frames)`, standardised.
    pub matrix: Tensor,
    /// `(rows)`, 64-bit, as `cross_entropy` takes them.
    pub labels: Tensor,
    shared: Arc<Shared>,
}

/// What does not differ between slots.
#[derive(Debug)]
struct Shared {
    /// A tensor may move between threads but not be looked at by two at once; each slot takes a handle of its own.
    tensors: Mutex<(Tensor, Tensor)>,
    labels: Vec<u16>,
    train: Vec<i64>,
    validation: Vec<i64>,
    input: InputStats,
}

impl Features {
    /// Builds the matrix from decoded shards, for the first `job.model.n_mfcc` coefficients.
    ///
    /// # Errors
    /// The first thing that does not fit together.
    pub fn new(
        job: &Job,
        shards: &[Shard],
        split: &TrainSplit,
        device: Device,
    ) -> Result<Self, FeaturesError> {
        let shared = Arc::new(Shared::new(job, shards, split, device)?);
        Ok(Self::of(shared))
    }

    fn of(shared: Arc<Shared>) -> Self {
        let (matrix, labels) = {
            let tensors = shared.tensors.lock().unwrap_or_else(PoisonError::into_inner);
            (tensors.0.shallow_clone(), tensors.1.shallow_clone())
        };
        Self { matrix, labels, shared }
    }

    /// Rows to train on, in the split's order.
    pub fn train(&self) -> &[i64] {
        &self.shared.train
    }

    /// Rows to validate on, in the split's order.
    pub fn validation(&self) -> &[i64] {
        &self.shared.validation
    }

    /// Labels of the rows to validate on, in the split's order.
    pub fn validation_labels(&self) -> Vec<u16> {
        let label = |&row: &i64| self.shared.labels.get(row as usize).copied();
        self.shared.validation.iter().filter_map(label).collect()
    }

    /// What the matrix was standardised by.
    pub fn input(&self) -> &InputStats {
        &self.shared.input
    }

    /// Whether the model has a logit for every label: two models may share a matrix and differ in this.
    ///
    /// # Errors
    /// [`FeaturesError::Class`] names the first row that it has none for.
    pub fn check_classes(&self, classes: u32) -> Result<(), FeaturesError> {
        let wrong = |&(_, &class): &(usize, &u16)| u32::from(class) >= classes;
        match self.shared.labels.iter().enumerate().find(wrong) {
            Some((row, &class)) => Err(FeaturesError::Class { row, class, classes }),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn new(job: &Job, shards: &[Shard], split: &TrainSplit, device: Device) -> Result<Self, FeaturesError> {
        let (n_mfcc, frames) = (job.model.n_mfcc as usize, job.model.frames as usize);
        let labels: Vec<u16> = shards.iter().flat_map(|shard| shard.labels.iter().copied()).collect();
        let mut values = Vec::with_capacity(labels.len() * n_mfcc * frames);
        for (&id, shard) in job.shards.iter().zip(shards) {
            let shape = |what, expected, found| FeaturesError::Shape { shard: id, what, expected, found };
            if shard.n_mfcc < n_mfcc {
                return Err(shape("coefficients", n_mfcc, shard.n_mfcc));
            }
            if shard.frames != frames {
                return Err(shape("frames", frames, shard.frames));
            }
            // The first n of the coefficients are the n-coefficient MFCC.
            for clip in shard.features.chunks_exact(shard.n_mfcc * frames) {
                values.extend(clip.iter().take(n_mfcc * frames));
            }
        }
        let train = rows(&split.train, "training", labels.len())?;
        let validation = rows(&split.validation, "validation", labels.len())?;
        let shape = [labels.len(), n_mfcc, frames].map(|extent| extent as i64);
        if job.model.input == Input::Mel {
            values = mel_bands(&values, shape)?;
        }
        let input = standardise(&mut values, &train, n_mfcc, frames);
        let matrix = Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(device)?;
        let classes: Vec<i64> = labels.iter().copied().map(i64::from).collect();
        let classes = Tensor::f_from_slice(&classes)?.f_to_device(device)?;
        Ok(Self { tensors: Mutex::new((matrix, classes)), labels, train, validation, input })
    }
}

fn rows(part: &[u32], name: &'static str, rows: usize) -> Result<Vec<i64>, FeaturesError> {
    if part.is_empty() {
        return Err(FeaturesError::Empty(name));
    }
    match part.iter().find(|&&row| row as usize >= rows) {
        Some(&row) => Err(FeaturesError::Row { row, rows }),
        None => Ok(part.iter().copied().map(i64::from).collect()),
    }
}

/// Mel bands of the MFCCs `(rows, n_mfcc, frames)`, as many.
fn mel_bands(values: &[f32], shape: [i64; 3]) -> Result<Vec<f32>, TchError> {
    let [_, n_mfcc, _] = shape;
    let matrix = Tensor::f_from_slice(&inverse_dct(n_mfcc as usize))?.f_view([n_mfcc, n_mfcc])?;
    let mfccs = Tensor::f_from_slice(values)?.f_view(shape)?;
    Ok(copy_out(&matrix.f_matmul(&mfccs)?)?.values)
}

/// Standardises `(rows, n_mfcc, frames)` in place, in two passes: sums of squares of raw decibels would lose digits.
fn standardise(values: &mut [f32], train: &[i64], n_mfcc: usize, frames: usize) -> InputStats {
    let count = (train.len() * frames) as f64;
    let sums = |values: &[f32], term: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0_f64; n_mfcc];
        for &row in train {
            let start = row as usize * n_mfcc * frames;
            let clip = values.get(start..).unwrap_or_default().chunks_exact(frames);
            for (coefficient, (sum, line)) in sums.iter_mut().zip(clip).enumerate() {
                *sum += line.iter().map(|&value| term(coefficient, f64::from(value))).sum::<f64>();
            }
        }
        sums
    };
    let mean: Vec<f64> = sums(values, &|_, value| value).into_iter().map(|sum| sum / count).collect();
    let deviation = |coefficient: usize, value: f64| {
        let mean = mean.get(coefficient).copied().unwrap_or_default();
        (value - mean).powi(2)
    };
    let std: Vec<f64> =
        sums(values, &deviation).into_iter().map(|sum| (sum / count).sqrt().max(STD_MIN)).collect();

    // What the checkpoint says is what was done: rounded first, then applied.
    let input = InputStats {
        mean: mean.iter().map(|&mean| mean as f32).collect(),
        std: std.iter().map(|&std| std as f32).collect(),
    };
    for clip in values.chunks_exact_mut(n_mfcc * frames) {
        let lines = clip.chunks_exact_mut(frames).zip(input.mean.iter().zip(&input.std));
        for (line, (&mean, &std)) in lines {
            for value in line {
                *value = (*value - mean) / std;
            }
        }
    }
    input
}

/// Matrices in use, by key. Cheap to clone; a matrix is freed with the last slot that trains on it.
#[derive(Debug, Clone, Default)]
pub struct FeatureCache(Arc<Mutex<BTreeMap<Key, Arc<Place>>>>);

/// Where one matrix is, while somebody has it; locked while somebody loads it.
type Place = Mutex<Weak<Shared>>;

impl FeatureCache {
    /// The matrix of this key; `load` fetches its shards and its split if no slot has it. Slots that want the same one at the
    /// same time wait for the first of them.
    ///
    /// # Errors
    /// Whatever `load` or [`Features::new`] answers.
    pub fn get_or_load<E: From<FeaturesError>>(
        &self,
        job: &Job,
        device: Device,
        load: impl FnOnce() -> Result<(Vec<Shard>, TrainSplit), E>,
    ) -> Result<Features, E> {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A place that nobody holds and whose matrix is gone would only pile up.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|shared| shared.strong_count() > 0)
            });
            Arc::clone(places.entry(Key::of(job, device)).or_default())
        };
        let mut shared = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = shared.upgrade() {
            return Ok(Features::of(shared));
        }
        let (shards, split) = load()?;
        let built = Arc::new(Shared::new(job, &shards, &split, device)?);
        *shared = Arc::downgrade(&built);
        Ok(Features::of(built))
    }
}
