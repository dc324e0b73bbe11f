//! Splits: which rows train, which validate, which are kept for the final test.
//!
//! Three ways to make one: the dataset's own folds, scikit-learn's stratified hold-out, or a stratified split that keeps
//! every source on one side. Only training and validation rows ever travel to a worker ([`Split::to_blob`]); `SHARDS.md` has
//! the bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use safetensors::Dtype;

use crate::{
    container::{Container, ContainerError, Part, bytes_of_u32, encode, u32_of_bytes},
    manifest::ClipEntry,
};

mod grouped;
mod holdout;

pub use holdout::train_test_split;

const NAMES: [&str; 2] = ["train", "validation"];

/// A part of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SplitPart {
    /// Gradients are taken on these rows.
    Train,
    /// Early stopping and selection look at these rows.
    Validation,
    /// The final report is made on these rows, once.
    Test,
}

impl fmt::Display for SplitPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// Why there is no such split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A part without rows.
    #[error("the {0} part would be empty: choose other folds or sizes, or add clips")]
    Empty(SplitPart),
    /// A class that training would never see.
    #[error(
        "no clip of class {class} would be left to train on: choose other folds or sizes, or add clips of that class"
    )]
    ClassMissing {
        /// Class index.
        class: u16,
    },
    /// A fold the dataset does not have.
    #[error("there is no fold {fold}: the dataset has folds {known:?}")]
    UnknownFold {
        /// The fold asked for.
        fold: u32,
        /// Those there are.
        known: Vec<u32>,
    },
    /// Folds are asked for and there are none.
    #[error(
        "the clips have no folds: add a column `fold` to their list, or choose [split] kind = \"grouped\" or \"holdout\""
    )]
    NoFolds,
    /// A fold that would both validate and test.
    #[error("fold {0} cannot both validate and test")]
    FoldTwice(u32),
    /// Fractions that leave nothing to train on.
    #[error("{name} must be {range}, got {value}")]
    Size {
        /// Which fraction.
        name: &'static str,
        /// What would be right.
        range: &'static str,
        /// What it is.
        value: f64,
    },
    /// Too few clips of a class to have one on each side (scikit-learn refuses this too).
    #[error("class {class} has {clips} clip to split, at least 2 are needed: add clips of that class")]
    ClassTooSmall {
        /// Class index.
        class: u16,
        /// Clips it has.
        clips: usize,
    },
    /// A part smaller than the number of classes (scikit-learn refuses this too).
    #[error(
        "the {part} part would have {rows} rows, fewer than the {classes} classes: choose another size, or add clips"
    )]
    TooFewRows {
        /// The part.
        part: SplitPart,
        /// Its rows.
        rows: usize,
        /// Classes there are.
        classes: usize,
    },
    /// The container is broken.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A row that is listed twice.
    #[error("row {0} is listed twice in the split")]
    RowTwice(u32),
}

/// Rows of the manifest, each in one part at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<u32>,
    /// Rows for early stopping and selection.
    pub validation: Vec<u32>,
    /// Rows for the final report; empty when the split has no test part.
    pub test: Vec<u32>,
}

impl Split {
    /// One of the dataset's folds validates, some (or none) test, the rest train. Rows ascend in every part.
    ///
    /// # Errors
    /// An unknown fold, one in two parts, an empty part, or a class with nothing to train on.
    pub fn by_folds(clips: &[ClipEntry], validation: u32, test: &[u32]) -> Result<Self, SplitError> {
        let known: BTreeSet<u32> = clips.iter().filter_map(|clip| clip.fold).collect();
        if known.is_empty() {
            return Err(SplitError::NoFolds);
        }
        if let Some(fold) = test.iter().chain([&validation]).find(|fold| !known.contains(fold)) {
            return Err(SplitError::UnknownFold { fold: *fold, known: known.into_iter().collect() });
        }
        if test.contains(&validation) {
            return Err(SplitError::FoldTwice(validation));
        }
        let mut split = Self::default();
        for (row, clip) in rows(clips) {
            let part = match clip.fold {
                Some(fold) if fold == validation => &mut split.validation,
                Some(fold) if test.contains(&fold) => &mut split.test,
                _ => &mut split.train,
            };
            part.push(row);
        }
        split.checked(&labels(clips))
    }

