//! How the shipped model hears the same clips under worse conditions: noise, low level, clipping, little of them.
//!
//! Conditions are put on cleaned recordings, which then go through the front end once more, trimming and normalisation
//! included, as they would on a device. A clip of which nothing is left counts as wrong.

use std::{num::NonZero, panic, thread};

use earshot_common::metrics::argmax;
use earshot_data::{chain::Chain, condition};
use serde::Serialize;

use super::{Champion, error::ExportError};
use crate::bundle::Model;

/// Clips measured at most, at even distances: a point of accuracy is what they can tell.
const CLIPS_MAX: usize = 100;

/// Gives the file of a row's recording; none when it is not at hand.
pub type Recordings<'a> = &'a (dyn Fn(u32) -> Option<Vec<u8>> + Sync);

/// One condition, with its strength.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Condition {
    /// As recorded.
    Clean,
    /// White Gaussian noise at so many decibels below the clip's own power.
    SnrDb(f32),
    /// Recorded in 16 bits at so many decibels.
    GainDb(f32),
    /// So many decibels over full scale, and clipped there.
    ClippingDb(f32),
    /// The first so many seconds.
    LengthS(f32),
}

impl Condition {
    /// All that are measured.
    pub const ALL: [Self; 15] = [
        Self::Clean,
        Self::SnrDb(30.0),
        Self::SnrDb(20.0),
        Self::SnrDb(10.0),
        Self::SnrDb(5.0),
        Self::SnrDb(0.0),
        Self::GainDb(-20.0),
        Self::GainDb(-40.0),
        Self::GainDb(-60.0),
        Self::ClippingDb(6.0),
        Self::ClippingDb(12.0),
        Self::ClippingDb(20.0),
        Self::LengthS(2.0),
        Self::LengthS(1.0),
        Self::LengthS(0.5),
    ];

    /// The waveform under this condition; `seed` tells one clip's noise from another's.
    fn apply(self, waveform: &[f32], sample_rate_hz: u32, seed: u32) -> Vec<f32> {
        let amplitude = |db: f32| 10.0_f32.powf(db / 20.0);
        match self {
            Self::Clean => waveform.to_vec(),
            Self::SnrDb(db) => {
                let power =
                    waveform.iter().map(|x| f64::from(x * x)).sum::<f64>() / waveform.len().max(1) as f64;
                let deviation = power.sqrt() as f32 / amplitude(db);
                waveform.iter().zip(gaussian(seed)).map(|(x, noise)| x + deviation * noise).collect()
            }
            Self::GainDb(db) => {
                let full = f32::from(i16::MAX);
                waveform.iter().map(|x| (x * amplitude(db) * full).round() / full).collect()
            }
            Self::ClippingDb(db) => waveform.iter().map(|x| (x * amplitude(db)).clamp(-1.0, 1.0)).collect(),
            Self::LengthS(seconds) => {
                let samples = (seconds * sample_rate_hz as f32) as usize;
                waveform.iter().take(samples).copied().collect()
            }
        }
    }
}

/// Accuracy under one condition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Robustness {
    /// Which one.
    pub condition: Condition,
    /// Clips measured.
    pub clips: u64,
    /// Part of them that the model gets right.
    pub accuracy: f64,
}

/// Measures a model on the recordings of these rows that are at hand and are those that were prepared; empty when none is.
///
/// # Errors
/// The front end or the model fails.
pub(super) fn measure(
    champion: &Champion,
    model: &Model,
    rows: &[u32],
    recordings: Recordings<'_>,
) -> Result<Vec<Robustness>, ExportError> {
    let count = rows.len().min(CLIPS_MAX);
    let sample: Vec<u32> =
        (0..count).filter_map(|index| rows.get(index * rows.len() / count).copied()).collect();
    let lanes = thread::available_parallelism().map_or(1, NonZero::get);
    let share = sample.len().div_ceil(lanes).max(1);
    let right = thread::scope(|scope| {
        let lanes: Vec<_> = sample
            .chunks(share)
            .map(|rows| scope.spawn(move || lane(champion, model, rows, recordings)))
            .collect();
        let mut all = Vec::with_capacity(sample.len());
        for lane in lanes {
            all.extend(lane.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?);
        }
        Ok::<_, ExportError>(all)
    })?;
    if right.is_empty() {
        return Ok(Vec::new());
    }
    let clips = right.len() as u64;
    let accuracy = |condition: usize| {
        let count = right.iter().filter(|clip| clip.get(condition).is_some_and(|right| *right)).count();
        count as f64 / clips as f64
    };
    let measured = Condition::ALL.into_iter().enumerate();
    Ok(measured
        .map(|(index, condition)| Robustness { condition, clips, accuracy: accuracy(index) })
        .collect())
}

