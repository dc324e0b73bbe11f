//! What training does to features before the network sees them: gain, roll, masks, mixup.
//!
//! Everything happens to standardised features, in which 0 is a row's mean over the training clips. What a clip goes through
//! is drawn first, from the run's seed, and then applied: [`Draw`] and [`Mix`] are all there is to know of it.

use std::ops::Range;

use earshot_common::{
    job::{FeatureAugmentation, Job},
    model::{Input, input::inverse_dct},
};

use crate::{features::InputStats, randomness::Draws};

/// Rows or frames next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From 0.
    pub start: i64,
    /// May be 0.
    pub width: i64,
}

/// What one clip goes through, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// Added to the 0th coefficient, before standardisation.
    pub gain: f64,
    /// Frames that every frame moves to the right; what leaves at the end comes in at the start.
    pub roll: i64,
    /// Frames whose rows all become their means (SpecAugment: Park et al. 2019, arXiv:1904.08779, section 2).
    pub time_masks: Vec<Span>,
    /// Mel bands that become their means in every frame.
    pub freq_masks: Vec<Span>,
}

/// How the clips of a batch are blended with each other (Zhang et al. 2018, arXiv:1710.09412, equation 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// Part of a clip that stays itself.
    pub lambda: f64,
    /// For each clip, the one that gives the rest.
    pub partners: Vec<i64>,
}

/// Draws and applies a run's augmentation.
#[derive(Debug)]
pub struct Augmenter {
    recipe: FeatureAugmentation,
    draws: Draws,
    rows: usize,
    frames: usize,
    /// By row: what a gain of 1 adds.
    gain: Vec<f32>,
    bands: Option<Bands>,
}

/// From standardised MFCCs to mel bands and back, for a model on MFCCs.
#[derive(Debug)]
pub struct Bands {
    /// `(bands, coefficients)`: deviations of mel bands from their means.
    pub to: Vec<f32>,
    /// `(coefficients, bands)`: the inverse.
    pub from: Vec<f32>,
}

impl Augmenter {
    /// The augmentation of this job, on features standardised by `input`.
    pub fn new(job: &Job, input: &InputStats) -> Self {
        let rows = job.model.n_mfcc as usize;
        let dct = inverse_dct(rows);
        let column = |k: usize| dct.iter().skip(k).step_by(rows);
        // The 0th coefficient alone, or as much of it as is in every band.
        let (gained, bands) = match job.model.input {
            Input::Mfcc => {
                let mut first = vec![0.0; rows];
                first.iter_mut().take(1).for_each(|first| *first = 1.0);
                let to =
                    dct.chunks(rows).flat_map(|band| band.iter().zip(&input.std).map(|(w, std)| w * std));
                let from = (0..rows).zip(&input.std).flat_map(|(k, std)| column(k).map(move |w| w / std));
                (first, Some(Bands { to: to.collect(), from: from.collect() }))
            }
            Input::Mel => (column(0).copied().collect(), None),
        };
        Self {
            recipe: job.recipe.augmentation,
            draws: Draws::new(job.recipe.seed),
            rows,
            frames: job.model.frames as usize,
            gain: gained.iter().zip(&input.std).map(|(gain, std)| gain / std).collect(),
            bands,
        }
    }

    /// By row: what a gain of 1 adds.
    pub fn gain(&self) -> &[f32] {
        &self.gain
    }

    /// Between coefficients and bands; none for a model on bands.
    pub fn bands(&self) -> Option<&Bands> {
        self.bands.as_ref()
    }

    /// What the next clip goes through.
    pub fn draw(&mut self) -> Draw {
        let recipe = self.recipe;
        let roll_max = (recipe.roll * self.frames as f64).floor() as i64;
        let mut masks = |count: u32, param: u32, extent: i64| -> Vec<Span> {
            let mut mask = |_| {
                let width = self.draws.whole(0, i64::from(param).min(extent));
                Span { width, start: self.draws.whole(0, extent - width) }
            };
            (0..count).map(&mut mask).collect()
        };
        let time_masks = masks(recipe.time_masks, recipe.time_mask_param, self.frames as i64);
        let freq_masks = masks(recipe.freq_masks, recipe.freq_mask_param, self.rows as i64);
        Draw {
            gain: recipe.gain * (2.0 * self.draws.unit() - 1.0),
            roll: self.draws.whole(-roll_max, roll_max),
            time_masks,
            freq_masks,
        }
    }

