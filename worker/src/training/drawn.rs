//! One epoch's numbers of one or several runs, drawn on the host and copied to the device at once.
//!
//! The clips of `k` runs lie side by side: at place `p` of an epoch's order, run 0's clip, then run 1's, and so on. That is the
//! layout in which a fused network takes its input, and for one run nothing but its order.

use tch::{Device, Kind, TchError, Tensor};

use super::{
    augmentation::{Draw, Mix, Span},
    batches::Script,
};
use crate::device::upload;

/// What the clips of an epoch, or of one of its batches, are and go through.
#[derive(Debug)]
pub struct Drawn {
    /// `(clips · runs)`: rows of the matrix.
    pub rows: Tensor,
    /// `(clips, runs, 1, 1)`: gains.
    pub gain: Option<Tensor>,
    /// `(clips, runs, 1, 1)`: frames that every frame moves to the right.
    pub roll: Option<Tensor>,
    /// `(clips, runs, masks, 2)`: where each mask over frames begins and ends.
    pub time_masks: Option<Tensor>,
    /// The same over mel bands.
    pub freq_masks: Option<Tensor>,
    /// How clips are blended.
    pub blend: Option<Blend>,
    runs: i64,
}

/// [`Mix`] for every clip.
#[derive(Debug)]
pub struct Blend {
    /// `(clips · runs)`: places in the batch of the clips that give the rest.
    pub partners: Tensor,
    /// `(clips, runs)`: part of a clip that stays itself, and the rest.
    pub parts: [Tensor; 2],
}

impl Drawn {
    /// An epoch: for each run, the rows of the matrix in their order and what was drawn for them, in batches of `size` clips.
    /// All runs have as many clips.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(runs: &[(Vec<i64>, Script)], size: usize, device: Device) -> Result<Self, TchError> {
        let _no_grad = tch::no_grad_guard();
        let clips = runs.first().map_or(0, |(rows, _)| rows.len());
        let rows: Vec<&[i64]> = runs.iter().map(|(rows, _)| rows.as_slice()).collect();
        let draws: Vec<&[Draw]> = runs.iter().map(|(_, script)| script.draws.as_slice()).collect();
        let shape = [clips as i64, runs.len() as i64, 1, 1];
        let gains = interleave(&draws, clips, 0.0, |draw| draw.gain as f32);
        let rolls = interleave(&draws, clips, 0, |draw| draw.roll);
        Ok(Self {
            rows: upload(&interleave(&rows, clips, 0, |row| *row), device)?,
            gain: present(&gains, 0.0, &shape, device)?,
            roll: present(&rolls, 0, &shape, device)?,
            time_masks: masks(&draws, clips, |draw| &draw.time_masks, device)?,
            freq_masks: masks(&draws, clips, |draw| &draw.freq_masks, device)?,
            blend: Blend::new(runs, clips, size, device)?,
            runs: runs.len() as i64,
        })
    }

    /// The part for `clips` clips from the place `start` on.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn batch(&self, start: i64, clips: i64) -> Result<Self, TchError> {
        let runs = self.runs;
        let flat = |tensor: &Tensor| tensor.f_narrow(0, start * runs, clips * runs);
        let part = |tensor: &Tensor| tensor.f_narrow(0, start, clips);
        let blend = match &self.blend {
            Some(Blend { partners, parts: [own, other] }) => {
                Some(Blend { partners: flat(partners)?, parts: [part(own)?, part(other)?] })
            }
            None => None,
        };
        Ok(Self {
            rows: flat(&self.rows)?,
            gain: self.gain.as_ref().map(part).transpose()?,
            roll: self.roll.as_ref().map(part).transpose()?,
            time_masks: self.time_masks.as_ref().map(part).transpose()?,
            freq_masks: self.freq_masks.as_ref().map(part).transpose()?,
            blend,
            runs,
        })
    }
}

impl Blend {
    fn new(
        runs: &[(Vec<i64>, Script)],
        clips: usize,
        size: usize,
        device: Device,
    ) -> Result<Option<Self>, TchError> {
        if runs.iter().all(|(_, script)| script.mixes.is_empty()) {
            return Ok(None);
        }
        let lines: Vec<Vec<(i64, f32, f32)>> = runs
            .iter()
            .enumerate()
            .map(|(run, (_, script))| mixed(script, clips, size, run, runs.len()))
            .collect();
        let lines: Vec<&[(i64, f32, f32)]> = lines.iter().map(Vec::as_slice).collect();
        let lines = interleave(&lines, clips, (0, 1.0, 0.0), |line| *line);
        let shape = [clips as i64, runs.len() as i64];
        let part = |of: fn(&(i64, f32, f32)) -> f32| {
            upload(&lines.iter().map(of).collect::<Vec<_>>(), device)?.f_view(shape)
        };
        let partners: Vec<i64> = lines.iter().map(|(partner, ..)| *partner).collect();
        Ok(Some(Self {
            partners: upload(&partners, device)?,
            parts: [part(|line| line.1)?, part(|line| line.2)?],
        }))
    }