/// For each clip that is at hand, whether the model is right under each condition.
fn lane(
    champion: &Champion,
    model: &Model,
    rows: &[u32],
    recordings: Recordings<'_>,
) -> Result<Vec<Vec<bool>>, ExportError> {
    let front_end = &champion.manifest.front_end;
    let mut chain = Chain::new(front_end).map_err(crate::bundle::BundleError::from)?;
    let mut clips = Vec::new();
    for &row in rows {
        let Some(clip) = champion.manifest.clips.get(row as usize) else { continue };
        let bytes = recordings(row).filter(|bytes| earshot_common::ids::BlobId::of(bytes) == clip.content);
        let Some(waveform) = bytes.and_then(|bytes| chain.waveform(&bytes).ok()) else { continue };
        let mut right = Vec::with_capacity(Condition::ALL.len());
        for condition in Condition::ALL {
            let worse = condition.apply(&waveform, front_end.sample_rate_hz, row);
            right.push(match condition::clean(worse, front_end) {
                None => false,
                Some(cleaned) => {
                    let size = model.shape().iter().product();
                    let features: Vec<f32> = chain.features(&cleaned).iter().copied().take(size).collect();
                    argmax(&model.logits(&features)?) == usize::from(clip.class)
                }
            });
        }
        clips.push(right);
    }
    Ok(clips)
}

/// Normally distributed numbers: xorshift (Marsaglia 2003), then Box and Muller (1958).
fn gaussian(seed: u32) -> impl Iterator<Item = f32> {
    // Any state but 0 will do; the multiplier spreads neighbouring seeds.
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) + 0.5) / (f64::from(u32::MAX) + 1.0)
    };
    std::iter::from_fn(move || {
        let [radius, angle] = [uniform(), uniform()];
        Some(((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone() -> Vec<f32> {
        (0..8000).map(|i| (i as f32 * 0.3).sin()).collect()
    }

    fn power(samples: &[f32]) -> f32 {
        samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32
    }

    #[test]
    fn noise_has_the_power_that_its_ratio_says() {
        for db in [30.0, 10.0, 0.0] {
            let noisy = Condition::SnrDb(db).apply(&tone(), 8000, 7);
            let noise: Vec<f32> = noisy.iter().zip(tone()).map(|(noisy, clean)| noisy - clean).collect();
            let found = 10.0 * (power(&tone()) / power(&noise)).log10();
            assert!((found - db).abs() < 0.3, "{found} dB instead of {db}");
        }
        let [one, other] = [7, 8].map(|seed| Condition::SnrDb(0.0).apply(&tone(), 8000, seed));
        assert_ne!(one, other);
    }

    #[test]
    fn the_other_conditions_do_what_they_say() {
        let clipped = Condition::ClippingDb(20.0).apply(&tone(), 8000, 0);
        assert!(clipped.iter().all(|x| x.abs() <= 1.0) && power(&clipped) > 0.9);
        let quiet = Condition::GainDb(-40.0).apply(&tone(), 8000, 0);
        assert!((quiet.iter().fold(0.0_f32, |peak, x| peak.max(x.abs())) - 0.01).abs() < 1e-4);
        assert_eq!(Condition::LengthS(0.5).apply(&tone(), 8000, 0).len(), 4000);
        assert_eq!(Condition::Clean.apply(&tone(), 8000, 0), tone());
    }
}
