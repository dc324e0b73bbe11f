//! From a file's bytes to probabilities.

use earshot_data::chain::{Chain, ChainError};

use super::{Bundle, BundleError, Kind, Model};
use crate::clock::Stopwatch;

/// A bundle's front end and one of its models, at work on one thread.
pub struct Classifier {
    chain: Chain,
    model: Model,
}

/// What was heard in a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// By class index; they sum to 1.
    pub probabilities: Vec<f32>,
    /// Time from the file's bytes to the features.
    pub front_end_ns: u64,
    /// Time from the features to the logits.
    pub model_ns: u64,
}

/// Why nothing was heard in a clip.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The clip has no features.
    #[error(transparent)]
    Clip(#[from] ChainError),
    /// The bundle fails.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl Classifier {
    /// Plans the front end, loads the model, and runs it once: the first run of a model is not like the others.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn new(bundle: &Bundle, kind: Kind) -> Result<Self, BundleError> {
        let classifier = Self { chain: Chain::new(bundle.front_end())?, model: bundle.model(kind)? };
        let [n_mfcc, frames] = classifier.model.shape();
        classifier.model.logits(&vec![0.0; n_mfcc * frames])?;
        Ok(classifier)
    }

    /// Classifies one clip, given its file's bytes.
    ///
    /// # Errors
    /// The clip cannot be decoded, or holds no sound.
    pub fn classify(&mut self, bytes: &[u8]) -> Result<Heard, ClassifyError> {
        let watch = Stopwatch::start();
        let features = self.features(bytes)?;
        let front_end_ns = watch.elapsed_ns();
        let watch = Stopwatch::start();
        let logits = self.model.logits(&features)?;
        let model_ns = watch.elapsed_ns();
        Ok(Heard { probabilities: softmax(&logits), front_end_ns, model_ns })
    }

    /// What the model reads of a clip, row-major `(n_mfcc, frames)`.
    ///
    /// # Errors
    /// See [`ChainError`].
    fn features(&mut self, bytes: &[u8]) -> Result<Vec<f32>, ChainError> {
        let waveform = self.chain.waveform(bytes)?;
        let [n_mfcc, frames] = self.model.shape();
        // The first coefficients are exactly those of a front end with fewer.
        Ok(self.chain.features(&waveform).iter().copied().take(n_mfcc * frames).collect())
    }
}

/// `exp(x) / Σ exp(x)`, without overflow.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_never_overflow() {
        let probabilities = softmax(&[1000.0, 1000.0 + 3.0_f32.ln(), -1000.0]);
        for (found, expected) in probabilities.iter().zip([0.25, 0.75, 0.0]) {
            assert!((found - expected).abs() < 1e-4, "{probabilities:?}");
        }
    }
}