    /// How the next batch of so many clips is blended; none without mixup.
    pub fn mix(&mut self, clips: usize) -> Option<Mix> {
        let alpha = self.recipe.mixup_alpha;
        (alpha > 0.0).then(|| {
            let mut partners: Vec<i64> = (0..clips as i64).collect();
            self.draws.shuffle(&mut partners);
            Mix { lambda: self.draws.beta(alpha), partners }
        })
    }

    /// Whether clips go through anything.
    pub fn is_active(&self) -> bool {
        let FeatureAugmentation {
            gain, roll, time_masks, time_mask_param, freq_masks, freq_mask_param, ..
        } = self.recipe;
        gain > 0.0 || roll > 0.0 || time_masks * time_mask_param > 0 || freq_masks * freq_mask_param > 0
    }

    /// Changes one clip, `(rows, frames)`, in place.
    pub fn apply(&self, clip: &mut [f32], draw: &Draw) {
        let frames = self.frames;
        if draw.gain != 0.0 {
            for (line, gain) in clip.chunks_exact_mut(frames).zip(&self.gain) {
                let offset = gain * draw.gain as f32;
                for value in line {
                    *value += offset;
                }
            }
        }
        if draw.roll != 0 {
            let roll = draw.roll.rem_euclid(frames as i64) as usize;
            clip.chunks_exact_mut(frames).for_each(|line| line.rotate_right(roll));
        }
        for mask in &draw.freq_masks {
            self.mask_bands(clip, mask.range());
        }
        for mask in &draw.time_masks {
            for line in clip.chunks_exact_mut(frames) {
                line.get_mut(mask.range()).unwrap_or_default().fill(0.0);
            }
        }
    }

    fn mask_bands(&self, clip: &mut [f32], mask: Range<usize>) {
        let (rows, frames) = (self.rows, self.frames);
        let Some(Bands { to, from }) = &self.bands else {
            clip.get_mut(mask.start * frames..mask.end * frames).unwrap_or_default().fill(0.0);
            return;
        };
        // What the bands add to the coefficients is taken out of them.
        let mut deviations = vec![0.0; mask.len() * frames];
        let bands = to.chunks_exact(rows).skip(mask.start);
        for (deviation, weights) in deviations.chunks_exact_mut(frames).zip(bands) {
            for (line, &weight) in clip.chunks_exact(frames).zip(weights) {
                add(deviation, line, weight);
            }
        }
        for (line, weights) in clip.chunks_exact_mut(frames).zip(from.chunks_exact(rows)) {
            let weights = weights.iter().skip(mask.start);
            for (deviation, &weight) in deviations.chunks_exact(frames).zip(weights) {
                add(line, deviation, -weight);
            }
        }
    }
}

/// Adds a line so many times to another.
fn add(to: &mut [f32], line: &[f32], weight: f32) {
    for (to, value) in to.iter_mut().zip(line) {
        *to += weight * value;
    }
}

impl Span {
    /// As indices.
    fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.width) as usize
    }
}

impl Mix {
    /// Blends `(clips, …)` of features or of one-hot labels; what they were is left in `plain`.
    pub fn blend(&self, batch: &mut [f32], plain: &mut Vec<f32>) {
        plain.clear();
        plain.extend_from_slice(batch);
        let clip = (batch.len() / self.partners.len().max(1)).max(1);
        let (own, other) = (self.lambda as f32, (1.0 - self.lambda) as f32);
        for (values, &partner) in batch.chunks_exact_mut(clip).zip(&self.partners) {
            let partner = plain.chunks_exact(clip).nth(partner as usize).unwrap_or_default();
            for (value, partner) in values.iter_mut().zip(partner) {
                *value = own * *value + other * partner;
            }
        }
    }
}
