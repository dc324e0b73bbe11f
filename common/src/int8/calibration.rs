//! Calibration: the ranges that activations take on training clips, read in three ways, and which of the ways is best.
//!
//! A wide range holds every value, coarsely; a narrow one holds most of them finely and saturates the rest. Which is better depends on
//! the network, so all are tried and measured. Every range includes 0, which padding and ReLU produce and which int8 must therefore
//! hold exactly.

use super::{Range, histogram::Histogram};
use crate::metrics::argmax;

/// Training clips looked at: ranges move little beyond a few hundred, and calibration stays a matter of seconds.
const CLIPS_MAX: usize = 256;

/// Bins of a histogram, and steps that the entropy is measured with: as onnxruntime.quantization's examples have them.
const BINS: usize = 2048;
const ENTROPY_STEPS: usize = 128;

/// Percent of the values that the narrower of the two cuts keeps.
const PERCENTILE: f64 = 99.99;

/// How ranges are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The smallest and the largest value seen.
    MinMax,
    /// All but the outermost values.
    Percentile,
    /// The range whose steps lose the least of the distribution.
    Entropy,
}

impl Method {
    /// In the order in which equals are preferred.
    pub const ALL: [Self; 3] = [Self::MinMax, Self::Percentile, Self::Entropy];

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MinMax => "MinMax",
            Self::Percentile => "percentile 99.99",
            Self::Entropy => "entropy",
        }
    }
}

/// Rows to calibrate on: all of `train`, or a few hundred of them at even distances.
pub fn sample<T: Copy>(train: &[T]) -> Vec<T> {
    let count = train.len().min(CLIPS_MAX);
    (0..count).filter_map(|index| train.get(index * train.len() / count).copied()).collect()
}

/// What some activations are on the calibration clips: each in bins between its extremes.
#[derive(Debug, Clone, PartialEq)]
pub struct Activations {
    histograms: Vec<Histogram>,
    /// Smallest and largest, 0 included.
    extremes: Vec<Range>,
}

impl Activations {
    /// Nothing seen yet of activations that lie in these ranges.
    pub fn within(extremes: Vec<Range>) -> Self {
        let histograms = extremes.iter().map(|&range| Histogram::new(BINS, range)).collect();
        Self { histograms, extremes }
    }

    /// Counts values of the activation of this number.
    pub fn add(&mut self, number: usize, values: &[f32]) {
        if let Some(histogram) = self.histograms.get_mut(number) {
            histogram.add(values);
        }
    }

    /// Both together, of the same ranges.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        let pairs = self.histograms.into_iter().zip(&other.histograms);
        Self { histograms: pairs.map(|(one, other)| one.merged(other)).collect(), ..self }
    }

    /// One range for each of them.
    pub fn ranges(&self, method: Method) -> Vec<Range> {
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

/// How a quantised network does on the validation part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// Part of the clips predicted right.
    pub accuracy: f64,
    /// Part of the clips for which the float network predicts the same; 1 of none.
    pub top1_agreement: f64,
    /// Root of the mean squared difference from the float network's logits.
    pub logit_error: f64,
}

impl Fit {
    /// Of its logits and the float network's, both `(clips, classes)`, and the clips' labels.
    pub fn new(classes: usize, int8: &[f32], float: &[f32], labels: &[u16]) -> Self {
        let clips = || int8.chunks_exact(classes.max(1));
        let part = |count: usize| count as f64 / labels.len().max(1) as f64;
        let right = clips().zip(labels).filter(|(logits, label)| argmax(logits) == usize::from(**label));
        let both = clips().zip(float.chunks_exact(classes.max(1)));
        let same = both.filter(|(int8, float)| argmax(int8) == argmax(float));
        let squares = int8.iter().zip(float).map(|(int8, float)| f64::from(int8 - float).powi(2));
        Self {
            accuracy: part(right.count()),
            top1_agreement: if labels.is_empty() { 1.0 } else { part(same.count()) },
            logit_error: (squares.sum::<f64>() / int8.len().max(1) as f64).sqrt(),
        }
    }

    /// Whether it is the better one; of equals, it is not. Accuracy decides, then agreement, then the logits.
    pub fn beats(&self, other: &Self) -> bool {
        let key = |fit: &Self| [fit.accuracy, fit.top1_agreement, -fit.logit_error];
        key(self).partial_cmp(&key(other)).is_some_and(std::cmp::Ordering::is_gt)
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
        assert!(super::sample::<u32>(&[]).is_empty());
    }

    #[test]
    fn accuracy_decides_then_agreement_then_the_logits() {
        let fit =
            |[accuracy, top1_agreement, logit_error]: [f64; 3]| Fit { accuracy, top1_agreement, logit_error };
        let check = |one, other, expected| {
            assert_eq!(fit(one).beats(&fit(other)), expected, "{one:?} {other:?}");
        };
        check([0.9, 0.5, 1.0], [0.8, 0.9, 0.1], true);
        check([0.9, 0.9, 1.0], [0.9, 0.8, 0.1], true);
        check([0.9, 0.9, 0.1], [0.9, 0.9, 0.2], true);
        check([0.9, 0.9, 0.2], [0.9, 0.9, 0.1], false);
        check([0.9, 0.9, 0.1], [0.9, 0.9, 0.1], false);
    }

    #[test]
    fn a_fit_counts_clips() {
        let fit = Fit::new(2, &[1.0, 0.0, 1.0, 0.0], &[0.6, 0.5, 0.4, 0.5], &[0, 1]);
        assert!((fit.accuracy - 0.5).abs() < 1e-12 && (fit.top1_agreement - 0.5).abs() < 1e-12, "{fit:?}");
        assert!((fit.logit_error - (1.02_f64 / 4.0).sqrt()).abs() < 1e-7, "{fit:?}");
        assert!((Fit::new(2, &[], &[], &[]).top1_agreement - 1.0).abs() < 1e-12);
    }
}
