//! What training does to features before the network sees them: gain, roll, masks, mixup.
//!
//! Everything happens to standardised features, in which 0 is a row's mean over the training clips. What a clip goes through
//! is drawn first, from the run's seed, and then applied: [`Draw`] and [`Mix`] are all there is to know of it.

use earshot_common::{
    job::{FeatureAugmentation, Job},
    model::{Input, input::inverse_dct},
};
use tch::{Device, TchError, Tensor};

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
    rows: i64,
    frames: i64,
    /// `(rows, 1)`: what a gain of 1 adds.
    gain: Tensor,
    bands: Option<Bands>,
}

/// From standardised MFCCs to mel bands and back, for a model on MFCCs.
#[derive(Debug)]
struct Bands {
    /// `(bands, coefficients)`: deviations of mel bands from their means.
    to: Tensor,
    /// `(coefficients, bands)`: the inverse.
    from: Tensor,
}

impl Augmenter {
    /// The augmentation of this job, on features standardised by `input`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(job: &Job, input: &InputStats, device: Device) -> Result<Self, TchError> {
        let rows = i64::from(job.model.n_mfcc);
        let std = Tensor::f_from_slice(&input.std)?.f_view([rows, 1])?;
        let dct = Tensor::f_from_slice(&inverse_dct(job.model.n_mfcc as usize))?.f_view([rows, rows])?;
        // The 0th coefficient alone, or as much of it as is in every band.
        let (gained, bands) = match job.model.input {
            Input::Mfcc => {
                let first = Tensor::f_zeros([rows, 1], (tch::Kind::Float, Device::Cpu))?;
                let _ = first.f_narrow(0, 0, 1)?.f_fill_(1.0)?;
                let to = dct.f_mul(&std.f_transpose(0, 1)?)?.f_to_device(device)?;
                let from = dct.f_transpose(0, 1)?.f_div(&std)?.f_to_device(device)?;
                (first, Some(Bands { to, from }))
            }
            Input::Mel => (dct.f_narrow(1, 0, 1)?, None),
        };
        Ok(Self {
            recipe: job.recipe.augmentation,
            draws: Draws::new(job.recipe.seed),
            rows,
            frames: i64::from(job.model.frames),
            gain: gained.f_div(&std)?.f_to_device(device)?,
            bands,
        })
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
        let time_masks = masks(recipe.time_masks, recipe.time_mask_param, self.frames);
        let freq_masks = masks(recipe.freq_masks, recipe.freq_mask_param, self.rows);
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
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, clip: &Tensor, draw: &Draw) -> Result<(), TchError> {
        let mut clip = clip.shallow_clone();
        if draw.gain != 0.0 {
            let _ = clip.f_add_(&self.gain.f_mul_scalar(draw.gain)?)?;
        }
        if draw.roll != 0 {
            clip.f_copy_(&clip.f_roll([draw.roll], [1])?)?;
        }
        for mask in &draw.freq_masks {
            self.mask_bands(&mut clip, *mask)?;
        }
        for mask in &draw.time_masks {
            let _ = clip.f_narrow(1, mask.start, mask.width)?.f_zero_()?;
        }
        Ok(())
    }

    fn mask_bands(&self, clip: &mut Tensor, mask: Span) -> Result<(), TchError> {
        match &self.bands {
            None => {
                let _ = clip.f_narrow(0, mask.start, mask.width)?.f_zero_()?;
            }
            // What the bands add to the coefficients is taken out of them.
            Some(bands) if mask.width > 0 => {
                let deviations = bands.to.f_narrow(0, mask.start, mask.width)?.f_matmul(clip)?;
                let _ =
                    clip.f_sub_(&bands.from.f_narrow(1, mask.start, mask.width)?.f_matmul(&deviations)?)?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}

impl Mix {
    /// Blends `(clips, …)` of features or of one-hot labels.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, batch: &Tensor) -> Result<Tensor, TchError> {
        let partners = Tensor::f_from_slice(&self.partners)?.f_to_device(batch.device())?;
        let others = batch.f_index_select(0, &partners)?;
        batch.f_mul_scalar(self.lambda)?.f_add(&others.f_mul_scalar(1.0 - self.lambda)?)
    }
}
