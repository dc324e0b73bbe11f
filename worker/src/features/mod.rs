//! From shards to one standardised matrix in memory, shared by the slots that want the same.
//!
//! A matrix belongs to its shards, its split, its number of coefficients and what the model's input makes of them: each
//! coefficient or mel band is standardised by the mean and the standard deviation over all frames of the *training* rows, so
//! nothing of the validation rows leaks into what is trained on.
//!
//! Behind the clean rows of all clips lie the training rows of each augmented view, standardised as the clean ones are; which
//! of them an epoch sees is for [`crate::training::views`] to choose.

mod gathered;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use earshot_common::{
    ids::BlobId, job::Job, model::Input, sweep::prune::Distil, tensors::Tensor as Values, views::View,
};
use earshot_data::{shard::Shard, split::TrainSplit};
use tch::{Device, TchError, Tensor};

use self::gathered::{Gathered, rows};
use crate::{
    room::{Claim, NoRoom, Room},
    training::lesson::Lesson,
};

/// Which matrix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    shards: Vec<BlobId>,
    /// By augmentation, then by level.
    views: Vec<Vec<Vec<BlobId>>>,
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
            views: job.augment.iter().map(|augment| augment.levels.clone()).collect(),
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
    /// A shard of another view than the job says, or of other clips.
    #[error(
        "shard {shard} has the view {view} of clips that are not those of the job's {augmentation} shards"
    )]
    View {
        /// The shard.
        shard: BlobId,
        /// Its view.
        view: View,
        /// The job's augmentation.
        augmentation: &'static str,
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
    /// A teacher's logits that are not of the training rows.
    #[error("the teacher's logits have shape {found:?}, the job wants {expected:?}")]
    Teacher {
        /// Theirs.
        found: Vec<usize>,
        /// Training rows and classes.
        expected: [usize; 2],
    },
    /// There is no memory for the matrix.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
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

/// Features and labels of all rows, as one slot holds them: sharing memory with slots of the same [`Key`].
#[derive(Debug)]
pub struct Features {
    shared: Arc<Shared>,
    /// This run's own.
    lesson: Option<Lesson>,
}

/// What the slots share.
#[derive(Debug)]
struct Shared {
    /// Rows, coefficients and frames of the matrix.
    shape: [usize; 3],
    /// The matrix `(rows, n_mfcc, frames)`, standardised; behind the clean rows, those of the views. Empty on a GPU.
    values: Vec<f32>,
    /// By row of the matrix.
    classes: Vec<i64>,
    device: Device,
    /// Both on the device; on the CPU once they are asked for. A tensor may move between threads but not be looked at by two
    /// at once; each slot takes a handle of its own.
    tensors: Mutex<Option<(Tensor, Tensor)>>,
    labels: Vec<u16>,
    train: Vec<i64>,
    validation: Vec<i64>,
    views: ViewRows,
    input: InputStats,
    /// Of the matrix, in this machine's memory.
    claim: Claim,
}

/// Where the views of training rows lie in the matrix.
#[derive(Debug, Default)]
pub struct ViewRows {
    /// Of each row, its number among the training rows in ascending order.
    ranks: BTreeMap<i64, usize>,
    /// By the job's augmentations, then by its levels.
    levels: Vec<Vec<LevelRows>>,
}

/// The training rows on one level.
#[derive(Debug)]
struct LevelRows {
    /// The first one's row in the matrix.
    first: i64,
    /// Strength of each.
    draws: Vec<f32>,
}

impl ViewRows {
    /// Views of a training row under the job's augmentation of that number: strength, and row of the matrix.
    pub fn of(&self, augmentation: usize, row: i64) -> impl Iterator<Item = (f32, i64)> {
        let rank = self.ranks.get(&row).copied();
        let levels = self.levels.get(augmentation).map_or(&[][..], Vec::as_slice);
        levels.iter().filter_map(move |level| Some((*level.draws.get(rank?)?, level.first + rank? as i64)))
    }
}

impl Features {
    /// Builds the matrix for the first `job.model.n_mfcc` coefficients. `shard` gives one shard after another, and none is
    /// kept: they hold up to five times as many coefficients.
    ///
    /// # Errors
    /// The first thing that does not fit together, or what `shard` answers.
    pub fn new<E: From<FeaturesError>>(
        job: &Job,
        split: &TrainSplit,
        device: Device,
        shard: impl FnMut(BlobId) -> Result<Shard, E>,
    ) -> Result<Self, E> {
        let claim = Room::default().claim();
        Ok(Self { shared: Arc::new(Shared::new(job, split, (device, claim), shard)?), lesson: None })
    }

    /// The same with what a teacher makes of the training rows.
    ///
    /// # Errors
    /// [`FeaturesError::Teacher`]: it speaks of other rows or classes.
    pub fn taught_by(mut self, logits: &Values, distil: Distil, classes: u32) -> Result<Self, FeaturesError> {
        let expected = [self.train().len(), classes as usize];
        if logits.shape != expected {
            return Err(FeaturesError::Teacher { found: logits.shape.clone(), expected });
        }
        self.lesson = Some(Lesson::new(self.train(), logits, distil));
        Ok(self)
    }

    /// What a teacher makes of the training rows, if there is one.
    pub fn lesson(&self) -> Option<&Lesson> {
        self.lesson.as_ref()
    }

    /// Whether both share one matrix.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The matrix `(rows, n_mfcc, frames)` on its device, standardised; behind the clean rows, those of the views.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn matrix(&self) -> Result<Tensor, TchError> {
        Ok(self.shared.tensors()?.0)
    }

    /// Classes `(rows)` of the matrix's rows, 64-bit, as `cross_entropy` takes them.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn labels(&self) -> Result<Tensor, TchError> {
        Ok(self.shared.tensors()?.1)
    }

    /// Classes of the matrix's rows.
    pub fn classes(&self) -> &[i64] {
        &self.shared.classes
    }

    /// Floats of one row of the matrix.
    pub fn clip(&self) -> usize {
        let [_, n_mfcc, frames] = self.shared.shape;
        n_mfcc * frames
    }

    /// Copies rows of the matrix into `batch`, which it replaces. Not on a GPU.
    pub fn gather(&self, rows: &[i64], batch: &mut Vec<f32>) {
        batch.clear();
        let clip = self.clip();
        for &row in rows {
            let start = row as usize * clip;
            batch.extend_from_slice(self.shared.values.get(start..start + clip).unwrap_or_default());
        }
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

    /// Where the views of the training rows are.
    pub fn views(&self) -> &ViewRows {
        &self.shared.views
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
    fn new<E: From<FeaturesError>>(
        job: &Job,
        split: &TrainSplit,
        (device, claim): (Device, Claim),
        mut shard: impl FnMut(BlobId) -> Result<Shard, E>,
    ) -> Result<Self, E> {
        let mut gathered = Gathered::new(&job.model, claim);
        let mut clips = Vec::with_capacity(job.shards.len());
        for &id in &job.shards {
            let shard = shard(id)?;
            gathered.push(id, &shard, |_| true)?;
            clips.push(shard.clips());
        }
        let clean = gathered.labels.len();
        let train = rows(&split.train, "training", clean)?;
        let validation = rows(&split.validation, "validation", clean)?;
        let mut ascending = train.clone();
        ascending.sort_unstable();
        let ranks =
            if job.augment.is_empty() { BTreeMap::new() } else { ascending.into_iter().zip(0..).collect() };
        let mut views = ViewRows { ranks, levels: Vec::new() };
        for augment in &job.augment {
            let levels = augment.levels.iter().map(|ids| {
                let first = gathered.labels.len() as i64;
                let mut draws = Vec::with_capacity(views.ranks.len());
                let mut row = 0;
                for (&id, &clips) in ids.iter().zip(&clips) {
                    let shard = shard(id)?;
                    gathered.check_view(id, &shard, augment.augmentation, row..row + clips)?;
                    let trains = |at: usize| views.ranks.contains_key(&((row + at) as i64));
                    gathered.push(id, &shard, trains)?;
                    draws.extend(
                        shard.draws.iter().enumerate().filter(|(at, _)| trains(*at)).map(|(_, draw)| draw),
                    );
                    row += shard.clips();
                }
                Ok(LevelRows { first, draws })
            });
            let levels = levels.collect::<Result<_, E>>()?;
            views.levels.push(levels);
        }
        Ok(gathered.finish(clean, train, validation, views, device)?)
    }
}

impl Shared {
    /// Handles of the matrix and the labels on the device.
    fn tensors(&self) -> Result<(Tensor, Tensor), TchError> {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        let (matrix, labels) = if let Some(tensors) = &*tensors {
            tensors
        } else {
            let shape = self.shape.map(|extent| extent as i64);
            let matrix = Tensor::f_from_slice(&self.values)?.f_view(shape)?.f_to_device(self.device)?;
            let labels = Tensor::f_from_slice(&self.classes)?.f_to_device(self.device)?;
            tensors.insert((matrix, labels))
        };
        Ok((matrix.shallow_clone(), labels.shallow_clone()))
    }
}

/// Matrices in use, by key, and the room they are in. Cheap to clone; a matrix is freed with the last slot that trains on it.
#[derive(Debug, Clone, Default)]
pub struct FeatureCache {
    places: Arc<Mutex<BTreeMap<Key, Arc<Place>>>>,
    room: Room,
}

/// Where one matrix is, while somebody has it; locked while somebody loads it.
type Place = Mutex<Weak<Shared>>;

impl FeatureCache {
    /// With none yet.
    pub fn new(room: Room) -> Self {
        Self { places: Arc::default(), room }
    }

    /// The memory that matrices and the runs on them share.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The matrix of this key; `split` and `shard` fetch what it is made of if no slot has it. Slots that want the same one at the
    /// same time wait for the first of them.
    ///
    /// # Errors
    /// Whatever `split`, `shard` or [`Features::new`] answers.
    pub fn get_or_load<E: From<FeaturesError>>(
        &self,
        job: &Job,
        device: Device,
        split: impl FnOnce() -> Result<TrainSplit, E>,
        shard: impl FnMut(BlobId) -> Result<Shard, E>,
    ) -> Result<Features, E> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // A place that nobody holds and whose matrix is gone would only pile up.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|shared| shared.strong_count() > 0)
            });
            Arc::clone(places.entry(Key::of(job, device)).or_default())
        };
        let mut shared = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = shared.upgrade() {
            return Ok(Features { shared, lesson: None });
        }
        let built = Arc::new(Shared::new(job, &split()?, (device, self.room.claim()), shard)?);
        *shared = Arc::downgrade(&built);
        Ok(Features { shared: built, lesson: None })
    }
}