    /// Stratified at random, blind to sources, index for index what scikit-learn 1.9 gives for
    /// `train_test_split(rows, test_size=test_size, stratify=labels, random_state=seed)`, then once more on its training part
    /// with `validation_size` of that. With a `test_size` of 0 only the second call is made, on all rows. The order of rows is
    /// scikit-learn's.
    ///
    /// Clips of one source may fall on both sides, which flatters a model: see [`Split::shared_sources`].
    ///
    /// # Errors
    /// Sizes out of range, or too few clips of a class or in a part.
    pub fn holdout(
        labels: &[u16],
        validation_size: f64,
        test_size: f64,
        seed: u32,
    ) -> Result<Self, SplitError> {
        check_size("test_size", "at least 0 and below 1", test_size, (0.0..1.0).contains(&test_size))?;
        let (rest, test) = if test_size > 0.0 {
            train_test_split(labels, test_size, seed).map_err(name_the_test_part)?
        } else {
            ((0..labels.len() as u32).collect(), Vec::new())
        };
        let rest_labels: Vec<u16> =
            rest.iter().filter_map(|row| labels.get(*row as usize).copied()).collect();
        let (train, validation) = train_test_split(&rest_labels, validation_size, seed)?;
        let rows_of = |positions: Vec<u32>| -> Vec<u32> {
            positions.into_iter().filter_map(|position| rest.get(position as usize).copied()).collect()
        };
        Self { train: rows_of(train), validation: rows_of(validation), test }.checked(labels)
    }

    /// Stratified, with every source in one part only. Sources are dealt in a seeded order, largest first, each to the part
    /// that is shortest of its classes. Sizes are fractions of all rows; a `test_size` of 0 makes no test part. Rows ascend in
    /// every part.
    ///
    /// # Errors
    /// Sizes out of range, or too few sources to fill every part with training rows of every class.
    pub fn grouped(
        clips: &[ClipEntry],
        validation_size: f64,
        test_size: f64,
        seed: u32,
    ) -> Result<Self, SplitError> {
        let above_0 = validation_size > 0.0 && validation_size < 1.0;
        check_size("validation_size", "above 0 and below 1", validation_size, above_0)?;
        check_size("test_size", "at least 0 and below 1", test_size, (0.0..1.0).contains(&test_size))?;
        let together = validation_size + test_size;
        check_size("validation_size and test_size together", "below 1", together, together < 1.0)?;
        let split = grouped::deal(clips, [1.0 - together, validation_size, test_size], seed);
        if test_size > 0.0 && split.test.is_empty() {
            return Err(SplitError::Empty(SplitPart::Test));
        }
        split.checked(&labels(clips))
    }

    /// Of a split, one for training once more when selection is over: what validated trains, too, except one source of each
    /// class, the smallest, by which to see that training went well. Test rows stay as they are, the order of rows too.
    #[must_use]
    pub fn refit(&self, clips: &[ClipEntry]) -> Self {
        let validation = || self.validation.iter().filter_map(|row| Some((*row, clips.get(*row as usize)?)));
        let mut sizes: BTreeMap<(u16, &str), usize> = BTreeMap::new();
        for (_, clip) in validation() {
            *sizes.entry((clip.class, &clip.source)).or_default() += 1;
        }
        let mut smallest: BTreeMap<u16, (usize, &str)> = BTreeMap::new();
        for ((class, source), size) in sizes {
            let kept = smallest.entry(class).or_insert((size, source));
            *kept = (size, source).min(*kept);
        }
        let kept: BTreeSet<&str> = smallest.into_values().map(|(_, source)| source).collect();
        let mut refit = Self { train: self.train.clone(), validation: Vec::new(), test: self.test.clone() };
        for (row, clip) in validation() {
            let is_kept = kept.contains(clip.source.as_str());
            if is_kept { refit.validation.push(row) } else { refit.train.push(row) }
        }
        refit
    }

