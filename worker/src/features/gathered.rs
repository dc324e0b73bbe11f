//! What comes in, shard after shard, until it is one matrix.

use std::{ops::Range, sync::Mutex};

use earshot_common::{
    ids::BlobId,
    model::{AudioCnn, Input, input::inverse_dct},
    views::{Augmentation, View},
};
use earshot_data::shard::Shard;
use tch::{Device, TchError, Tensor};

use super::{FeaturesError, InputStats, Shared, ViewRows};
use crate::{
    network::copy_out,
    room::{Claim, NoRoom},
};

/// Smallest standard deviation to divide by: a coefficient that never changes stays finite.
const STD_MIN: f64 = 1e-6;

/// Rows as they come in, shard after shard.
pub(super) struct Gathered {
    input: Input,
    n_mfcc: usize,
    frames: usize,
    pub(super) labels: Vec<u16>,
    /// `(rows, n_mfcc, frames)`.
    values: Vec<f32>,
    /// Of the values.
    claim: Claim,
}

impl Gathered {
    pub(super) fn new(model: &AudioCnn, claim: Claim) -> Self {
        let (n_mfcc, frames) = (model.n_mfcc as usize, model.frames as usize);
        Self { input: model.input, n_mfcc, frames, labels: Vec::new(), values: Vec::new(), claim }
    }

    /// Adds those rows of a shard whose place in it is wanted.
    pub(super) fn push(
        &mut self,
        id: BlobId,
        shard: &Shard,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<(), FeaturesError> {
        let (n_mfcc, frames) = (self.n_mfcc, self.frames);
        let shape = |what, expected, found| FeaturesError::Shape { shard: id, what, expected, found };
        if shard.n_mfcc < n_mfcc {
            return Err(shape("coefficients", n_mfcc, shard.n_mfcc));
        }
        if shard.frames != frames {
            return Err(shape("frames", frames, shard.frames));
        }
        let count = (0..shard.clips()).filter(|&at| is_wanted(at)).count();
        self.reserve(count * n_mfcc * frames)?;
        let clips = shard.features.chunks_exact(shard.n_mfcc * frames).zip(&shard.labels);
        for (_, (clip, label)) in clips.enumerate().filter(|(at, _)| is_wanted(*at)) {
            // The first n of the coefficients are the n-coefficient MFCC.
            self.values.extend(clip.iter().take(n_mfcc * frames));
            self.labels.push(*label);
        }
        Ok(())
    }

    /// Makes room for so many values more.
    fn reserve(&mut self, values: usize) -> Result<(), FeaturesError> {
        const WHAT: &str = "the features";
        let bytes = (values * size_of::<f32>()) as u64;
        self.claim.grow(WHAT, bytes)?;
        // Exactly: doubling would take what nobody has claimed.
        self.values.try_reserve_exact(values).map_err(|_| NoRoom::refused(WHAT, bytes).into())
    }

    /// Whether a shard holds that augmentation of these clips.
    pub(super) fn check_view(
        &self,
        id: BlobId,
        shard: &Shard,
        wanted: Augmentation,
        rows: Range<usize>,
    ) -> Result<(), FeaturesError> {
        let is_wanted = matches!(shard.view, View::Augmented { augmentation, .. } if augmentation == wanted);
        let clean = self.labels.get(rows);
        if is_wanted && clean == Some(&shard.labels) {
            return Ok(());
        }
        Err(FeaturesError::View { shard: id, view: shard.view, augmentation: wanted.name() })
    }

    /// Standardises and moves to the device. The first `clean` rows are those of the clean clips.
    pub(super) fn finish(
        mut self,
        clean: usize,
        train: Vec<i64>,
        validation: Vec<i64>,
        views: ViewRows,
        device: Device,
    ) -> Result<Shared, FeaturesError> {
        let shape = [self.labels.len(), self.n_mfcc, self.frames];
        if self.input == Input::Mel {
            mel_bands(&mut self.values, self.n_mfcc, self.frames)?;
        }
        let input = standardise(&mut self.values, &train, self.n_mfcc, self.frames);
        let classes = self.labels.iter().copied().map(i64::from).collect();
        self.labels.truncate(clean);
        let mut shared = Shared {
            shape,
            values: self.values,
            classes,
            device,
            tensors: Mutex::default(),
            labels: self.labels,
            train,
            validation,
            views,
            input,
            claim: self.claim,
        };
        if device != Device::Cpu {
            drop(shared.tensors()?);
            shared.values = Vec::new();
            shared.claim.shrink(u64::MAX);
        }
        Ok(shared)
    }
}

pub(super) fn rows(part: &[u32], name: &'static str, rows: usize) -> Result<Vec<i64>, FeaturesError> {
    if part.is_empty() {
        return Err(FeaturesError::Empty(name));
    }
    match part.iter().find(|&&row| row as usize >= rows) {
        Some(&row) => Err(FeaturesError::Row { row, rows }),
        None => Ok(part.iter().copied().map(i64::from).collect()),
    }
}

/// Turns MFCCs `(rows, n_mfcc, frames)` into as many mel bands, in place, some clips at a time: all at once would take several
/// times their memory.
fn mel_bands(values: &mut [f32], n_mfcc: usize, frames: usize) -> Result<(), TchError> {
    const CLIPS: usize = 64;
    let bands = n_mfcc as i64;
    let matrix = Tensor::f_from_slice(&inverse_dct(n_mfcc))?.f_view([bands, bands])?;
    for clips in values.chunks_mut(CLIPS * n_mfcc * frames) {
        let mfccs = Tensor::f_from_slice(clips)?.f_view([-1, bands, frames as i64])?;
        clips.copy_from_slice(&copy_out(&matrix.f_matmul(&mfccs)?)?.values);
    }
    Ok(())
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
