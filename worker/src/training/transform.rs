//! [`Augmenter::apply`] for a whole batch at once, on a device.

use tch::{Device, Kind, TchError, Tensor};

use super::{
    augmentation::{Augmenter, Bands},
    drawn::{Drawn, covered},
};
use crate::device::upload;

/// What runs' augmentations need besides what they draw. Runs of other training clips standardise otherwise.
#[derive(Debug)]
pub struct Transform {
    /// `(runs, rows, 1)`: what a gain of 1 adds.
    gain: Tensor,
    /// `(runs, bands, coefficients)` and `(runs, coefficients, bands)`, see [`Bands`].
    bands: Option<[Tensor; 2]>,
}

impl Transform {
    /// For runs of these augmentations, whose features have the same shape.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new<'a>(
        augmenters: impl Iterator<Item = &'a Augmenter> + Clone,
        device: Device,
    ) -> Result<Self, TchError> {
        let stack = |values: Vec<&[f32]>, extents: [i64; 2]| {
            let [rows, columns] = extents;
            upload(&values.concat(), device)?.f_view([values.len() as i64, rows, columns])
        };
        let rows = augmenters.clone().map(|augmenter| augmenter.gain().len() as i64).max().unwrap_or(0);
        let bands: Option<Vec<&Bands>> = augmenters.clone().map(Augmenter::bands).collect();
        let bands = match bands {
            Some(bands) => {
                let of = |part: fn(&Bands) -> &Vec<f32>| {
                    bands.iter().map(|bands| part(bands).as_slice()).collect()
                };
                let to = stack(of(|bands| &bands.to), [rows, rows])?;
                Some([to, stack(of(|bands| &bands.from), [rows, rows])?])
            }
            None => None,
        };
        Ok(Self { gain: stack(augmenters.map(Augmenter::gain).collect(), [rows, 1])?, bands })
    }

    /// What a batch's clips `(clips, runs, rows, frames)` become; mixup is another matter.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, batch: Tensor, drawn: &Drawn) -> Result<Tensor, TchError> {
        let mut batch = batch;
        let size = batch.size();
        let (rows, frames) = (size.get(2).copied().unwrap_or(0), size.get(3).copied().unwrap_or(0));
        if let Some(gain) = &drawn.gain {
            batch = batch.f_add(&gain.f_mul(&self.gain)?)?;
        }
        if let Some(roll) = &drawn.roll {
            let places = Tensor::f_arange(frames, (Kind::Int64, batch.device()))?;
            let from = places.f_sub(roll)?.f_remainder(frames)?;
            batch = batch.f_gather(3, &from.f_expand(size.as_slice(), false)?, false)?;
        }
        if let Some(masks) = &drawn.freq_masks {
            batch = self.mask_bands(&batch, &covered(masks, rows)?.f_unsqueeze(3)?)?;
        }
        if let Some(masks) = &drawn.time_masks {
            batch = batch.f_masked_fill(&covered(masks, frames)?.f_unsqueeze(2)?, 0.0)?;
        }
        Ok(batch)
    }

    /// Sets the covered bands, `(clips, runs, bands, 1)`, to their means. Masks one after another and all at once are the same,
    /// because `to` and `from` are each other's inverse.
    fn mask_bands(&self, batch: &Tensor, covered: &Tensor) -> Result<Tensor, TchError> {
        match &self.bands {
            None => batch.f_masked_fill(covered, 0.0),
            Some([to, from]) => {
                let deviations = to.f_matmul(batch)?.f_mul(&covered.f_to_kind(Kind::Float)?)?;
                batch.f_sub(&from.f_matmul(&deviations)?)
            }
        }
    }
}