    /// Sources with clips in more than one part, with those parts: what lets a model recognise the recording instead of the
    /// sound.
    pub fn shared_sources<'a>(&self, clips: &'a [ClipEntry]) -> BTreeMap<&'a str, BTreeSet<SplitPart>> {
        let mut parts: BTreeMap<&str, BTreeSet<SplitPart>> = BTreeMap::new();
        let all = [
            (SplitPart::Train, &self.train),
            (SplitPart::Validation, &self.validation),
            (SplitPart::Test, &self.test),
        ];
        for (part, rows) in all {
            for clip in rows.iter().filter_map(|row| clips.get(*row as usize)) {
                parts.entry(&clip.source).or_default().insert(part);
            }
        }
        parts.retain(|_, parts| parts.len() > 1);
        parts
    }

    /// Encodes the training and validation rows; the test rows stay where they are.
    ///
    /// # Errors
    /// Never for a split of fewer than 2³² rows.
    pub fn to_blob(&self) -> Result<Vec<u8>, SplitError> {
        TrainSplit { train: self.train.clone(), validation: self.validation.clone() }.write()
    }

    fn checked(self, labels: &[u16]) -> Result<Self, SplitError> {
        let parts = [(SplitPart::Train, &self.train), (SplitPart::Validation, &self.validation)];
        if let Some((part, _)) = parts.into_iter().find(|(_, rows)| rows.is_empty()) {
            return Err(SplitError::Empty(part));
        }
        let trained: BTreeSet<u16> =
            self.train.iter().filter_map(|row| labels.get(*row as usize).copied()).collect();
        match labels.iter().find(|class| !trained.contains(class)) {
            Some(class) => Err(SplitError::ClassMissing { class: *class }),
            None => Ok(self),
        }
    }
}

/// What a worker is told of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainSplit {
    /// Rows to train on.
    pub train: Vec<u32>,
    /// Rows for early stopping; logits are given back in this order.
    pub validation: Vec<u32>,
}

impl TrainSplit {
    /// Encodes the split; the same rows in the same order give the same bytes.
    ///
    /// # Errors
    /// Never for a split of fewer than 2³² rows.
    pub fn write(&self) -> Result<Vec<u8>, SplitError> {
        let part = |name, rows: &[u32], data| Part { name, dtype: Dtype::U32, shape: vec![rows.len()], data };
        let (train, validation) = (bytes_of_u32(&self.train), bytes_of_u32(&self.validation));
        let parts = [part("train", &self.train, &train), part("validation", &self.validation, &validation)];
        Ok(encode(&parts, None)?)
    }

    /// Decodes and validates a split; bytes are untrusted. Whether the rows exist is for the reader of the shards to check.
    ///
    /// # Errors
    /// Broken bytes, an empty part, or a row listed twice.
    pub fn read(bytes: &[u8]) -> Result<Self, SplitError> {
        let container = Container::open(bytes)?;
        container.expect(&NAMES)?;
        let (_, train) = container.tensor::<1>("train", Dtype::U32)?;
        let (_, validation) = container.tensor::<1>("validation", Dtype::U32)?;
        let split = Self { train: u32_of_bytes(train), validation: u32_of_bytes(validation) };
        let mut seen = BTreeSet::new();
        match split.train.iter().chain(&split.validation).find(|row| !seen.insert(**row)) {
            _ if split.train.is_empty() => Err(SplitError::Empty(SplitPart::Train)),
            _ if split.validation.is_empty() => Err(SplitError::Empty(SplitPart::Validation)),
            Some(row) => Err(SplitError::RowTwice(*row)),
            None => Ok(split),
        }
    }
}

fn rows(clips: &[ClipEntry]) -> impl Iterator<Item = (u32, &ClipEntry)> {
    (0_u32..).zip(clips)
}

fn labels(clips: &[ClipEntry]) -> Vec<u16> {
    clips.iter().map(|clip| clip.class).collect()
}

fn check_size(name: &'static str, range: &'static str, value: f64, holds: bool) -> Result<(), SplitError> {
    if holds { Ok(()) } else { Err(SplitError::Size { name, range, value }) }
}

/// The same hold-out makes both parts; the first one it makes is the test part.
fn name_the_test_part(error: SplitError) -> SplitError {
    match error {
        SplitError::TooFewRows { part: SplitPart::Validation, rows, classes } => {
            SplitError::TooFewRows { part: SplitPart::Test, rows, classes }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