    /// Blends `(clips, runs, …)` of features or of one-hot labels.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, batch: &Tensor) -> Result<Tensor, TchError> {
        let size = batch.size();
        let others = batch.f_flatten(0, 1)?.f_index_select(0, &self.partners)?.f_view(size.as_slice())?;
        let mut shape = vec![1; size.len()];
        for (extent, whole) in shape.iter_mut().zip(&size).take(2) {
            *extent = *whole;
        }
        let [own, other] = &self.parts;
        let (own, other) = (own.f_view(shape.as_slice())?, other.f_view(shape.as_slice())?);
        batch.f_mul(&own)?.f_add(&others.f_mul(&other)?)
    }
}

/// For each clip of a run: the place of its partner among all clips of the batch, its own part and the other's. A run that
/// blends nothing blends every clip with itself.
fn mixed(script: &Script, clips: usize, size: usize, run: usize, runs: usize) -> Vec<(i64, f32, f32)> {
    let place = |clip: i64| clip * runs as i64 + run as i64;
    let alone = || (0..clips).map(|clip| (place((clip % size.max(1)) as i64), 1.0, 0.0)).collect();
    let line = |lambda: f64, partner: i64| (place(partner), lambda as f32, (1.0 - lambda) as f32);
    let batch = |Mix { lambda, partners }: &Mix| {
        partners.iter().map(|&partner| line(*lambda, partner)).collect::<Vec<_>>()
    };
    if script.mixes.is_empty() { alone() } else { script.mixes.iter().flat_map(batch).collect() }
}

/// Side by side what several runs have for each clip; `absent` for runs that have nothing.
fn interleave<L, T: Copy>(runs: &[&[L]], clips: usize, absent: T, of: impl Fn(&L) -> T) -> Vec<T> {
    let of = &of;
    (0..clips).flat_map(|clip| runs.iter().map(move |run| run.get(clip).map_or(absent, of))).collect()
}

/// The values on the device, unless all of them do nothing.
fn present<T: tch::kind::Element + PartialEq + Copy>(
    values: &[T],
    nothing: T,
    shape: &[i64],
    device: Device,
) -> Result<Option<Tensor>, TchError> {
    if values.iter().all(|value| *value == nothing) {
        return Ok(None);
    }
    Ok(Some(upload(values, device)?.f_view(shape)?))
}

/// Begins and ends of masks, as many for each clip as the one with the most has; the others' are empty.
fn masks(
    draws: &[&[Draw]],
    clips: usize,
    of: fn(&Draw) -> &Vec<Span>,
    device: Device,
) -> Result<Option<Tensor>, TchError> {
    let count = draws.iter().flat_map(|run| run.iter()).map(|draw| of(draw).len()).max().unwrap_or(0);
    let mask = |draw: Option<&Draw>, index: usize| {
        let span = draw.and_then(|draw| of(draw).get(index));
        span.map_or([0, 0], |span| [span.start, span.start + span.width])
    };
    let mut ends = Vec::with_capacity(clips * draws.len() * count * 2);
    for clip in 0..clips {
        for run in draws {
            ends.extend((0..count).flat_map(|index| mask(run.get(clip), index)));
        }
    }
    if ends.chunks_exact(2).all(|mask| mask.first() == mask.last()) {
        return Ok(None);
    }
    Ok(Some(upload(&ends, device)?.f_view([clips as i64, draws.len() as i64, count as i64, 2])?))
}

/// Which of `extent` places any of the masks covers: `(clips, runs, masks, 2)` to `(clips, runs, extent)`, booleans.
///
/// # Errors
/// libtorch refuses.
pub fn covered(masks: &Tensor, extent: i64) -> Result<Tensor, TchError> {
    let places = Tensor::f_arange(extent, (Kind::Int64, masks.device()))?;
    let is_after = places.f_ge_tensor(&masks.f_narrow(3, 0, 1)?)?;
    let is_before = places.f_lt_tensor(&masks.f_narrow(3, 1, 1)?)?;
    is_after.f_logical_and(&is_before)?.f_any_dim(2, false)
}
