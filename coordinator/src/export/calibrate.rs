//! Calibration: the ranges that activations take on training clips, by the float file itself in tract.
//!
//! MinMax: the smallest and the largest value seen. Every range includes 0, which padding and ReLU produce and which int8
//! must therefore hold exactly.

use super::{
    error::ExportError,
    features::Features,
    graph,
    network::{Network, Step},
    session::Session,
};

/// Training clips looked at: MinMax moves little beyond a few hundred, and calibration stays a matter of seconds.
const CLIPS_MAX: usize = 256;

/// Smallest and largest value of an activation; 0 lies between.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Range {
    pub(super) min: f32,
    pub(super) max: f32,
}

impl Range {
    fn of(values: &[f32]) -> Self {
        values.iter().fold(Self::default(), |range, &value| Self {
            min: range.min.min(value),
            max: range.max.max(value),
        })
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Rows to calibrate on: all of `train`, or [`CLIPS_MAX`] of them at even distances.
pub(super) fn sample(train: &[u32]) -> Vec<u32> {
    let count = train.len().min(CLIPS_MAX);
    (0..count).filter_map(|index| train.get(index * train.len() / count).copied()).collect()
}

/// Ranges of the standardised input and of what leaves every step that has a scale of its own.
///
/// # Errors
/// tract refuses the float model, or fails in it.
pub(super) fn ranges(
    model: &[u8],
    network: &Network,
    activations: u64,
    features: &Features,
    rows: &[u32],
) -> Result<Vec<Range>, ExportError> {
    let values: Vec<String> = std::iter::once(graph::STANDARDISED.to_owned())
        .chain(network.steps.iter().filter(|step| step.has_scale()).map(Step::value))
        .collect();
    // Every activation of a batch is held at once here.
    let held = activations * values.len() as u64;
    let session = Session::load(super::FLOAT_FILE, model, held, &values)?;
    let batches = session
        .map(features, rows, |outputs| outputs.iter().map(|values| Range::of(values)).collect::<Vec<_>>())?;
    Ok(batches.into_iter().fold(vec![Range::default(); values.len()], |all, batch| {
        all.into_iter().zip(batch).map(|(range, more)| range.union(more)).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_spread_over_all_of_the_training_part() {
        let train: Vec<u32> = (0..1000).collect();
        let sample = sample(&train);
        assert_eq!(sample.len(), CLIPS_MAX);
        assert!(sample.windows(2).all(|pair| (3..=4).contains(&(pair[1] - pair[0]))));
        assert_eq!(super::sample(&[7, 9]), [7, 9]);
        assert!(super::sample(&[]).is_empty());
    }

    #[test]
    fn every_range_includes_zero() {
        assert_eq!(Range::of(&[2.0, 3.0]), Range { min: 0.0, max: 3.0 });
        assert_eq!(Range::of(&[-2.0, -3.0]), Range { min: -3.0, max: 0.0 });
    }
}
