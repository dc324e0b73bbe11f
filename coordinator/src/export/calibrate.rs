//! Calibration: the ranges that activations take on training clips, by the float file itself in tract.
//!
//! Three ways to read a range from the same clips. A wide one holds every value, coarsely; a narrow one holds most of them finely and
//! saturates the rest. Which is better depends on the network, so all are tried and measured. Every range includes 0,
//! which padding and ReLU produce and which int8 must therefore hold exactly.

use earshot_common::int8::Range;

use super::{
    error::ExportError,
    features::Features,
    graph,
    histogram::Histogram,
    network::{Network, Step},
    session::Session,
};

/// Training clips looked at: ranges move little beyond a few hundred, and calibration stays a matter of seconds.
const CLIPS_MAX: usize = 256;

/// Bins of a histogram, and steps that the entropy is measured with: as onnxruntime.quantization's examples have them.
const BINS: usize = 2048;
const ENTROPY_STEPS: usize = 128;

/// Percent of the values that the narrower of the two cuts keeps.
const PERCENTILE: f64 = 99.99;

/// How ranges are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// The smallest and the largest value seen.
    MinMax,
    /// All but the outermost values.
    Percentile,
    /// The range whose steps lose the least of the distribution.
    Entropy,
}

impl Method {
    /// In the order in which equals are preferred.
    pub(super) const ALL: [Self; 3] = [Self::MinMax, Self::Percentile, Self::Entropy];

    /// As reports call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MinMax => "MinMax",
            Self::Percentile => "percentile 99.99",
            Self::Entropy => "entropy",
        }
    }
}

/// Rows to calibrate on: all of `train`, or [`CLIPS_MAX`] of them at even distances.
pub(super) fn sample(train: &[u32]) -> Vec<u32> {
    let count = train.len().min(CLIPS_MAX);
    (0..count).filter_map(|index| train.get(index * train.len() / count).copied()).collect()
}

/// What leaves the standardisation and every step that has a scale of its own, on the calibration clips.
pub(super) struct Activations {
    histograms: Vec<Histogram>,
    /// Smallest and largest, 0 included.
    extremes: Vec<Range>,
}

impl Activations {
    /// Runs the float model twice: for the extremes, and for the histograms between them.
    ///
    /// # Errors
    /// tract refuses the float model, or fails in it.
    pub(super) fn collect(
        model: &[u8],
        network: &Network,
        activations: u64,
        features: &Features,
        rows: &[u32],
    ) -> Result<Self, ExportError> {
        let values: Vec<String> = std::iter::once(graph::STANDARDISED.to_owned())
            .chain(network.steps.iter().filter(|step| step.has_scale()).map(Step::value))
            .collect();
        // Every activation of a batch is held at once here.
        let held = activations * values.len() as u64;
        let session = Session::load(super::FLOAT_FILE, model, held, &values)?;
        let extremes = session.map(features, rows, |outputs| {
            outputs.iter().map(|values| Range::of(values)).collect::<Vec<_>>()
        })?;
        let extremes = extremes.into_iter().fold(vec![Range::default(); values.len()], |all, batch| {
            all.into_iter().zip(batch).map(|(range, more)| range.union(more)).collect()
        });
        let empty = || extremes.iter().map(|&range| Histogram::new(BINS, range)).collect::<Vec<_>>();
        let histograms = session.map(features, rows, |outputs| {
            let mut histograms = empty();
            for (histogram, values) in histograms.iter_mut().zip(outputs) {
                histogram.add(values);
            }
            histograms
        })?;
        let histograms = histograms.into_iter().fold(empty(), |all, batch| {
            all.into_iter().zip(&batch).map(|(histogram, more)| histogram.merged(more)).collect()
        });
        Ok(Self { histograms, extremes })
    }

    /// One range for each of them.
    pub(super) fn ranges(&self, method: Method) -> Vec<Range> {
        let read = |read: fn(&Histogram) -> Range| {
            self.histograms.iter().map(|histogram| read(histogram).union(Range::default())).collect()
        };
        match method {
            Method::MinMax => self.extremes.clone(),
            Method::Percentile => read(|histogram| histogram.percentile(PERCENTILE)),
            Method::Entropy => read(|histogram| histogram.entropy(ENTROPY_STEPS)),
        }
    }
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
}
